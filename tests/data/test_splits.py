"""Laws of splits that come in part from the user, and of twins."""

import itertools
import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks import prepare
from thaw.data import manifest, splits
from thaw.errors import InputError
from thaw.project.settings import override, read

ROOT = Path(__file__).resolve().parents[2]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)


def table(count: int, **columns: object) -> pd.DataFrame:
    """Pictures of two classes in turn, none identical to another."""
    rows = pd.DataFrame({"path": [f"{n:04d}.png" for n in range(count)], "label": ["a", "b"] * (count // 2)})
    return rows.assign(hash=[f"h{n:04d}" for n in range(count)], **columns)


def test_a_stray_folder_does_not_make_classes_of_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            picture(tmp_path / split / label / "1.png")
    picture(tmp_path / "notes/1.png")
    (tmp_path / "notes/read.txt").write_text("me")
    picture(tmp_path / "train/loose.png")
    rows = manifest.read_folder(tmp_path)
    assert rows["path"].tolist() == ["test/cat/1.png", "test/dog/1.png", "train/cat/1.png", "train/dog/1.png"]
    assert rows["split"].tolist() == ["test", "test", "train", "train"]
    assert manifest.left_out(tmp_path, rows).to_numpy().tolist() == [
        ["notes/1.png", manifest.BESIDE],
        ["notes/read.txt", manifest.NO_PICTURE],
        ["train/loose.png", manifest.NO_CLASS],
    ]


@pytest.mark.parametrize("names", [("train", "bus", "car"), ("test", "other"), ("train", "test", "car")])
def test_classes_may_have_the_names_of_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        picture(tmp_path / name / "1.png")
    assert sorted(manifest.read_folder(tmp_path)["label"]) == sorted(names)


@pytest.mark.parametrize(("train", "other"), [("Training", "Testing"), ("train", "dev"), ("training", "evaluation")])
def test_splits_are_known_by_their_usual_names(tmp_path: Path, train: str, other: str) -> None:
    for split in (train, other):
        for label in ("cat", "dog"):
            picture(tmp_path / split / label / "1.png")
    rows = manifest.read_folder(tmp_path)
    assert (set(rows["label"]), set(rows["split"])) == ({"cat", "dog"}, {"train", manifest.FOLDERS[other.lower()]})


def test_a_single_split_beside_folders_without_pictures_is_a_split(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        picture(tmp_path / "train" / label / "1.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/read.txt").write_text("me")
    assert manifest.read_folder(tmp_path)["split"].tolist() == ["train", "train"]


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (("train", "notes"), "train is named like a split and has folders of pictures inside, but beside it is notes"),
        (("train_set", "test_set"), "test_set is named like a split and has folders of pictures inside"),
        (("set/train", "set/test", "other"), "set would be a class, but it holds the splits test and train; put"),
        (("cats/Training", "cats/Testing", "dogs"), "cats would be a class, but it holds the splits test and train"),
    ],
)
def test_splits_that_would_become_classes_are_refused(tmp_path: Path, folders: tuple[str, ...], sentence: str) -> None:
    for folder in folders:
        for label in ("cat", "dog"):
            picture(tmp_path / folder / label / "1.png")
    with pytest.raises(InputError, match=sentence):
        manifest.read_folder(tmp_path)


def test_folders_of_batches_that_may_not_be_the_classes_are_a_warning(tmp_path: Path) -> None:
    for folder in ("day 1", "day 2"):
        for label in ("cat", "dog"):
            picture(tmp_path / folder / label / "1.png")
    warning = "all class folders have the same folders inside (cat, dog): if those are the classes, move them up"
    assert manifest.warnings_of_layout(tmp_path, manifest.read_folder(tmp_path)) == [warning]


def test_a_fixed_test_set_stays_as_it_is_and_empty_cells_train_and_validate() -> None:
    rows = table(200, split=np.where(np.arange(200) % 10 < 2, "test", ""))
    drawn = splits.assign_splits(rows, 0.15, 0.25, 0)
    assert ((drawn == "test") == (rows["split"] == "test")).all()
    assert 0.1 < (drawn[rows["split"] == ""] == "val").mean() < 0.2


@pytest.mark.parametrize(
    ("fixed", "others"), [(["val"], {"train", "test"}), (["val", "test"], {"train"}), (["train"], {"val", "test"})]
)
def test_splits_that_are_not_given_are_made_of_the_rest(fixed: list[str], others: set[str]) -> None:
    rows = table(120, split=[[*fixed, "", "", ""][n // 2 % (len(fixed) + 3)] for n in range(120)])
    drawn = splits.assign_splits(rows, 0.15, 0.25, 0)
    assert set(drawn) == set(manifest.SPLITS)
    for split in set(fixed) - {"train"}:
        assert ((drawn == split) == (rows["split"] == split)).all()
    assert set(drawn[rows["split"] == ""]) - {"train"} == others - {"train"}


def test_splits_of_which_none_can_train_are_refused() -> None:
    rows = table(20, split=["val", "val", "test", "test"] * 5)
    with pytest.raises(InputError, match="no picture is in train; mark some as train or leave their split empty, or"):
        splits.assign_splits(rows, 0.15, 0.25, 0)


@given(
    pictures=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 25)), min_size=12, max_size=60),
    seed=st.integers(0, 9),
    folds=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_twins_are_in_one_split_whatever_their_groups(pictures: list[tuple[int, int]], seed: int, folds: bool) -> None:
    rows = pd.DataFrame(pictures, columns=["group", "hash"])
    rows["group"] = rows["group"].astype(str).replace("0", "")
    rows["hash"] = "h" + rows["hash"].astype(str)
    rows = rows.assign(label="a", path=[f"{n:03d}.png" for n in range(len(rows))])
    if folds:
        if splits.units_of(rows).nunique() < 3:
            return
        drawn = splits.assign_folds(rows, 0.15, 0, 3, seed)
    else:
        drawn = splits.assign_splits(rows, 0.15, 0.25, seed)
    assert (drawn.groupby(rows["hash"]).nunique() == 1).all()
    assert (drawn.groupby(rows["group"].where(rows["group"] != "")).nunique() == 1).all()


def test_groups_that_share_a_picture_are_told(tmp_path: Path) -> None:
    rows = table(8, group=["1", "2", "3", "", "4", "4", "", ""], split="train")
    rows["hash"] = ["x", "x", "y", "y", "z", "z", "u", "v"]
    rows = manifest.complete(rows, ["a", "b"])
    assert "1 sets of identical pictures lie in several groups: thaw keeps those together" in manifest.warnings(
        rows, ["a", "b"]
    )


def days(count: int, of_each: int = 1) -> list[str]:
    return [(date(2026, 1, 1) + timedelta(n // of_each)).isoformat() for n in range(count)]


@given(
    offsets=st.lists(st.integers(0, 30), min_size=6, max_size=60),
    groups=st.sampled_from([0, 7, 30]),
    shares=st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45)),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_by_date_nothing_that_trains_is_newer_than_what_tests(  # type: ignore[no-untyped-def]
    offsets: list[int], groups: int, shares: tuple[float, float], order
) -> None:
    rows = table(2 * (len(offsets) // 2))
    rows["taken"] = [days(31)[offset] for offset in offsets[: len(rows)]]
    if groups:
        rows["group"] = [f"g{n % groups}" for n in range(len(rows))]
    newest = rows["taken"].groupby(splits.units_of(rows)).transform("max")
    if newest.nunique() < 3:
        with pytest.raises(InputError, match=r"have \d different dates; train, val and test need three at least"):
            splits.assign_by_date(rows, "taken", *shares, Path("labels.csv"))
        return
    drawn = splits.assign_by_date(rows, "taken", *shares, Path("labels.csv"))
    assert set(drawn) == set(manifest.SPLITS)
    for earlier, later in itertools.pairwise(manifest.SPLITS):
        assert newest[drawn == earlier].max() < newest[drawn == later].min()
        assert rows["taken"][drawn == earlier].max() < newest[drawn == later].min()
    assert (drawn.groupby(splits.units_of(rows)).nunique() == 1).all()
    shuffled = list(rows.index)
    order.shuffle(shuffled)
    assert splits.assign_by_date(rows.loc[shuffled], "taken", *shares, Path("x")).sort_index().equals(drawn)


def test_by_date_the_shares_are_met_where_days_are_many() -> None:
    rows = table(200, taken=days(200))
    counts = splits.assign_by_date(rows, "taken", 0.15, 0.25, Path("labels.csv")).value_counts()
    assert counts.to_dict() == {"train": 120, "val": 30, "test": 50}


@pytest.mark.parametrize(
    "dates",
    [
        ("2024", "2025", "2026"),
        ("2026-01", "2026-02", "2026-03"),
        ("20260101", "20260102", "2026-01-03"),
        ("2026-01-01T23:30:00-02:00", "2026-01-02 02:00", "2026-01-02T02:00:01Z"),
    ],
)
def test_dates_are_iso_dates_with_or_without_a_time_months_or_years(dates: tuple[str, str, str]) -> None:
    rows = table(30, taken=[dates[n // 10] for n in range(30)])
    drawn = splits.assign_by_date(rows, "taken", 0.15, 0.25, Path("labels.csv"))
    assert drawn.tolist() == ["train"] * 10 + ["val"] * 10 + ["test"] * 10


def test_one_site_is_held_out_and_val_comes_from_the_others() -> None:
    rows = table(200, site=[("Bonn", "Oslo", "Rome", "")[n % 100 // 25] for n in range(200)])
    drawn = splits.assign_held_out(rows, "site", "Oslo", 0.2, 0)
    assert ((drawn == "test") == (rows["site"] == "Oslo")).all()
    assert 0.15 < (drawn[rows["site"] != "Oslo"] == "val").mean() < 0.25
    again = splits.assign_held_out(rows.sample(frac=1, random_state=1), "site", "Oslo", 0.2, 0)
    assert again.sort_index().equals(drawn.sort_index())
    # one of Bonn, identical to one of Oslo
    twin = rows.assign(hash=rows["hash"].replace("h0000", "h0025"))
    assert splits.assign_held_out(twin, "site", "Oslo", 0.2, 0)[0] == "test"


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty pictures with a day and a site each, and settings of a small network."""
    monkeypatch.chdir(tmp_path)
    rows = table(60, taken=days(60, 2), site=[("Bonn", "Oslo", "7")[n // 2 % 3] for n in range(60)], camera="x")
    for number, path in enumerate(rows["path"]):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "data" / path)
    manifest.write_table(rows.drop(columns="hash"), tmp_path / "data/labels.csv")
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    small = ["backbone.name=shufflenet_v2_x0_5", "backbone.weights=random", "prepare.resolution=32"]
    override(small, tmp_path / "params.yaml")
    return tmp_path


def prepared(space: Path, *changes: str) -> pd.DataFrame:
    override(list(changes), space / "params.yaml")
    prepare.prepare(read(space / "params.yaml"))
    return manifest.read_manifest(space / "artifacts/prepare/manifest.csv")


@pytest.mark.parametrize(
    ("changes", "test", "slices"),
    [
        (["prepare.split_by=taken"], lambda rows: rows["taken"] >= "2026-01-24", ["site", "camera"]),
        (["prepare.split_by=site", "prepare.hold_out=Oslo"], lambda rows: rows["site"] == "Oslo", ["taken", "camera"]),
        (["prepare.split_by=site", "prepare.hold_out=7"], lambda rows: rows["site"] == "7", ["taken", "camera"]),
    ],
)
def test_prepare_splits_by_a_column_that_is_then_no_slice(space: Path, changes, test, slices: list[str]) -> None:  # type: ignore[no-untyped-def]
    rows = prepared(space, *changes)
    assert ((rows["split"] == "test") == test(rows)).all()
    assert json.loads((space / "artifacts/prepare/meta.json").read_text())["slices"] == slices


@pytest.mark.parametrize(
    ("old", "new", "changes", "sentence"),
    [
        (
            "",
            "",
            ["prepare.split_by=day"],
            r"split_by is 'day', which is no column to split by; labels.csv has taken, s",
        ),
        (
            "",
            "",
            ["prepare.split_by=label"],
            r"split_by is 'label', which is no column to split by; labels.csv has taken",
        ),
        (
            "2026-01-02",
            "02.01.2026",
            ["prepare.split_by=taken"],
            r"labels.csv: line 4 has '02.01.2026' in 'taken',",
        ),
        (
            "2026-01-02",
            "",
            ["prepare.split_by=taken"],
            r"labels.csv: line 4 has '' in 'taken', .* no date; write Y",
        ),
        ("", "", ["prepare.split_by=site"], r"line 2 has 'Bonn' .* or set prepare.hold_out to one value of the column"),
        (
            "",
            "",
            ["prepare.split_by=camera", "prepare.hold_out=x"],
            r"hold_out is 'x', and no picture is without it in",
        ),
        (
            "",
            "",
            ["prepare.split_by=site", "prepare.hold_out=Rome"],
            r"'Rome', which column 'site' has not; it has 7, Bo",
        ),
        (
            "b,2026-01-3",
            "a,2026-01-3",
            ["prepare.split_by=taken", "prepare.test=0.03"],
            r"class 'b' has no picture in th",
        ),
        (
            "b,2026-01-3",
            "a,2026-01-3",
            ["prepare.split_by=taken", "prepare.test=0.03"],
            r"groups of it, change prepare.v",
        ),
        ("", "", ["prepare.hold_out=Oslo"], r"hold_out is 'Oslo', but no prepare.split_by names its column"),
        (
            "",
            "",
            ["prepare.split_by=taken", "prepare.folds=3"],
            r"folds and prepare.split_by both decide the test split",
        ),
        ("path,label,taken", "path,label,split", ["prepare.split_by=site", "prepare.hold_out=7"], "come with splits"),
    ],
)
def test_a_wrong_way_to_split_is_one_sentence(
    space: Path, old: str, new: str, changes: list[str], sentence: str
) -> None:
    labels = (space / "data/labels.csv").read_text()
    labels = labels.replace(old, new) if old else labels
    if "split" in new:
        labels = pd.Series(labels.split("\n")).str.replace(r"2026-..-..", "train", regex=True).str.cat(sep="\n")
    (space / "data/labels.csv").write_text(labels)
    with pytest.raises(InputError, match=sentence) as caught:
        prepared(space, *changes)
    assert "\n" not in str(caught.value)


def test_class_folders_have_no_column_to_split_by(space: Path) -> None:
    for number, path in enumerate(sorted((space / "data").glob("*.png"))):
        (space / "data" / "ab"[number % 2]).mkdir(exist_ok=True)
        path.rename(space / "data" / "ab"[number % 2] / path.name)
    (space / "data/labels.csv").unlink()
    with pytest.raises(InputError, match=r"no column to split by; these data have none; give them a labels.csv"):
        prepared(space, "prepare.split_by=taken")


def test_pictures_of_no_site_are_a_warning(space: Path) -> None:
    labels = (space / "data/labels.csv").read_text()
    (space / "data/labels.csv").write_text(labels.replace(",Bonn", ","))
    prepared(space, "prepare.split_by=site", "prepare.hold_out=Oslo")
    meta = json.loads((space / "artifacts/prepare/meta.json").read_text())
    assert "20 pictures have no site, and may belong to what prepare.hold_out holds out" in meta["warnings"]
