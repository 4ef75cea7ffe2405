"""Laws of arriving pictures: good ones join, bad ones are set aside with a reason, none is lost."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from growing import everything, fill, killed_before_change, make_space, picture, pin, put_back

from thaw.data import manifest
from thaw.errors import InputError
from thaw.project import add, incoming, mend
from thaw.project.settings import override, read

Arrived = tuple[Path, Path, Callable[[], "incoming.Taken | None"]]


@pytest.fixture
def arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Arrived]:
    """Makes a workspace with 40 pictures and its empty folder for new ones; dvc is played."""
    root = tmp_path / "space"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setattr(add.pin, "finish", pin)
    monkeypatch.setattr(add.pin, "check", lambda: None)
    monkeypatch.setattr(incoming, "QUIET", 0.0)

    def make(layout: str) -> Arrived:
        make_space(root, layout)
        (root / "incoming").mkdir()
        take = lambda: incoming.take(read(root / "params.yaml").retrain, lambda line: None)  # noqa: E731
        return root, root / "incoming", take

    return make


def reasons(root: Path) -> dict[str, str]:
    """What was set aside, and why."""
    (file,) = root.glob("archive/set-aside/*/reasons.csv")
    return dict(manifest.read_table(file).to_numpy().tolist())


def contents(*folders: Path) -> set[bytes]:
    """What is in the pictures, and in what only looks like some, of these folders."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file.read_bytes() for file in files if file.suffix in (".png", ".heic")}


def test_good_pictures_join_bad_ones_are_set_aside_and_the_folder_is_empty_afterwards(
    arrived: Callable[[str], Arrived], tmp_path: Path
) -> None:
    root, folder, take = arrived("classes")
    fill(folder, "classes", range(38, 44))
    (folder / "cat/broken.png").write_bytes(b"no picture")
    (folder / "cat/photo.heic").write_bytes(b"not read")
    (folder / ".hidden").touch()
    picture(folder / "cat/known otherwise.png", 1)
    picture(folder / "cat/twin.png", 300)
    picture(folder / "dog/twin.png", 300)
    picture(folder / "fox/new.png", 301)
    picture(folder / "loose.png", 302)
    (folder / "dogs").symlink_to(tmp_path)
    before = contents(folder)

    taken = take()
    assert taken is not None
    assert taken.changed
    assert str(taken).startswith("4 new pictures (")
    assert ", 2 known already, 8 set aside: see archive/set-aside/" in str(taken)
    assert {name: why.split("/incoming/")[-1][:60] for name, why in reasons(root).items()} == {
        "cat/broken.png": "cat/broken.png cannot be read (it is no picture of an allowed"[:60],
        "cat/known otherwise.png": "the new picture cat/known otherwise.png (cat) is identical t",
        "cat/photo.heic": "thaw does not read .heic: save it as PNG, TIFF or JPEG",
        "cat/twin.png": "the new picture cat/twin.png (cat) is identical to the new p",
        "dog/twin.png": "the new picture dog/twin.png (dog) is identical to the new p",
        "dogs": f"dogs is a link to the folder {tmp_path}, and DVC pins no linked folder"[:60],
        "fox/new.png": "fox/new.png has the label 'fox', which is not a class yet; t",
        "loose.png": "in no class folder",
    }
    assert [path.name for path in folder.rglob("*") if not path.is_dir()] == [".hidden"]
    assert contents(root / "data", root / "archive") >= before
    assert len(contents(root / "archive/taken")) == 6
    assert incoming.waiting(root / "archive") == 8
    assert take() is None, "and nothing is looked at again"

    (aside,) = root.glob("archive/set-aside/*")
    for name in ("cat/broken.png", "cat/known otherwise.png", "cat/twin.png", "dogs"):
        (aside / name).unlink()  # mended, what was set aside can be added as it lies there
    assert add.add(aside, new_classes=True, on_line=lambda line: None).new == 2


def test_rows_of_a_table_are_taken_or_set_aside_one_by_one(arrived: Callable[[str], Arrived]) -> None:
    root, folder, take = arrived("table")
    fill(folder, "table", range(40, 46))
    with (folder / "labels.csv").open("a") as table:
        table.write("\ngone.png,cat,g\n,cat,g\nimages/45.png,cat,g\n../../data/images/1.png,dog,g\n/etc/hosts,dog,g\n")
    picture(folder / "unlisted.png", 200)
    before = contents(folder)
    taken = take()
    assert taken is not None
    assert taken.added is not None
    assert taken.added.new == 5
    assert sorted(reasons(root)) == sorted(
        ["", "../../data/images/1.png", "/etc/hosts", "gone.png", "images/45.png", "unlisted.png"]
    )
    assert (root / "data/images/1.png").is_file(), "what a row names elsewhere stays there"
    assert Path("/etc/hosts").is_file()
    (aside,) = root.glob("archive/set-aside/*")
    assert sorted(manifest.read_table(aside / "labels.csv")["path"]) == sorted(
        ["", "../../data/images/1.png", "/etc/hosts", "gone.png", "images/45.png", "images/45.png"]
    )
    (there,) = root.glob("archive/taken/*")
    assert len(manifest.read_folder(there)) == 5
    assert contents(root / "data", root / "archive") >= before
    assert not [row for row in (folder / "labels.csv").read_text().splitlines()[1:] if row]
    assert take() is None


@pytest.mark.parametrize("table", ["no table, only a line\n", "path,label\nimages/40.png,cat\n", "label\ncat\n"])
def test_a_delivery_whose_table_cannot_be_used_is_set_aside_as_a_whole(
    arrived: Callable[[str], Arrived], table: str
) -> None:
    root, folder, take = arrived("table")
    fill(folder, "table", range(40, 42))
    (folder / "labels.csv").write_text(table)
    before, pictures = everything(root / "data"), contents(folder)
    taken = take()
    assert taken is not None
    assert (taken.added, taken.set_aside) == (None, 3)
    assert set(reasons(root)) == {"labels.csv", "images/40.png", "images/41.png"}
    assert everything(root / "data") == before
    assert contents(root / "archive") == pictures
    assert take() is None


def test_a_fault_of_the_data_or_the_settings_is_nobodys_reason_to_set_pictures_aside(
    arrived: Callable[[str], Arrived],
) -> None:
    root, folder, take = arrived("classes")
    fill(folder, "classes", range(40, 44))
    (root / "data/cat/link.png").symlink_to("/etc/hosts")
    with pytest.raises(InputError, match=r"link.png is a link to /etc/hosts, outside of"):
        take()
    (root / "data/cat/link.png").unlink()
    override(["retrain.archive=incoming/done"], root / "params.yaml")
    with pytest.raises(InputError, match=r"retrain.archive is incoming/done, which lies in .*/incoming or contains it"):
        take()
    assert len(contents(folder)) == 4
    assert not list(root.glob("archive/*/*"))


@pytest.mark.slow
def test_killed_while_it_moves_what_was_taken_no_picture_is_lost_and_the_next_run_ends_it(
    arrived: Callable[[str], Arrived], tmp_path: Path
) -> None:
    root, folder, take = arrived("table")
    fill(folder, "table", range(40, 42))
    add.add(folder, on_line=lambda line: None)
    (folder / "images/41.png").write_bytes(b"no picture")
    before = contents(folder)
    shutil.copytree(root, tmp_path / "kept")
    step, killed = 0, True
    move = partial(incoming._move, folder, root / "archive/taken/now", ["images/40.png"], print)
    while killed:
        step += 1
        put_back(tmp_path / "kept", root)
        killed = killed_before_change(step, move)
        assert contents(root) >= before
        mend.mend(lambda line: None)
        take()
        assert contents(root / "data", root / "archive") >= before
        assert set(reasons(root)) == {"images/41.png"}, "what was taken before the kill is not taken for missing"
        assert take() is None
    assert step > 6


def test_of_what_was_taken_the_newest_is_kept_and_what_was_set_aside_always(
    arrived: Callable[[str], Arrived], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder, take = arrived("classes")
    for day in ("2026-01-05", "2026-01-12"):
        for kind in ("taken", "set-aside"):
            picture(root / "archive" / kind / day / "cat/1.png", 500)
    size = (root / "archive/taken/2026-01-05/cat/1.png").stat().st_size
    override([f"retrain.archive_gb={3.5 * size / 1e9:.12f}"], root / "params.yaml")
    fill(folder, "classes", range(40, 42))
    take()
    assert min(path.name for path in root.glob("archive/taken/*")) == "2026-01-12"
    assert len(list(root.glob("archive/taken/*"))) == 2
    override(["retrain.archive_gb=0"], root / "params.yaml")
    fill(folder, "classes", range(42, 44))
    assert take() is not None
    assert not list(root.glob("archive/taken/*"))
    assert len(list(root.glob("archive/set-aside/*"))) == 2


def test_a_delivery_that_still_grows_is_waited_for(
    arrived: Callable[[str], Arrived], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, take = arrived("classes")
    fill(folder, "classes", range(40, 41))
    whole = (folder / "cat/40.png").read_bytes()
    (folder / "cat/40.png").write_bytes(whole[:20])
    monkeypatch.setattr(incoming, "QUIET", 1.0)
    sleep, waited = incoming.time.sleep, []

    def copy_goes_on(seconds: float) -> None:
        sleep(seconds)
        if not waited:
            (folder / "cat/40.png").write_bytes(whole)
        waited.append(seconds)

    monkeypatch.setattr(incoming.time, "sleep", copy_goes_on)
    taken = take()
    assert taken is not None
    assert str(taken).startswith("1 new picture (")
    assert len(waited) == 2
