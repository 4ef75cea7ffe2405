"""Laws of evaluate's figures: a dozen to compare, all others beside them, old versions readable."""

from typing import Any

from thaw.statistics.records import COMPARED, joined, same_networks, split

FIGURES: dict[str, Any] = {
    "test_pictures": 660,
    "phase_2": {"keep": "last", "kept_epoch": 8, "same": False},
    "head": {"accuracy": 0.76, "balanced_accuracy": 0.65, "auc": 0.8, "f1": 0.5, "ece": 0.05, "temperature": 0.9},
    "finetuned": {"accuracy": 0.84, "balanced_accuracy": 0.76, "auc": 0.88, "f1": 0.7, "recall": 0.5, "ece": 0.03},
    "gain": {"accuracy": 0.08, "low": 0.03, "high": 0.13, "auc": 0.08, "auc_low": 0.03, "auc_high": 0.13},
    "operating": {"promise": "precision", "at_least": 0.9, "head": None, "finetuned": {"threshold": 0.46}},
    "forgetting": {"distance": 0.003, "cka": 0.9},
}


def test_people_compare_a_dozen_figures() -> None:
    compared, rest = split(FIGURES)
    assert 1 + sum(map(len, COMPARED.values())) == 13  # of more than two classes there is no recall
    assert compared == {
        "test_pictures": 660,
        "phase_2": {"same": False},
        "head": {"accuracy": 0.76, "auc": 0.8},
        "finetuned": {
            "accuracy": 0.84,
            "balanced_accuracy": 0.76,
            "auc": 0.88,
            "f1": 0.7,
            "recall": 0.5,
            "ece": 0.03,
        },
        "gain": {"accuracy": 0.08, "low": 0.03, "high": 0.13},
    }
    others = {name: value for name, value in FIGURES["finetuned"].items() if name != "recall"}
    assert "recall" not in split(FIGURES | {"finetuned": others})[0]["finetuned"]
    assert rest["head"] == {"balanced_accuracy": 0.65, "f1": 0.5, "ece": 0.05, "temperature": 0.9}


def test_both_files_together_are_all_figures() -> None:
    assert joined(*split(FIGURES)) == FIGURES


def test_an_old_version_has_all_figures_in_one_file_and_takes_none_of_another() -> None:
    old = {name: values for name, values in FIGURES.items() if name != "operating"}
    assert joined(old, split(FIGURES)[1]) == old
    assert joined(old, {}) == old


def test_a_record_of_before_phase_2_was_noted_does_not_call_its_networks_the_same() -> None:
    assert not same_networks({"head": {}})
    assert same_networks({"phase_2": {"same": True}})
