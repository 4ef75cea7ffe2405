"""Accuracy and AUC against the share of labels, as PNG."""

from typing import Any

import pandas as pd

from thaw.report.drawing import COLOURS, INK, NETWORKS, canvas, png_of, tidy
from thaw.statistics.studies import SPREAD


def label_curve(table: pd.DataFrame) -> bytes:
    """Accuracy and AUC against the share of labels, both networks, with the spread over seeds, as
    PNG."""
    from matplotlib.ticker import PercentFormatter

    figure = canvas(10, 4.2)
    for axes, measure in zip(figure.subplots(1, 2), ("accuracy", "auc"), strict=True):
        tidy(axes)
        for network in NETWORKS:
            shares = [float(share) for share in table["share"]]
            means = table[f"{network}_{measure}"]
            spreads = table[f"{network}_{measure}{SPREAD}"].fillna(0)
            style: dict[str, Any] = {"color": COLOURS[network], "label": NETWORKS[network]}
            axes.errorbar(shares, means, yerr=spreads, marker="o", markersize=5, capsize=3, linewidth=1.8, **style)
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{100 * share:g} %" for share in shares], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("share of the training labels", color=INK)
        axes.set_title("AUC" if measure == "auc" else measure, loc="left", fontsize=10.5, color=INK)
        if measure == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            axes.legend(frameon=False)
    figure.tight_layout()
    return png_of(figure)
