"""A law of every family of networks: an export says what evaluate says.

`pytest -m every_family` asks for all of them but those of every day.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import ONE_OF_EACH_FAMILY, size_for

from thaw.data.pictures import VIEWS, Normaliser, Pictures, Shape, view
from thaw.learning.backbones import Classifier, create, preprocessing_of
from thaw.learning.folding import fold_batchnorm
from thaw.learning.prediction import predict
from thaw.model import onnx, proof
from thaw.model.model import Answers
from thaw.model.package import Package
from thaw.statistics import calibration

EVERY_DAY = ("efficientnet_lite0", "resnet18")


def cases() -> list[Any]:
    rare = [pytest.mark.every_family, pytest.mark.slow]
    return [
        pytest.param(name, marks=pytest.mark.slow if name in EVERY_DAY else rare, id=name)
        for name in ONE_OF_EACH_FAMILY
    ]


def network(name: str, shape: Shape, pictures: torch.Tensor) -> Classifier:
    """A network with random weights, whose BatchNorms know these very pictures and are folded.

    With the statistics of others the deep layers of EfficientNet reach 1e6. There float32 differs
    from float64 by 1e-4, relatively, in torch as in ONNX Runtime: no export could agree.
    """
    torch.manual_seed(0)
    model = create(name, "random", 3, shape.size).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
    with torch.no_grad():
        model(pictures)
    fold_batchnorm(model.eval(), shape.blank())
    return model


@pytest.mark.parametrize("name", cases())
def test_an_export_of_every_family_says_what_evaluate_says(name: str, tmp_path: Path) -> None:
    shape = Shape(size_for(name), size_for(name), "bilinear", "whole", 3)
    preprocessing = preprocessing_of(name, "random")
    pixels = np.random.default_rng(0).integers(0, 256, (5, shape.size, shape.size, 3), dtype=np.uint8)
    normalise = Normaliser(preprocessing, torch.device("cpu"))
    pictures = normalise(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    model = network(name, shape, torch.cat([view(pictures, number) for number in range(VIEWS["square"])]))
    logits = predict(deepcopy(model), Pictures([], shape, pixels, 1), np.arange(5), normalise, VIEWS["square"], 5)
    temperature = float(logits.std())  # so that no probability is near to 0 or 1
    about = Package.of(
        {"classes": ["a", "b", "c"], "shape": shape.to_json(), "preprocessing": preprocessing.to_json()}
        | {"views": "square", "temperature": temperature, "operating": None, "sure": 0.7, "unlike": None}
    )
    onnx.write_graph(onnx.Graph(model, about).eval(), about, tmp_path / "model.onnx")
    exported = onnx.Exported(tmp_path / "model.onnx")
    expected = calibration.probabilities(logits, temperature)
    for rows in (slice(None), slice(1)):  # any number of pictures at once
        result = proof.agreement(Answers(expected[rows], None), exported(pixels[rows]), None)
        assert result.holds(), result
    assert expected.min() > 0.01
    assert np.ptp(expected, axis=0).max() > 10 * proof.TOLERANCE, "the law is empty: it says the same of all pictures"
