"""Laws of bringing the data: DVC verifies every byte, and other data than pinned are refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import importing

ROOT = Path(__file__).resolve().parents[2]


def bring(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": importing(ROOT)}
    command = [sys.executable, "-m", "thaw.project.bring"]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, text=True, capture_output=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone: the project's pin and settings, no data, no cache."""
    folder = tmp_path / "clone"
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "-q")
    for name in ("data.dvc", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_the_package_gives_exactly_the_bytes_that_are_pinned_and_the_cache_gives_them_back(clone: Path) -> None:
    pin = (clone / "data.dvc").read_bytes()
    first = bring(clone)
    assert first.returncode == 0, first.stderr
    assert "every byte as data.dvc pins it" in first.stdout
    assert (clone / "data.dvc").read_bytes() == pin
    assert "up to date" in dvc(clone, "status", "data.dvc")
    shutil.rmtree(clone / "data")
    assert "restored from the cache" in bring(clone).stdout
    assert "up to date" in dvc(clone, "status", "data.dvc")
    assert "is there" in bring(clone).stdout


def test_another_pin_is_refused_and_nothing_is_left(clone: Path) -> None:
    pin = (clone / "data.dvc").read_text().replace("md5: 9", "md5: a")
    (clone / "data.dvc").write_text(pin)
    done = bring(clone)
    assert done.returncode == 2
    assert "data.dvc pins other data than the package elpv-dataset has" in done.stderr
    assert "run `dvc push`; here, set the same remote and run `thaw data`" in done.stderr
    assert not (clone / "data").exists()
    assert (clone / "data.dvc").read_text() == pin


def test_data_come_from_the_dvc_remote_where_there_is_one(clone: Path, tmp_path: Path) -> None:
    (clone / "data").mkdir()
    (clone / "data" / "mine.txt").write_text("my picture")
    (clone / "data" / "other.txt").write_text("another picture")
    dvc(clone, "add", "data")
    dvc(clone, "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    dvc(clone, "push", "-q")
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(clone / folder)
    done = bring(clone)
    assert done.returncode == 0, done.stderr
    assert "brought from the DVC remote" in done.stdout
    assert (clone / "data" / "mine.txt").read_text() == "my picture"
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(clone / folder)
    next(file for file in (tmp_path / "storage").rglob("*") if file.is_file() and file.suffix != ".dir").unlink()
    done = bring(clone)
    assert done.returncode == 1  # no mistake of the user: another try may help
    assert "the DVC remote did not give data/" in done.stderr
    # half of the data would look like an edit
    assert not (clone / "data").exists()


def test_neither_data_nor_pin_is_one_sentence(clone: Path) -> None:
    (clone / "data.dvc").unlink()
    done = bring(clone)
    assert done.returncode == 2
    assert "there is neither data/ nor data.dvc" in done.stderr


def test_data_without_a_pin_are_pinned(clone: Path) -> None:
    (clone / "data.dvc").unlink()
    (clone / "data").mkdir()
    (clone / "data" / "mine.txt").write_text("my picture")
    assert bring(clone).returncode == 0
    assert "up to date" in dvc(clone, "status", "data.dvc")


@pytest.mark.parametrize("pinned", [True, False])
def test_data_that_are_a_link_are_refused(clone: Path, tmp_path: Path, pinned: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").write_text("my picture")
    (clone / "data").symlink_to(tmp_path / "elsewhere")
    if not pinned:
        (clone / "data.dvc").unlink()
    done = bring(clone)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "data/ is a link to" in done.stderr
    assert "copy the folder itself here" in done.stderr
    assert (clone / "data.dvc").exists() is pinned
