"""A trained model, ready to use: from pictures to probabilities and decisions.

model = Model.load(Path("artifacts/package"))
model.predict(["a.jpg", "b.png"])
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from thaw.data.parallel import stream
from thaw.data.pictures import VIEWS, Normaliser, Unreadable, copied, decode, view
from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.learning.convolutions import quicken
from thaw.learning.folding import fold_batchnorm
from thaw.model import package, unlike
from thaw.model.package import Package
from thaw.model.sources import Picture, pictures
from thaw.model.unlike import Neighbours
from thaw.statistics import calibration

BATCH = 64
Pixels = NDArray[np.uint8]


class Answers(NamedTuple):
    """A predictor's output for a batch: calibrated probabilities (n, classes), and the features
    (n, d) of the first view, if the predictor has features."""

    probabilities: NDArray[np.float64]
    features: NDArray[np.float32] | None


class Predictor(Protocol):
    """Takes a batch of pixels (n, size, size, channels), as `thaw.data.pictures.decode` returns
    them. Normalisation, views and temperature happen inside.
    """

    def __call__(self, pixels: Pixels) -> Answers: ...


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture. If the picture cannot be read, only `error` is set.

    `label` is the most probable class, `decision` the class by the operating point. `columns` are
    the other cells of the picture's row, if it came from a table.
    """

    path: str
    label: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    decision: str = ""
    unsure: bool | None = None
    unlike: bool | None = None
    distance: float | None = None
    error: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)


class Network:
    """The network of a package in PyTorch, as a predictor."""

    def __init__(self, folder: Path, about: Package, device: torch.device) -> None:
        model, meta = checkpoint.load(folder)
        if not meta["folded"]:
            fold_batchnorm(model, about.shape.blank())
        self.model = model.to(device).eval()
        quicken(self.model)
        self.normalise = Normaliser(about.preprocessing, device)
        self.views = VIEWS[about.views]
        self.temperature = about.temperature

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Answers:
        batch = copied(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.normalise.device)
        features = [self.model.backbone(self.normalise(view(batch, number))) for number in range(self.views)]
        logits = torch.stack([self.model.head(view_features) for view_features in features]).mean(0).float().cpu()
        return Answers(calibration.probabilities(logits, self.temperature), features[0].float().cpu().numpy())


class Model:
    """A predictor, and the metadata that turn pictures into pixels and probabilities into
    decisions."""

    def __init__(self, about: Package, predictor: Predictor, neighbours: Neighbours | None, workers: int = 2) -> None:
        self.about = about
        self.predictor = predictor
        self.neighbours = neighbours
        self.workers = workers

    @classmethod
    def load(cls, folder: Path, device: str = "auto", workers: int = 2, views: str | None = None) -> "Model":
        """Load the model of a package.

        Args:
            folder: the package.
            device: auto, cpu, cuda or mps.
            workers: threads that decode pictures.
            views: views to use in place of the package's.
        """
        about = package.read(folder)
        if views is not None:
            if views not in VIEWS:
                raise InputError(f"views is '{views}'; allowed are {', '.join(VIEWS)}")
            about = replace(about, views=views)
        return cls(about, Network(folder, about, _device(device)), unlike.load(folder), workers)

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the probabilities; of two classes the second is positive."""
        return self.about.classes

    def predict(self, paths: Iterable[str | Path]) -> list[Prediction]:
        """Predict all pictures of files, folders, archives and tables."""
        return list(self.stream(pictures(map(str, paths))))

    def stream(self, inputs: Iterable[Picture], batch_size: int = BATCH) -> Iterator[Prediction]:
        """Predict pictures one by one; memory does not grow with their number."""
        for batch in self._batches(inputs, batch_size):
            yield from self._predictions(batch)

    def features(self, paths: Iterable[str | Path]) -> NDArray[np.float32]:
        """The features (n, d) in front of the head, as vectors to search or compare by.

        Raises if a picture cannot be read.
        """
        parts = []
        for batch in self._batches(pictures(map(str, paths)), BATCH):
            for picture, pixels in batch:
                if pixels is None:
                    raise InputError(f"{picture.path}: {picture.error}; take it out or repair it")
            result = self.predictor(np.stack([pixels for _, pixels in batch if pixels is not None])).features
            if result is None:
                raise InputError("this model gives no features: use its package, not an export")
            parts.append(result)
        if not parts:
            raise InputError("there are no pictures to make features of")
        return np.concatenate(parts)

    def probabilities(self, pixels: Pixels) -> NDArray[np.float64]:
        """Calibrated probabilities (n, classes) of pixels (n, size, size, channels)."""
        return self.predictor(pixels).probabilities

    def decide(self, paths: Sequence[str], answers: Answers) -> list[Prediction]:
        """Turn a predictor's output for pictures into predictions."""
        p, about = answers.probabilities, self.about
        labels, decisions, unsure = p.argmax(1), calibration.decided(p, about.threshold), p.max(1) < about.sure
        distances: list[float] | None = None
        if self.neighbours and about.far is not None and answers.features is not None:
            distances = self.neighbours.distances(answers.features).tolist()
        return [
            Prediction(
                path,
                self.classes[labels[row]],
                dict(zip(self.classes, p[row].tolist(), strict=True)),
                self.classes[decisions[row]],
                bool(unsure[row]),
                distances[row] > about.far if distances and about.far is not None else None,
                distances[row] if distances else None,
            )
            for row, path in enumerate(paths)
        ]

    def _batches(self, inputs: Iterable[Picture], size: int) -> Iterator[list[tuple[Picture, Pixels | None]]]:
        """Batches of pictures with their pixels, or None for those with an `error`."""
        with ThreadPoolExecutor(self.workers) as threads:
            decoded = stream(threads, self._decode, inputs)
            while batch := list(islice(decoded, size)):
                yield batch

    def _decode(self, picture: Picture) -> tuple[Picture, Pixels | None]:
        """Decode a picture; the picture that is returned has dropped its bytes."""
        error, pixels = picture.error, None
        try:
            if not error:
                pixels = decode(picture.path, self.about.shape, picture.file)
        except InputError as failure:
            error = failure.reason if isinstance(failure, Unreadable) else str(failure)
        return replace(picture, file=None, error=error), pixels

    def _predictions(self, batch: Sequence[tuple[Picture, Pixels | None]]) -> Iterator[Prediction]:
        readable = [pixels for _, pixels in batch if pixels is not None]
        paths = [str(picture.path) for picture, pixels in batch if pixels is not None]
        decided = iter(self.decide(paths, self.predictor(np.stack(readable))) if paths else ())
        for picture, pixels in batch:
            prediction = Prediction(str(picture.path), error=picture.error) if pixels is None else next(decided)
            yield replace(prediction, columns=picture.columns)


def _device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kinds = [kind for kind, is_available in available.items() if is_available]
    if name == "auto":
        name = kinds[0]
    if name not in kinds:
        raise InputError(f"the device is '{name}'; this machine has {', '.join(kinds)} (or use auto)")
    return torch.device(name)
