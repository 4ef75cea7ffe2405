"""Laws of gradients: the fast ones equal the plain ones, and are used where they exist."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from thaw.learning.backbones import create
from thaw.learning.convolutions import quicken
from thaw.learning.efficientnet_lite0 import SameConv2d
from thaw.learning.folding import fold_batchnorm

CHANNELS = 12


def product(outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, outputs, 1, bias=bias)


def depthwise(kernel: int = 5, stride: int = 1, bias: bool = False, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, dilation, groups=CHANNELS, bias=bias)


def uneven(kernel: int) -> nn.Conv2d:
    return SameConv2d(CHANNELS, CHANNELS, kernel, 2, groups=CHANNELS)


def activated(layer: nn.Conv2d) -> nn.Module:
    """With ReLU6, and so large weights that both of its ends are reached."""
    with torch.no_grad():
        layer.weight *= 30
    return nn.Sequential(layer, nn.Identity(), nn.ReLU6(inplace=True))


QUICK = {
    "more outputs": product(40),
    "fewer outputs": product(5, bias=False),
    "wide": depthwise(),
    "wide, with bias": depthwise(bias=True),
    "in place": nn.ReLU6(inplace=True),
    "activated": activated(depthwise(3, bias=True)),
    "activated product": activated(product(40)),
    "activated, twice": nn.Sequential(activated(product(CHANNELS)), activated(depthwise(3))),
    "activated, wide": activated(depthwise()),
}
PLAIN = {
    "narrow": depthwise(3),
    "one channel": nn.Conv2d(1, 1, 5, padding=2),
    "wide, strided": depthwise(stride=2),
    "wide, dilated": depthwise(dilation=2),
    "not depthwise": nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=3),
    "strided product": nn.Conv2d(CHANNELS, 8, 1, 2),
    "product in groups": nn.Conv2d(CHANNELS, CHANNELS, 1, groups=3),
    "uneven": uneven(5),
    "activated, uneven": activated(uneven(3)),
    "reflected": nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS, padding_mode="reflect"),
}


def drawn(layer: nn.Module, number: int, *size: int) -> Tensor:
    """So many pictures of that size, with as many channels as the layer takes."""
    return torch.randn(number, getattr(layer, "in_channels", CHANNELS), *size)


def learned(layer: nn.Module, pictures: Tensor) -> list[Tensor | None]:
    """What a layer says of pictures, and the gradients of both."""
    pictures = pictures.clone().requires_grad_()
    output = layer(1.5 * pictures)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    (output * weights).sum().backward()
    return [output, pictures.grad, *(parameter.grad for parameter in layer.parameters())]


def ways(layer: nn.Module, pictures: Tensor) -> set[str]:
    """The names of our own functions that lead from the pictures to what the layer says of them."""
    waiting, result = [layer(1.5 * pictures.clone().requires_grad_()).grad_fn], set()
    while waiting:
        if node := waiting.pop():
            result |= {node.name()} if isinstance(node, BackwardCFunction) else set()
            waiting += [following for following, _ in node.next_functions]
    return result


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (name, size)
        for name in [*QUICK, *PLAIN]
        for size in [(7, 9), (8, 8), (5, 3), (4, 2), (9, 2), (1, 1)]
        if name != "reflected" or min(size) > 2  # a smaller picture has nothing to reflect
    ],
)
def test_gradients_and_outputs_are_those_of_the_plain_layer(name: str, size: tuple[int, int]) -> None:
    plain = deepcopy((QUICK | PLAIN)[name]).to(memory_format=torch.channels_last)
    quick = deepcopy(plain)
    quicken(quick)
    pictures = drawn(plain, 3, *size).contiguous(memory_format=torch.channels_last)
    for one, other in zip(learned(quick, pictures), learned(plain, pictures), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*QUICK, *PLAIN])
def test_the_quick_way_is_taken_where_there_is_one(name: str) -> None:
    layer = deepcopy((QUICK | PLAIN)[name])
    pictures = drawn(layer, 2, 8, 8)
    assert not ways(layer, pictures)
    quicken(layer)
    if isinstance(layer, nn.ReLU6):
        assert not layer.inplace  # autograd would first make a copy
    else:
        assert bool(ways(layer, pictures)) == (name in QUICK)


@pytest.mark.parametrize("name", ["more outputs", "wide, with bias"])
def test_what_is_frozen_gets_no_gradient(name: str) -> None:
    layer = deepcopy(QUICK[name])
    quicken(layer)
    layer.weight.requires_grad_(False)
    _, of_pictures, of_weight, of_bias = learned(layer, torch.randn(2, CHANNELS, 8, 8))
    assert of_pictures is not None
    assert of_weight is None
    assert of_bias is not None


@pytest.mark.parametrize("name", ["more outputs", "wide, with bias", "activated"])
def test_in_half_precision_gradients_are_those_of_the_plain_layer_in_half_precision(name: str) -> None:
    plain = deepcopy(QUICK[name])
    quick = deepcopy(plain)
    quicken(quick)
    pictures = torch.randn(2, CHANNELS, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        result, expected = learned(quick, pictures), learned(plain, pictures)
    for one, other in zip(result, expected, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=3e-2, atol=3e-2 * float(other.detach().abs().max()))


def test_a_gradient_that_others_have_too_is_left_as_it_is() -> None:
    plain = nn.ModuleList(activated(product(CHANNELS)) for _ in range(2))
    quick = deepcopy(plain)
    quicken(quick)
    pictures = torch.randn(3, CHANNELS, 8, 8)
    results = [learned(Sum(layers), pictures) for layers in (quick, plain)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Sum(nn.Module):
    """What two layers say, added up: both get the same gradient."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, pictures: Tensor) -> Tensor:
        one, other = self.layers
        output: Tensor = one(pictures) + other(pictures)
        return output


@pytest.mark.parametrize("size", [64, 75])
def test_the_whole_network_says_and_learns_the_same_whichever_way_its_padding_is_done(size: int) -> None:
    plain = create("efficientnet_lite0", "random", 2).double().eval()
    quick = deepcopy(plain)
    for _ in range(2):  # the second time it is quick already
        quicken(quick)
    pictures = torch.randn(2, 3, size, size + 9).double()
    expected = learned(plain, pictures)
    for one, other in zip(learned(quick, pictures), expected, strict=True):
        torch.testing.assert_close(one, other)
    for model in (quick, plain):
        with torch.no_grad():
            torch.testing.assert_close(model(1.5 * pictures), expected[0])
    assert plain.state_dict().keys() == quick.state_dict().keys()
    assert not any(isinstance(module, SameConv2d) for module in quick.modules())


def test_mixed_gradients_are_as_near_to_those_in_float32_as_those_of_half_precision_throughout() -> None:
    plain = create("efficientnet_lite0", "random", 2).eval()
    fold_batchnorm(plain, torch.zeros(1, 3, 64, 64))
    ways = {"exact": deepcopy(plain).double(), "mixed": deepcopy(plain), "half": deepcopy(plain), "single": plain}
    for name, model in ways.items():
        quicken(model, mixed=name == "mixed")
    pictures = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    vectors = {}
    for name, model in ways.items():
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "half"):
            logits = model(pictures.double() if name == "exact" else pictures)
        logits.double().square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert {gradient.dtype for gradient in gradients} == {torch.float64 if name == "exact" else torch.float32}
        vectors[name] = torch.cat([gradient.double().flatten() for gradient in gradients])
    away = {name: float((vectors[name] - vectors["exact"]).norm() / vectors["exact"].norm()) for name in ways}
    assert away["single"] < 1e-4 < away["mixed"] < away["half"] < 0.1


@pytest.mark.parametrize("size", [(9, 8), (3, 4)])
@pytest.mark.parametrize("layer", [product(40), product(5, bias=False), depthwise(3), depthwise(5, bias=True)])
def test_mixed_layers_give_what_plain_ones_give_to_the_tolerance_of_bfloat16(
    layer: nn.Module, size: tuple[int, int]
) -> None:
    plain = deepcopy(layer).to(memory_format=torch.channels_last)
    quick = deepcopy(plain)
    quicken(quick, mixed=True)
    pictures = torch.randn(2, CHANNELS, *size).contiguous(memory_format=torch.channels_last)
    for one, other in zip(learned(quick, pictures), learned(plain, pictures), strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).norm() < 1e-2 * other.norm()
