"""Laws of the pin, with a real dvc: differences are counted, and only an accept changes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import call, git, importing

from thaw.errors import InputError
from thaw.project import pin
from thaw.project.pin import DataDiffers
from thaw.project.stage import Verdict, repro

DVC = (sys.executable, "-m", "dvc")
# A checkout that dies, as by kill -9, before it writes file number 5 into data/.
CUT_OFF = """
import os, sys

def watch(event, arguments):
    global left
    if event == "open" and arguments[2] & os.O_WRONLY and str(arguments[0]).startswith(os.path.abspath("data")):
        left -= 1
        if left == 0:
            os._exit(9)

left = 5
sys.addaudithook(watch)
from dvc.cli import main
main(["checkout", "data.dvc"])
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with four pictures each of cats and dogs, pinned."""
    root = tmp_path / "root"
    for name in (f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)):
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_text(name)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", importing(Path(__file__).parents[2]))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    call(root, "git", "init", "-q")
    call(root, *DVC, "init", "-q")
    call(root, *DVC, "config", "cache.type", "copy")
    call(root, *DVC, "add", "-q", "data")
    return root


def _add(root: Path) -> None:
    (root / "data/dog/new.png").write_text("new")


def _change(root: Path) -> None:
    (root / "data/cat/1.png").write_text("changed")


def _lose(root: Path) -> None:
    for number in (1, 2, 3):
        (root / f"data/dog/{number}.png").unlink()


def _rename(root: Path) -> None:
    (root / "data/cat/2.png").rename(root / "data/cat/two.png")


def _all(root: Path) -> None:
    for change in (_add, _change, _lose):
        change(root)


def _forget(root: Path, path: str) -> None:
    """Take files out of DVC's cache, and what DVC remembers of them."""
    for file in (root / ".dvc/cache/files").rglob(path):
        if file.is_file():
            file.unlink()
    shutil.rmtree(root.parent / "site")


def test_what_differs_is_counted_by_kind_with_an_example_of_each(root: Path) -> None:
    assert pin.difference() is None
    for change, counts in (
        (_add, "1 new (data/dog/new.png), 0 changed, 0 missing"),
        (_change, "0 new, 1 changed (data/cat/1.png), 0 missing"),
        (_lose, "0 new, 0 changed, 3 missing (data/dog/1.png)"),
        (_rename, "1 new (data/cat/two.png), 0 changed, 1 missing (data/cat/2.png)"),
    ):
        shutil.copytree(root / "data", root / "kept")
        change(root)
        assert str(pin.difference()) == f"data/ differs from data.dvc: {counts}"
        shutil.rmtree(root / "data")
        (root / "kept").rename(root / "data")


def test_what_differs_is_refused_and_both_ways_out_lead_out(root: Path) -> None:
    before, counts = (root / "data.dvc").read_bytes(), "1 new (data/dog/new.png), 1 changed (data/cat/1.png), 3 missing"
    _all(root)
    with pytest.raises(DataDiffers) as caught:
        repro("data.dvc", on_line=lambda line: None)
    assert str(caught.value) == (
        f"data/ differs from data.dvc: {counts} (data/dog/1.png); `thaw data --accept` pins data/ as it is, "
        "`dvc checkout --force data.dvc` throws the difference away"
    )
    assert (root / "data.dvc").read_bytes() == before
    call(root, *DVC, "checkout", "--force", "data.dvc")
    assert pin.difference() is None
    _all(root)
    lines: list[str] = []
    pin.accept(lines.append)
    assert lines[0].startswith(f"data/ differs from data.dvc: {counts}")
    assert (root / "data.dvc").read_bytes() != before
    assert repro("data.dvc", on_line=lambda line: None) is Verdict.CACHED


@pytest.mark.parametrize(
    ("lacking", "known"), [("*.dir", False), ("*", False), ("??????????????????????????????", True)]
)
def test_where_the_cache_lacks_files_the_way_back_is_not_one_that_deletes_the_data(
    root: Path, lacking: str, known: bool
) -> None:
    _forget(root, lacking)
    assert pin.difference() is None  # the data are what is pinned, wherever that lies
    _all(root)
    with pytest.raises(DataDiffers) as caught:
        repro("data.dvc", on_line=lambda line: None)
    assert ("3 missing" in str(caught.value)) is known
    assert ("pins files that DVC's cache does not know" in str(caught.value)) is not known
    assert str(caught.value).endswith("with data/ moved away `thaw data` brings what is pinned")
    pin.accept()
    assert pin.difference() is None


def test_the_rest_of_a_checkout_that_was_killed_is_not_the_data(root: Path) -> None:
    before = (root / "data.dvc").read_bytes()
    shutil.rmtree(root / "data")
    assert subprocess.run([sys.executable, "-c", CUT_OFF], cwd=root, capture_output=True).returncode == 9
    assert 0 < len(list((root / "data").rglob("*.png"))) < 8
    with pytest.raises(DataDiffers, match=r"0 new, 0 changed, [1-7] missing"):
        repro("data.dvc", on_line=lambda line: None)
    assert (root / "data.dvc").read_bytes() == before


def test_data_that_are_missing_or_pinned_by_nothing_do_not_differ(root: Path) -> None:
    (root / "data.dvc").rename(root / "elsewhere")
    assert pin.difference() is None
    pin.accept()  # as `dvc add` does
    assert (root / "data.dvc").read_bytes() == (root / "elsewhere").read_bytes()
    shutil.rmtree(root / "data")
    assert pin.difference() is None
    assert repro("data.dvc", on_line=lambda line: None) is Verdict.RESTORED


def test_no_data_are_never_accepted(root: Path) -> None:
    before = (root / "data.dvc").read_bytes()
    shutil.rmtree(root / "data")
    for leave in (lambda: None, (root / "data").mkdir, (root / "data/cat").mkdir, (root / "data/.DS_Store").touch):
        leave()
        with pytest.raises(InputError, match="data/ is missing or empty"):
            pin.accept()
    assert (root / "data.dvc").read_bytes() == before


def test_a_pin_that_somebody_else_moved_is_not_overwritten(root: Path) -> None:
    """As after `git pull`: data.dvc names newer data than those that are here."""
    git(root, "add", "--all")
    git(root, "commit", "-qm", "mine")
    _add(root)
    pin.accept()
    theirs = (root / "data.dvc").read_bytes()
    git(root, "commit", "-qam", "theirs")
    (root / "data/dog/new.png").unlink()
    with pytest.raises(DataDiffers, match=r"1 missing \(data/dog/new\.png\)"):
        repro("data.dvc", on_line=lambda line: None)
    assert (root / "data.dvc").read_bytes() == theirs
