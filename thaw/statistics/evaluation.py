"""What a network is worth on the test pictures; its temperature and its threshold are chosen on
validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from thaw.statistics import calibration, metrics
from thaw.statistics.metrics import Labels, Probabilities


class Pictures(NamedTuple):
    """The logits (n, classes) and the labels (n,) of a split."""

    logits: Tensor
    labels: Labels


@dataclass(frozen=True)
class Evaluation:
    """The figures of a network. `operating` has its threshold and the rates there; None if no
    threshold keeps the promise, or if there are more than two classes."""

    figures: dict[str, Any]
    operating: dict[str, Any] | None
    probabilities: Probabilities


def evaluate(
    val: Pictures, test: Pictures, classes: Sequence[str], groups: Sequence[str] | None, promise: str, at_least: float
) -> Evaluation:
    """Measure a network. The promise is kept on validation: see `calibration.threshold`."""
    temperature = calibration.temperature(val.logits, torch.from_numpy(val.labels))
    on_val, probabilities = (calibration.probabilities(split.logits, temperature) for split in (val, test))
    predicted = np.unique(probabilities.argmax(1))
    figures = metrics.headline(probabilities, test.labels) | {
        "temperature": temperature,
        "ece_uncalibrated": metrics.calibration_error(calibration.probabilities(test.logits, 1), test.labels),
        "only_class": classes[predicted[0]] if len(predicted) == 1 else None,
    }
    operating, cut = None, None
    if len(classes) == 2:
        cut = calibration.threshold(on_val[:, 1], val.labels == 1, promise, at_least)
    if cut is not None:
        rates = calibration.at_threshold(probabilities[:, 1], test.labels == 1, cut, groups)
        operating = {"threshold": cut, **rates}
        figures["recall"] = rates["recall"]["value"]
    shares = np.bincount(calibration.decided(on_val, cut), minlength=len(classes)) / len(val.labels)
    figures["decisions_on_val"] = dict(zip(classes, shares.tolist(), strict=True))
    return Evaluation(figures, operating, probabilities)


def predictions(networks: Mapping[str, Evaluation], rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The rows of the test pictures, and what each network predicts for them."""
    named = {
        f"{name}_prediction": np.array(classes)[network.probabilities.argmax(1)] for name, network in networks.items()
    }
    columns = [
        pd.DataFrame(network.probabilities, columns=[f"{name}_p_{label}" for label in classes])
        for name, network in networks.items()
    ]
    return pd.concat([rows.assign(**named), *columns], axis=1)


def tables(
    networks: Mapping[str, Evaluation], labels: Labels, classes: Sequence[str], slices: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The figures of each network by class and by slice."""
    by_class = {name: metrics.per_class(network.probabilities, labels, classes) for name, network in networks.items()}
    by_slice = {name: metrics.per_slice(network.probabilities, labels, slices) for name, network in networks.items()}
    return {"classes": _stacked(by_class), "slices": _stacked(by_slice)}


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat([table.assign(model=name) for name, table in tables.items()], ignore_index=True)
    return table[["model", *table.columns.drop("model")]]
