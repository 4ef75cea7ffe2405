"""Accuracy and AUC against the share of labels, as PNG."""

from typing import Any

import pandas as pd

from thaw.report.drawing import COLOURS, INK, NETWORKS, canvas, panels, png_of
from thaw.statistics.studies import SPREAD


def label_curve(table: pd.DataFrame) -> bytes:
    """Accuracy and AUC against the share of labels, both networks, with the spread over seeds, as
    PNG."""
    figure = canvas(10, 4.2)
    for measure, axes in panels(figure):
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
    return png_of(figure)
