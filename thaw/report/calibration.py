"""Reliability diagrams of both networks, as PNG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from thaw.report.drawing import COLOURS, GREY, INK, NETWORKS, canvas, png_of, tidy
from thaw.statistics.intervals import wilson

Numbers = np.ndarray[Any, np.dtype[np.float64]]
CALIBRATION_BINS = 10


def probabilities_of(predictions: pd.DataFrame, network: str, classes: Sequence[str]) -> Numbers:
    return predictions[[f"{network}_p_{name}" for name in classes]].to_numpy(dtype=np.float64)


def calibration(
    predictions: pd.DataFrame, classes: Sequence[str], temperatures: Mapping[str, float], narrow: bool = False
) -> bytes:
    """Reliability diagrams of both networks as PNG: accuracy against top-class confidence, counts
    below.

    The thin line is without temperature scaling. `narrow`: for a phone.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # the top class never has less than 1/n
    lowest = CALIBRATION_BINS // max(len(classes), 1) / CALIBRATION_BINS
    width = 5.0 if narrow else 10.0
    figure = canvas(width, 5.2)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    figure.subplots_adjust(left=0.8 / width, right=1 - 0.2 / width, top=0.93, bottom=0.1, wspace=0.1, hspace=0.08)
    for column, (network, title) in enumerate(NETWORKS.items()):
        above, below = grid[0, column], grid[1, column]
        colour = COLOURS[network]
        probabilities = probabilities_of(predictions, network, classes)
        right = (predictions[f"{network}_prediction"].astype(str) == predictions["label"].astype(str)).to_numpy()
        for axes in (above, below):
            tidy(axes)
        above.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 2)), linewidth=1.2)
        table = _reliability(probabilities.max(axis=1), right)
        below.bar(table["middle"], table["pictures"], width=0.9 / CALIBRATION_BINS, color=colour, alpha=0.75)
        whiskers = np.maximum([table["rate"] - table["low"], table["high"] - table["rate"]], 0)
        above.errorbar(
            table["confidence"], table["rate"], yerr=whiskers, color=colour, linewidth=1.8,
            marker="o", markersize=5, elinewidth=1, capsize=2.5,
        )  # fmt: skip
        powers = probabilities ** temperatures[network]
        table = _reliability((powers / powers.sum(axis=1, keepdims=True)).max(axis=1), right)
        above.plot(table["confidence"], table["rate"], color=INK, linewidth=1, marker=".", markersize=5)
        above.set_title(title, color=colour, fontsize=11, fontweight="bold")
        above.set_ylim(0, 1.03)
        above.set_xlim(lowest - 0.01, 1.01)
        above.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        below.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        below.xaxis.set_major_locator(MaxNLocator(nbins=4 if narrow else 10, steps=[1, 2, 5, 10]))
        below.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        below.set_xlabel("confidence of the prediction", color=INK, fontsize=9.5)
    if not narrow:
        grid[0, 0].text(
            0.02, 0.95, "above the dashed line: more often right than it says\nthin: before temperature scaling",
            transform=grid[0, 0].transAxes, verticalalignment="top", fontsize=8.5, color=GREY,
        )  # fmt: skip
    grid[0, 0].set_ylabel("accuracy", color=INK)
    grid[1, 0].set_ylabel("pictures", color=INK)
    figure.align_ylabels(grid[:, 0])
    return png_of(figure)


def _reliability(confidence: Numbers, right: np.ndarray[Any, np.dtype[np.bool_]]) -> pd.DataFrame:
    """Non-empty bins of confidence: number of pictures, mean confidence, accuracy and its
    interval."""
    bins = np.clip((confidence * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)
    rows = []
    for number in np.unique(bins):
        inside = bins == number
        rate, count = float(right[inside].mean()), int(inside.sum())
        low, high, _ = wilson(rate, count)
        middle = (number + 0.5) / CALIBRATION_BINS
        rows.append((middle, count, float(confidence[inside].mean()), rate, low, high))
    return pd.DataFrame(rows, columns=["middle", "pictures", "confidence", "rate", "low", "high"])
