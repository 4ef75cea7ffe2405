"""Pictures: reading and checking files, batches of pixels, the views of a square, normalisation.

Decoded pictures are one uint8 array (n, height, width, channels), with a single channel if all are
grey. It is read from a memory map; without one, threads decode the same batches from the files.
"""

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from thaw.data.pixels import (
    DARK,
    FORMATS,
    NEGATIVE,
    PIXEL_RULE,
    STRETCHED,
    Geometry,
    is_grey,
    open_image,
    squared,
    upright,
)
from thaw.errors import InputError

# Extensions of files that are treated as pictures. Their content decides how they are read.
_READ = """
    .apng .avif .bmp .gif .j2c .j2k .jfif .jp2 .jpc .jpe .jpeg .jpf .jpg .jpx .mpo .pbm .pfm .pgm .png .pnm .ppm
    .tif .tiff .webp
"""
SUFFIXES = frozenset(_READ.split())
# What decoders raise for broken files.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    NotImplementedError,
    TypeError,
    MemoryError,
    Image.DecompressionBombError,
)

VIEWS = {"none": 1, "flip": 2, "flips": 4, "square": 8}
QUARTER_TURNS = (0, 2, 1, 3)  # of each pair of views
LARGE = 2**28  # bytes of a memory map; pages of a smaller one may all be in memory
Number = TypeVar("Number", bound=np.generic)


class Unreadable(InputError):
    """An existing file whose picture cannot be read, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"picture {path} cannot be read ({reason}); repair it or take it out")
        self.reason = reason


@dataclass(frozen=True)
class Preprocessing:
    """What the pretrained weights expect of a picture; `resize` is the short side before a centre
    crop to `size`."""

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocessing":
        """Back from `to_json`, also after a trip through a JSON file."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


@dataclass(frozen=True)
class Shape(Geometry):
    """How a picture becomes a square of pixels, by this thaw's pixel rule."""

    def __post_init__(self) -> None:
        if self.pixels != PIXEL_RULE:
            raise InputError(
                f"these pictures were read by pixel rule {self.pixels}, this thaw has rule {PIXEL_RULE}; use the thaw "
                "that made them, or run prepare again and train anew"
            )

    @classmethod
    def of(cls, preprocessing: Preprocessing, size: int | None, fit: str, channels: int) -> "Shape":
        """The weights' own shape, or `size` with the same proportion between resizing and
        cropping."""
        side = size or preprocessing.size
        resize = round(preprocessing.resize * side / preprocessing.size)
        return cls(side, resize, preprocessing.interpolation, fit, channels)

    def to_json(self) -> dict[str, Any]:
        """As plain values, so that `Shape(**values)` gives it back."""
        return asdict(self)

    def blank(self) -> Tensor:
        """One empty normalised picture, for a pass that only looks at shapes."""
        return torch.zeros(1, 3, self.size, self.size)


def channels_of(path: Path) -> int:
    """1 for a grey picture, 3 for any other, read from the file's header."""
    with _readable(path), open_image(path) as file:
        return 1 if is_grey(file.mode) else 3


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"picture {path} does not exist; correct its row in labels.csv or bring the file") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno:  # of the machine, not of the picture
            raise InputError(f"picture {path} cannot be opened ({error.strerror}); mend that and try again") from None
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is no picture of an allowed format; allowed are {', '.join(FORMATS)}"
        raise Unreadable(path, reason) from None


def read_picture(path: Path, opened: BinaryIO | None = None) -> tuple[Image.Image, str]:
    """A file, or what was `opened` under its name, fully decoded, upright, 8-bit grey or RGB; and
    its pixel rule."""
    with _readable(path), open_image(opened or path) as file:
        return upright(file)


def open_picture(path: Path) -> Image.Image:
    """A file, fully decoded, upright, 8-bit grey or RGB."""
    return read_picture(path)[0]


def rule_warnings(rules: Mapping[str, int]) -> list[str]:
    """Warnings about pictures of more than 8 bits that may not be read as they were meant."""
    deep = {rule: count for rule, count in rules.items() if rule.startswith(("white is", STRETCHED))}
    negative = sum(count for rule, count in deep.items() if rule.endswith(NEGATIVE))
    messages = []
    if len(deep) > 1:
        counts = ", ".join(f"{count} of them {rule}" for rule, count in sorted(deep.items()))
        messages.append(
            f"grey pictures of more than 8 bits differ in what white is ({counts}): save them as 8 bits if that is "
            "wrong"
        )
    if negative:
        messages.append(
            f"{negative} TIFF pictures of more than 8 bits have tags that say that 0 is white, but are read with 0 as "
            "black: save them with 0 as black"
        )
    if DARK in rules:
        messages.append(
            f"{rules[DARK]} pictures of 16 bits use a quarter of their range or less, as 12 and 14 bits in 16 do, and "
            "come out dark: save them as 8 bits"
        )
    return messages


def decode(path: Path, shape: Shape, opened: BinaryIO | None = None) -> NDArray[np.uint8]:
    """A file, or what was `opened` under its name, as pixels (size, size, channels)."""
    return squared(read_picture(path, opened)[0], shape)


class Pictures:
    """The pictures of a data set by row number, from a memory map or decoded on the fly."""

    def __init__(self, files: Sequence[Path], shape: Shape, decoded: NDArray[np.uint8] | None, workers: int) -> None:
        self.files = files
        self.shape = shape
        self.decoded = decoded
        self.workers = workers

    def batches(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Tensor]:
        """For each batch of row numbers its pixels, uint8 (n, channels, height, width), one batch
        read ahead."""
        with ThreadPoolExecutor(self.workers) as decoders, ThreadPoolExecutor(1) as reader:

            def read(rows: NDArray[np.int64]) -> Tensor:
                if self.decoded is not None:
                    pixels = rows_of(self.decoded, rows)
                else:
                    pixels = np.stack(list(decoders.map(lambda row: decode(self.files[row], self.shape), rows)))
                return torch.from_numpy(pixels).permute(0, 3, 1, 2)

            ahead = reader.submit(read, batches[0]) if batches else None
            for following in [*batches[1:], None]:
                assert ahead is not None
                pixels = ahead.result()
                ahead = reader.submit(read, following) if following is not None else None
                yield pixels


def rows_of(array: NDArray[Number], *numbers: NDArray[np.int64]) -> NDArray[Number]:
    """`array[numbers]`; rows of a large memory map are read from its file. Touched pages of the
    map would count as memory of this process, and a missing page would load its neighbours too."""
    file: object = array.base  # of a slice it would be the whole map
    if array.nbytes < LARGE or not isinstance(array, np.memmap) or not isinstance(file, mmap.mmap):
        return array[numbers]
    assert array.filename
    flat = np.ravel_multi_index(numbers, array.shape[: len(numbers)])
    picked = np.empty((len(flat), *array.shape[len(numbers) :]), array.dtype)
    with open(array.filename, "rb", buffering=0) as opened:
        for number, place in zip(flat.tolist(), picked, strict=True):
            os.preadv(opened.fileno(), [place], array.offset + number * place.nbytes)
    return picked


def in_batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Row numbers cut into batches of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class Normaliser:
    """Turns uint8 pixels into the input of the weights: three channels, scaled, channels last in
    memory.

    A channel has only 256 values, so a table holds the result for each.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        mean, std = (torch.tensor(values, device=device) for values in (preprocessing.mean, preprocessing.std))
        self.table = (torch.arange(256.0, device=device).view(-1, 1) - mean * 255) * (1 / (std * 255))
        self.device = device

    def __call__(self, pixels: Tensor) -> Tensor:
        pixels = copied(pixels, self.device).permute(0, 2, 3, 1).int()
        table = self.table
        if pixels.shape[3] == 3:  # each in the column of its channel
            pixels, table = 3 * pixels + torch.arange(3, device=self.device, dtype=torch.int32), table.view(-1, 1)
        return table.index_select(0, pixels.flatten()).view(*pixels.shape[:3], 3).permute(0, 3, 1, 2)


def copied(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; the copy to a GPU does not block."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def view(pictures: Tensor, number: int) -> Tensor:
    """View `number` of (n, channels, height, width): the first 2 are flips left to right, the
    first 4 also upside down, all 8 the flips and quarter turns of a square."""
    mirrored = pictures.flip(3) if number % 2 else pictures
    return torch.rot90(mirrored, QUARTER_TURNS[number // 2], (2, 3)) if number > 1 else mirrored


def turned_back(pictures: Tensor, number: int) -> Tensor:
    """Undo `view`: (n, channels, side, side) as it was before."""
    upright = torch.rot90(pictures, -QUARTER_TURNS[number // 2], (2, 3)) if number > 1 else pictures
    return upright.flip(3) if number % 2 else upright


def drawn_views(pictures: int, views: int, draws: int | None) -> NDArray[np.int64]:
    """For each picture the numbers of `draws` different views out of `views` (None: of all), the
    same each time."""
    count = min(draws or views, views)
    first = np.random.default_rng(0).integers(views, size=(pictures, 1))
    return (first + np.arange(count) * views // count) % views


def in_views(pictures: Tensor, numbers: Tensor) -> Tensor:
    """Each picture in the view of its number; each bit of the number is one step for all pictures
    that have it."""
    numbers = copied(numbers, pictures.device).view(-1, 1, 1, 1)
    for bit in (1, 2, 4):
        pictures = torch.where((numbers & bit).bool(), view(pictures, bit), pictures)
    return pictures


def jittered(pictures: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """Normalised pictures after a change of contrast, then of brightness, in standard
    deviations."""
    contrast, brightness = (copied(values, pictures.device).view(-1, 1, 1, 1) for values in (contrast, brightness))
    return pictures * (1 + contrast) + brightness
