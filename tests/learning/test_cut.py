"""Laws of a cut: the two parts of a network are the whole of it, to the bit, or it is not cut."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from thaw.data.pictures import Normaliser, Pictures
from thaw.learning.backbones import Classifier, blocks, create
from thaw.learning.convolutions import quicken
from thaw.learning.cut import FEWEST, Pair, cut, in_common
from thaw.learning.folding import fold_batchnorm
from thaw.learning.prediction import predict

CAN_BE_CUT = ["efficientnet_lite0", "resnet18", "mobilenet_v3_small", "densenet121", "swin_t", "convnext_tiny"]


@pytest.mark.parametrize("name", [*CAN_BE_CUT, "vit_b_32", "squeezenet1_1", "googlenet"])
def test_the_parts_of_a_network_give_what_the_whole_gives(name: str) -> None:
    model = create(name, "random", 2, 64).eval()
    quicken(model)
    pictures = torch.randn(FEWEST, 3, 64, 64)
    parts = cut(model, len(blocks(model.backbone)) // 2, pictures[:1])
    assert name not in CAN_BE_CUT or parts
    if parts:
        assert torch.equal(parts.after(parts.before(pictures)), model(pictures))
        assert {*parts.after.parameters()} <= {*model.parameters()}  # they are shared
    assert cut(model, 0, pictures[:1]) is None


@pytest.mark.parametrize("mixed", [False, True])
def test_a_picture_gives_the_same_before_the_cut_whatever_batch_it_is_in(mixed: bool) -> None:
    model = create("efficientnet_lite0", "random", 2).eval()
    fold_batchnorm(model, torch.zeros(1, 3, 64, 64))
    quicken(model, mixed)
    pictures = torch.randn(33, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    parts = cut(model, 14, pictures[:1])
    assert parts
    expected = parts.before(pictures)
    for batch in (slice(0, 1), slice(5, 10), slice(16, 32), slice(2, 33)):
        assert torch.equal(parts.before(pictures[batch]), expected[batch])


def test_a_network_that_does_more_than_call_its_blocks_is_not_cut(network: Callable[..., Classifier]) -> None:
    model = network()
    plain = type(model.backbone).forward
    model.backbone.forward = lambda pictures: plain(model.backbone, pictures + 1)
    assert cut(model, 3, torch.zeros(1, 3, 32, 32)) is None


@pytest.mark.parametrize("moved", [0, 4, 8])
def test_a_pair_gives_what_both_give_and_computes_once_what_they_have_in_common(
    network: Callable[..., Classifier], pictures: Pictures, normalise: Normaliser, moved: int
) -> None:
    one = network()
    other = deepcopy(one)
    with torch.no_grad():
        blocks(other.backbone)[moved].parameters[0].mul_(1.1)
        other.head.bias.add_(1)
    assert in_common(one.backbone, other.backbone) == moved
    rows = torch.arange(24).numpy()
    apart = [predict(model, pictures, rows, normalise, 8, 24) for model in (one, other)]
    calls = []
    for model in (one, other):
        model.backbone.conv1.register_forward_pre_hook(lambda module, _: calls.append(module))
    together = predict(Pair(one, other, torch.zeros(1, 3, 32, 32)), pictures, rows, normalise, 8, 24)
    assert torch.equal(together, torch.stack(apart, 1))
    assert len([call for call in calls if call is other.backbone.conv1]) == (0 if moved else 8)
