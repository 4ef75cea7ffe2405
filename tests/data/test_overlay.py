"""Laws of overlays: the map lies over its square of the picture, and its sign can be seen."""

import numpy as np
import pytest
from PIL import Image

from thaw.data.overlay import beside, over
from thaw.data.pictures import Preprocessing, Shape, squared

PREPROCESSING = Preprocessing(32, 40, "bilinear", (0.5,) * 3, (0.25,) * 3)


def one_place(row: int, column: int, value: float = 1.0) -> np.ndarray:
    values = np.zeros((4, 4), np.float32)
    values[row, column] = value
    return values


@pytest.mark.parametrize("fit", ["whole", "crop"])
@pytest.mark.parametrize("size", [(96, 96), (200, 80), (50, 120)])
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 3)])
def test_a_place_of_the_map_is_tinted_where_the_network_saw_it(
    fit: str, size: tuple[int, int], place: tuple[int, int]
) -> None:
    shape = Shape.of(PREPROCESSING, None, fit, 3)
    tinted = over(Image.new("L", size, 128), one_place(*place), shape)
    pixels = squared(tinted, shape).astype(int)
    warm = (pixels[..., 0] - pixels[..., 2]).reshape(4, 8, 4, 8).sum((1, 3))
    assert np.unravel_index(warm.argmax(), warm.shape) == place
    assert warm.max() > 0.3 * warm.sum()


def test_what_a_crop_left_out_is_as_it_was() -> None:
    shape = Shape.of(PREPROCESSING, None, "crop", 3)
    tinted = np.asarray(over(Image.new("RGB", (200, 80), "grey"), np.ones((4, 4), np.float32), shape)).astype(int)
    coloured = (tinted[..., 0] != tinted[..., 2]).any(0)
    assert not coloured[:60].any()
    assert coloured[80:120].all()
    assert not coloured[140:].any()


def test_places_for_the_class_are_warm_places_against_it_cold_and_others_as_they_were() -> None:
    shape = Shape.of(PREPROCESSING, None, "whole", 1)
    values = one_place(0, 0) + one_place(3, 3, -1.0)
    red, _, blue = np.asarray(over(Image.new("L", (64, 64), 128), values, shape)).astype(int).transpose(2, 0, 1)
    assert red[4, 4] > 150 > blue[4, 4]
    assert blue[60, 60] > 150 > red[60, 60]
    assert red[60, 4] == blue[60, 4] == 128


def test_a_map_of_nothing_leaves_the_picture() -> None:
    shape = Shape.of(PREPROCESSING, None, "whole", 1)
    picture = Image.effect_noise((40, 50), 60)
    assert over(picture, np.zeros((4, 4), np.float32), shape).tobytes() == picture.convert("RGB").tobytes()


@pytest.mark.parametrize("size", [(60, 60), (40, 90), (90, 40)])
def test_two_pictures_as_one_are_both_whole(size: tuple[int, int]) -> None:
    both = beside(Image.new("RGB", size, "red"), Image.new("RGB", size, "blue"))
    counts = {colour: count for count, colour in both.getcolors()}
    assert counts[(255, 0, 0, 255)] == counts[(0, 0, 255, 255)] == size[0] * size[1]
    assert max(both.size) / min(both.size) <= 2.5
