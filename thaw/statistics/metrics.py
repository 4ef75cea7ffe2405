"""Metrics: what a network's probabilities are worth on labelled pictures, and what one gained over another."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_fscore_support

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
Weights = NDArray[np.float64]


def headline(probabilities: Probabilities, labels: Labels) -> dict[str, float | None]:
    """Accuracy, balanced accuracy, AUC, F1 and calibration error of probabilities (n, classes) against labels (n,).

    With two classes AUC and F1 are those of the second, the positive one; with more they are means over classes.
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
    """Area under the ROC curve (macro one-vs-rest for more than two classes); None where a class is absent."""
    area = float(weighted_auc(probabilities, labels, np.ones((1, len(labels))))[0])
    return None if np.isnan(area) else area


def weighted_auc(probabilities: Probabilities, labels: Labels, weights: Weights) -> Weights:
    """The AUC under each row of weights (resamples, n); NaN where a class has no weight. Ties count half."""
    classes = probabilities.shape[1]
    areas = []
    for positive in [1] if classes == 2 else range(classes):
        scores = probabilities[:, positive]
        order = np.argsort(scores, kind="stable")
        above, below = order[labels[order] == positive], order[labels[order] != positive]
        ends = [np.searchsorted(scores[below], scores[above], side) for side in ("left", "right")]
        positives, negatives = weights[:, above], np.cumsum(np.pad(weights[:, below], ((0, 0), (1, 0))), axis=1)
        pairs = (positives * (negatives[:, ends[0]] + negatives[:, ends[1]])).sum(1) / 2
        with np.errstate(invalid="ignore"):
            areas.append(pairs / (positives.sum(1) * negatives[:, -1]))
    return np.asarray(np.mean(areas, axis=0), dtype=np.float64)


def calibration_error(probabilities: Probabilities, labels: Labels, bins: int = 15) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart, averaged over bins of confidence."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(number, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def gain(
    before: Probabilities,
    after: Probabilities,
    labels: Labels,
    groups: Sequence[str] | None,
    seed: int,
    resamples: int = 2000,
) -> dict[str, float | None]:
    """What `after` is better than `before` on the same pictures, with paired bootstrap 95 % intervals.

    Whole groups are drawn where there are groups: pictures of one module or one patient are not independent.
    """
    right = [(p.argmax(1) == labels).astype(np.float64) for p in (before, after)]
    difference = right[1] - right[0]
    accuracies, areas = [], []
    for weights in resamples_of(groups, len(labels), seed, resamples):
        accuracies.append(weights @ difference / weights.sum(1))
        areas.append(weighted_auc(after, labels, weights) - weighted_auc(before, labels, weights))
    low, high = np.quantile(np.concatenate(accuracies), [0.025, 0.975])
    result: dict[str, float | None] = {"accuracy": float(difference.mean()), "low": float(low), "high": float(high)}
    before_auc, after_auc = auc(before, labels), auc(after, labels)
    if before_auc is None or after_auc is None:
        result |= {"auc": None, "auc_low": None, "auc_high": None}
    else:
        low, high = np.nanquantile(np.concatenate(areas), [0.025, 0.975])
        result |= {"auc": after_auc - before_auc, "auc_low": float(low), "auc_high": float(high)}
    return result | {"mcnemar_p": mcnemar(right[0], right[1])}


def mcnemar(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Exact McNemar test: how likely so uneven a split of the changed verdicts is if neither network is better."""
    better, worse = int(((after == 1) & (before == 0)).sum()), int(((after == 0) & (before == 1)).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def resamples_of(groups: Sequence[str] | None, n: int, seed: int, resamples: int) -> Iterator[Weights]:
    """How often each picture was drawn, (draws, n) at a time: as many draws as fit a few megabytes."""
    random = np.random.default_rng(seed)
    members = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(members.max()) + 1
    at_once = max(1, 1_000_000 // n)
    for start in range(0, resamples, at_once):
        draws = random.multinomial(count, np.full(count, 1 / count), size=min(at_once, resamples - start))
        yield draws[:, members].astype(np.float64)


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

    With two classes precision and recall are those of the positive one; with more they are means over classes.
    """
    average = "binary" if probabilities.shape[1] == 2 else "macro"
    rows: list[dict[str, Any]] = []
    for column in slices:
        for value, members in sorted(slices.groupby(slices[column]).indices.items()):
            predicted, wanted = probabilities[members].argmax(1), labels[members]
            precision, recall, _, _ = precision_recall_fscore_support(
                wanted, predicted, average=average, zero_division=0
            )
            right = predicted == wanted
            recalls = [right[wanted == label].mean() for label in np.unique(wanted)]
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
