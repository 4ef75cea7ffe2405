"""What all plots share: colours, a figure without a display, and its PNG."""

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.statistics.records import NETWORKS as NETWORKS  # plots name them

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"head": "#3f7fb5", "finetuned": "#d9642a"}  # cold before the thaw, warm after it
TINTS = {"head": "#eef4fa", "finetuned": "#fdf3ec"}
THUMBNAIL = 320  # pixels of a shown picture's longer side
INK, GREY, LINE = "#22303c", "#7b8794", "#cbd2d9"


@dataclass(frozen=True)
class Plot:
    """A plot as PNG: for a wide page, and for a phone if there is such a version."""

    wide: bytes
    narrow: bytes | None = None


def both_widths(draw: Callable[..., bytes]) -> Plot:
    """A plot drawn for a wide page, and again with `narrow=True`."""
    return Plot(draw(), draw(narrow=True))


def canvas(width: float, height: float) -> "Figure":
    """A figure drawn by Agg: without pyplot, so without global state and display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: "Axes") -> None:
    """Thin lines, and a grid in the background."""
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.tick_params(colors=GREY, labelcolor=INK, labelsize=9, length=3)
    for spine in axes.spines.values():
        spine.set_color(LINE)


def panels(figure: "Figure") -> "Iterator[tuple[str, Axes]]":
    """A panel for accuracy and one for AUC; each gets its title and legend once it is drawn
    into."""
    from matplotlib.ticker import PercentFormatter

    for axes, measure in zip(figure.subplots(1, 2), ("accuracy", "auc"), strict=True):
        tidy(axes)
        yield measure, axes
        axes.set_title("AUC" if measure == "auc" else measure, loc="left", fontsize=10.5, color=INK)
        if measure == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            axes.legend(frameon=False)
    figure.tight_layout()


def png_of(figure: "Figure", dots_per_inch: int = 150) -> bytes:
    """The figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """A picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def thumbnail(path: Path) -> bytes:
    """A picture of the data as PNG, small enough to show."""
    from thaw.data.pictures import open_picture

    picture = open_picture(path)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
