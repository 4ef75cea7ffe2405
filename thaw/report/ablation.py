"""The recipe and its mistakes by epoch, and how far each moved, as PNG."""

from collections.abc import Sequence

import pandas as pd

from thaw.report.drawing import INK, canvas, png_of, tidy
from thaw.statistics.studies import Run

ARM_COLOURS = ("#d9642a", "#b3372f", "#7a5195", "#3f7fb5", "#7b8794")


def ablation_plot(runs: Sequence[Run], table: pd.DataFrame) -> bytes:
    """Validation accuracy per epoch of phase 2 with the spread over seeds, and how far each arm moved, as PNG."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    figure = canvas(11, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    tidy(left)
    tidy(right)
    arms = list(dict.fromkeys(run.setting for run in runs))
    colours = dict(zip(arms, ARM_COLOURS, strict=False))
    for arm in arms:
        histories = pd.concat([run.history for run in runs if run.setting == arm])
        by_epoch = histories.groupby("epoch")["val_accuracy"].agg(["mean", "std"]).fillna(0)
        left.plot(by_epoch.index, by_epoch["mean"], color=colours[arm], marker="o", markersize=3.5, label=arm)
        low, high = by_epoch["mean"] - by_epoch["std"], by_epoch["mean"] + by_epoch["std"]
        left.fill_between(by_epoch.index, low, high, color=colours[arm], alpha=0.15, linewidth=0)
    left.set_xlabel("epoch of phase 2", color=INK)
    left.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    left.set_title("accuracy on validation", loc="left", fontsize=10.5, color=INK)
    left.legend(frameon=False, fontsize=9)
    moved = table.set_index("arm").loc[arms]
    right.scatter(moved["distance"], moved["accuracy"], color=[colours[arm] for arm in arms], s=60, zorder=3)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.set_xlabel("distance moved (share of weights)", color=INK)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    right.set_title("accuracy on test against forgetting", loc="left", fontsize=10.5, color=INK)
    figure.tight_layout()
    return png_of(figure)
