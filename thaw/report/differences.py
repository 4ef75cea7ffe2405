"""The difference of each arm to the recipe, as PNG."""

import pandas as pd

from thaw.report.drawing import COLOURS, GREY, INK, LINE, canvas, png_of, tidy


def differences(table: pd.DataFrame) -> bytes:
    """The difference in test accuracy of each arm to the recipe, with its interval, as PNG."""
    from matplotlib.ticker import PercentFormatter

    compared = table.dropna(subset=["over_recipe"])
    figure = canvas(9, 1.2 + 0.4 * len(compared))
    axes = figure.subplots()
    tidy(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.axvline(0, color=GREY, linewidth=1.2)
    places = range(len(compared))
    middle = compared["over_recipe"]
    sides = [middle - compared["over_recipe_low"], compared["over_recipe_high"] - middle]
    axes.errorbar(middle, places, xerr=sides, fmt="o", markersize=6, capsize=3, color=COLOURS["finetuned"])
    axes.set_yticks(places, compared["arm"].tolist())
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.set_xlabel("points of test accuracy over the recipe, with 95 % interval", color=INK)
    figure.tight_layout()
    return png_of(figure)
