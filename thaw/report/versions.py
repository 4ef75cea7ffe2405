"""The figures of all versions of the model over time, as PNG."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from thaw.report.drawing import COLOURS, INK, NETWORKS, canvas, panels, png_of


class Point(NamedTuple):
    """A version: when it was registered, its figures, and whether it is in use."""

    name: str
    when: datetime
    metrics: dict[str, Any]
    in_use: bool


def versions_plot(points: Sequence[Point]) -> bytes:
    """Accuracy and AUC on the test pictures of each version's own day, both networks, the oldest
    version first."""
    figure = canvas(10, 4.2)
    for measure, axes in panels(figure):
        for network in NETWORKS:
            known = [(point, value) for point in points if (value := point.metrics.get(network, {}).get(measure))]
            places = [points.index(point) for point, _ in known]
            style: dict[str, Any] = {"color": COLOURS[network], "label": NETWORKS[network]}
            axes.plot(places, [value for _, value in known], marker="o", markersize=4, linewidth=1.8, **style)
            for place, (point, value) in zip(places, known, strict=True):
                if point.in_use and network == "finetuned":
                    axes.annotate("in use", (place, value), (0, 8), textcoords="offset points", ha="center", color=INK)
        step = max(1, len(points) // 8)
        shown = range(0, len(points), step)
        axes.set_xticks(list(shown), [f"{points[place].name}\n{points[place].when:%m-%d}" for place in shown])
    return png_of(figure)
