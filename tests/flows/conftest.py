"""What tests of the flows share."""

import subprocess
import sys
from pathlib import Path

import pytest
from children import git


@pytest.fixture
def kept_toy(trained_toy: Path) -> Path:
    """A trained toy in git with a DVC remote, nothing recorded yet."""
    remote = trained_toy.parent / "remote"
    command = [sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "storage", str(remote)]
    subprocess.run(command, cwd=trained_toy, check=True)
    git(trained_toy, "add", "--all")
    git(trained_toy, "commit", "-qm", "start")
    return trained_toy
