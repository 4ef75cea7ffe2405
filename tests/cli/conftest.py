"""What tests of commands share."""

from pathlib import Path

import pytest
from packages import Packaged, make


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """A small model as a package, and pictures of its kind."""
    return make(tmp_path_factory.mktemp("packaged"))


@pytest.fixture
def in_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder belongs to no project."""
    monkeypatch.chdir(tmp_path)
