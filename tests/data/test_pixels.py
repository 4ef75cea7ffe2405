"""Laws of pixels: one rule turns every kind of picture into 8 bits; docs/data.md has its table."""

import ast
import io
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from thaw.data import pixels
from thaw.data.pictures import Shape, channels_of, decode, open_picture, read_picture, rule_warnings
from thaw.data.pixels import BACKGROUND, PHOTOMETRIC, PIXEL_RULE, PLANES, TOPS, eight_bits, open_image, upright
from thaw.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")


def array(values: list[float], kind: type) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=kind))


def coloured(mode: str, *colours: tuple[int, ...]) -> Image.Image:
    picture = Image.new(mode, (len(colours), 1))
    for place, colour in enumerate(colours):
        picture.putpixel((place, 0), colour)
    return picture


def bilevel() -> Image.Image:
    return Image.new("1", (1, 1), 1)


def palette(transparent: int | None = None) -> Image.Image:
    picture = Image.new("P", (2, 1))
    picture.putpalette([200, 0, 0, 0, 0, 200])
    picture.putpixel((1, 0), 1)
    if transparent is not None:
        picture.info["transparency"] = transparent
    return picture


def lab() -> Image.Image:
    return coloured("RGB", (200, 60, 60), (60, 120, 60)).convert("LAB")


def colour_16(*colours: tuple[int, int, int]) -> Image.Image:
    """A PNG with 16 bits for each colour, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

    header = struct.pack(">LLBBBBB", len(colours), 1, 16, 2, 0, 0, 0)
    lines = zlib.compress(b"\0" + np.array(colours, ">u2").tobytes())
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks))


def tiff_with(picture: Image.Image, tag: int, value: int) -> Image.Image:
    """A picture as TIFF with another value of a short tag."""
    file = io.BytesIO()
    picture.save(file, "TIFF")
    content, start = file.getvalue(), struct.pack("<HHL", tag, 3, 1)
    place = content.index(start) + len(start)
    return Image.open(io.BytesIO(content[:place] + struct.pack("<H", value) + content[place + 2 :]))


# The rows of the table: what is in a file, an example of its pixels, and the picture.
GREY = "grey, 8 bits or 1"
Example = tuple[str, str, Callable[[], Image.Image]]
EXAMPLES: list[Example] = [
    (GREY, "0, 100, 255", lambda: array([0, 100, 255], np.uint8)),
    ("colour, 8 bits", "(200, 60, 60)", lambda: coloured("RGB", (200, 60, 60))),
    ("colour, 16 bits", "(0, 1024, 65535)", lambda: colour_16((0, 1024, 65535))),
    ("colour, 16 bits, none above 16383", "(0, 2048, 4095)", lambda: colour_16((0, 2048, 4095))),
    ("palette", "(200, 0, 0), (0, 0, 200)", palette),
    ("palette, one colour transparent", "(200, 0, 0) transparent, (0, 0, 200)", lambda: palette(0)),
    (
        "colour and alpha",
        "(200, 0, 0) at alpha 255, 51, 0",
        lambda: coloured("RGBA", *((200, 0, 0, a) for a in (255, 51, 0))),
    ),
    ("grey and alpha", "0 at alpha 255, 51, 0", lambda: coloured("LA", (0, 255), (0, 51), (0, 0))),
    ("alpha 0 everywhere", "(200, 0, 0) at alpha 0", lambda: coloured("RGBA", (200, 0, 0, 0))),
    ("CMYK", "(255, 0, 0, 0), (0, 0, 0, 51)", lambda: coloured("CMYK", (255, 0, 0, 0), (0, 0, 0, 51))),
    ("LAB", "of (200, 60, 60), (60, 120, 60)", lab),
    ("grey, 16 or 32 bits, none above 255", "0, 100, 200", lambda: array([0, 100, 200], np.uint16)),
    ("none above 1023 (10 bits)", "0, 256, 1023", lambda: array([0, 256, 1023], np.uint16)),
    ("none above 4095 (12 bits)", "0, 1024, 4095", lambda: array([0, 1024, 4095], np.uint16)),
    ("none above 16383 (14 bits)", "0, 4096, 16383", lambda: array([0, 4096, 16383], np.uint16)),
    ("none above 65535 (16 bits)", "0, 16384, 65535", lambda: array([0, 16384, 65535], np.uint16)),
    ("any above 65535", "0, 50000, 100000", lambda: array([0, 50000, 100000], np.int32)),
    ("any below 0", "-1000, 0, 3000", lambda: array([-1000, 0, 3000], np.int32)),
    (
        "the same in TIFF with tags that say that 0 is white",
        "0, 1024, 4095",
        lambda: tiff_with(array([0, 1024, 4095], np.uint16), PHOTOMETRIC, 0),
    ),
    ("floats, none above 1", "0.0, 0.25, 0.5", lambda: array([0, 0.25, 0.5], np.float32)),
    ("floats, some above 1: as 16 or 32 bits", "0.0, 0.5, 300.0", lambda: array([0, 0.5, 300], np.float32)),
    ("floats, any below 0", "-1.0, 0.0, 1.0", lambda: array([-1, 0, 1], np.float32)),
    ("not a number, infinite", "nan, -inf, inf, 0.5", lambda: array([NAN, -INF, INF, 0.5], np.float32)),
]


def shown(picture: Image.Image) -> str:
    values = np.asarray(picture)[0].tolist()
    return ", ".join(f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value) for value in values)


def test_the_table_in_the_documents_is_what_the_code_does() -> None:
    lines = ["| pixels in the file | for example | become | by the rule |", "|---|---|---|---|"]
    for name, before, make in EXAMPLES:
        picture, rule = upright(make())
        lines.append(f"| {name} | {before} | {shown(picture)} | {rule} |")
    text = (ROOT / "docs" / "data.md").read_text()
    start = text.index(lines[0])
    assert text[start:].split("\n\n")[0].splitlines() == lines
    assert f"pixel rule {PIXEL_RULE}" in text.lower()
    assert f"on {BACKGROUND}" in text


def test_what_pillow_reads_otherwise_than_it_was_meant_is_told() -> None:
    rules = Counter(upright(colour_16((0, 2048, 4095)))[1] for _ in range(2))
    rules[upright(tiff_with(array([0, 4095], np.uint16), PHOTOMETRIC, 0))[1]] += 1
    negative, dark = rule_warnings(rules)
    assert negative.startswith("1 TIFF pictures of more than 8 bits have tags that say that 0 is white")
    assert dark.startswith("2 pictures of 16 bits use a quarter of their range or less")
    assert rule_warnings(Counter({"as they are": 3, upright(colour_16((0, 0, 65535)))[1]: 2})) == []


def test_planes_of_16_bits_are_unreadable_since_pillow_takes_other_bytes() -> None:
    planes = tiff_with(array([0, 4095], np.uint16), PLANES, 2)
    with pytest.raises(ValueError, match="its colours are planes of 16 bits"):
        upright(planes)


def through_a_file(picture: Image.Image, path: Path) -> Image.Image:
    picture.save(path)
    return open_picture(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2"])
def test_twelve_bits_in_sixteen_keep_their_levels(tmp_path: Path, suffix: str) -> None:
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    read = np.asarray(through_a_file(Image.fromarray(levels), tmp_path / f"deep{suffix}"))
    assert len(np.unique(read)) == 256
    assert np.abs(read - levels / 4095 * 255).max() <= 0.5


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_brightness_in_a_deep_picture_is_linear_and_depends_on_no_other_picture(values: list[int]) -> None:
    picture, rule = eight_bits(array(values, np.uint16))
    top = next(top for top in TOPS if max(values) <= top)
    assert rule == f"white is {top}"
    assert np.asarray(picture)[0].tolist() == np.rint(np.array(values) * 255 / top).tolist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 0.5, 1], np.float32),
        ([0, 0.5 * 65535, 65535], np.float32),
        ([0, 10**6, 2 * 10**6], np.int32),
        ([-5, 0, 5], np.int32),
    ],
)
def test_deep_pictures_are_neither_all_black_nor_all_white(tmp_path: Path, values: list[float], kind: type) -> None:
    read = np.asarray(through_a_file(array(values, kind), tmp_path / "deep.tif"))[0].tolist()
    assert read in ([0, 127, 255], [0, 128, 255])
    assert channels_of(tmp_path / "deep.tif") == 1


def test_what_is_not_a_number_is_black_and_a_picture_of_nothing_else_cannot_be_read(tmp_path: Path) -> None:
    some, none = array([NAN, 0.5, 1], np.float32), array([NAN, INF, -INF], np.float32)
    assert np.asarray(through_a_file(some, tmp_path / "some.tif"))[0].tolist() == [0, 128, 255]
    with pytest.raises(InputError, match=r"none.tif cannot be read \(none of its pixels is a finite number\)"):
        through_a_file(none, tmp_path / "none.tif")


def unsigned_tiff(values: list[int]) -> bytes:
    """A TIFF of 32-bit numbers without a sign, which Pillow reads as numbers with one."""
    pixels = np.array(values, "<u4").tobytes()
    tags = {256: len(values), 257: 1, 258: 32, 259: 1, 262: 1, 273: 8 + 2 + 12 * 10 + 4, 277: 1, 278: 1}
    tags |= {279: len(pixels), 339: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + pixels


def test_numbers_of_32_bits_without_a_sign_do_not_turn_dark_where_they_are_brightest() -> None:
    with open_image(io.BytesIO(unsigned_tiff([0, 2**31, 2**32 - 1]))) as file:
        file.load()
        picture, rule = eight_bits(file)
    assert (np.asarray(picture)[0].tolist(), rule) == ([0, 128, 255], "from its darkest to its brightest pixel")


def test_lab_is_read_in_colour_and_near_to_what_it_was(tmp_path: Path) -> None:
    colours = coloured("RGB", (200, 60, 60), (60, 120, 60), (128, 128, 128))
    colours.convert("LAB").save(tmp_path / "lab.tif")
    read = open_picture(tmp_path / "lab.tif")
    assert (read.mode, channels_of(tmp_path / "lab.tif")) == ("RGB", 3)
    assert np.abs(np.asarray(read).astype(int) - np.asarray(colours)).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_hidden_behind_alpha_is_not_seen(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    alpha = np.where(np.arange(64).reshape(8, 8) % 2, 255, 0).astype(np.uint8)
    base = Image.fromarray(noise).convert(mode[:-1])
    base.putalpha(Image.fromarray(alpha))
    read = np.asarray(through_a_file(base, tmp_path / "a.png"))
    assert (read[alpha == 0] == 255).all()
    opaque = np.asarray(Image.fromarray(noise).convert(mode[:-1]))
    assert (read[alpha == 255] == opaque[alpha == 255]).all()
    assert channels_of(tmp_path / "a.png") == (3 if mode == "RGBA" else 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_of_a_png_lies_on_the_background(tmp_path: Path, mode: str) -> None:
    picture = palette().convert(mode) if mode != "P" else palette()
    picture.putpixel((0, 0), 0)
    picture.putpixel((1, 0), {"1": 1, "L": 90, "P": 1, "RGB": (90, 90, 90)}[mode])
    hidden: object = (90, 90, 90) if mode == "RGB" else picture.getpixel((1, 0))
    picture.save(tmp_path / "a.png", transparency=hidden)
    assert np.asarray(open_picture(tmp_path / "a.png").convert("L"))[0, 1] == 255


@pytest.mark.parametrize("mode", ["RGBa", "La", "YCbCr", "HSV", "RGBX", "CMYK", "PA"])
def test_every_mode_of_pillow_becomes_grey_or_colour(mode: str) -> None:
    source = Image.new("RGBA", (2, 2), (200, 100, 50, 255))
    made = source.convert("LA").convert("La") if mode == "La" else source.convert(mode if mode == "RGBa" else "RGB")
    made = made if made.mode == mode else made.convert("P").convert("PA") if mode == "PA" else made.convert(mode)
    picture, _ = eight_bits(made)
    assert picture.mode == ("L" if mode == "La" else "RGB")
    assert made.mode == mode


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_a_picture_is_upright_whatever_its_kind(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("RGB", (8, 4), "black")
    picture.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture.save(tmp_path / f"o{suffix}", exif=exif)
    read = np.asarray(open_picture(tmp_path / f"o{suffix}").convert("L"))
    assert read.shape == (8, 4)
    assert (read[:3].min() > 200, read[5:].max() < 50) == (True, True)


def test_a_deep_picture_is_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    array([0, 4095], np.uint16).save(tmp_path / "o.png", exif=exif)
    assert np.asarray(open_picture(tmp_path / "o.png")).tolist() == [[0], [255]]


def test_the_rule_has_a_number_that_a_shape_carries_and_another_rule_is_refused() -> None:
    shape = Shape(8, 8, "bilinear", "whole", 1)
    assert shape.to_json()["pixels"] == PIXEL_RULE
    assert Shape(**shape.to_json()) == shape
    with pytest.raises(InputError, match=rf"by pixel rule 99, this thaw has rule {PIXEL_RULE}"):
        Shape(**asdict(shape) | {"pixels": 99})


def test_a_picture_is_read_with_the_rule_that_it_was_read_by(tmp_path: Path) -> None:
    array([0, 4095], np.uint16).resize((8, 8), Image.Resampling.NEAREST).save(tmp_path / "deep.png")
    picture, rule = read_picture(tmp_path / "deep.png")
    assert rule == "white is 4095"
    assert np.array_equal(decode(tmp_path / "deep.png", Shape(8, 8, "nearest", "whole", 1))[:, :, 0], picture)


def test_pixels_need_nothing_but_numpy_and_pillow() -> None:
    """A copy of the file lies beside every exported network."""
    tree = ast.parse(Path(pixels.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} == {"PIL", "dataclasses", "numpy", "pathlib", "re", "typing"}


@pytest.mark.parametrize("shape", [Shape(8, 8, "bilinear", "whole", 3), Shape(8, 9, "bicubic", "crop", 1)])
def test_a_copy_of_the_file_gives_the_pixels_that_networks_train_on(tmp_path: Path, shape: Shape) -> None:
    Image.effect_noise((13, 11), 80).convert("RGBA").save(tmp_path / "a.png")
    alone = pixels.decode(tmp_path / "a.png", pixels.Geometry(**shape.to_json()))
    assert np.array_equal(alone, decode(tmp_path / "a.png", shape))
