"""Laws of the manifest: splits are disjoint, stable and honest, and what is wrong is said."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from thaw import manifest
from thaw.errors import InputError
from thaw.pictures import Shape, decode, open_picture


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
    drawn = rows.assign(split=manifest.assign_splits(rows, 0.15, 0.25, seed))
    assert drawn["split"].isin(manifest.SPLITS).all()
    shuffled = list(rows.index)
    order.shuffle(shuffled)
    again = rows.loc[shuffled].reset_index(drop=True)
    again["split"] = manifest.assign_splits(again, 0.15, 0.25, seed)
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
    drawn = rows.assign(split=manifest.assign_splits(rows, 0.15, 0.25, 0))
    assert (drawn.groupby("hash")["split"].nunique() == 1).all()


def test_given_splits_stay_and_a_missing_val_is_taken_from_train() -> None:
    rows = rows_of({"a": 50, "b": 50})
    rows["split"] = np.where(np.arange(100) % 5 == 0, "test", "train")
    drawn = manifest.assign_splits(rows, 0.15, 0.25, 0)
    assert ((drawn == "test") == (rows["split"] == "test")).all()
    assert 0.10 < (drawn == "val").mean() < 0.20


def test_all_given_splits_stay() -> None:
    rows = rows_of({"a": 30, "b": 30})
    rows["split"] = [("train", "val", "test")[n % 3] for n in range(60)]
    assert (manifest.assign_splits(rows, 0.15, 0.25, 3) == rows["split"]).all()


def test_a_class_that_a_split_lacks_is_refused() -> None:
    rows = rows_of({"a": 30, "b": 30})
    rows["split"] = ["train", "val", "test"] * 10 + ["train", "train", "test"] * 10
    with pytest.raises(InputError, match=r"class 'b' has no picture in the val split \(30 in all\)"):
        manifest.check_splits(rows, ["a", "b"])


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


def test_labels_csv_keeps_further_columns_as_slices(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label,target,group,wafer\na.png,yes,0.9,g1,mono\nb.png,no,0.1,g2,poly\n")
    rows = manifest.read_folder(tmp_path)
    assert manifest.slices_of(rows) == ["wafer"]
    assert rows["target"].tolist() == [0.9, 0.1]
    assert manifest.classes_of(rows, None, 1) == ["no", "yes"]
    assert manifest.classes_of(rows, "no", 1) == ["yes", "no"]


def test_positive_class_is_the_one_with_the_higher_targets() -> None:
    rows = rows_of({"defective": 5, "functional": 5}).assign(target=[0.9] * 5 + [0.1] * 5)
    classes = manifest.classes_of(rows, None, 3)
    assert classes == ["functional", "defective"]
    targets = manifest.targets_of(rows, classes)
    assert targets[0].tolist() == pytest.approx([0.1, 0.9])
    assert manifest.labels_of(rows, classes).tolist() == [1] * 5 + [0] * 5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,class\na.png,x\n", "has no column 'label'"),
        ("path,label\n", "has no rows"),
        ("path,label\na.png,\n", "line 2 has an empty path or label"),
        ("path,label\na.png,x\na.png,y\n", "lists a.png twice"),
        ("path,label\n../a.png,x\n", "leaves the data folder"),
        ("path,label,split\na.png,x,dev\n", "split 'dev' is unknown"),
        ("path,label,target\na.png,x,1.5\n", "target '1.5' is not a probability"),
        ("path,label,hash\na.png,x,1\n", "has a column 'hash'"),
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
    found = decode(tmp_path / "deep.png", Shape(8, 8, "bilinear", "whole", 1))[:, :, 0]
    assert np.abs(found.astype(int) - levels // 257).max() <= 1


def test_crop_takes_the_centre_and_whole_takes_everything(tmp_path: Path) -> None:
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    crop = decode(tmp_path / "wide.png", Shape(8, 8, "nearest", "crop", 1))
    whole = decode(tmp_path / "wide.png", Shape(8, 8, "nearest", "whole", 1))
    assert crop.min() == 255
    assert whole.mean() == pytest.approx(255 / 2)
