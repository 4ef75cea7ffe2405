"""Laws of forgetting: blocks that stay have not moved, and the old head is matched again."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from families import VIT
from torchvision.models import get_model_builder

from thaw.learning import backbones, forgetting
from thaw.learning.backbones import Classifier, create


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "squeezenet1_1", "densenet121", "swin_t", VIT])
def test_blocks_that_stay_have_moved_by_nothing_and_a_changed_one_shows_from_there_on(name: str) -> None:
    before = create(name, "random", 2, 64).eval().backbone
    after = deepcopy(before)
    pictures = torch.randn(12, 3, 64, 64).split(5)
    number = len(backbones.blocks(after)) // 2
    with torch.no_grad():
        for parameter in backbones.blocks(after)[number].parameters:
            parameter.add_(0.5 * torch.randn_like(parameter) * parameter.abs().mean())
    result = forgetting.by_block(forgetting.look(before, pictures), forgetting.look(after, pictures))
    assert result["block"].tolist() == [block.name for block in backbones.blocks(before)]
    assert (result["distance"] > 0).tolist() == [index == number for index in range(len(result))]
    assert result["cka"][:number].to_numpy() == pytest.approx(1)
    assert result["cka"][number] < 1 - 1e-6


def test_distance_is_relative_to_the_weights_before(network: Callable[..., Classifier]) -> None:
    before, after = network().backbone, network().backbone
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.mul_(1.25)
    pictures = [torch.randn(4, 3, 32, 32)]
    result = forgetting.by_block(forgetting.look(before, pictures), forgetting.look(after, pictures))
    assert result["distance"].to_numpy() == pytest.approx(0.25)


def test_cka_is_blind_to_turning_and_scaling_and_sees_independence() -> None:
    one = torch.randn(500, 8, dtype=torch.float64)
    turned = one @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0] * 3 + 1
    assert forgetting.cka(one, turned) == pytest.approx(1)
    assert forgetting.cka(one, torch.randn(500, 8)) < 0.1
    assert forgetting.cka(one, 2 * one[:, :4] @ torch.randn(4, 3, dtype=torch.float64)) < 0.9


def test_output_of_an_unchanged_network_does_not_drift_and_that_of_a_shifted_one_does() -> None:
    before = torch.randn(40, 10)
    assert forgetting.drift(before, before.clone()) == pytest.approx({"kept": 1, "kl": 0})
    after = before + 100 * torch.eye(10)[3]
    result = forgetting.drift(before, after)
    assert result["kept"] < 0.5
    assert result["kl"] > 1


class OnMps(torch.Tensor):
    """A tensor that has no float64, as on MPS, until it is brought to the CPU."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        return result


def test_forgetting_needs_no_float64_of_the_device(network: Callable[..., Classifier]) -> None:
    pictures = [torch.randn(4, 3, 32, 32).as_subclass(OnMps)]
    looks = [forgetting.look(network().backbone, pictures) for _ in range(2)]
    looks = [
        one._replace(
            blocks=[
                block._replace(parameters=tuple(p.detach().as_subclass(OnMps) for p in block.parameters))
                for block in one.blocks
            ]
        )
        for one in looks
    ]
    assert (forgetting.by_block(*looks)["distance"] == 0).all()
    assert all(type(one.scores) is torch.Tensor for one in looks)
    scores = torch.randn(4, 10).as_subclass(OnMps)
    assert forgetting.drift(scores, scores) == pytest.approx({"kept": 1, "kl": 0})


def test_old_head_put_back_gives_the_old_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    original = get_model_builder("squeezenet1_1")(weights=None).eval()
    monkeypatch.setattr(backbones, "get_model_builder", lambda name: lambda weights=None: deepcopy(original))
    result = backbones.old_head("squeezenet1_1", "IMAGENET1K_V1")
    assert result is not None
    cut = create("squeezenet1_1", "IMAGENET1K_V1", 2).eval().backbone
    batch = torch.randn(2, 3, 64, 64)
    assert torch.equal(forgetting.look(cut, [batch], result).scores, original(batch))
    assert backbones.old_head("squeezenet1_1", "random") is None
