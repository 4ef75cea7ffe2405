"""Faster convolutions on a CPU, forward and backward, with the same results up to rounding.

A profile of phase 2 shows five slow spots:

- Uneven padding copies the pictures. Turn pictures and kernels by 180 degrees, and even padding
  does the same.
- A ReLU6 after a convolution can be fused into it, and its gradient can be computed in place.
- The weight gradient of a 1 x 1 convolution is one matrix product if the memory format is channels
  last.
- oneDNN's fast kernel for the weight gradient of depthwise convolutions ends at a width of 3, and
  it needs pictures that are wider than the kernel.
- An in-place ReLU6 copies its input first.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.nn import functional as F
from torchvision.models.efficientnet import EfficientNet

from thaw.learning.efficientnet_lite0 import SameConv2d

# oneDNN's convolution with a fused activation, as torch.compile uses it; None if PyTorch is built
# without oneDNN.
_WITH_ACTIVATION = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


class Geometry(NamedTuple):
    """A convolution without its weights."""

    stride: Any
    padding: Any
    dilation: Any
    groups: int


FEW_PIXELS = 16  # in a picture; every one times every other is then less work than a slow kernel

# from the gradient of the output
WeightGradient = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]


@dataclass(frozen=True)
class Variant:
    """How a convolution runs. `clamped`: with a fused ReLU6; `alone`: its output goes into a
    convolution only; `mixed`: it multiplies in bfloat16."""

    geometry: Geometry
    clamped: bool
    alone: bool
    mixed: bool
    weight_gradient: WeightGradient


def quicken(model: nn.Module, mixed: bool = False) -> None:
    """Make the convolutions of a network on a CPU use the fastest implementations; on a GPU
    nothing changes.

    `mixed`: 1x1 and depthwise convolutions multiply in bfloat16, except for two gradients that are
    ten times slower in it: of the inputs of strided depthwise ones, and of the weights of wide
    strided ones. Weights, sums and what goes from block to block stay float32.
    """
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return
    for module in [*model.modules()]:
        if isinstance(module, EfficientNet):
            _turn(module.features)
        if type(module).forward is nn.Sequential.forward:
            _take_in_activations(module, mixed)
        elif isinstance(module, nn.ReLU6):
            module.inplace = False
        elif isinstance(module, nn.Conv2d) and not _is_quick(module) and _has_quick_way(module, mixed):
            _replace(module, False, False, mixed)


def _turn(features: nn.Module) -> None:
    """Turn pictures and kernels by 180 degrees, so that even padding replaces TensorFlow's uneven
    padding.

    TensorFlow pads one pixel more on the right and at the bottom. Turned, that is left and top.
    Even padding adds the same pixel on the right and at the bottom too, but a strided kernel never
    reaches it.
    """
    layers = [module for module in features.modules() if isinstance(module, nn.Conv2d)]
    if any(isinstance(layer, SameConv2d) for layer in layers):
        # not the first of all modules: the caller may start at a later one
        first = next(features.children())
        first.register_forward_pre_hook(lambda _, inputs: inputs[0].flip(2, 3))
        for layer in layers:
            if layer.kernel_size != (1, 1):
                height, width = layer.kernel_size
                layer.__class__, layer.padding = _Turned, (height // 2, width // 2)


class _Turned(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(input, self.weight.flip(2, 3), self.bias)
        return output


def is_turned(model: nn.Module) -> bool:
    """Whether the places of its features are those of the picture turned by 180 degrees."""
    return any(isinstance(module, _Turned) for module in model.modules())


def _take_in_activations(sequential: nn.Module, mixed: bool) -> None:
    """Fuse each ReLU6 that follows a convolution into it."""
    layers = list(_layers(sequential))
    layers.append((sequential, "", nn.Identity()))  # the layer after the last one is not known
    for (_, _, module), (parent, name, following), (_, _, after_that) in zip(
        layers, layers[1:], layers[2:], strict=False
    ):
        if isinstance(module, nn.Conv2d) and isinstance(following, nn.ReLU6) and _takes_activation(module):
            _replace(module, True, isinstance(after_that, nn.Conv2d), mixed)
            setattr(parent, name, nn.Identity())


def _layers(sequential: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and module of each layer in order, nested sequentials included."""
    for name, module in sequential.named_children():
        if type(module).forward is nn.Sequential.forward:
            yield from _layers(module)
        elif not isinstance(module, nn.Identity):
            yield sequential, name, module


def _takes_activation(module: nn.Conv2d) -> bool:
    plain = type(module).forward in (nn.Conv2d.forward, _Turned.forward) and module.padding_mode == "zeros"
    return plain and not isinstance(module.padding, str) and not _is_quick(module)


def _is_quick(module: nn.Conv2d) -> bool:
    return "_conv_forward" in vars(module)


def _has_quick_way(module: nn.Conv2d, mixed: bool) -> bool:
    return _weight_gradient(module) is not _usual or (mixed and _multiplies_in_bfloat16(module))


def _replace(module: nn.Conv2d, clamped: bool, alone: bool, mixed: bool) -> None:
    geometry = Geometry(module.stride, module.padding, module.dilation, module.groups)
    mixed = mixed and _multiplies_in_bfloat16(module)
    variant = Variant(geometry, clamped, alone, mixed, _weight_gradient(module, mixed))
    module._conv_forward = partial(_Convolution.apply, variant)  # type: ignore[method-assign]


class _Convolution(Function):
    """A convolution with an optional ReLU6, whose weight gradient is computed the fastest way."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, variant: Variant, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if variant.mixed:
            inputs, weight = inputs.bfloat16(), weight.bfloat16()
            bias = None if bias is None else bias.bfloat16()
        if not variant.clamped:
            output = F.conv2d(inputs, weight, bias, *variant.geometry)
        elif _WITH_ACTIVATION and (inputs.dtype == torch.float32 or variant.mixed):
            stride, padding, *rest = variant.geometry
            output = _WITH_ACTIVATION(inputs, weight, bias, padding, stride, *rest, "hardtanh", [0.0, 6.0], "")
        else:
            output = F.conv2d(inputs, weight, bias, *variant.geometry).clamp_(0, 6)
        ctx.save_for_backward(inputs, weight, output if variant.clamped else None)
        ctx.variant = variant
        return output.float() if variant.mixed and not variant.alone else output

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inputs, weight, clamped = ctx.saved_tensors
        variant = ctx.variant
        gradient = gradient.to(inputs.dtype)
        if clamped is not None:
            # A gradient that comes from a single convolution has no other user and may be
            # overwritten.
            target = gradient if variant.alone else torch.empty_like(gradient)
            gradient = torch.ops.aten.hardtanh_backward.grad_input(gradient, clamped, 0.0, 6.0, grad_input=target)
        _, needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        of_bias = gradient.sum((0, 2, 3), dtype=torch.float32 if variant.mixed else None) if needs_bias else None

        return (
            None,
            _inputs_gradient(gradient, inputs, weight, variant) if needs_inputs else None,
            variant.weight_gradient(gradient, inputs, weight, variant.geometry) if needs_weight else None,
            of_bias,
        )


def _inputs_gradient(gradient: Tensor, inputs: Tensor, weight: Tensor, variant: Variant) -> Tensor:
    if variant.mixed and variant.geometry.stride != (1, 1):
        gradient, weight = gradient.float(), weight.float()
        inputs = torch.empty_like(inputs, dtype=torch.float32)  # only its shape matters
    return _native(gradient, inputs, weight, variant.geometry, 0)


def _native(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, argument: int) -> Tensor:
    """PyTorch's own gradient of the inputs (`argument` 0) or of the weights (1)."""
    stride, padding, dilation, groups = geometry
    needed = [argument == 0, argument == 1, False]
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, inputs, weight, None, stride, padding, dilation, False, [0, 0], groups, needed
    )
    return gradients[argument]


def _weight_gradient(module: nn.Conv2d, mixed: bool = False) -> WeightGradient:
    """The fastest implementation of its weight gradient."""
    fastest = _product if _is_product(module) else _columns if _is_wide(module) else _usual
    return _usual_in_float32 if mixed and fastest is _usual and module.kernel_size[-1] > 3 else fastest


def _multiplies_in_bfloat16(module: nn.Conv2d) -> bool:
    """Whether it is one of those that CPUs with bfloat16 are quicker with, or whose neighbours
    are."""
    return _is_product(module) or 1 < module.groups == module.in_channels


def _is_product(module: nn.Conv2d) -> bool:
    return module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0) and module.groups == 1


def _is_wide(module: nn.Conv2d) -> bool:
    """Whether it is depthwise, 5 pixels wide, and keeps the size of the picture."""
    return (
        1 < module.groups == module.in_channels == module.out_channels
        and (module.kernel_size, module.padding) == ((5, 5), (2, 2))
        and module.stride == module.dilation == (1, 1)
        and module.padding_mode == "zeros"
    )


def _usual(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return _native(gradient, inputs, weight, geometry, 1)


def _usual_in_float32(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return _usual(gradient.float(), inputs.float(), weight.float(), geometry)


def _product(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Weight gradient (outputs, inputs, 1, 1) as a matrix product whose factors have a row for
    each pixel."""
    rows, columns = (tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in (gradient, inputs))
    return (rows.T @ columns)[:, :, None, None]


def _columns(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Weight gradient (channels, 1, 5, 5): the three columns in the middle at once, each outer one
    by itself."""
    if inputs.shape[2:].numel() <= FEW_PIXELS:
        return _pairs(gradient, inputs)
    if inputs.shape[-1] < 3:  # too narrow: the outer columns touch padding only
        return _usual(gradient, inputs, weight, geometry)

    def part(gradient: Tensor, inputs: Tensor, columns: int) -> Tensor:
        gradient, inputs = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (gradient, inputs))
        padding = (geometry.padding[0], columns // 2)
        return _usual(gradient, inputs, weight[..., :columns], geometry._replace(padding=padding))

    first = part(gradient[..., 2:], inputs[..., :-2], 1)
    last = part(gradient[..., :-2], inputs[..., 2:], 1)
    return torch.cat([first, part(gradient, inputs, 3), last], 3)


def _pairs(gradient: Tensor, inputs: Tensor) -> Tensor:
    """Weight gradient (channels, 1, 5, 5): every pixel of the gradient times every pixel of the
    inputs as one matrix product per channel, then summed by how far apart the two are."""
    channels, size = gradient.shape[1], tuple(gradient.shape[2:])
    products = gradient.flatten(2).permute(1, 2, 0) @ inputs.flatten(2).permute(1, 0, 2)
    products = products.to(torch.promote_types(products.dtype, torch.float32))
    return (products.flatten(1) @ _weight_of_pair(*size).to(products.dtype)).view(channels, 1, 5, 5)


@cache
def _weight_of_pair(height: int, width: int) -> Tensor:
    """For each pair of pixels (rows) 1 at the weight of 5 x 5 that leads from one to the other."""

    def apart(size: int) -> Tensor:
        place = torch.arange(size)
        return (place - place[:, None] + 2)[..., None] == torch.arange(5)

    return torch.einsum("yai,xbj->yxabij", apart(height).float(), apart(width).float()).reshape(-1, 25)
