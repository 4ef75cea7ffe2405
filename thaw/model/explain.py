"""explain: where a model looked, drawn over each picture.

FOLDER/0001-a.png    a picture under its map, which is of one class FOLDER/maps.csv      for each
picture its PNG, that class and its probability, or why it cannot be read
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from thaw.data.manifest import csv_of
from thaw.data.overlay import over
from thaw.data.pictures import Unreadable, read_picture
from thaw.data.pixels import squared
from thaw.errors import InputError
from thaw.learning.attribution import evidence
from thaw.model.model import Model, Network
from thaw.model.sources import Picture
from thaw.statistics import calibration

BATCH = 16
LARGEST = 640  # pixels of the longer side of a PNG
TABLE = "maps.csv"


class Row(NamedTuple):
    """A row of the table."""

    path: str
    map: str = ""
    label: str = ""
    probability: float | None = None
    error: str = ""


def explain(model: Model, pictures: Iterable[Picture], folder: Path, label: str | None = None) -> Iterator[Row]:
    """Draw each picture into a new folder, under the map of a class: the most probable one, or
    `label`.

    Files in the new folder are skipped, in case it lies inside one of the sources.
    """
    network = model.predictor
    if not isinstance(network, Network):
        raise InputError("thaw explain needs the network itself, not an export: name the folder of its package")
    if label is not None and label not in model.classes:
        raise InputError(f"--class {label}: this model has no such class; allowed are {', '.join(model.classes)}")
    _make(folder)
    out = folder.resolve()
    inputs = (picture for picture in pictures if not picture.path.resolve().is_relative_to(out))
    return _rows(model, network, inputs, folder, label)


def _rows(
    model: Model, network: Network, pictures: Iterator[Picture], folder: Path, label: str | None
) -> Iterator[Row]:
    number, header = 0, True
    while batch := list(islice(pictures, BATCH)):
        read = [_read(picture) for picture in batch]
        images = [image for image in read if isinstance(image, Image.Image)]
        drawn = iter(_draw(model, network, images, label))
        rows = []
        for picture, image in zip(batch, read, strict=True):
            number += 1
            if isinstance(image, str):
                rows.append(Row(str(picture.path), error=image))
                continue
            tinted, name, probability = next(drawn)
            file = f"{number:04}-{picture.path.stem[:80]}.png"
            with _writing(folder):
                tinted.save(folder / file)
            rows.append(Row(str(picture.path), file, name, probability))
        table = pd.DataFrame(rows, dtype=object).rename(columns={"label": "class"})
        with _writing(folder), (folder / TABLE).open("ab") as csv_file:
            csv_file.write(csv_of(table, header).encode(errors="backslashreplace"))
        header = False
        yield from rows


def _draw(
    model: Model, network: Network, images: list[Image.Image], label: str | None
) -> Iterator[tuple[Image.Image, str, float]]:
    """Yield each picture under its map, with the class of the map and its probability."""
    if not images:
        return
    shape = model.about.shape
    pixels = torch.from_numpy(np.stack([squared(image, shape) for image in images])).permute(0, 3, 1, 2)
    pixels = pixels.to(network.normalise.device)
    targets = None if label is None else torch.full((len(images),), model.classes.index(label), device=pixels.device)
    maps, logits = evidence(network.model, pixels, network.normalise, network.views, targets)
    probabilities = calibration.probabilities(logits, network.temperature)
    for image, values, p in zip(images, maps.numpy(), probabilities, strict=True):
        name = label if label is not None else model.classes[int(p.argmax())]
        image.thumbnail((LARGEST, LARGEST))
        yield over(image, values, shape), name, float(p[model.classes.index(name)])


def _read(picture: Picture) -> Image.Image | str:
    """The pixels of a picture, or why it cannot be read."""
    if picture.error:
        return picture.error
    try:
        return read_picture(picture.path, picture.file)[0]
    except Unreadable as error:
        return error.reason
    except InputError as error:
        return str(error)


def _make(folder: Path) -> None:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"--out {folder} is not empty; name a new folder")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written: {error.strerror}") from None
