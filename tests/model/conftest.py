"""A tiny model as a package, and as an export."""

from pathlib import Path

import pytest
from packages import Packaged, make


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    return make(tmp_path_factory.mktemp("packaged"))


@pytest.fixture(scope="session")
def exported(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the exported network, with what its use needs beside it."""
    from thaw.model import onnx

    return onnx.write(packaged.folder, tmp_path_factory.mktemp("exported"))
