"""Laws of cleaning: only what phases can make again goes; the last run and versions stay whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import git

from thaw.errors import InputError
from thaw.project import clean

PIPELINE = """\
stages:
  prepare:
    cmd:
      - mkdir -p artifacts/prepare
      - cp data/picture.txt artifacts/prepare/pictures.npy
      - echo "a row of" > artifacts/prepare/manifest.csv && cat data/picture.txt >> artifacts/prepare/manifest.csv
    deps: [data]
    outs: [artifacts/prepare]
  embed:
    cmd:
      - mkdir -p artifacts/embed
      - (echo "features of" && cat artifacts/prepare/pictures.npy) > artifacts/embed/train.npy
    deps: [artifacts/prepare]
    outs: [artifacts/embed]
  package:
    cmd: mkdir -p artifacts/package && (echo model of && cat artifacts/embed/train.npy) > artifacts/package/weights
    deps: [artifacts/embed]
    outs: [artifacts/package]
"""


def dvc(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that ran on two versions of its data; the second shares a file with the first."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    (folder / "dvc.yaml").write_text(PIPELINE)
    monkeypatch.chdir(folder)
    for text in ("first", "second"):
        (folder / "data" / "picture.txt").write_text(f"{text} picture\n")
        dvc(folder, "add", "-q", "data")
        dvc(folder, "repro", "-q")
        git(folder, "add", "--all")
        git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", text)
        git(folder, "tag", text)
    return folder


def test_what_phases_make_again_of_earlier_data_is_freed_and_nothing_else(project: Path, tmp_path: Path) -> None:
    before = clean.leftovers()
    # the decoded pictures here equal bytes of data/, which stay
    assert list(before.outputs) == ["artifacts/embed"]
    assert before.data_versions == 1
    assert clean.leftovers().bytes == before.bytes, "to ask frees nothing"
    assert clean.clean().bytes == before.bytes
    assert clean.leftovers().bytes == {}
    assert "up to date" in dvc(project, "status")
    for output in ("artifacts/prepare", "artifacts/embed", "artifacts/package", "data"):
        shutil.rmtree(project / output)
    dvc(project, "checkout", "-q")
    assert (project / "artifacts/embed/train.npy").read_text() == "features of\nsecond picture\n"

    for path, text in (("artifacts/prepare/manifest.csv", "a row of"), ("artifacts/package/weights", "model of")):
        dvc(project, "get", "-q", ".", path, "--rev", "first", "--out", str(tmp_path / Path(path).name))
        assert (tmp_path / Path(path).name).read_text().startswith(text)
    git(project, "checkout", "-q", "first")
    dvc(project, "checkout", "-q", "data.dvc")
    dvc(project, "repro", "-q")
    assert (project / "artifacts/embed/train.npy").read_text() == "features of\nfirst picture\n"
    assert git(project, "status", "--porcelain") == "", "made again, byte for byte"


def test_a_cache_that_others_may_use_is_left_alone(project: Path, tmp_path: Path) -> None:
    (project / ".dvc" / "config").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    with pytest.raises(InputError, match="which others may use too"):
        clean.leftovers()
