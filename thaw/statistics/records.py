"""The figures of evaluate: those that people compare, and the details. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

NETWORKS = {"head": "head only", "finetuned": "fine-tuned"}

# The figures that may decide about a new model.
FIGURES = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "macro_f1": "macro F1",
    "recall": "recall at the operating point",
    "cost": "mean cost of a picture",
}
LOWER_IS_BETTER = ("cost",)

# What `dvc metrics show` and `dvc exp show` compare; everything else is in details.json.
COMPARED: dict[str, tuple[str, ...]] = {
    "phase_2": ("same",),
    "head": ("accuracy", "auc"),
    # recall: at the operating point
    "finetuned": ("accuracy", "balanced_accuracy", "auc", "f1", "recall", "ece"),
    "gain": ("accuracy", "low", "high"),
}


def for_the_better(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """`low`, `high` and `floor` of a comparison, turned so that more is better."""
    low, high, floor = row["low"], row["high"], row["floor"]
    if low is None or row["by"] not in LOWER_IS_BETTER:
        return low, high, floor
    return -high, -low, -floor


def of_phase_2(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Which weights phase 2 kept, by the meta.json of its model; `same`: none, so both networks
    are the same."""
    kept, config = meta["kept"], meta["params"]["unfreeze"]
    share = {"share": kept["share"]} if "share" in kept else {}
    trained = kept["epoch"] > 0 and kept.get("share") != 0
    adapted = config["batchnorm"] == "adapt"  # epoch 0 has the new statistics too
    return {"keep": config["keep"], "kept_epoch": kept["epoch"], **share, "same": not (trained or adapted)}


def split(figures: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the figures into the dozen that people compare, and the rest."""
    compared: dict[str, Any] = {"test_pictures": figures["test_pictures"]}
    rest: dict[str, Any] = {}
    for name, values in figures.items():
        names = COMPARED.get(name, ())
        if names:
            compared[name] = {key: values[key] for key in names if key in values}
        if isinstance(values, Mapping) and (left_out := {key: values[key] for key in values if key not in names}):
            rest[name] = left_out
    return compared, rest


def joined(compared: Mapping[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Join the figures again; an old metrics.json without details.json has all of them."""
    figures = dict(compared)
    if not is_whole(compared):
        for name, values in rest.items():
            figures[name] = compared.get(name, {}) | values
    return figures


def is_whole(compared: Mapping[str, Any]) -> bool:
    """Whether metrics.json has all figures, as it did before details.json existed."""
    return "forgetting" in compared


def same_networks(metrics: Mapping[str, Any]) -> bool:
    """Whether nothing of phase 2 was kept, so there is no gain to measure; False in old
    records."""
    return bool(metrics.get("phase_2", {}).get("same", False))
