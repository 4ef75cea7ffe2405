"""proof: compare an export with its network on the same files, and measure what 8 bits cost.

The comparison goes from files on disk to probabilities, because most faults of exports are in the
preprocessing, before the network.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.model.model import Answers
from thaw.statistics import calibration, intervals

# Floats summed in another order differ by about 1e-6.
TOLERANCE = 1e-4  # of probabilities
OF_FEATURES = 1e-3  # relative to the largest
TURNS = (2, 3, 4, 5, 6, 7, 8)  # the orientations of EXIF that change a picture
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How far an exported network and the network agree on pictures.

    `largest` is the largest difference of two probabilities, `decisions` the number of equal
    decisions, `features` the largest difference of two features relative to the largest feature.
    Features are compared too, because a network that is sure of every picture gives nearly the same
    probabilities for different ones.
    """

    pictures: int
    largest: float
    decisions: int
    features: float | None

    def holds(self) -> bool:
        """Whether the differences are within tolerance."""
        return self.largest <= TOLERANCE and (self.features or 0) <= OF_FEATURES


def agreement(expected: Answers, actual: Answers, threshold: float | None) -> Agreement:
    """Compare two outputs for the same pictures; features only if both have them."""
    p, q = expected.probabilities, actual.probabilities
    same = calibration.decided(p, threshold) == calibration.decided(q, threshold)
    features = None
    if expected.features is not None and actual.features is not None:
        difference = np.abs(expected.features - actual.features).max()
        features = float(difference / np.abs(expected.features).max())
    return Agreement(len(p), float(np.abs(p - q).max()), int(same.sum()), features)


@dataclass(frozen=True)
class Cost:
    """What quantising to 8 bits does to accuracy and speed.

    `change` is the change of accuracy on labelled pictures, with its 95 % interval. `speed` is the
    speedup: the median over pairs of runs, with the slowest and the fastest pair.
    """

    pictures: int
    accuracy: float
    change: float
    low: float | None
    high: float | None
    speed: float
    slowest: float
    fastest: float


def cost(
    before: Probabilities,
    after: Probabilities,
    labels: NDArray[np.int64],
    groups: Sequence[str] | None,
    speeds: Sequence[float],
) -> Cost:
    """The cost, from both probabilities of the same labelled pictures and the speedups of runs."""
    right = [(p.argmax(1) == labels).astype(np.float64) for p in (before, after)]
    change = right[1] - right[0]
    span = intervals.of_change(change, intervals.codes_of(groups, len(labels)))
    spread = float(np.median(speeds)), min(speeds), max(speeds)
    return Cost(len(labels), float(right[1].mean()), float(change.mean()), span.low, span.high, *spread)


def speeds(before: Callable[[], object], after: Callable[[], object], pairs: int = 7) -> list[float]:
    """The speedup of `after` over `before` in each of several pairs of runs."""
    return [_seconds(before) / _seconds(after) for _ in range(pairs)]


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def draw(folder: Path) -> list[Path]:
    """Draw pictures of every kind that other software may decode differently."""
    colour = _blobs(60, 44, 3)
    grey = Image.fromarray(colour).convert("L")
    deep = np.asarray(grey).astype(np.float64) / 255
    alpha = Image.fromarray(colour)
    alpha.putalpha(grey)
    palette = Image.fromarray(colour).convert("P")
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.png": (grey, {}),
        "bilevel.png": (grey.convert("1"), {}),
        "twelve-bits.png": (Image.fromarray((4095 * deep).astype(np.uint16)), {}),
        "sixteen-bits.tif": (Image.fromarray((65535 * deep).astype(np.uint16)), {}),
        "float.tif": (Image.fromarray(deep.astype(np.float32)), {}),
        "negative.tif": (Image.fromarray((1000 * deep - 500).astype(np.int32)), {}),
        "transparent.png": (alpha, {}),
        "transparent.webp": (alpha, {"lossless": True}),
        "grey-transparent.png": (alpha.convert("LA"), {}),
        "palette.png": (palette, {"transparency": int(np.asarray(palette)[0, 0])}),
        "cmyk.jpg": (Image.fromarray(colour).convert("CMYK"), {}),
    }
    for orientation in TURNS:
        exif = Image.Exif()
        exif[0x0112] = orientation
        pictures[f"turned-{orientation}.jpg"] = (Image.fromarray(colour), {"exif": exif})
    for width, height in ((1, 1), (3, 301), (301, 3), (97, 211), (640, 479)):
        pictures[f"{width}x{height}.png"] = (Image.fromarray(_blobs(width, height, 3)), {})
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return [folder / name for name in pictures]


def _blobs(width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """Smooth, deterministic colours without any symmetry."""
    noise = np.random.default_rng([width, height]).integers(0, 256, (6, 5, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
