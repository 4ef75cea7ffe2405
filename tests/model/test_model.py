"""Laws of the use of a package: from pictures to probabilities and decisions."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from packages import Packaged, draw
from PIL import Image

from thaw.data.parallel import AHEAD
from thaw.data.pictures import Normaliser, decode, view
from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.model.model import Answers, Model, Prediction
from thaw.model.sources import Picture


@pytest.fixture(scope="module")
def model(packaged: Packaged) -> Model:
    return Model.load(packaged.folder, "cpu")


def files(packaged: Packaged) -> list[Path]:
    return sorted(packaged.pictures.rglob("*.png"))


def test_a_package_predicts_what_its_network_says_by_the_plainest_way_to_ask_it(
    packaged: Packaged, model: Model
) -> None:
    network, _ = checkpoint.load(packaged.network)
    normalise = Normaliser(model.about.preprocessing, torch.device("cpu"))
    output = model.predict(files(packaged))
    assert {row.label for row in output} == set(model.classes), "the law is empty: it always says the same"
    for path, row in zip(files(packaged), output, strict=True):
        pixels = torch.from_numpy(decode(path, model.about.shape)[None].copy()).permute(0, 3, 1, 2)
        with torch.inference_mode():
            logits = (network(normalise(pixels)) + network(normalise(view(pixels, 1)))) / 2
        expected = (logits / 1.5).softmax(1)[0].tolist()
        assert row.path == str(path)
        assert list(row.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert row.label == model.classes[int(np.argmax(expected))]


@pytest.mark.parametrize(
    ("second", "label", "decision", "unsure"),
    [(0.39, "noise", "noise", True), (0.4, "noise", "stripes", True), (0.1, "noise", "noise", False)],
)
def test_the_decision_is_that_of_the_operating_point_and_unsure_that_of_the_confidence(
    model: Model, second: float, label: str, decision: str, unsure: bool
) -> None:
    shares = {"noise": 1 - second, "stripes": second}
    answers = Answers(np.array([[1 - second, second]]), None)
    assert model.decide(["a"], answers) == [Prediction("a", label, shares, decision, unsure)]


def test_pictures_that_cannot_be_read_are_rows_with_a_reason_among_the_others(
    model: Model, packaged: Packaged, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(files(packaged)[0].read_bytes()[:200])
    first, last = files(packaged)[0], files(packaged)[-1]
    output = model.predict([first, broken, tmp_path / "missing.png", last])
    assert [bool(row.error) for row in output] == [False, True, True, False]
    assert "no such file" in output[2].error
    assert [output[0], output[3]] == model.predict([first, last])


def test_batches_of_any_size_say_the_same(model: Model, packaged: Packaged) -> None:
    pictures = [Picture(path) for path in files(packaged)]
    together = [row.probabilities for row in model.stream(pictures)]
    for size in (1, 3, 8):
        for one, other in zip(together, model.stream(pictures, size), strict=True):
            assert one == pytest.approx(other.probabilities, abs=1e-6)


def test_features_are_vectors_by_which_equal_pictures_are_equal(
    model: Model, packaged: Packaged, tmp_path: Path
) -> None:
    again = sorted(draw(tmp_path / "again").rglob("*.png"))
    assert model.features(files(packaged)) == pytest.approx(model.features(again))
    assert model.features(again[:3]).shape == (3, 1024)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: it is no picture"):
        model.features([tmp_path / "text.png"])


def test_a_picture_of_something_else_is_unlike_and_one_of_the_training_is_not(
    model: Model, packaged: Packaged, tmp_path: Path
) -> None:
    for name in ("own", "foreign"):
        (tmp_path / name).mkdir()
    for number, path in enumerate(files(packaged)):
        Image.open(path).save(tmp_path / f"own/{number}.bmp")
        Image.new("RGB", (48, 40), (0, 15 * number, 255)).save(tmp_path / f"foreign/{number}.png")
    own, foreign = (model.predict([tmp_path / name]) for name in ("own", "foreign"))
    assert {row.unlike for row in own} == {False}
    assert {row.unlike for row in foreign} == {True}
    assert max(row.distance or 0 for row in own) < min(row.distance or 0 for row in foreign)


def test_pictures_are_read_a_little_ahead_however_many_there_are(model: Model, packaged: Packaged) -> None:
    pulled = []

    def endless() -> Iterator[Picture]:
        for number in count():
            pulled.append(number)
            yield Picture(files(packaged)[0])

    predictions = model.stream(endless(), 4)
    for _ in range(40):
        next(predictions)
    predictions.close()
    assert len(pulled) <= 40 + AHEAD
