"""Metrics of a network's probabilities on labelled pictures, and the gain of one network over
another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

from thaw.statistics import intervals

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def headline(probabilities: Probabilities, labels: Labels) -> dict[str, float | None]:
    """Accuracy, balanced accuracy, AUC, F1 and calibration error of probabilities (n, classes)
    against labels (n,).

    With two classes AUC and F1 are those of the second, the positive one; with more they are means
    over classes.
    """
    predicted = probabilities.argmax(1)
    two = probabilities.shape[1] == 2
    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "auc": auc(probabilities, labels),
        "f1": float(f1_score(labels, predicted, average="binary" if two else "macro", zero_division=0)),
        "ece": calibration_error(probabilities, labels),
    }


def auc(probabilities: Probabilities, labels: Labels) -> float | None:
    """Area under the ROC curve (macro one-vs-rest for more than two classes); None where a class
    is absent."""
    area = intervals.auc(probabilities, labels, intervals.codes_of(None, len(labels))).value
    return None if np.isnan(area) else area


def calibration_error(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error: the distance between confidence and accuracy, averaged over bins
    of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(number, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def gain(
    before: Probabilities, after: Probabilities, labels: Labels, groups: Sequence[str] | None
) -> dict[str, float | str | None]:
    """The gain of `after` over `before` on the same pictures, with paired 95 % intervals, or why
    there are none."""
    codes = intervals.codes_of(groups, len(labels))
    right = [(p.argmax(1) == labels).astype(np.float64) for p in (before, after)]
    span = intervals.of_change(right[1] - right[0], codes)
    area = intervals.difference(*(intervals.auc(p, labels, codes) for p in (before, after)))
    result: dict[str, float | str | None] = {
        "accuracy": float((right[1] - right[0]).mean()), "low": span.low, "high": span.high,
    } | ({"no_interval": span.why} if span.why else {})  # fmt: skip
    if np.isnan(area.value):
        return result | {"auc": None, "auc_low": None, "auc_high": None}
    span = intervals.of_class_mean([area], labels, codes, intervals.averaged(before))
    result |= {"auc": area.value, "auc_low": span.low, "auc_high": span.high}
    return result | ({"auc_no_interval": span.why} if span.why else {})


def per_class(probabilities: Probabilities, labels: Labels, classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 and number of pictures of each class."""
    precision, recall, f1, pictures = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=range(len(classes)), zero_division=0
    )
    return pd.DataFrame(
        {"class": list(classes), "precision": precision, "recall": recall, "f1": f1, "pictures": pictures}
    )


def per_slice(probabilities: Probabilities, labels: Labels, slices: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, precision and recall for each value of each slice column.

    With two classes precision and recall are those of the positive one; with more they are means
    over classes.
    """
    average = "binary" if probabilities.shape[1] == 2 else "macro"
    rows: list[dict[str, Any]] = []
    for column in slices:
        for value, members in sorted(slices.groupby(slices[column]).indices.items()):
            predicted, actual = probabilities[members].argmax(1), labels[members]
            precision, recall, _, _ = precision_recall_fscore_support(
                actual, predicted, average=average, zero_division=0
            )
            right = predicted == actual
            recalls = [right[actual == label].mean() for label in np.unique(actual)]
            rows.append(
                {
                    "slice": column,
                    "value": value,
                    "accuracy": float(right.mean()),
                    "balanced_accuracy": float(np.mean(recalls)),
                    "precision": float(precision),
                    "recall": float(recall),
                    "pictures": len(members),
                }
            )
    columns = ["slice", "value", "accuracy", "balanced_accuracy", "precision", "recall", "pictures"]
    return pd.DataFrame(rows, columns=columns)
