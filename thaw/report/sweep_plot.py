"""Accuracy by setting of a sweep, as PNG."""

from typing import TYPE_CHECKING, Any

from thaw.report.drawing import COLOURS, INK, LINE, NETWORKS, TINTS, canvas, png_of, tidy
from thaw.statistics.sweeps import SPREAD

if TYPE_CHECKING:
    import pandas as pd


def sweep_plot(arms: "pd.DataFrame", table: "pd.DataFrame", best: str) -> bytes:
    """Accuracy on the test pictures of head-only and fine-tuned networks by setting, as the bytes
    of a PNG."""
    from matplotlib.ticker import PercentFormatter

    names = [str(name) for name in table.index]
    rank = {name: number for number, name in enumerate(names)}
    figure = canvas(9, 1.6 + 0.55 * len(names))
    axes = figure.subplots()
    tidy(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.axhspan(rank[best] - 0.45, rank[best] + 0.45, color=TINTS["finetuned"], zorder=0)
    for network, column, aside in (("head", "head_accuracy", -0.13), ("finetuned", "accuracy", 0.13)):
        style: dict[str, Any] = {"color": COLOURS[network], "label": NETWORKS[network]}
        places = [number + aside for number in range(len(names))]
        spreads = table[column + SPREAD].fillna(0)
        axes.errorbar(table[column], places, xerr=spreads, fmt="o", markersize=7, capsize=4, linewidth=1.8, **style)
        if table["seeds"].max() > 1:
            places = [rank[name] + 2 * aside for name in arms["setting"]]
            axes.plot(arms[column], places, "|", color=COLOURS[network], markersize=6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.get_yticklabels()[rank[best]].set_fontweight("bold")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    seeds = int(table["seeds"].max())
    spread = f"; mean, spread and each of {seeds} seeds" if seeds > 1 else ""
    axes.set_xlabel(f"accuracy on the test pictures{spread}", color=INK)
    axes.set_title("shaded: best on validation", loc="left", fontsize=10.5, color=INK)
    figure.tight_layout()
    figure.legend(loc="upper right", ncols=2, frameon=False)
    return png_of(figure)
