"""Laws of the data set of the learning phases: which labels are used, and the weight of a class."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.data.pictures import Pictures, Shape
from thaw.errors import InputError
from thaw.project.networks import Dataset, of_splits

CLASSES = ["a", "b", "c"]


def dataset(labels: list[str], splits: list[str], targets: torch.Tensor | None = None) -> Dataset:
    """Pictures of which nobody asks for the pixels."""
    if targets is None:
        targets = torch.eye(len(CLASSES))[[CLASSES.index(label) for label in labels]]
    rows = pd.DataFrame({"label": labels, "split": splits})
    pictures = Pictures([], Shape(8, 8, "bilinear", "whole", 1), None, 1)
    return of_splits(("train", "val"), rows, CLASSES, targets, pictures, {})


PICTURES = st.lists(
    st.tuples(st.sampled_from("aaabbc"), st.sampled_from(["train", "train", "val", "test"])), min_size=1, max_size=80
).filter(lambda pictures: any(split == "train" for _, split in pictures))
SHARE = st.floats(0.001, 1)
SEED = st.integers(0, 2**32 - 1)


def of(pictures: list[tuple[str, str]]) -> Dataset:
    labels, splits = zip(*pictures, strict=True)
    return dataset(list(labels), list(splits))


@given(PICTURES)
@settings(max_examples=60, deadline=None)
def test_a_phase_cannot_see_rows_targets_or_pictures_of_a_split_that_it_does_not_declare(
    pictures: list[tuple[str, str]],
) -> None:
    data = of(pictures)
    hidden = [row for row, (_, split) in enumerate(pictures) if split == "test"]
    assert not set(hidden) & set(data.rows.index)
    assert data.targets[hidden].isnan().all()
    with pytest.raises(InputError, match="asks for the rows of test, but declares that it reads train and val"):
        data.split("test")
    for row in hidden:
        with pytest.raises(AssertionError, match="belong to a split that the phase does not read"):
            data.pictures.batches([np.array([row])])


@given(PICTURES, SHARE, SEED)
@settings(max_examples=60, deadline=None)
def test_labels_are_used_of_the_same_share_of_each_class_and_of_one_at_least(
    pictures: list[tuple[str, str]], share: float, seed: int
) -> None:
    data = of(pictures)
    used = data.labelled(share, seed)
    assert used.tolist() == sorted(set(used.tolist()))
    assert set(used) <= set(data.split("train"))
    there, result = (data.rows["label"].loc[rows].value_counts() for rows in (data.split("train"), used))
    assert result.to_dict() == np.ceil(share * there).astype(int).to_dict()


@given(PICTURES, SHARE, SHARE, SEED)
@settings(max_examples=60, deadline=None)
def test_labels_of_a_smaller_share_are_part_of_those_of_a_larger_one(
    pictures: list[tuple[str, str]], one: float, other: float, seed: int
) -> None:
    smaller, larger = (set(of(pictures).labelled(share, seed)) for share in sorted((one, other)))
    assert smaller <= larger


@given(PICTURES, SEED)
@settings(max_examples=30, deadline=None)
def test_all_labels_are_all_of_train(pictures: list[tuple[str, str]], seed: int) -> None:
    data = of(pictures)
    assert data.labelled(1, seed).tolist() == data.split("train").tolist()


def test_another_seed_takes_other_labels() -> None:
    data = dataset(["a", "b"] * 40, ["train"] * 80)
    one, same, other = (data.labelled(0.3, seed).tolist() for seed in (0, 0, 1))
    assert one == same != other


@given(
    st.lists(st.tuples(*[st.floats(0.01, 1)] * len(CLASSES)), min_size=2, max_size=30),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_balanced_classes_count_the_same_in_total_and_a_picture_counts_one_on_average(
    shares: list[tuple[float, ...]], data: st.DataObject
) -> None:
    targets = torch.tensor(shares, dtype=torch.float64)
    targets = targets / targets.sum(1, keepdim=True)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(shares) - 1), min_size=1))))
    weights = dataset(["a"] * len(shares), ["train"] * len(shares), targets).class_weights("balanced", rows)
    assert weights is not None
    counted = targets[rows] @ weights  # of each picture
    total = (targets[rows] * weights).sum(0)  # of each class
    assert counted.mean().item() == pytest.approx(1)
    assert total.numpy() == pytest.approx(np.full(len(CLASSES), len(rows) / len(CLASSES)))


def test_classes_that_are_not_balanced_have_no_weights() -> None:
    data = dataset(["a", "b", "c"], ["train"] * 3)
    assert data.class_weights("none", data.split("train")) is None
