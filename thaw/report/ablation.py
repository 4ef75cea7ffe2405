"""The recipe and the mistakes it avoids, epoch by epoch, and how far each network moved, as
PNG."""

from collections.abc import Sequence

import pandas as pd

from thaw.report.drawing import INK, canvas, png_of, tidy
from thaw.statistics.studies import Training

ARM_COLOURS = ("#d9642a", "#b3372f", "#7a5195", "#3f7fb5", "#7b8794")


def ablation_plot(runs: Sequence[Training], table: pd.DataFrame) -> bytes:
    """Validation accuracy per epoch of phase 2 with the spread over seeds, and how far each arm
    moved, as PNG."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    figure = canvas(11, 4.6)
    curves, distances = figure.subplots(1, 2, width_ratios=(3, 2))
    tidy(curves)
    tidy(distances)
    arms = list(dict.fromkeys(run.setting for run in runs))
    colours = dict(zip(arms, ARM_COLOURS, strict=False))
    for arm in arms:
        histories = pd.concat([run.history for run in runs if run.setting == arm])
        by_epoch = histories.groupby("epoch")["val_accuracy"].agg(["mean", "std"]).fillna(0)
        curves.plot(by_epoch.index, by_epoch["mean"], color=colours[arm], marker="o", markersize=3.5, label=arm)
        low, high = by_epoch["mean"] - by_epoch["std"], by_epoch["mean"] + by_epoch["std"]
        curves.fill_between(by_epoch.index, low, high, color=colours[arm], alpha=0.15, linewidth=0)
    curves.set_xlabel("epoch of phase 2", color=INK)
    curves.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    curves.set_title("accuracy on validation", loc="left", fontsize=10.5, color=INK)
    curves.legend(frameon=False, fontsize=9)
    moved = table.set_index("arm").loc[arms]
    distances.scatter(moved["distance"], moved["accuracy"], color=[colours[arm] for arm in arms], s=60, zorder=3)
    distances.set_xscale("log")
    distances.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    distances.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    distances.xaxis.set_minor_formatter(NullFormatter())
    distances.set_xlabel("distance moved (share of weights)", color=INK)
    distances.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    distances.set_title("accuracy on test against forgetting", loc="left", fontsize=10.5, color=INK)
    figure.tight_layout()
    return png_of(figure)
