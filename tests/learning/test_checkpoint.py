"""Laws of checkpoints: they rebuild the network to the bit, and damage is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.learning.backbones import Classifier
from thaw.learning.folding import fold_batchnorm

SHAPE = {"size": 32, "resize": 32, "interpolation": "bilinear", "fit": "whole", "channels": 1}


def meta(folded: bool) -> dict[str, object]:
    return {"backbone": "resnet18", "classes": ["no", "yes"], "shape": SHAPE, "folded": folded}


@pytest.mark.parametrize("folded", [False, True])
def test_a_checkpoint_rebuilds_the_same_network(
    network: Callable[..., Classifier], tmp_path: Path, folded: bool
) -> None:
    model = network()
    pictures = torch.randn(3, 3, 32, 32)
    if folded:
        fold_batchnorm(model, pictures[:1])
    checkpoint.save(tmp_path, model.state_dict(), meta(folded))
    loaded, read = checkpoint.load(tmp_path)
    assert read["classes"] == ["no", "yes"]
    with torch.no_grad():
        assert torch.equal(loaded(pictures), model(pictures))


def test_same_weights_give_the_same_bytes(network: Callable[..., Classifier], tmp_path: Path) -> None:
    for name in ("one", "two"):
        checkpoint.save(tmp_path / name, network().state_dict(), meta(False))
    for file in ("weights.safetensors", "meta.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_incomplete_and_damaged_checkpoints_are_refused(network: Callable[..., Classifier], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, network().state_dict(), meta(False))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(tmp_path)
    values = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(InputError, match="has format 99, this version reads 1"):
        checkpoint.load(tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(InputError, match=r"meta.json is missing"):
        checkpoint.load(tmp_path)
