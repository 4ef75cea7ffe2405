"""Laws of explain: one map a picture for the class that the model gives, or why there is none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from packages import CLASSES, Packaged
from PIL import Image

from thaw.data.manifest import read_table
from thaw.errors import InputError
from thaw.model.explain import TABLE, explain
from thaw.model.model import Model
from thaw.model.sources import Picture, pictures


def test_each_picture_has_a_map_of_what_the_model_says_of_it(packaged: Packaged, tmp_path: Path) -> None:
    model, broken = Model.load(packaged.folder), tmp_path / "a" / "0.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no picture")
    sources = [str(broken), str(packaged.pictures), str(broken)]
    rows = list(explain(model, pictures(sources), tmp_path / "maps"))
    output = list(model.stream(pictures(sources)))
    assert [row.path for row in rows] == [prediction.path for prediction in output]
    assert [row.label for row in rows] == [prediction.label for prediction in output]
    assert [bool(row.error) for row in rows] == [True, *[False] * (len(rows) - 2), True]
    assert {row.label for row in rows} >= set(CLASSES)
    for row, prediction in zip(rows[1:-1], output[1:-1], strict=True):
        assert row.probability == pytest.approx(prediction.probabilities[prediction.label], abs=1e-5)
        drawn = np.asarray(Image.open(tmp_path / "maps" / row.map)).astype(int)
        picture = np.asarray(Image.open(row.path)).astype(int)
        assert drawn.shape == picture.shape
        assert abs(drawn - picture).max() > 25
    table = read_table(tmp_path / "maps" / TABLE, ["probability"])
    assert table["map"].tolist() == [row.map for row in rows]
    assert table["class"].tolist() == [row.label for row in rows]
    assert len(list((tmp_path / "maps").glob("*.png"))) == len(rows) - 2


def test_the_map_is_of_the_class_that_is_asked_for(packaged: Packaged, tmp_path: Path) -> None:
    model = Model.load(packaged.folder)
    paths = [Picture(path) for path in sorted(packaged.pictures.rglob("*.png"))[:2]]
    drawn = []
    for label in CLASSES:
        rows = list(explain(model, paths, tmp_path / label, label))
        assert [row.label for row in rows] == [label] * 2
        drawn.append((rows, [np.asarray(Image.open(tmp_path / label / row.map)) for row in rows]))
    (some, one), (others, other) = drawn
    for first, second in zip(some, others, strict=True):
        assert first.probability is not None
        assert second.probability is not None
        assert first.probability + second.probability == pytest.approx(1)
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_maps_that_are_drawn_among_the_pictures_are_not_explained_too(packaged: Packaged, tmp_path: Path) -> None:
    for number in range(20):
        shutil.copy(packaged.pictures / "noise" / "0.png", tmp_path / f"{number}.png")
    rows = list(explain(Model.load(packaged.folder), pictures([str(tmp_path)]), tmp_path / "maps"))
    assert len(rows) == 20


def test_what_cannot_be_explained_is_one_sentence_before_anything_is_written(
    packaged: Packaged, tmp_path: Path
) -> None:
    model = Model.load(packaged.folder)
    with pytest.raises(InputError, match="--class horses: this model has no such class; allowed are noise, stripes"):
        explain(model, [], tmp_path / "maps", "horses")
    assert not (tmp_path / "maps").exists()
    (tmp_path / "a.txt").touch()
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        explain(model, [], tmp_path)
    with pytest.raises(InputError, match=r"a\.txt cannot be written"):
        explain(model, [], tmp_path / "a.txt")
    exported = Model(model.about, lambda pixels: model.predictor(pixels), None)
    with pytest.raises(InputError, match="needs the network itself"):
        explain(exported, [], tmp_path / "maps")
