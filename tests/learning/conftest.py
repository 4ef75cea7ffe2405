"""Tiny real networks and pictures for the laws of learning."""

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thaw.data.pictures import Normaliser, Pictures, Preprocessing, Shape
from thaw.learning.backbones import Classifier, create

SIZE = 32


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    torch.manual_seed(0)


@cache
def _made(name: str, classes: int) -> tuple[Classifier, torch.Tensor]:
    """A network and the random state after making it; making one takes longer than an epoch."""
    torch.manual_seed(0)
    model = create(name, "random", classes)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model.eval().to(memory_format=torch.channels_last), torch.get_rng_state()


@pytest.fixture
def network() -> Callable[..., Classifier]:
    """A ResNet-18 with random weights and BatchNorm statistics, so that folding does something."""

    def make(name: str = "resnet18", classes: int = 2) -> Classifier:
        model, state = _made(name, classes)
        torch.set_rng_state(state)
        return deepcopy(model)

    return make


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(SIZE, SIZE, "bilinear", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def normalise(preprocessing: Preprocessing) -> Normaliser:
    return Normaliser(preprocessing, torch.device("cpu"))


@pytest.fixture
def pictures(tmp_path: Path, preprocessing: Preprocessing) -> Pictures:
    """24 grey pictures on disk and in memory; the odd ones have a bright left half."""
    shape = Shape.of(preprocessing, None, "whole", 1)
    random = np.random.default_rng(0)
    decoded = random.integers(0, 120, (24, SIZE, SIZE, 1), dtype=np.uint8)
    decoded[1::2, :, : SIZE // 2] += 100
    files = [tmp_path / f"{number}.png" for number in range(len(decoded))]
    for file, pixels in zip(files, decoded, strict=True):
        Image.fromarray(pixels[:, :, 0]).save(file)
    return Pictures(files, shape, decoded, workers=2)


@pytest.fixture
def targets() -> torch.Tensor:
    """The class of each picture, as probabilities."""
    return torch.eye(2)[torch.arange(24) % 2]
