"""Laws of the manifest: splits are disjoint, stable and honest, and what is wrong is said."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thaw.data import manifest, splits
from thaw.data.pictures import Shape, decode, open_picture
from thaw.errors import InputError


def rows_of(counts: dict[str, int], groups: int = 0) -> pd.DataFrame:
    rows = [(f"{label}/{n:04d}.png", label) for label, count in counts.items() for n in range(count)]
    frame = pd.DataFrame(rows, columns=["path", "label"])
    frame["hash"] = [f"h{n:05d}" for n in range(len(frame))]
    if groups:
        frame["group"] = [f"g{n % groups}" for n in range(len(frame))]
    return frame


@given(
    counts=st.lists(st.integers(20, 80), min_size=2, max_size=4),
    groups=st.sampled_from([0, 12, 25]),
    seed=st.integers(0, 2**32 - 1),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_splits_are_disjoint_stable_and_never_cut_a_group(counts: list[int], groups: int, seed: int, order) -> None:  # type: ignore[no-untyped-def]
    rows = rows_of({f"c{n}": count for n, count in enumerate(counts)}, groups)
    drawn = rows.assign(split=splits.assign_splits(rows, 0.15, 0.25, seed))
    assert drawn["split"].isin(manifest.SPLITS).all()
    shuffled = list(rows.index)
    order.shuffle(shuffled)
    again = rows.loc[shuffled].reset_index(drop=True)
    again["split"] = splits.assign_splits(again, 0.15, 0.25, seed)
    assert dict(zip(again["path"], again["split"], strict=True)) == dict(
        zip(drawn["path"], drawn["split"], strict=True)
    )
    if groups:
        assert (drawn.groupby("group")["split"].nunique() == 1).all()
    else:
        shares = pd.crosstab(drawn["label"], drawn["split"], normalize="index")
        assert (shares["test"] - 0.25).abs().max() < 0.06
        assert (shares["val"] - 0.15).abs().max() < 0.06


def test_identical_pictures_are_never_split() -> None:
    rows = rows_of({"a": 40, "b": 40})
    rows["hash"] = [f"h{n // 2}" for n in range(80)]
    drawn = rows.assign(split=splits.assign_splits(rows, 0.15, 0.25, 0))
    assert (drawn.groupby("hash")["split"].nunique() == 1).all()


def test_given_splits_stay_and_a_missing_val_is_taken_from_train() -> None:
    rows = rows_of({"a": 50, "b": 50})
    rows["split"] = np.where(np.arange(100) % 5 == 0, "test", "train")
    drawn = splits.assign_splits(rows, 0.15, 0.25, 0)
    assert ((drawn == "test") == (rows["split"] == "test")).all()
    assert 0.10 < (drawn == "val").mean() < 0.20


def test_all_given_splits_stay() -> None:
    rows = rows_of({"a": 30, "b": 30})
    rows["split"] = [("train", "val", "test")[n % 3] for n in range(60)]
    assert (splits.assign_splits(rows, 0.15, 0.25, 3) == rows["split"]).all()


@st.composite
def folded(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures, some identical or of one group, and a column with their split in each fold."""
    counts = draw(st.lists(st.integers(24, 60), min_size=2, max_size=4))
    rows = rows_of({f"c{n}": count for n, count in enumerate(counts)}, draw(st.sampled_from([0, 12, 25])))
    rows = rows.replace({"group": {"g0": ""}})
    before = draw(st.sampled_from([0, 1]))  # some pictures are those before them
    for key in {"group", "hash"} & set(rows):
        rows[key] = rows[key].where(rows.index % 6 != 1, rows[key].shift(before))
    folds, seed = draw(st.integers(2, 6)), draw(st.integers(0, 2**32 - 1))
    return rows, pd.DataFrame({fold: splits.assign_folds(rows, 0.15, fold, folds, seed) for fold in range(folds)})


@given(folded())
@settings(max_examples=30, deadline=None)
@pytest.mark.slow
def test_folds_test_every_picture_once_cut_no_group_part_no_twins_and_share_every_class(
    drawn: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    rows, by_fold = drawn
    assert by_fold.isin(manifest.SPLITS).all(axis=None)
    assert ((by_fold == "test").sum(axis=1) == 1).all(), "every picture is a test picture once"
    for key in {"group", "hash"} & set(rows):
        splits_of = by_fold.groupby(rows[key].where(rows[key] != "")).nunique()
        assert (splits_of == 1).all(axis=None), f"pictures of one {key} stay together"
    for split in by_fold.to_dict("series").values():
        splits.check_splits(rows.assign(split=split), sorted(set(rows["label"])))
        if "group" not in rows:
            shares = pd.crosstab(rows["label"], split, normalize="index")
            assert (shares["test"] - 1 / by_fold.shape[1]).abs().max() < 0.1, "test has its share of every class"
            assert (shares["val"] - 0.15).abs().max() < 0.1, "val has its share of every class"


@given(order=st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_folds_depend_on_the_seed_and_not_on_the_order_of_pictures(order) -> None:  # type: ignore[no-untyped-def]
    rows = rows_of({"a": 30, "b": 20})
    shuffled = list(rows.index)
    order.shuffle(shuffled)
    drawn, again, other = (
        splits.assign_folds(*each).sort_index()
        for each in ((rows, 0.15, 1, 3, 0), (rows.loc[shuffled], 0.15, 1, 3, 0), (rows, 0.15, 1, 3, 1))
    )
    assert drawn.equals(again)
    assert not (drawn == "test").equals(other == "test")


def test_folds_of_pictures_with_splits_are_refused() -> None:
    rows = rows_of({"a": 30, "b": 30}).assign(split="")
    # empty splits are none
    assert set(splits.assign_folds(rows, 0.15, 0, 3, 0)) == set(manifest.SPLITS)
    rows.loc[7, "split"] = "test"
    with pytest.raises(InputError, match=r"\A[^\n]*prepare\.folds[^\n]* these come with splits[^\n]*\Z"):
        splits.assign_folds(rows, 0.15, 0, 3, 0)


@pytest.mark.parametrize(
    ("groups", "twins", "most", "what"),
    [
        (0, False, 12, "pictures of class 'b'"),
        (0, True, 6, "pictures of class 'b'"),
        (5, False, 5, "groups with pictures of class 'a'"),  # both have five: the first
    ],
)
def test_more_folds_than_the_smallest_class_has_pictures_or_groups_are_refused(
    groups: int, twins: bool, most: int, what: str
) -> None:
    rows = rows_of({"a": 40, "b": 12}, groups)
    if twins:
        rows["hash"] = [f"h{n // 2}" for n in range(len(rows))]
    assert "test" in set(splits.assign_folds(rows, 0.15, 0, most, 0))
    with pytest.raises(InputError, match=rf"folds is {most + 1}, but there are {most} {what}: use 2 to {most}\Z"):
        splits.assign_folds(rows, 0.15, 0, most + 1, 0)


def test_the_class_with_fewest_groups_limits_the_folds_however_many_pictures_it_has() -> None:
    rows = rows_of({"a": 10, "b": 20}, 0)
    rows["group"] = [f"a{n}" if n < 10 else f"b{n % 2}" for n in range(30)]
    with pytest.raises(InputError, match=r"folds is 4, but there are 2 groups with pictures of class 'b': use 2 to 2"):
        splits.assign_folds(rows, 0.15, 0, 4, 0)


def rule_without_given_splits(rows: pd.DataFrame, val: float, test: float, seed: int) -> pd.Series:
    """The rule that the published splits were drawn with, which no later change may move."""
    groups = rows["group"].where(rows["group"] != "", rows["hash"])
    counts = pd.crosstab(groups, rows["label"]).sort_index()
    sizes = counts.to_numpy(dtype=float)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-sizes[order].sum(axis=1), kind="stable")]
    expected = np.outer([1 - val - test, val, test], sizes.sum(axis=0))
    lacking = expected.copy()
    split_of = {}
    for row in order:
        split = np.argmax(lacking / np.maximum(expected, 1e-9) @ (sizes[row] / sizes.sum(axis=0)))
        lacking[split] -= sizes[row]
        split_of[counts.index[row]] = manifest.SPLITS[split]
    return groups.map(split_of)


@given(
    pictures=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 60)), min_size=2, max_size=80),
    seed=st.integers(0, 2**32 - 1),
    column_is_empty=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_without_a_given_split_the_draw_is_what_it_always_was(
    pictures: list[tuple[int, int, int]], seed: int, column_is_empty: bool
) -> None:
    rows = pd.DataFrame(pictures, columns=["label", "group", "hash"]).astype(str)
    # no twins across groups: only today's draw keeps those together
    rows["hash"] += "of" + rows["group"]
    rows = rows.assign(path=[f"{n}.png" for n in range(len(rows))], group=rows["group"].replace("0", ""))
    expected = rule_without_given_splits(rows, 0.15, 0.25, seed)
    drawn = splits.assign_splits(rows.assign(split="") if column_is_empty else rows, 0.15, 0.25, seed)
    assert drawn.sort_index().tolist() == expected.tolist()


def test_the_split_of_the_default_data_is_the_published_one() -> None:
    package = find_spec("elpv_dataset")
    assert package is not None
    assert package.origin is not None
    table = Path(package.origin).parent / "data" / "labels.csv"
    rows = pd.read_csv(table, sep=r"\s+", names=["path", "target", "wafer"])
    rows["label"] = np.where(rows["target"] > 0.5, "defective", "functional")
    rows["group"] = [f"rows-{n // 60:02d}" for n in range(len(rows))]
    rows["split"] = splits.assign_splits(rows.assign(hash=rows["path"]), 0.15, 0.25, 0)
    assert rows["split"].value_counts().to_dict() == {"train": 1544, "test": 660, "val": 420}
    text = rows[["path", "split"]].to_csv(index=False, lineterminator="\n")
    expected = "464a2f33040664aa2f76d79a9d741ba4a766feec74293ad2b9529abf775d4884"
    assert hashlib.sha256(text.encode()).hexdigest() == expected


Picture = tuple[int, str]  # what is in it, and its given split


def batch_of(number: int, pictures: list[Picture], classes: int, grouped: bool) -> pd.DataFrame:
    """New pictures, some identical; the content of a picture decides its label and group."""
    rows = pd.DataFrame(pictures, columns=["content", "split"])
    content = rows.pop("content")
    rows["path"] = [f"{number}/{n}.png" for n in range(len(rows))]
    rows["label"] = "c" + (content % classes).astype(str)
    rows["hash"] = "h" + content.astype(str)
    if grouped:
        rows["group"] = np.where(content % 5 == 0, "", "g" + (content // 6).astype(str))
    return rows


SHARES = st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 9))  # val, test, seed


@given(
    first=st.lists(st.tuples(st.integers(0, 150), st.just("")), min_size=1, max_size=60),
    batches=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 150), st.sampled_from(["", "", "", *manifest.SPLITS])), max_size=12),
            SHARES,
        ),
        max_size=6,
    ),
    shares=SHARES,
    classes=st.integers(1, 3),
    grouped=st.booleans(),
    given_ones=st.booleans(),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_no_picture_ever_moves_through_any_sequence_of_additions(
    first: list[Picture],
    batches: list[tuple[list[Picture], tuple[float, float, int]]],
    shares: tuple[float, float, int],
    classes: int,
    grouped: bool,
    given_ones: bool,
) -> None:
    known = batch_of(0, first, classes, grouped).drop(columns="split")
    before = known.assign(split=splits.assign_splits(known, *shares))
    frozen = False
    for number, (pictures, other_shares) in enumerate(batches, 1):
        new = batch_of(number, pictures, classes, grouped)
        new = manifest.only_new(known, new if given_ones else new.assign(split=""))
        known = splits.join(known, new, *(other_shares if frozen else shares), frozen)
        frozen = True
        after = known.set_index("path")["split"]
        assert after[before["path"]].tolist() == before["split"].tolist()
        assert after.isin(manifest.SPLITS).all()
        assert (splits.assign_splits(known, *shares, frozen=True).sort_index() == known["split"]).all()
        assert (known.groupby("hash")["split"].nunique() == 1).all()
        if grouped and not given_ones:
            assert (known[known["group"] != ""].groupby("group")["split"].nunique() == 1).all()
        message = new.set_index("path")["split"]
        assert (after[message[message != ""].index] == message[message != ""]).all()
        assert manifest.only_new(known, new).empty
        before = known


@given(labels=st.lists(st.sampled_from(["a", "a", "b"]), min_size=60, max_size=60), start=st.sampled_from([0, 1, 40]))
@settings(max_examples=3, deadline=None)
@pytest.mark.slow
def test_totals_come_near_the_shares_when_pictures_arrive_one_by_one(labels: list[str], start: int) -> None:
    rows = rows_of({label: labels.count(label) for label in "ab"}).sample(frac=1, random_state=0)
    known = rows.iloc[:start].assign(split=lambda part: splits.assign_splits(part, 0.15, 0.25, 0))
    for number in range(start, len(rows)):
        known = splits.join(known, rows.iloc[[number]].assign(split=""), 0.15, 0.25, 0, frozen=True)
    counts = pd.crosstab(known["label"], known["split"])
    for split, share in {"train": 0.6, "val": 0.15, "test": 0.25}.items():
        assert (counts[split] - share * counts.sum(axis=1)).abs().max() <= 1.5


def test_a_picture_follows_its_twin_and_its_group_and_they_those_that_follow_them() -> None:
    rows = pd.DataFrame(
        [
            ("old/1.png", "a", "h1", "g1", "test"),
            ("old/2.png", "a", "h2", "", "val"),
            ("old/3.png", "b", "h3", "g3", "train"),
            ("new/1.png", "b", "n1", "g1", ""),  # of g1
            ("new/2.png", "a", "h2", "g2", ""),  # identical to one in val
            ("new/3.png", "b", "n3", "g2", ""),  # of the group of that
            ("new/4.png", "a", "n1", "g4", ""),  # identical to the first of these
        ],
        columns=["path", "label", "hash", "group", "split"],
    )
    rows = rows.assign(split=splits.assign_splits(rows, 0.15, 0.25, 0, frozen=True))
    assert rows["split"].tolist() == ["test", "val", "train", "test", "val", "val", "test"]


def test_a_picture_with_two_labels_is_refused_and_both_are_named() -> None:
    known = pd.DataFrame({"path": ["a/1.png"], "label": ["a"], "hash": ["h1"]})
    new = pd.DataFrame({"path": ["b/2.png", "b/3.png"], "label": ["b", "b"], "hash": ["h1", "h2"]})
    with pytest.raises(InputError, match=r"new picture b/2.png \(b\) is identical to the known picture a/1.png \(a\)"):
        manifest.only_new(known, new)
    twins = pd.DataFrame({"path": ["a/4.png", "b/4.png"], "label": ["a", "b"], "hash": ["h4", "h4"]})
    with pytest.raises(InputError, match=r"new picture a/4.png \(a\) is identical to the new picture b/4.png \(b\)"):
        manifest.only_new(known, twins)


def test_a_class_that_a_split_lacks_is_refused() -> None:
    rows = rows_of({"a": 30, "b": 30})
    rows["split"] = ["train", "val", "test"] * 10 + ["train", "train", "test"] * 10
    with pytest.raises(InputError, match=r"class 'b' has no picture in the val split \(30 in all\)"):
        splits.check_splits(rows, ["a", "b"])


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", " ", "a\rb", "\r\n", "\n", '"', '""', ",", "NA", "nan", "None", "01", "1e5", "\ufeff", "\0", "#", "é", " x "]
)


@given(
    header=st.lists(CELLS, unique=True, min_size=1, max_size=3),
    cells=st.lists(st.lists(CELLS, min_size=4, max_size=4), max_size=4),
    numbers=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
@settings(deadline=None)
def test_a_table_reads_back_equal_whatever_is_in_a_cell(
    tmp_path_factory: pytest.TempPathFactory, header: list[str], cells: list[list[str]], numbers: list[float]
) -> None:
    columns = ["path", *(name for name in header if name != "path")]
    rows = pd.DataFrame([row[: len(columns)] for row in cells], columns=columns, dtype=str)
    rows["head_p_a"] = numbers[: len(rows)]
    file = tmp_path_factory.mktemp("table") / "table.csv"
    manifest.write_table(rows, file)
    again = manifest.read_predictions(file)
    assert list(again) == list(rows)
    assert again.to_numpy().tolist() == rows.to_numpy().tolist()
    assert manifest.csv_of(again) == file.read_bytes().decode()


@given(
    cells=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
    start=st.sampled_from(["", "\ufeff"]),
)
@settings(deadline=None)
def test_a_labels_csv_is_read_as_it_was_written_and_so_is_its_manifest(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str, str]], end: str, start: str
) -> None:
    folder = tmp_path_factory.mktemp("data")
    messages = [(f"{n}{path.replace('/', '')}", f"a{label}a", f"b{day}b") for n, (path, label, day) in enumerate(cells)]
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in messages]
    text = start + end.join(["path,label,day", *lines]) + end
    (folder / "labels.csv").write_bytes(text.encode())
    rows = manifest.read_folder(folder)
    assert rows[["path", "label", "day"]].to_numpy().tolist() == sorted(list(row) for row in messages)
    rows = manifest.complete(rows.assign(split="train", hash="h"), ["a", "b", "c"])
    manifest.write_table(rows, folder / "manifest.csv")
    again = manifest.read_manifest(folder / "manifest.csv")
    assert again.drop(columns="target").to_numpy().tolist() == rows.drop(columns="target").to_numpy().tolist()
    assert manifest.fingerprint(again) == manifest.fingerprint(rows)


def test_a_table_without_odd_characters_has_the_bytes_that_it_always_had() -> None:
    rows = pd.DataFrame({"path": ["a.png", "b c.png"], "target": [1 / 3, np.nan], "day": ["1, 2", 'the "third"']})
    assert manifest.csv_of(rows) == 'path,target,day\na.png,0.3333333333333333,"1, 2"\nb c.png,,"the ""third"""\n'


def test_rows_that_are_longer_than_the_header_are_refused_not_shifted(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.png,cat,x\nb.png,dog,y\n")
    with pytest.raises(InputError, match=r"labels.csv cannot be read as CSV: .*Expected 2 fields in line 2, saw 3"):
        manifest.read_folder(tmp_path)


def test_a_file_name_that_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(InputError, match=r"the file name 'cat/caf.udce9.png' is not in UTF-8; rename the file\Z"):
        manifest.read_folder(tmp_path)


def picture(path: Path, value: int = 100, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value if mode != "RGB" else (value,) * 3).save(path)


def test_class_folders_and_split_folders_are_read(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "plain" / name / "x" / "1.png")
        for split in ("train", "valid", "test"):
            picture(tmp_path / "split" / split / name / "1.jpg")
    plain = manifest.read_folder(tmp_path / "plain")
    assert plain[["path", "label"]].values.tolist() == [["cat/x/1.png", "cat"], ["dog/x/1.png", "dog"]]
    assert "split" not in plain
    split = manifest.read_folder(tmp_path / "split")
    assert sorted(split["split"].unique()) == ["test", "train", "val"]
    assert set(split["label"]) == {"cat", "dog"}


def test_splits_csv_freezes_what_it_names_in_every_layout(tmp_path: Path) -> None:
    frozen = "path,split\n{0}cat/1.png,test\n{0}dog/1.png,val\ngone.png,train\n"
    for top in ("", "train/"):
        for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
            picture(tmp_path / f"folders{top}" / top / name)
        (tmp_path / f"folders{top}" / "splits.csv").write_text(frozen.format(top))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "labels.csv").write_text("path,label\ncat/1.png,cat\ncat/2.png,cat\ndog/1.png,dog\n")
    (tmp_path / "table" / "splits.csv").write_text(frozen.format(""))
    for folder, unnamed in (("folders", ""), ("folderstrain", "train"), ("table", "")):
        rows = manifest.read_folder(tmp_path / folder)
        assert rows["split"].tolist() == ["test", unnamed, "val"], folder
        assert manifest.slices_of(rows) == []


@pytest.mark.parametrize(
    ("frozen", "sentence"),
    [
        ("path,split\na.png,train\n", r"a.png is in test by its folder or labels.csv and in train by .*splits.csv"),
        ("path,split\na.png,dev\n", "line 2 names a picture twice or no split"),
        ("path,split\na.png,test\na.png,test\n", "line 3 names a picture twice or no split"),
        ("path\na.png\n", "has no column 'split'; it needs path and split, with commas between, and has"),
    ],
)
def test_a_wrong_splits_csv_is_told_in_one_sentence(tmp_path: Path, frozen: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text("path,label,split\na.png,x,test\n")
    (tmp_path / "splits.csv").write_text(frozen)
    with pytest.raises(InputError, match=sentence):
        manifest.read_folder(tmp_path)


def test_labels_csv_keeps_further_columns_as_slices(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label,target,group,wafer\na.png,yes,0.9,g1,mono\nb.png,no,0.1,g2,poly\n")
    rows = manifest.read_folder(tmp_path)
    assert manifest.slices_of(rows) == ["wafer"]
    assert rows["target"].tolist() == [0.9, 0.1]
    assert manifest.classes_of(rows, None, 1) == ["no", "yes"]
    assert manifest.classes_of(rows.drop(columns="target"), "no", 1) == ["yes", "no"]


def spelled(name: str) -> st.SearchStrategy[str]:
    """The name with any of its letters in capitals, and spaces around it."""
    letters = st.tuples(*(st.sampled_from([letter, letter.upper()]) for letter in name)).map("".join)
    return st.builds("{}{}{}".format, st.sampled_from(["", " ", "\t"]), letters, st.sampled_from(["", " ", "  "]))


@given(header=st.tuples(*map(spelled, ("path", "label", "target", "split", "group"))), space=st.sampled_from(["", " "]))
@settings(deadline=None)
def test_a_known_column_is_known_however_it_is_spelled_and_spaces_around_cells_are_nothing(
    tmp_path_factory: pytest.TempPathFactory, header: tuple[str, ...], space: str
) -> None:
    folder = tmp_path_factory.mktemp("data")
    cells = (("a .png", "yes", "0.9", "test", "g1", "mono"), ("b.png", "no", "0.1", "", "g1", "poly"))
    lines = [",".join((path, *(f"{space}{cell}{space}" for cell in rest))) for path, *rest in cells]
    (folder / "labels.csv").write_text("\n".join([",".join([*header, "Wafer"]), *lines]))
    rows = manifest.read_folder(folder)
    assert list(rows) == ["path", "label", "target", "split", "group", "Wafer"]
    assert rows["target"].tolist() == [0.9, 0.1]
    assert rows.drop(columns="target").to_numpy().tolist() == [
        [c for n, c in enumerate(row) if n != 2] for row in cells
    ]
    (folder / "splits.csv").write_text(f"{header[0]},{header[3]}\nb.png,{space}val{space}\n")
    assert manifest.read_folder(folder)["split"].tolist() == ["test", "val"]
    assert manifest.columns_of(folder / "labels.csv") == list(rows)


def test_spaces_around_the_name_of_a_class_or_split_folder_are_nothing(tmp_path: Path) -> None:
    for name in (" cat /1.png", "cat/1.png", "dog /1.png"):
        picture(tmp_path / "classes" / name)
        picture(tmp_path / "splits" / "Train " / name)
        picture(tmp_path / "splits" / "test" / name)
    rows = manifest.read_folder(tmp_path / "classes")
    assert rows[["path", "label"]].to_numpy().tolist() == [
        [" cat /1.png", "cat"],
        ["cat/1.png", "cat"],
        ["dog /1.png", "dog"],
    ]
    rows = manifest.read_folder(tmp_path / "splits")
    assert (sorted(set(rows["label"])), sorted(set(rows["split"]))) == (["cat", "dog"], ["test", "train"])
    picture(tmp_path / "classes" / "  " / "1.png")
    with pytest.raises(InputError, match=r"the class of '  /1.png' has no name; rename its folder"):
        manifest.read_folder(tmp_path / "classes")


def test_names_that_look_alike_are_a_warning() -> None:
    rows = rows_of({"Cat": 2, "cat": 2, "dog": 2, "Ärmel": 2, "A\u0308rmel": 2}).assign(split="train", target=np.nan)
    rows["group"] = ["P 1", "p  1", "P2", "", "", "", "", "", "", ""]
    ending = "look alike (case, spaces, forms of letters): if they are one, give them one name"
    assert manifest.warnings(rows, ["A\u0308rmel", "Cat", "cat", "dog", "Ärmel"]) == [
        f"the classes Cat, cat {ending}",
        f"the classes A\u0308rmel, Ärmel {ending}",
        f"the groups P 1, p  1 {ending}",
    ]
    rows["group"] = ""
    assert manifest.warnings(rows[rows["label"].isin(["Cat", "dog"])], ["Cat", "dog"]) == []


def test_positive_class_is_the_one_with_the_higher_targets() -> None:
    rows = rows_of({"defective": 5, "functional": 5}).assign(target=[0.9] * 5 + [0.1] * 5)
    classes = manifest.classes_of(rows, None, 3)
    assert classes == ["functional", "defective"]
    targets = manifest.targets_of(rows, classes)
    assert targets[0].tolist() == pytest.approx([0.1, 0.9])
    assert manifest.labels_of(rows, classes).tolist() == [1] * 5 + [0] * 5


def test_a_positive_class_with_the_lower_targets_is_refused() -> None:
    rows = rows_of({"defective": 4, "functional": 4}).assign(target=[0.8] * 4 + [0.25] * 4)
    assert manifest.classes_of(rows, "defective", 3) == ["functional", "defective"]
    sentence = (
        r"\Aprepare\.positive is 'functional', with a mean target of 0\.25; that of 'defective' is 0\.8, and a "
        r"target is the probability of the positive class: [^\n]*\Z"
    )
    with pytest.raises(InputError, match=sentence):
        manifest.classes_of(rows, "functional", 3)
    even = rows.assign(target=0.5)
    assert manifest.classes_of(even, "functional", 3) == ["defective", "functional"]


def test_labels_that_contradict_their_targets_are_a_warning_with_their_rows() -> None:
    rows = rows_of({"bad": 6, "good": 6}).assign(group="", split="train")
    rows["target"] = [1.0, 0.2, 0.5, 0.4, 0.3, 0.9, 0.0, 0.5, 0.7, 0.0, 0.1, 0.2]
    assert manifest.warnings(rows, ["good", "bad"]) == [
        "label and target contradict each other in 4 of 12 pictures, such as bad/0001.png (bad, 0.2), bad/0003.png "
        "(bad, 0.4), bad/0004.png (bad, 0.3): training follows the target, splits and scores follow the label"
    ]
    hard = manifest.complete(rows.drop(columns="target"), ["good", "bad"])
    assert manifest.warnings(hard, ["good", "bad"]) == []
    three = manifest.complete(rows_of({"a": 2, "b": 2, "c": 2}).assign(split=""), ["a", "b", "c"])
    assert manifest.warnings(three, ["a", "b", "c"]) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,class\na.png,x\n", "has no column 'label'"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,\n", "line 2 has an empty path or label"),
        ("path,label\na.png,x\na.png,y\n", "lists a.png twice"),
        ("path,label\n../a.png,x\n", "leaves the data folder"),
        ("path,label,split\na.png,x,later\n", "split 'later' is unknown"),
        ("path,label,target\na.png,x,1.5\n", "target '1.5' is not a probability"),
        ("path,label,hash\na.png,x,1\n", "has a column 'hash'"),
        ("path,label, Hash\na.png,x,1\n", "has a column 'hash'"),
        ("path,label,head_p_x\na.png,x,1\n", "has a column 'head_p_x', a name that thaw uses itself"),
        ("path,label,head_prediction\na.png,x,1\n", "has a column 'head_prediction'"),
        ("path;label\na.png;x\n", "has no column 'path'; it needs path and label, with commas between"),
        ('path,label,"Group ",group\na.png,x,1,2\n', "has the columns 'Group ' and 'group', which are one; keep one"),
        ("path,label,label\na.png,x,y\n", "has the columns 'label' and 'label', which are one; keep one"),
        ("path,label\na.png, \n", "line 2 has an empty path or label"),
    ],
)
def test_a_wrong_labels_csv_is_told_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        manifest.read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_one_class_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        manifest.read_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no pictures found"):
        manifest.read_folder(tmp_path)
    with pytest.raises(InputError, match="all pictures have the label 'a'"):
        manifest.classes_of(rows_of({"a": 9}), None, 3)
    with pytest.raises(InputError, match="class 'b' has 2 pictures, too few; add pictures until it has 3"):
        manifest.classes_of(rows_of({"a": 9, "b": 2}), None, 3)
    with pytest.raises(InputError, match=r"prepare\.positive is 'c', which is no class; the classes are a, b"):
        manifest.classes_of(rows_of({"a": 9, "b": 9}), "c", 3)


def test_unreadable_pictures_are_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"cut.png cannot be read"):
        open_picture(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"gone.png does not exist"):
        open_picture(tmp_path / "gone.png")


def test_sixteen_bit_pictures_keep_their_grey_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    result = decode(tmp_path / "deep.png", Shape(8, 8, "bilinear", "whole", 1))[:, :, 0]
    assert np.abs(result.astype(int) - levels // 257).max() <= 1


def test_crop_takes_the_centre_and_whole_takes_everything(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    crop = decode(tmp_path / "wide.png", Shape(8, 8, "nearest", "crop", 1))
    whole = decode(tmp_path / "wide.png", Shape(8, 8, "nearest", "whole", 1))
    assert crop.min() == 255
    assert whole.mean() == pytest.approx(255 / 2)
