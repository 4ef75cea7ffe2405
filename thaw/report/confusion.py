"""The confusion matrices of both networks as PNG."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from thaw.formats import short
from thaw.report.drawing import COLOURS, GREY, INK, LINE, NETWORKS, Plot, canvas, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]
MOST_ON_A_PHONE = 6  # with more classes a confusion matrix is too wide for a phone, and scrolls
MOST_BESIDE = 14  # with more classes the page shows one confusion matrix above the other
MOST_NUMBERED = 30  # a confusion matrix of more classes shows colours without numbers
MOST_NAMED = 120  # and of even more, without names


def _counts(predictions: pd.DataFrame, network: str, classes: Sequence[str]) -> Counts:
    """Rows are true classes, columns predicted ones."""
    table = pd.crosstab(predictions["label"].astype(str), predictions[f"{network}_prediction"].astype(str))
    return table.reindex(index=list(classes), columns=list(classes), fill_value=0).to_numpy(dtype=np.int64)


def confusion_plot(predictions: pd.DataFrame, classes: Sequence[str]) -> Plot:
    """Both matrices for the page: side by side, or one above the other if there is no room."""
    wide = confusion(predictions, classes, stacked=len(classes) > MOST_BESIDE)
    return Plot(wide, confusion(predictions, classes, stacked=True) if len(classes) <= MOST_ON_A_PHONE else None)


def confusion(predictions: pd.DataFrame, classes: Sequence[str], stacked: bool = False) -> bytes:
    """The confusion matrices of both networks as PNG: counts, and percent of each true class.

    Side by side, or `stacked`. With more than MOST_NUMBERED classes there is no room for numbers,
    only colours; with more than MOST_NAMED no room for names either.
    """
    many, crowded = len(classes) > 6, len(classes) > MOST_NUMBERED
    names = [short(name) if len(classes) <= MOST_NAMED else "" for name in classes]
    cell = MOST_NUMBERED * 0.46 / len(classes) if crowded else 0.46 if many else max(0.8, 3.4 / len(classes))
    name_size = min(9.0, 60 * cell)  # in points; a row is 72 times `cell` high
    longest = max(map(len, names)) * name_size * 0.0078
    turned = longest > 0.9 * cell
    # All in inches: `left` and `below` hold the names, `above` the title, `beside` the colour bar.
    side, left, above, beside, gap = cell * len(classes), 0.4 + longest, 0.4, 0.85, 0.3
    below = 0.4 + longest if turned else 0.55
    wide, high = (1, 2) if stacked else (2, 1)
    width = left + wide * side + (wide - 1) * gap + beside
    height = high * (above + side + below)
    figure = canvas(width, height)
    for position, (network, title) in enumerate(NETWORKS.items()):
        column, row_from_below = (0, 1 - position) if stacked else (position, 0)
        corner = (
            (left + column * (side + gap)) / width,
            (below + row_from_below * (above + side + below)) / height,
        )
        axes = figure.add_axes((*corner, side / width, side / height))
        counts = _counts(predictions, network, classes)
        percents = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(percents, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axes.set_title(title, color=COLOURS[network], fontsize=11, fontweight="bold")
        named = range(len(classes)) if len(classes) <= MOST_NAMED else []
        beside_names = named and (stacked or position == 0)
        # parse_math=False: a dollar sign in a class name does not start a formula.
        axes.set_xticks(
            named,
            names if named else [],
            parse_math=False,
            rotation=90 if turned else 0,
            fontsize=name_size,
            color=INK,
        )
        axes.set_yticks(named, names if beside_names else [], parse_math=False, fontsize=name_size, color=INK)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted", fontsize=9.5, color=GREY)
        if stacked or position == 0:
            axes.set_ylabel("true class", fontsize=9.5, color=GREY)
        for spine in axes.spines.values():
            spine.set_color(LINE)
        if not crowded:
            edges = np.arange(len(classes) + 1) - 0.5
            axes.hlines(edges, edges[0], edges[-1], color="white", linewidth=1)
            axes.vlines(edges, edges[0], edges[-1], color="white", linewidth=1)
            _write_counts(axes, counts, percents, many)
        if stacked or position == 1:
            place = (1 - 0.7 / width, corner[1], 0.14 / width, side / height)
            bar = figure.colorbar(image, cax=figure.add_axes(place), format="%d %%")
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0, labelsize=8, labelcolor=GREY)
    return png_of(figure)


def _write_counts(axes: "Axes", counts: Counts, percents: Numbers, many: bool) -> None:
    """Each cell's count and, below it, its percent; a large matrix reads better when its zeros are
    blank."""
    large, small, sign = (8.5, 6.5, "%") if many else (13.0, 9.5, " %")
    for row, column in np.ndindex(*counts.shape):
        count, percent = int(counts[row, column]), float(percents[row, column])
        if many and not count:
            continue
        for text, size, rise, side, weight in (
            (f"{count:,}", large, 0.1, "bottom", "bold" if row == column else "normal"),
            (f"{percent:.0f}{sign}", small, -0.25, "top", "normal"),
        ):
            axes.annotate(
                text, (column, row), xytext=(0, rise * small), textcoords="offset points",
                horizontalalignment="center", verticalalignment=side, fontsize=size, fontweight=weight,
                color="white" if percent > 55 else INK,
            )  # fmt: skip
