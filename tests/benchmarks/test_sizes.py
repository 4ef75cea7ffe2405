"""Laws of the bench over sizes: what a draw holds, what is trained once, how the rule chooses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_sets import data_set

from benchmarks import sizes
from benchmarks.sizes import CANDIDATES, Candidate, choice, compared, draw, lesson, sizes_of, todo


@given(size=st.sampled_from(list(sizes.SIZES)), seed=st.integers(0, 9), groups=st.sampled_from([0, 40]))
@settings(max_examples=10, deadline=None)
def test_no_draw_has_a_test_picture_and_small_ones_are_judged_on_groups_that_they_have_none_of(
    size: str, seed: int, groups: int
) -> None:
    rows = data_set(groups=groups).rows
    split = draw(rows, size, seed)
    drawn = np.concatenate([split.train, split.val])
    assert len(set(drawn)) == len(drawn)
    used = np.concatenate([drawn, split.judges])
    assert set(rows.loc[used, "split"]) <= {"train", "val"}
    share = sizes.SIZES[size]
    expected = share if isinstance(share, int) else share * (rows["split"] != "test").sum()
    assert expected - 1 <= len(drawn) <= expected + 2
    if size == "100 %":
        assert split.judges.tolist() == split.val.tolist()
    else:
        assert not set(rows.loc[drawn, "split"]) & set(rows.loc[split.judges, "split"])
        assert not groups or not set(rows.loc[drawn, "group"]) & set(rows.loc[split.judges, "group"])


def test_a_share_that_is_fewer_than_fifty_pictures_is_no_size() -> None:
    assert sizes_of(data_set(600)) == ["50", "25 %", "100 %"]
    assert sizes_of(data_set(900)) == ["50", "10 %", "25 %", "100 %"]


def test_a_candidate_that_is_the_same_training_as_another_is_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CANDIDATES["steps-100"].name(5000) == "epochs"
    assert CANDIDATES["steps-100"].name(50) == "steps-100"
    assert Candidate(steps=100, slow_head=True).name(5000) == "slow-head"
    monkeypatch.setattr(sizes, "RESULTS", tmp_path / "sizes.jsonl")
    monkeypatch.setattr(sizes, "SIZES", {"50": 50, "100 %": 1.0})
    keys = todo([data_set(300)], "confirm", ["epochs", "steps-100"])
    names = {size: [key.candidate for key in keys if (key.size, key.seed) == (size, 0)] for size in ("50", "100 %")}
    assert names == {"50": ["epochs", "steps-100"], "100 %": ["epochs", "steps-100"]}
    sizes.write("tested", keys[0], {})
    assert todo([data_set(300)], "confirm", ["epochs", "steps-100"]) == keys[1:]


def table(of: dict[str, list[float]]) -> pd.DataFrame:
    """By candidate its scores on two sets at two sizes."""
    cells = [(name, size) for name in ("one", "two") for size in ("50", "10 %")]
    return pd.DataFrame(
        {"set": name, "size": size, "seed": 0, "candidate": candidate, "keep": "last", "score": score}
        for candidate, values in of.items()
        for (name, size), score in zip(cells, values, strict=True)
    )


def test_a_change_is_taken_if_it_is_better_beyond_its_error_and_no_set_is_a_point_worse() -> None:
    scores = table({"epochs": [0, 0, 0, 0], "steps-100": [2, 3, 2, 3], "steps-300": [9, 9, -1, -2]})
    better, worse = (compared(scores, ("epochs", "last"), (name, "last")) for name in ("steps-100", "steps-300"))
    assert (better["better by"], better["taken"], better["worse sets"]) == (2.5, True, "")
    assert (worse["better by"], worse["taken"], worse["worse sets"]) == (3.75, False, "two (-1.5)")
    rows = choice(scores).set_index(["change", "from"])
    assert rows["taken"].to_dict() == {
        ("steps-100", "epochs"): True, ("steps-300", "epochs"): False, ("steps-300", "steps-100"): False,
    }  # fmt: skip


def test_the_lesson_has_the_gain_of_all_seeds_on_the_same_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_set()
    monkeypatch.setattr(sizes, "RESULTS", tmp_path / "sizes.jsonl")
    labels = data.labels(data.rows.index[data.rows["split"] == "test"].to_numpy(np.int64))
    for seed in range(3):
        wrong = labels.copy()
        wrong[: 30 + seed] = 1 - wrong[: 30 + seed]
        judged = {"head": {"predicted": wrong.tolist(), "auc": 0.8}, "last": {"predicted": labels.tolist(), "auc": 1.0}}
        sizes.write("tested", sizes.Key("drawn", "100 %", seed, "epochs"), {"train": 360, "val": 90, **judged})
    (row,) = lesson([data], "epochs").to_dict("records")
    assert (row["seeds"], row["test"], row["labels"], row["last"]) == (3, 150, 450, 100)
    assert row["gain_mean"] == pytest.approx(100 * 31 / 150)
    assert row["gain_low"] < row["gain_mean"] < row["gain_high"]
    assert json.loads(sizes.RESULTS.read_text().splitlines()[0])["kind"] == "tested"
