"""Laws of splits that come in part from the user, and of twins."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thaw.data import manifest, splits
from thaw.errors import InputError


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
