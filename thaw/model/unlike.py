"""unlike: how far a picture is from all that a model was trained on, by its features.

A package keeps the features of some training pictures. The distance of a picture is one minus the
cosine of the angle between its features and the nearest of these: 0 in the same direction, 1 at a
right angle.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

FILE = "unlike.safetensors"
PICTURES = 512  # of the training whose features a package keeps, about as many of each class
Features = NDArray[np.float32]


class Neighbours(NamedTuple):
    """Features of training pictures (k, d), each of length 1, in half precision."""

    vectors: NDArray[np.float16]

    def distances(self, features: Features) -> NDArray[np.float64]:
        """The distance of each picture from the nearest of them, by features (n, d)."""
        nearest = (_of_length_1(features) @ self.vectors.astype(np.float32).T).max(1)
        result: NDArray[np.float64] = 1.0 - nearest.astype(np.float64)
        return result

    def save(self, folder: Path) -> None:
        """Write them into the folder of a package."""
        save_file(self._asdict(), folder / FILE)


def fit(features: Features) -> Neighbours:
    """The neighbours that features (n, d) of training pictures make."""
    return Neighbours(_of_length_1(features).astype(np.float16))


def threshold(distances: NDArray[np.float64], false_alarms: float) -> float:
    """The distance beyond which a picture is called unlike, so that at most this share of
    validation pictures is."""
    return float(np.quantile(distances, 1 - false_alarms, method="higher"))


def load(folder: Path) -> Neighbours | None:
    """The neighbours in the folder of a package, if it has any."""
    return Neighbours(**load_file(folder / FILE)) if (folder / FILE).is_file() else None


def drawn(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of about as many of each class as there are `PICTURES` to keep, at least one,
    the same each time."""
    order = np.random.default_rng(0).permutation(len(labels))
    each = -(-PICTURES // len(np.unique(labels)))
    kept = [order[labels[order] == label][:each] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


def _of_length_1(features: Features) -> Features:
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    unit: Features = (features / lengths).astype(np.float32)
    return unit
