"""The learning curves of both phases as PNG."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from thaw.formats import percent
from thaw.report.drawing import COLOURS, GREY, INK, NETWORKS, TINTS, canvas, png_of, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def numbers(column: pd.Series) -> Numbers:
    """A column as floats, NaN for an empty cell: a table with empty cells may have been read as
    text."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def curves(head: pd.DataFrame, unfreeze: pd.DataFrame | None, narrow: bool = False) -> bytes:
    """Loss and validation accuracy over both phases as PNG; `narrow`: for a phone.

    Both phases get the same width, however many epochs each had; the seam between the panels is
    the moment of unfreezing. Epoch 0 of `unfreeze` is the network that phase 1 kept, hence drawn
    on the seam.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    phases = [("head", head)]
    if unfreeze is not None and len(unfreeze):
        phases.append(("finetuned", unfreeze))
    width, height = (5.0, 6.2) if narrow else (10.0, 5.8)
    figure = canvas(width, height)
    grid = figure.subplots(2, len(phases), sharex="col", sharey="row", squeeze=False)
    top, between = (0.8, "\n") if narrow else (0.86, ", ")
    figure.subplots_adjust(left=0.75 / width, right=0.985, top=top, bottom=0.55 / height, wspace=0, hspace=0.1)

    for column, (phase, history) in enumerate(phases):
        epochs = numbers(history["epoch"])
        marker = "o" if len(history) <= 25 else None
        losses, accuracies = grid[0, column], grid[1, column]
        for axes, name, colour, style in (
            (losses, "train_loss", GREY, (0, (4, 1.5))),
            (losses, "val_loss", COLOURS[phase], "-"),
            (accuracies, "val_accuracy", COLOURS[phase], "-"),
        ):
            values = numbers(history[name])
            axes.plot(epochs, values, color=colour, linestyle=style, linewidth=1.8, marker=marker, markersize=3.5)
        end = int(np.nanmax(epochs)) if len(epochs) else 0
        if phase == "head":
            ends = (
                min(0.75, 1 - 0.02 * end) if end < 40 else 0,
                max(end, 1) + (0 if len(phases) == 2 else 0.02 * end),
            )
        else:
            ends = (0, max(end, 1) + max(0.25, 0.03 * end))
        for axes in (losses, accuracies):
            tidy(axes)
            axes.set_facecolor(TINTS[phase])
            axes.set_xlim(*ends)
        accuracies.xaxis.set_major_locator(
            MaxNLocator(
                nbins=5 if narrow else 10,
                integer=True,
                steps=[1, 2, 5, 10],
                prune="lower" if phase == "finetuned" else None,
            )
        )
        accuracy = numbers(history["val_accuracy"])
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            accuracies.text(
                0.975,
                0.06,
                f"highest {percent(accuracy[best])}{between}epoch {epochs[best]:.0f}",
                transform=accuracies.transAxes,
                horizontalalignment="right",
                color=INK,
                fontsize=9,
                bbox={"facecolor": TINTS[phase], "edgecolor": "none", "alpha": 0.85, "pad": 2},
            )
        if phase == "head":
            title = "Phase 1" if narrow else "Phase 1: head on the frozen backbone"
            losses.set_title(title, loc="left", fontsize=10.5, color=INK)
        else:
            title = "Phase 2" if narrow else "Phase 2: backbone unfrozen"
            losses.set_title(title, loc="right", fontsize=10.5, color=INK)

    if len(phases) == 2:
        for axes in grid[:, 0]:
            axes.spines["right"].set_visible(False)
        for axes in grid[:, 1]:
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        seam = grid[0, 1].get_position().x0
        bottom, top = grid[1, 1].get_position().y0, grid[0, 1].get_position().y1
        from matplotlib.lines import Line2D

        figure.add_artist(Line2D([seam, seam], [bottom, top + 0.015], color=INK, linewidth=1.4, linestyle="--"))
        figure.text(
            seam, top + 0.025, "unfrozen", horizontalalignment="center", fontsize=9.5, fontweight="bold", color=INK,
        )  # fmt: skip
    grid[0, 0].set_ylabel("loss", color=INK)
    grid[1, 0].set_ylabel("validation accuracy", color=INK)
    grid[1, 0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    figure.text(0.53, 0.09 / height, "epoch", horizontalalignment="center", fontsize=10, color=INK)
    _curve_legend(figure, [phase for phase, _ in phases], 1 if narrow else 3)
    return png_of(figure)


def _curve_legend(figure: "Figure", phases: Sequence[str], columns: int) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], color=GREY, linestyle=(0, (4, 1.5)), linewidth=1.8, label="training")]
    entries += [
        Line2D([], [], color=COLOURS[phase], linewidth=1.8, label=f"validation, {NETWORKS[phase]}") for phase in phases
    ]
    figure.legend(
        handles=entries,
        loc="upper center",
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        bbox_to_anchor=(0.53, 1.005),
    )
