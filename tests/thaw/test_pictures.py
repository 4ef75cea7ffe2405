"""Laws of reading pictures: however they are read, they are the same."""

from pathlib import Path

import numpy as np
import pytest

from thaw import pictures
from thaw.pictures import Pictures, in_batches, rows_of


def test_a_large_memory_map_gives_the_rows_of_the_array_and_is_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).standard_normal((9, 4, 5)).astype(np.float32)
    np.save(tmp_path / "array.npy", array)
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    rows, views = np.array([8, 0, 3, 3]), np.array([3, 0, 1, 2])
    for large in (0, 2**28):
        monkeypatch.setattr(pictures, "LARGE", large)
        for given in (array, mapped, mapped[:]):
            assert np.array_equal(rows_of(given, rows), array[rows])
            assert np.array_equal(rows_of(given, rows, views), array[rows, views])
    monkeypatch.setattr(pictures, "LARGE", 0)
    monkeypatch.setattr(np.memmap, "__getitem__", lambda *_: pytest.fail("its pages were touched"))
    rows_of(mapped, rows, views)


def test_batches_from_a_large_memory_map_equal_those_decoded_on_the_fly(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaw.pictures.LARGE", 0)
    np.save(tmp_path / "pictures.npy", pictures.decoded)
    kept = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    batches = in_batches(np.arange(24)[::-1].copy(), 5)
    readers = [Pictures(pictures.files, pictures.shape, decoded, 2) for decoded in (kept, None)]
    for read, decoded in zip(*(reader.batches(batches) for reader in readers), strict=True):
        assert np.array_equal(read, decoded)
