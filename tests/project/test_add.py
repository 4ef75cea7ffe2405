"""Laws of `thaw add`: all or nothing, no picture moves, and the added folder is only read."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from children import importing
from growing import everything, fill, killed_before_change, make_space, picture, pin, put_back
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import prepare
from thaw import cli
from thaw.data import manifest, splits
from thaw.errors import InputError
from thaw.project import add
from thaw.project.lock import only_retraining
from thaw.project.settings import override, read
from thaw.project.stage import StageError

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = ("classes", "splits", "table")


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a workspace with 20 cats and 20 dogs; dvc is played."""

    def make(layout: str) -> Path:
        monkeypatch.setattr(add.pin, "finish", pin)
        monkeypatch.setattr(add.pin, "check", lambda: None)
        made = make_space(tmp_path / "space", layout)
        monkeypatch.chdir(made)
        return made

    return make


def splits_in(root: Path) -> dict[str, str]:
    """The split of each content, as prepare gives it."""
    rows = manifest.read_folder(root / "data")
    rows["hash"] = [manifest.content_hash(root / "data" / path) for path in rows["path"]]
    rows["split"] = splits.assign_splits(rows, 0.15, 0.25, 0, (root / "data/splits.csv").is_file())
    return dict(zip(rows["hash"], rows["split"], strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_pictures_join_in_the_layout_of_the_data_old_ones_stay_and_twice_is_once(
    space: Callable[[str], Path], tmp_path: Path, layout: str
) -> None:
    root = space(layout)
    new = fill(tmp_path / "new", "table" if layout == "table" else "classes", range(30, 60))
    before, given_before, old = splits_in(root), everything(new), everything(root / "data")
    lines: list[str] = []
    added = add.add(new, on_line=lines.append)
    assert (added.new, added.known) == (20, 10)
    assert sum(added.splits.values()) == 20
    assert str(added).startswith("20 new pictures (")
    after = splits_in(root)
    assert len(after) == 60
    assert {content: after[content] for content in before} == before
    rows, frozen = manifest.read_folder(root / "data"), pd.read_csv(root / "data/splits.csv")
    assert frozen["path"].tolist() == rows["path"].tolist()
    assert set(rows["path"].map(lambda path: path.count("/"))) == {2 if layout == "splits" else 1}
    if layout == "splits":
        assert (rows["path"].str.split("/").str[0].replace("valid", "val") == rows["split"]).all()
    assert rows["label"].tolist() == [("cat", "dog")[int(Path(path).stem) % 2] for path in rows["path"]]
    assert "group" not in rows or (rows.groupby("group")["split"].nunique() == 1).all()
    tree = everything(root / "data")
    assert {name: tree[name] for name in old if name != "labels.csv"} == {
        name: old[name] for name in old if name != "labels.csv"
    }
    assert everything(new) == given_before
    again = add.add(new, on_line=lines.append)
    assert (again.new, again.known, str(again)) == (0, 30, "nothing new, 30 known already")
    assert everything(root / "data") == tree
    assert not (root / ".dvc/tmp/thaw-add").exists()


@pytest.mark.parametrize("changes", [[], ["prepare.seed=5"], ["seed=5"]])
def test_prepare_gives_the_splits_of_splits_csv_and_before_the_first_add_those_that_add_freezes(
    space: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str]
) -> None:
    root = space("classes")
    override(changes, root / "params.yaml")
    small = {"name": "shufflenet_v2_x0_5", "weights": "random"}
    config = read(root / "params.yaml")
    config = config.model_copy(update={"backbone": config.backbone.model_copy(update=small)})

    def prepared() -> dict[str, str]:
        prepare.prepare(config)
        rows = pd.read_csv(root / "artifacts/prepare/manifest.csv")
        return dict(zip(rows["path"], rows["split"], strict=True))

    before = prepared()
    add.add(fill(tmp_path / "new", "classes", range(40, 60)))
    # a new seed moves no picture that splits.csv names
    config = config.model_copy(update={"seed": 7})
    after = prepared()
    assert {path: after[path] for path in before} == before
    assert after == dict(pd.read_csv(root / "data/splits.csv").to_numpy().tolist())
    text = (root / "data/splits.csv").read_text()
    (root / "data/splits.csv").write_text(text.replace(",val", ",train"))
    # frozen train gives none away
    with pytest.raises(InputError, match="has no picture in the val split"):
        prepared()


def test_with_folds_an_add_may_not_freeze_splits_and_splits_that_are_frozen_win_over_folds(
    space: Callable[[str], Path], tmp_path: Path
) -> None:
    root = space("table")
    new = fill(tmp_path / "new", "table", range(40, 44), start=100)
    override(["prepare.folds=3"], root / "params.yaml")
    before = everything(root)
    with pytest.raises(InputError, match=r"\Aprepare.folds is 3, [^\n]* freezes the splits [^\n]* to null first\Z"):
        add.add(new)
    assert everything(root) == before
    override(["prepare.folds=null", "prepare.split_by=group"], root / "params.yaml")
    with pytest.raises(
        InputError, match=r"\Aprepare.split_by is 'group', [^\n]* freezes the splits [^\n]* to null first"
    ):
        add.add(new)
    assert everything(root / "data") == {name[5:]: text for name, text in before.items() if name.startswith("data/")}
    override(["prepare.split_by=null"], root / "params.yaml")
    add.add(new)
    earlier = splits_in(root)
    override(["prepare.folds=3"], root / "params.yaml")
    add.add(fill(tmp_path / "more", "table", range(44, 48), start=100))
    after = splits_in(root)
    assert len(after) == len(earlier) + 4
    assert {content: after[content] for content in earlier} == earlier
    with pytest.raises(InputError, match="folds divides all pictures anew, but these come with splits"):
        splits.assign_folds(manifest.read_folder(root / "data").assign(hash="h"), 0.15, 0, 3, 0)


def test_val_that_thaw_takes_out_of_train_stays_val(space: Callable[[str], Path], tmp_path: Path) -> None:
    root = space("splits")
    for label in ("cat", "dog"):
        for file in sorted((root / "data/valid" / label).iterdir()):
            file.rename(root / "data/train" / label / file.name)
    shutil.rmtree(root / "data/valid")
    before = splits_in(root)
    assert set(before.values()) == {"train", "val", "test"}
    add.add(fill(tmp_path / "new", "classes", range(40, 80)))
    after = splits_in(root)
    assert {content: after[content] for content in before} == before
    assert {path.name for path in (root / "data").iterdir()} == {"train", "test", "splits.csv"}


def test_a_given_split_is_kept_and_a_taken_name_gets_another(space: Callable[[str], Path], tmp_path: Path) -> None:
    root = space("classes")
    old = (root / "data/cat/0.png").read_bytes()
    picture(tmp_path / "new/test/cat/0.png", 100)
    picture(tmp_path / "new/test/cat/more/0.png", 102)
    picture(tmp_path / "new/train/dog/0.png", 101)
    added = add.add(tmp_path / "new")
    assert added.splits == {"train": 1, "val": 0, "test": 2}
    assert (root / "data/cat/0.png").read_bytes() == old
    names = sorted(path.name for path in (root / "data/cat").glob("0-*.png"))
    digests = [manifest.content_hash(tmp_path / "new/test/cat" / name)[:8] for name in ("0.png", "more/0.png")]
    assert names == sorted(f"0-{digest}.png" for digest in digests)


@pytest.mark.parametrize(("start", "end"), [("", "\n"), ("\ufeff", "\r\n")])
def test_rows_join_a_labels_csv_whatever_is_in_them_and_however_its_lines_end(
    space: Callable[[str], Path], tmp_path: Path, start: str, end: str
) -> None:
    root = space("table")
    text = (root / "data/labels.csv").read_text()
    (root / "data/labels.csv").write_bytes((start + text.replace("\n", end)).encode())
    before = manifest.read_folder(root / "data")
    messages = [("images/a\rb.png", "cat", 'the "3rd", \r\n NA'), ("images/ NA\n.png", "dog", "x\rx")]
    for content, (path, _, _) in enumerate(messages, 100):
        picture(tmp_path / "new" / path, content)
    manifest.write_table(pd.DataFrame(messages, columns=["path", "label", "group"]), tmp_path / "new/labels.csv")
    assert add.add(tmp_path / "new", on_line=lambda line: None).new == 2
    rows = manifest.read_folder(root / "data")
    both = [*before[["path", "label", "group"]].to_numpy().tolist(), *map(list, messages)]
    assert rows[["path", "label", "group"]].to_numpy().tolist() == sorted(both)


def test_rows_join_under_the_header_that_the_user_wrote(space: Callable[[str], Path], tmp_path: Path) -> None:
    root, new = space("table"), tmp_path / "new"
    table = root / "data/labels.csv"
    rows = manifest.read_table(table)
    table.write_text(manifest.csv_of(rows[["group", "path", "label"]].set_axis(["GROUP ", " Path", "Label"], axis=1)))
    before = table.read_text()
    picture(new / "images/100.png", 100)
    (new / "labels.csv").write_text("path,LABEL, group\nimages/100.png, cat ,new \n")
    assert add.add(new, on_line=lambda line: None).new == 1
    assert table.read_text() == before + "new,images/100.png,cat\n"


Batch = list[tuple[int, int, str]]


@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(0, 60), st.integers(0, 3), st.sampled_from(["", "", "train"])), min_size=1, max_size=8
        ),
        min_size=2,
        max_size=4,
    )
)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_picture_moves_through_any_sequence_of_adds(
    batches: list[Batch], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("sequence")
    monkeypatch.chdir(root)
    monkeypatch.setattr(add.pin, "finish", pin)
    monkeypatch.setattr(add.pin, "check", lambda: None)
    make_space(root, "table")
    before = splits_in(root)
    for number, batch in enumerate(batches):
        new = root / f"new{number}"
        rows = []
        for place, (content, group, split) in enumerate(batch):
            # names of old pictures, again and again
            picture(new / f"images/{place}.png", content)
            rows.append(f"images/{place}.png,{('cat', 'dog')[content % 2]},{split},day {group}")
        (new / "labels.csv").write_text("\n".join(["path,label,split,group", *rows]))
        added = add.add(new, on_line=lambda line: None)
        after = splits_in(root)
        assert {content: after[content] for content in before} == before
        assert len(after) == len(before) + added.new
        assert added.new + added.known == len(batch)
        before = after


def taken_in(root: Path, new: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The workspace before and after an add, which is then undone."""
    shutil.copytree(root, root.with_name("untouched"))
    before = everything(root)
    add.add(new, on_line=lambda line: None)
    after = everything(root)
    put_back(root.with_name("untouched"), root)
    return before, after


@pytest.mark.slow
def test_killed_at_any_step_the_next_start_finds_the_data_as_before_or_as_after(
    space: Callable[[str], Path], tmp_path: Path
) -> None:
    root, new = space("table"), tmp_path / "new"
    picture(new / "images/0.png", 100)
    picture(new / "deeper/down/0.png", 101)
    (new / "labels.csv").write_text("path,label,group\nimages/0.png,cat,new\ndeeper/down/0.png,dog,new\n")
    before, after = taken_in(root, new)
    half_way = recoveries = 0
    for step in count(1):
        killed = killed_before_change(step, lambda: add.add(new, on_line=lambda line: None))
        half_way += everything(root) not in (before, after)
        again = count(1)
        if (root / "data.dvc").read_bytes() != before["data.dvc"]:
            while killed_before_change(next(again), add.recover):  # the recovery is killed as well
                recoveries += 1
        add.recover()
        assert not (root / ".dvc/tmp/thaw-add").exists()
        if everything(root) != before:
            break
    assert everything(root) == after
    assert killed, "from the pin on it is done, and only what was staged is thrown away"
    assert half_way > 3
    assert recoveries > 5


# journal, 3 pictures, tables
@pytest.mark.parametrize(("layout", "steps"), [("classes", 5), ("table", 6)])
def test_an_error_at_any_step_leaves_everything_as_it_was(
    space: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, steps: int
) -> None:
    root = space(layout)
    new = fill(tmp_path / "new", layout, range(40, 43), start=100)
    before = everything(root)
    replace, calls, failing = Path.replace, count(1), 0

    def replace_or_fail(path: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise OSError("No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_or_fail)
    for step in range(1, steps + 1):
        calls, failing = count(1), step
        with pytest.raises(InputError, match=r"cannot take the new pictures \(No space left on device\); nothing was"):
            add.add(new, on_line=lambda line: None)
        assert everything(root) == before
        assert not (root / ".dvc/tmp/thaw-add").exists()
    calls, failing = count(1), steps + 1
    assert add.add(new, on_line=lambda line: None).new == 3


@pytest.mark.parametrize("error", [StageError("add", 255, ["ERROR: locked"]), KeyboardInterrupt()])
def test_where_dvc_fails_or_the_user_stops_it_nothing_has_changed(
    space: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    root = space("table")
    new = fill(tmp_path / "new", "table", range(40, 44), start=100)
    before = everything(root)

    def fails(*arguments: object) -> None:
        (root / "data.dvc").write_text("half a pin")
        raise error

    monkeypatch.setattr(add.pin, "finish", fails)
    with pytest.raises(type(error)):
        add.add(new)
    assert everything(root) == before


def no_picture(new: Path) -> None:
    for number in (40, 41, 42):
        (new / f"images/{number}.png").write_bytes(b"no picture")


def gone(new: Path) -> None:
    (new / "images/41.png").unlink()


def rewrite(old: str, text: str) -> Callable[[Path], None]:
    def edit(new: Path) -> None:
        table = new / "labels.csv"
        assert old in table.read_text()
        table.write_text(table.read_text().replace(old, text))

    return edit


def known_otherwise(new: Path) -> None:
    picture(new / "images/40.png", 1)


def twins(new: Path) -> None:
    picture(new / "images/40.png", 41)


def no_table(new: Path) -> None:
    fill(new / "folders", "classes", range(40, 44))
    for path in (new / "labels.csv", new / "images"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted((new / "folders").iterdir()):
        path.rename(new / path.name)
    (new / "folders").rmdir()


def linked(new: Path) -> None:
    (new / "images").rename(new.parent / "images")
    (new / "images").symlink_to(new.parent / "images")


def broken_link(new: Path) -> None:
    (new / "more").symlink_to("nowhere")


def empty(new: Path) -> None:
    shutil.rmtree(new)
    new.mkdir()


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (no_picture, r"images/40.png cannot be read .* \(2 more pictures cannot be read\)"),
        (gone, "images/41.png does not exist"),
        (
            rewrite("41.png,dog", "41.png,dgo"),
            "has the label 'dgo', which is not a class yet; the classes are cat, dog",
        ),
        (
            rewrite("path,label,group", "path,label,day"),
            "lacks the columns group that data/labels.csv has",
        ),
        (rewrite('"day 10"', "10,wet"), "cannot be read as CSV"),
        (no_table, "lacks the columns group that data/labels.csv has; give it a labels.csv with"),
        (known_otherwise, r"new picture images/40.png \(cat\) is identical to the known picture images/1.png \(dog\)"),
        (twins, r"new picture images/40.png \(cat\) is identical to the new picture images/41.png \(dog\)"),
        (linked, "new/images is a link to the folder .*; copy the folder itself there"),
        (broken_link, "new/more is a link to .*nowhere, which does not exist"),
        (empty, "no pictures found under"),
        (shutil.rmtree, "there is no folder .*; name the folder with the new pictures"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    space: Callable[[str], Path], tmp_path: Path, mistake: Callable[[Path], None], sentence: str
) -> None:
    root = space("table")
    new = fill(tmp_path / "new", "table", range(38, 44))
    mistake(new)
    before, given_before = everything(root), everything(new)
    with pytest.raises(InputError, match=sentence) as caught:
        add.add(new)
    assert "\n" not in str(caught.value)
    assert everything(root) == before
    assert everything(new) == given_before


@pytest.mark.parametrize(
    ("table", "new_classes", "sentence"),
    [
        ("path,label,wafer\nx.png,cat,mono\n", False, "has the columns wafer, which class folders have no place for"),
        ("path,label\nx.png,../out\n", True, r"new class '\.\./out' cannot be the name of a folder"),
        (
            "path,label\n.x.png,cat\n",
            False,
            ".x.png would not be found in a class folder; give it a name that does not",
        ),
        ("path,label\nx.png,@eaDir\n", True, "new class '@eaDir' cannot be the name of a folder"),
        ("path,label\nx.picture,cat\n", False, "x.picture would not be found in a class folder; .* one of the endings"),
    ],
)
def test_what_class_folders_cannot_hold_is_refused(
    space: Callable[[str], Path], tmp_path: Path, table: str, new_classes: bool, sentence: str
) -> None:
    root = space("classes")
    picture(tmp_path / "new/x.png", 100)
    for name in ("x.picture", ".x.png"):
        shutil.copy(tmp_path / "new/x.png", tmp_path / "new" / name)
    (tmp_path / "new/labels.csv").write_text(table)
    before = everything(root)
    with pytest.raises(InputError, match=sentence):
        add.add(tmp_path / "new", new_classes)
    assert everything(root) == before


def test_a_new_class_joins_where_it_is_allowed_and_what_it_still_lacks_is_a_warning(
    space: Callable[[str], Path], tmp_path: Path
) -> None:
    root = space("classes")
    for number in range(3):
        picture(tmp_path / f"new/fox/{number}.png", 200 + number)
    lines: list[str] = []
    assert add.add(tmp_path / "new", new_classes=True, on_line=lines.append).new == 3
    assert "warning: class 'fox' has 3 pictures, too few; add pictures until it has 10" in lines[-1]
    assert len(list((root / "data/fox").iterdir())) == 3


def test_linked_pictures_join_as_files_and_linked_ones_in_the_data_are_refused(
    space: Callable[[str], Path], tmp_path: Path
) -> None:
    root = space("classes")
    picture(tmp_path / "elsewhere.png", 100)
    for folder in (tmp_path / "new", root / "data"):
        (folder / "cat").mkdir(parents=True, exist_ok=True)
        (folder / "cat/100.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match=r"data/cat/100.png is a link to .*elsewhere.png, outside of .*/data"):
        add.add(tmp_path / "new")
    (root / "data/cat/100.png").unlink()
    assert add.add(tmp_path / "new").new == 1
    assert (root / "data/cat/100.png").is_file()
    assert not (root / "data/cat/100.png").is_symlink()


def test_new_pictures_that_are_left_out_are_a_warning(space: Callable[[str], Path], tmp_path: Path) -> None:
    space("classes")
    picture(tmp_path / "new/cat/100.png", 100)
    picture(tmp_path / "new/loose.png", 101)
    (tmp_path / "new/cat/.DS_Store").touch()
    lines: list[str] = []
    assert add.add(tmp_path / "new", on_line=lines.append).new == 1
    assert lines[0] == "warning: 1 picture left out, such as loose.png: in no class folder"


def test_a_dry_run_says_the_same_and_changes_nothing(space: Callable[[str], Path], tmp_path: Path) -> None:
    root = space("table")
    new = fill(tmp_path / "new", "table", range(30, 60))
    before = everything(root)
    output = add.add(new, dry_run=True)
    assert everything(root) == before
    assert add.add(new) == output


def test_the_data_may_not_be_added_to_themselves(space: Callable[[str], Path]) -> None:
    root = space("classes")
    for path in (root, root / "data", root / "data/cat"):
        with pytest.raises(InputError, match="and data/ lies in the other"):
            add.add(path)


def test_while_something_else_holds_the_workspace_it_is_refused(space: Callable[[str], Path], tmp_path: Path) -> None:
    root = space("classes")
    new = fill(tmp_path / "new", "classes", range(40, 44))
    before = everything(root)
    with only_retraining("weekly"), pytest.raises(InputError, match=r"another retraining holds .* \(weekly"):
        add.add(new)
    assert everything(root) == before


def test_a_folder_without_pictures_is_nothing_that_arrived(tmp_path: Path) -> None:
    incoming = tmp_path / "incoming"
    assert not add.arrived(incoming)
    incoming.mkdir()
    assert not add.arrived(incoming)
    (incoming / ".gitkeep").touch()
    (incoming / "readme.txt").write_text("put your pictures here")
    (incoming / "labels.csv").write_text("path,label\n")
    assert not add.arrived(incoming)
    (incoming / "labels.csv").write_text("path,label\nforgotten.png,cat\n")
    assert add.arrived(incoming)
    (incoming / "labels.csv").unlink()
    (incoming / "dogs").symlink_to(tmp_path)
    assert add.arrived(incoming), "and then add says that links to folders are not read"
    (incoming / "dogs").unlink()
    picture(incoming / "@eaDir/1.png", 1)
    assert not add.arrived(incoming)
    picture(incoming / "cat/1.PNG", 1)
    assert add.arrived(incoming)


@pytest.mark.slow
def test_with_dvc_the_pin_is_of_the_new_data_and_a_failure_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    root = make_space(tmp_path / "space", "table")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", importing(ROOT))
    (root / "data.dvc").unlink()

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=root, check=True, text=True, capture_output=True).stdout

    def thaw_add(path: Path) -> str:
        done = CliRunner().invoke(cli.app, ["add", str(path)])
        assert done.exit_code == 0, done.output
        return done.output

    dvc = [sys.executable, "-m", "dvc"]
    run("git", "init", "-q")
    run(*dvc, "init", "-q")
    # files in data/ are then links into the cache, and read-only
    run(*dvc, "config", "cache.type", "hardlink")
    new = fill(tmp_path / "new", "table", range(36, 44))
    assert "4 new pictures (" in thaw_add(new)
    assert "up to date" in run(*dvc, "status", "data.dvc")
    before = everything(root)
    assert "nothing new, 8 known already" in thaw_add(new)
    assert everything(root) == before

    more = fill(tmp_path / "more", "table", range(44, 48))
    (root / ".dvc/cache").rename(tmp_path / "cache")
    (root / ".dvc/cache").write_text("no folder")
    done = CliRunner().invoke(cli.app, ["add", str(more)])
    assert done.exit_code == 1
    assert "add failed with exit code" in done.output
    assert everything(root) == before
    (root / ".dvc/cache").unlink()
    (tmp_path / "cache").rename(root / ".dvc/cache")

    (root / "data/images/0.png").unlink()
    after_loss = everything(root)
    for options in ([], ["--dry-run"]):
        done = CliRunner().invoke(cli.app, ["add", str(more), *options])
        assert done.exit_code == 2
        assert "data/ differs from data.dvc: 0 new, 0 changed, 1 missing (data/images/0.png); `thaw" in done.output
    assert everything(root) == after_loss

    shutil.rmtree(root / "data")  # a fresh clone: the data come first
    assert "4 new pictures (" in thaw_add(more)
    assert "up to date" in run(*dvc, "status", "data.dvc")
    assert len(manifest.read_folder(root / "data")) == 48
    assert CliRunner().invoke(cli.app, ["add", str(tmp_path / "nowhere")]).exit_code == 2
