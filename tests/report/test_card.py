"""Laws of the model card: how the model was made, and no gain that was not measured."""

from typing import Any

import pandas as pd

from thaw.report.card import card

RATE = {"value": 0.5, "low": None, "high": None}
MANIFEST = pd.DataFrame({"label": ["a", "b"] * 3, "split": ["train", "train", "val", "val", "test", "test"]})


def meta(epochs: int = 100, same: bool = False, **more: Any) -> dict[str, Any]:
    figures = {"accuracy": 0.8, "auc": 0.9, "ece": 0.01}
    gain = dict.fromkeys(("accuracy", "low", "high"))
    if not same:
        gain = {"accuracy": 0.0, "low": None, "high": None, "no_interval": "an interval takes 6 test pictures"}
    keep = {"keep": "best", "kept_epoch": 0 if same else 3, "same": same}
    return {
        "classes": ["a", "b"],
        "backbone": "resnet18",
        "weights": "random",
        "data": "0" * 64,
        "params": {"head": {"max_epochs": epochs}, "unfreeze": {"epochs": 8}},
        "shape": {"size": 32, "fit": "whole", "channels": 1},
        "views": "none",
        "temperature": 1.0,
        "versions": {},
        "sure": 0.7,
        "unlike": {"false_alarms": 0.02},
        "operating": None,
        "results": {
            "test_pictures": 2, "phase_2": keep, "head": figures, "finetuned": figures, "gain": gain,
            "classes": [], "slices": [],
        },
        **more,
    }  # fmt: skip


def test_a_second_phase_that_was_not_kept_is_said_and_no_gain() -> None:
    text = card(meta(same=True), MANIFEST, None)
    assert "a new head on the frozen backbone. A second phase was tried, and not kept." in text
    assert "Phase 2 was not kept: no epoch was better on validation than head only" in text
    assert "points" not in text


def test_a_gain_without_an_interval_is_called_no_evidence() -> None:
    text = card(meta(), MANIFEST, None)
    assert "fine-tuned in two phases" in text
    assert "without an interval this is no evidence of a change: an interval takes 6 test pictures." in text
    assert "Chosen on `val`: the epochs of both phases and the temperature." in text


def test_without_phase_1_no_second_phase_is_claimed_and_an_operating_point_has_no_interval_where_there_is_none() -> (
    None
):
    point = {"class": "b", "threshold": 0.4, "promise": "precision", "at_least": 0.9}
    rates = dict.fromkeys(("recall", "precision", "specificity"), RATE)
    text = card(meta(epochs=0, operating=point | rates), MANIFEST, None)
    assert "the whole network at once from a head with random weights." in text
    assert "| recall | 50.0 % | none |" in text
    assert "Chosen on `val`: the epoch of phase 2, the temperature and the threshold." in text
