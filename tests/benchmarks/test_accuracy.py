"""Laws of the study of levers: its sets, what arms are compared on, what the rule recommends."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from study_sets import data_set

from benchmarks import accuracy, sizes
from benchmarks.accuracy import ARMS, HEAD, Growing, Key, both_ways, changes, recommended, summary, todo, verdicts
from thaw.data.pictures import Pictures


def test_a_folder_with_groups_is_split_with_them_apart_and_at_random() -> None:
    apart, at_random = both_ways(data_set(groups=40))
    for data, whole in ((apart, True), (at_random, False)):
        rows = data.rows.assign(group=apart.rows["group"])
        assert (rows.groupby("group")["split"].nunique() == 1).all() == whole
        assert set(rows["split"]) == {"train", "val", "test"}
    assert [data.name for data in both_ways(data_set())] == ["drawn"]


def test_training_pictures_grow_to_their_full_side_and_others_have_it_at_once() -> None:
    pixels = np.zeros((6, 80, 80, 1), np.uint8)
    shape = replace(data_set().pictures.shape, size=80)
    train, val = np.arange(4), np.arange(4, 6)
    pictures = Growing(Pictures([], shape, pixels, 1), train)
    sides = []
    for epoch in range(1, accuracy.EPOCHS + 1):
        pictures.grow(epoch)
        sides += [batch.shape[-1] for batch in pictures.batches([train])]
        assert [batch.shape[-1] for batch in pictures.batches([val])] == [80]
        assert all(batch.dtype == torch.uint8 for batch in pictures.batches([train]))
    assert sides == [48, 48, 48, 64, 64, 64, 80, 80]


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[sizes.DataSet]:
    """Trainings of three seeds on one set in both ways: by arm, the share of wrong answers."""
    sets = [*both_ways(data_set(900, groups=60))]
    monkeypatch.setattr(accuracy, "RESULTS", tmp_path / "accuracy.jsonl")
    monkeypatch.setattr(accuracy, "FEWEST", 100)
    lines = []
    for data in sets:
        for seed in range(3):
            drawn = sizes.draw(data.rows, "25 %", seed)
            for arm, seconds, wrong in (("plain", 10, 10), ("blocks-12", 5, 10), ("bfloat16", 2, 3), (HEAD, 0, 5)):
                row = {"key": [data.name, "25 %", seed, arm], "seconds": seconds}
                for part in ("judges", "test"):
                    labels = data.labels(accuracy.rows_of(data, drawn, part))
                    row[part] = {"predicted": np.where(np.arange(len(labels)) % wrong, labels, 1 - labels).tolist()}
                lines.append(json.dumps(row))
    accuracy.RESULTS.write_text("\n".join(lines) + "\n")
    return sets


@pytest.mark.slow
def test_the_fastest_arm_is_recommended_whose_lower_end_is_above_minus_one_point(known: list[sizes.DataSet]) -> None:
    judged, tested = (verdicts(known, "25 %", part) for part in ("judges", "test"))
    table = summary(judged, tested)
    of = table.set_index("arm")
    assert of.loc["blocks-12", "times as fast"] == 2
    assert of.loc["blocks-12", "test change"] == 0
    assert of.loc["bfloat16", "test change"] == pytest.approx(-100 * (1 / 3 - 1 / 10), abs=1)
    assert of.loc["bfloat16", "test low"] < of.loc["bfloat16", "test change"] < of.loc["bfloat16", "test high"] < -1
    assert recommended(table) == "blocks-12"
    assert recommended(table.assign(**{"judges low": -1.5})) is None


def test_both_ways_to_split_a_folder_share_its_groups(known: list[sizes.DataSet]) -> None:
    tested = verdicts(known, "25 %", "test")
    assert tested["group"].nunique() <= 60
    assert set(tested["set"]) == {"drawn", "drawn, at random"}


def test_a_seed_that_one_set_lacks_is_not_compared_on_test(known: list[sizes.DataSet]) -> None:
    tested = verdicts(known, "25 %", "test")
    lacking = tested[(tested["seed"] < 2) | (tested["set"] == "drawn")].copy()
    lacking.loc[lacking["seed"] == 2, "right"] = 0.0
    lacking.loc[(lacking["seed"] == 2) & (lacking["arm"] == "plain"), "right"] = 1.0
    assert changes(lacking, "blocks-12", True)["change"] == 0
    assert changes(lacking, "blocks-12", False)["change"] < 0


def test_a_training_that_is_known_is_not_made_again(known: list[sizes.DataSet]) -> None:
    arms = ["plain", "blocks-12"]
    assert todo(known, "25 %", arms, 3) == []
    assert {key.seed for key in todo(known, "25 %", arms, 4)} == {3}
    missing = todo(known, "25 %", ["plain", "growing"], 3)
    assert {key.arm for key in missing} == {"growing"}
    assert missing[0] == Key("drawn", "25 %", 0, "growing")
    assert {*arms, "growing"} <= {*ARMS}
