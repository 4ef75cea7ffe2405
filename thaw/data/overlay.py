"""Overlay: a map of a square of pixels, drawn over the picture that the square was made from."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.pictures import Shape
from thaw.data.pixels import cut_of

WARM, COLD = (255, 96, 0), (0, 110, 255)
STRONGEST = 0.65  # how much of the colour there is where the map is largest


def over(picture: Image.Image, values: NDArray[np.float32], shape: Shape) -> Image.Image:
    """The picture, tinted by its map (side, side): warm where it is positive, cold where it is
    negative."""
    picture = picture.convert("RGB")
    largest = float(np.abs(values).max()) or 1.0
    for colour, sign in ((WARM, 1), (COLD, -1)):
        share = np.clip(sign * values / largest, 0, None)
        strength = _placed(np.rint(255 * STRONGEST * share).astype(np.uint8), picture.size, shape)
        picture = Image.composite(Image.new("RGB", picture.size, colour), picture, strength)
    return picture


def beside(picture: Image.Image, other: Image.Image) -> Image.Image:
    """Two pictures of one size as one: side by side, or where they are wide one below the
    other."""
    width, height = picture.size
    gap = max(2, max(width, height) // 50)
    place = (0, height + gap) if width > 1.5 * height else (width + gap, 0)
    both = Image.new("RGBA", (place[0] + width, place[1] + height))
    both.paste(picture, (0, 0))
    both.paste(other, place)
    return both


def _placed(values: NDArray[np.uint8], size: tuple[int, int], shape: Shape) -> Image.Image:
    """The map of a picture of `size`; what a centre crop left out is zero."""
    resized, corner = cut_of(size, shape)
    whole = Image.new("L", resized)
    whole.paste(Image.fromarray(values).resize((shape.size, shape.size), Image.Resampling.BILINEAR), corner)
    return whole.resize(size, Image.Resampling.BILINEAR)
