"""Laws of reading pictures: every way reads the same pixels, and no file starts a program."""

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from typer.testing import CliRunner

from thaw import cli
from thaw.data import pictures
from thaw.data.pictures import Pictures, channels_of, in_batches, open_picture, rows_of
from thaw.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(written) print\n%%EOF\n"


def test_a_large_memory_map_gives_the_rows_of_the_array_and_is_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).standard_normal((9, 4, 5)).astype(np.float32)
    np.save(tmp_path / "array.npy", array)
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    rows, views = np.array([8, 0, 3, 3]), np.array([3, 0, 1, 2])
    for large in (0, 2**28):
        monkeypatch.setattr(pictures, "LARGE", large)
        for array_like in (array, mapped, mapped[:]):
            assert np.array_equal(rows_of(array_like, rows), array[rows])
            assert np.array_equal(rows_of(array_like, rows, views), array[rows, views])
    monkeypatch.setattr(pictures, "LARGE", 0)
    monkeypatch.setattr(np.memmap, "__getitem__", lambda *_: pytest.fail("its pages were touched"))
    rows_of(mapped, rows, views)


def test_batches_from_a_large_memory_map_equal_those_decoded_on_the_fly(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaw.data.pictures.LARGE", 0)
    np.save(tmp_path / "pictures.npy", pictures.decoded)
    kept = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    batches = in_batches(np.arange(24)[::-1].copy(), 5)
    readers = [Pictures(pictures.files, pictures.shape, decoded, 2) for decoded in (kept, None)]
    for read, decoded in zip(*(reader.batches(batches) for reader in readers), strict=True):
        assert np.array_equal(read, decoded)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there as soon as somebody starts a program by the name of Ghostscript."""
    marker, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    # Pillow caches its search for the program
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return marker


@pytest.mark.parametrize("read", [open_picture, channels_of])
def test_a_file_that_is_called_a_picture_starts_no_program(
    tmp_path: Path, started: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "o.png").write_bytes(EPS)
    with pytest.raises(InputError, match=r"o\.png cannot be read .*allowed are AVIF, BMP, .* TIFF, WEBP"):
        read(tmp_path / "o.png")
    assert not started.exists()


def test_a_new_picture_that_is_none_starts_no_program(
    tmp_path: Path, started: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    for name in ("data/cat/1.png", "data/dog/1.png", "new/cat/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name)).save(tmp_path / name)
    (tmp_path / "new/cat/o.png").write_bytes(EPS)
    done = CliRunner().invoke(cli.app, ["add", str(tmp_path / "new"), "--dry-run"])
    assert done.exit_code == 2, done.output
    assert "o.png cannot be read" in done.output
    assert not started.exists()


@pytest.mark.parametrize("suffix", sorted(pictures.SUFFIXES))
def test_every_format_that_is_promised_is_read_and_of_several_pages_the_first(tmp_path: Path, suffix: str) -> None:
    first, second = (Image.new("RGB", (8, 8), (value, value, value)) for value in (200, 20))
    several = suffix in (".gif", ".png", ".tif", ".tiff", ".webp", ".mpo")
    first.save(tmp_path / f"o{suffix}", **({"save_all": True, "append_images": [second]} if several else {}))
    assert np.abs(np.asarray(open_picture(tmp_path / f"o{suffix}").convert("L")).astype(int) - 200).max() <= 2


@pytest.mark.parametrize("error", [NotImplementedError("compression 9"), TypeError("no tag\n1"), MemoryError()])
def test_whatever_a_decoder_raises_names_the_picture_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    Image.new("L", (8, 8)).save(tmp_path / "o.png")
    monkeypatch.setattr(Image.Image, "load", fails)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    why = " ".join(str(error).split()) or "MemoryError"
    with pytest.raises(InputError, match=rf"\A[^\n]*o\.png cannot be read \({why}\)[^\n]*\Z"):
        open_picture(tmp_path / "o.png")


def sources() -> Iterator[tuple[str, ast.Module]]:
    """The name and the code of every Python file that is not a test."""
    for room in ("thaw", "tasks", "flows", "scripts", "benchmarks", "automations"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix == ".py" or (path.is_file() and path.read_bytes()[:40].startswith(b"#!/usr/bin/env python")):
                yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def test_pictures_are_opened_in_one_place_that_lists_its_decoders() -> None:
    """Pillow trusts a file's content: without a list, any of its decoders may get the picture."""
    places = []
    for name, tree in sources():
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        modules = {"Image"}  # what this file calls Pillow's module
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", None)
                modules |= {alias.asname for alias in node.names if alias.asname and alias.name.endswith("Image")}
                if module == "PIL.Image":
                    places += [(name, False) for alias in node.names if alias.name == "open"]
        for node in ast.walk(tree):
            called = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if called.rpartition(".")[2] == "imread" or (called.endswith(".open") and called.split(".")[-2] in modules):
                call = calls.get(id(node))
                places.append((name, bool(call) and any(keyword.arg == "formats" for keyword in call.keywords)))
    assert places == [("thaw/data/pixels.py", True)]
