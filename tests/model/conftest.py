"""A tiny model as a package."""

import pytest
from packages import Packaged, make


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    return make(tmp_path_factory.mktemp("packaged"))
