"""unlike: how far a picture is from the training pictures, by its features.

A package keeps the features of some training pictures. The distance of a picture is its cosine
distance to the nearest of them: 0 in the same direction, 1 at a right angle.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

FILE = "unlike.safetensors"
PICTURES = 512  # training pictures whose features a package keeps, balanced over the classes
Features = NDArray[np.float32]


class Neighbours(NamedTuple):
    """Features (k, d) of training pictures, each of length 1, in half precision."""

    vectors: NDArray[np.float16]

    def distances(self, features: Features) -> NDArray[np.float64]:
        """The distance to the nearest neighbour for features (n, d)."""
        nearest = (_normalised(features) @ self.vectors.astype(np.float32).T).max(1)
        result: NDArray[np.float64] = 1.0 - nearest.astype(np.float64)
        return result.clip(min=0.0)  # half precision can take it below

    def save(self, folder: Path) -> None:
        """Write the features into the folder of a package."""
        save_file(self._asdict(), folder / FILE)


def fit(features: Features) -> Neighbours:
    """Neighbours from features (n, d) of training pictures."""
    return Neighbours(_normalised(features).astype(np.float16))


def threshold(distances: NDArray[np.float64], false_alarms: float) -> float:
    """The distance beyond which a picture is called unlike: at most the share `false_alarms` of the
    validation pictures are."""
    return float(np.quantile(distances, 1 - false_alarms, method="higher"))


def load(folder: Path) -> Neighbours | None:
    """Load the neighbours of a package, or None if it has none."""
    return Neighbours(**load_file(folder / FILE)) if (folder / FILE).is_file() else None


def drawn(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw the indices of about `PICTURES` pictures, balanced over the classes with at least one of
    each; the draw is always the same."""
    order = np.random.default_rng(0).permutation(len(labels))
    per_class = -(-PICTURES // len(np.unique(labels)))
    kept = [order[labels[order] == label][:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


def _normalised(features: Features) -> Features:
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    unit: Features = (features / lengths).astype(np.float32)
    return unit
