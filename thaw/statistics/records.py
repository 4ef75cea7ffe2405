"""What evaluate wrote: the figures that people compare, the rest, and what both say; light, for whoever reads them."""

from collections.abc import Mapping
from typing import Any

# What a new model may be judged by.
FIGURES = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "macro_f1": "macro F1",
    "recall": "recall at the operating point",
    "cost": "mean cost of a picture",
}
LOWER_IS_BETTER = ("cost",)

# What `dvc metrics show` and `dvc exp show` compare; everything else stands in details.json.
COMPARED: dict[str, tuple[str, ...]] = {
    "phase_2": ("same",),
    "head": ("accuracy", "auc"),
    "finetuned": ("accuracy", "balanced_accuracy", "auc", "f1", "recall", "ece"),  # recall: at the operating point
    "gain": ("accuracy", "low", "high"),
}


def for_the_better(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """`low`, `high` and `floor` of a comparison, turned so that more is better."""
    low, high, floor = row["low"], row["high"], row["floor"]
    if low is None or row["by"] not in LOWER_IS_BETTER:
        return low, high, floor
    return -high, -low, -floor


def split(figures: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All figures of evaluate as those that people compare, a dozen, and the rest."""
    compared: dict[str, Any] = {"test_pictures": figures["test_pictures"]}
    rest: dict[str, Any] = {}
    for name, values in figures.items():
        names = COMPARED.get(name, ())
        if names:
            compared[name] = {key: values[key] for key in names if key in values}
        if isinstance(values, Mapping) and (others := {key: values[key] for key in values if key not in names}):
            rest[name] = others
    return compared, rest


def joined(compared: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """All figures again; those of a version without details.json are whole already."""
    figures = dict(compared)
    if not is_whole(compared):
        for name, values in rest.items():
            figures[name] = compared.get(name, {}) | values
    return figures


def is_whole(compared: Mapping[str, Any]) -> bool:
    """Whether metrics.json holds all figures, as it did before there was a details.json."""
    return "forgetting" in compared


def same_networks(metrics: Mapping[str, Any]) -> bool:
    """Whether nothing of phase 2 was kept, so that there is no gain to measure; old records do not say."""
    return bool(metrics.get("phase_2", {}).get("same", False))
