"""explain: where a model looked, drawn over each picture.

FOLDER/0001-a.png    the picture under its map, which is of one class
FOLDER/maps.csv      for each picture its PNG, that class and its probability, or why it cannot be read
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
LARGEST = 640  # pixels of the longer side of what is drawn
TABLE = "maps.csv"


class Row(NamedTuple):
    """What the table says of one picture."""

    path: str
    map: str = ""
    label: str = ""
    probability: float | None = None
    error: str = ""


def explain(model: Model, pictures: Iterable[Picture], folder: Path, label: str | None = None) -> Iterator[Row]:
    """Draw each picture into a new folder, under the map of a class: the most probable one, or `label`.

    What lies in that folder is no picture to explain, also where it is inside one that is.
    """
    network = model.predictor
    if not isinstance(network, Network):
        raise InputError("thaw explain needs the network itself, not an export: name the folder of its package")
    if label is not None and label not in model.classes:
        raise InputError(f"--class {label}: this model has no such class; allowed are {', '.join(model.classes)}")
    _make(folder)
    place = folder.resolve()
    others = (picture for picture in pictures if not picture.path.resolve().is_relative_to(place))
    return _rows(model, network, others, folder, label)


def _rows(
    model: Model, network: Network, pictures: Iterator[Picture], folder: Path, label: str | None
) -> Iterator[Row]:
    number, header = 0, True
    while batch := list(islice(pictures, BATCH)):
        read = [_read(picture) for picture in batch]
        images = [image for image in read if isinstance(image, Image.Image)]
        drawn = iter(_drawn(model, network, images, label))
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
        with _writing(folder), (folder / TABLE).open("ab") as opened:
            opened.write(csv_of(table, header).encode(errors="backslashreplace"))
        header = False
        yield from rows


def _drawn(
    model: Model, network: Network, images: list[Image.Image], label: str | None
) -> Iterator[tuple[Image.Image, str, float]]:
    """Each picture under its map, the class of the map, and its probability."""
    if not images:
        return
    shape = model.about.shape
    pixels = torch.from_numpy(np.stack([squared(image, shape) for image in images])).permute(0, 3, 1, 2)
    pixels = pixels.to(network.normalise.device)
    targets = None if label is None else torch.full((len(images),), model.classes.index(label), device=pixels.device)
    maps, logits = evidence(network.model, pixels, network.normalise, network.views, targets)
    shares = calibration.probabilities(logits, network.temperature)
    for image, values, share in zip(images, maps.numpy(), shares, strict=True):
        name = label if label is not None else model.classes[int(share.argmax())]
        image.thumbnail((LARGEST, LARGEST))
        yield over(image, values, shape), name, float(share[model.classes.index(name)])


def _read(picture: Picture) -> Image.Image | str:
    """A picture, or why it cannot be read."""
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
