"""Pixels: any picture file as the square of 8-bit pixels that a network takes.

    decode("cell.tif", Geometry(160, 183, "bicubic", fit="whole", channels=1))

It needs numpy and Pillow only: `thaw export` writes this file beside the network.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

# Allowed formats. Pillow goes by the content of a file, not by its name, and passes some formats
# to other programs, so only these decoders are used. JPEG's reads MPO too.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
GREY = ("1", "L", "LA", "La", "I", "F")
# The number of the rules in `eight_bits`. It is part of each `Geometry`, so a model carries it:
# change it with the rules.
PIXEL_RULE = 1
BACKGROUND = "white"
TOPS = (255, 1023, 4095, 16383, 65535)  # the brightest value of 8, 10, 12, 14 and 16 bits
STRETCHED = "from its darkest to its brightest pixel"
HIGH_BYTE = "by its high byte"  # colour of 16 bits: Pillow reads no more of it
DARK = "by its high byte, which is below 64"
NEGATIVE = ", though its tags say that 0 is white"
# TIFF tags; sample format 1 is unsigned
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes a square of pixels; `pixels` is the number of the rule that makes them
    8-bit."""

    size: int
    resize: int
    interpolation: str
    fit: str
    channels: int
    pixels: int = PIXEL_RULE


def decode(source: str | Path | BinaryIO, geometry: Geometry) -> NDArray[np.uint8]:
    """A file as pixels (size, size, channels)."""
    with open_image(source) as file:
        return squared(upright(file)[0], geometry)


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Open a file of an allowed format; reads only its header."""
    return Image.open(source, formats=FORMATS)


def is_grey(mode: str) -> bool:
    """Whether a mode of Pillow is grey."""
    return mode in GREY or mode.startswith("I;16")


def upright(file: Image.Image) -> tuple[Image.Image, str]:
    """An opened file, fully decoded, upright, 8-bit grey or RGB; and its pixel rule."""
    if _tag(file, PLANES) == (2,) and max(_tag(file, BITS_PER_SAMPLE), default=8) > 8:
        raise ValueError(
            "its colours are planes of 16 bits, which Pillow misreads; save it as 8 bits or pixel by pixel"
        )
    high_byte = any(re.search(";16[BLN]", str(tile)) for tile in getattr(file, "tile", []))
    file.load()
    picture, rule = eight_bits(file)
    if high_byte and not _is_deep(file.mode):
        extrema: Any = file.getextrema()
        rule = DARK if all(brightest < 64 for _, brightest in extrema[:3]) else HIGH_BYTE
    picture.getexif()[ExifTags.Base.Orientation] = file.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(picture), rule


def eight_bits(picture: Image.Image) -> tuple[Image.Image, str]:
    """Any picture as 8-bit grey or RGB, and the rule for its kind of pixels; other pictures do not
    matter."""
    mode = "L" if is_grey(picture.mode) else "RGB"
    if _is_deep(picture.mode):
        return _from_numbers(picture)
    if not picture.has_transparency_data:
        names = {"P": "its palette", "CMYK": "without a profile", "LAB": "as sRGB"}
        return picture.convert(mode), names.get(picture.mode, "as they are")
    with_alpha = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    if not with_alpha.getchannel("A").getbbox():
        return with_alpha.convert("RGB").convert(mode), "alpha left out"
    background = Image.new("RGBA", picture.size, BACKGROUND)
    return Image.alpha_composite(background, with_alpha).convert(mode), f"on {BACKGROUND}"


def _is_deep(mode: str) -> bool:
    return mode == "F" or mode.startswith("I")


def _tag(picture: Image.Image, number: int) -> tuple[Any, ...]:
    """The values of a tag of TIFF; empty if there are none."""
    value = getattr(picture, "tag_v2", {}).get(number, ())
    return value if isinstance(value, tuple) else (value,)


def _from_numbers(picture: Image.Image) -> tuple[Image.Image, str]:
    """Grey of more than 8 bits: white is the largest value of the fewest bits that hold every
    pixel; of floats it may be
    1. If a pixel is negative or needs more than 16 bits, the darkest is black and the brightest
       white."""
    numbers = np.asarray(picture)
    unsigned = (_tag(picture, SAMPLE_FORMAT) or (1,)) == (1,)
    if unsigned and _tag(picture, BITS_PER_SAMPLE) == (32,) and numbers.dtype == np.int32:
        numbers = numbers.view(np.uint32)  # Pillow has no mode for it
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        raise ValueError("none of its pixels is a finite number")
    black, white, rule = float(finite.min()), float(finite.max()), STRETCHED
    if black >= 0 and white <= TOPS[-1]:
        tops = (1, *TOPS) if picture.mode == "F" else TOPS
        top = next(top for top in tops if white <= top)
        black, white, rule = 0.0, float(top), f"white is {top}"
    if _tag(picture, PHOTOMETRIC) == (0,):
        rule += NEGATIVE
    scaled = (np.clip(numbers, black, white).astype(np.float64) - black) * 255 / ((white - black) or 1)
    return Image.fromarray(np.rint(np.nan_to_num(scaled)).astype(np.uint8)), rule


def cut_of(size: tuple[int, int], geometry: Geometry) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size to which a picture is resized, and the top left corner of the square that is then
    cut out."""
    if geometry.fit == "whole":
        return (geometry.size, geometry.size), (0, 0)
    scale = geometry.resize / min(size)
    width, height = (max(geometry.size, round(side * scale)) for side in size)
    return (width, height), ((width - geometry.size) // 2, (height - geometry.size) // 2)


def squared(picture: Image.Image, geometry: Geometry) -> NDArray[np.uint8]:
    """A picture as pixels (size, size, channels): squeezed whole, or its centre as the weights
    crop it."""
    picture = picture.convert("L" if geometry.channels == 1 else "RGB")
    size, (left, top) = cut_of(picture.size, geometry)
    picture = picture.resize(size, Image.Resampling[geometry.interpolation.upper()])
    picture = picture.crop((left, top, left + geometry.size, top + geometry.size))
    return np.asarray(picture).reshape(geometry.size, geometry.size, geometry.channels)
