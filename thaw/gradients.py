"""Gradients of convolutions on a CPU, where oneDNN has no quick way to them; the numbers are the same.

A profile of phase 2 names four: the weights of 1 x 1 convolutions, which are one matrix product where pixels are
channels last; the weights of depthwise convolutions wider than three, for which oneDNN has its quick kernel only up to
that width; uneven padding, whose gradient is a view and needs no copy; and ReLU6 in place, whose input is copied first.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.nn import functional as F

from thaw.efficientnet_lite0 import SameConv2d


def quicken(model: nn.Module) -> None:
    """Let the convolutions of a network that is trained on a CPU find their gradients by the quickest way."""
    for module in model.modules():
        if isinstance(module, SameConv2d):
            module.pad = _Padded.apply
        elif isinstance(module, nn.ReLU6):
            module.inplace = False
        elif isinstance(module, nn.Conv2d) and (_is_product(module) or _is_wide(module)):
            module._conv_forward = partial(_Convolution.apply, module.padding, module.groups)  # type: ignore[method-assign]


def _is_product(module: nn.Conv2d) -> bool:
    return module.kernel_size == module.stride == (1, 1) and module.padding == (0, 0) and module.groups == 1


def _is_wide(module: nn.Conv2d) -> bool:
    """Whether it is depthwise, 5 pixels wide, and leaves the size of the picture as it is."""
    return (
        1 < module.groups == module.in_channels == module.out_channels
        and (module.kernel_size, module.padding) == ((5, 5), (2, 2))
        and module.stride == module.dilation == (1, 1)
        and module.padding_mode == "zeros"
    )


class _Convolution(Function):
    """A convolution of stride 1 whose weights get their gradient from one matrix product, or column by column."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, padding: tuple[int, int], groups: int, inputs: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv2d(inputs, weight, bias, padding=padding, groups=groups)

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        if ctx.needs_input_grad[2]:
            of_inputs = _native(gradient, inputs, weight, ctx.padding, ctx.groups, 0)
        if ctx.needs_input_grad[3]:
            of_weight = _of_columns(gradient, inputs, weight) if ctx.groups > 1 else _of_product(gradient, inputs)
        if ctx.needs_input_grad[4]:
            of_bias = gradient.sum((0, 2, 3))
        return None, None, of_inputs, of_weight, of_bias


def _native(
    gradient: Tensor, inputs: Tensor, weight: Tensor, padding: tuple[int, int], groups: int, which: int
) -> Tensor:
    """PyTorch's own gradient: of the inputs (0) or of the weights (1)."""
    wanted = [which == 0, which == 1, False]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, inputs, weight, None, [1, 1], padding, [1, 1], False, [0, 0], groups, wanted
    )
    return found[which]


def _of_product(gradient: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of the weights (outputs, inputs, 1, 1), each pixel being a row of both factors."""
    rows, columns = (each.permute(0, 2, 3, 1).flatten(0, 2) for each in (gradient, inputs))
    return (rows.T @ columns)[:, :, None, None]


def _of_columns(gradient: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the weights (channels, 1, 5, 5): the three columns in the middle at once, the outer ones each."""
    if inputs.shape[-1] < 3:  # so narrow that the outer ones see nothing
        return _native(gradient, inputs, weight, (2, 2), len(weight), 1)

    def part(gradient: Tensor, inputs: Tensor, columns: int) -> Tensor:
        gradient, inputs = (each.contiguous(memory_format=torch.channels_last) for each in (gradient, inputs))
        return _native(gradient, inputs, weight[..., :columns], (2, columns // 2), len(weight), 1)

    first = part(gradient[..., 2:], inputs[..., :-2], 1)
    last = part(gradient[..., :-2], inputs[..., 2:], 1)
    return torch.cat([first, part(gradient, inputs, 3), last], 3)


class _Padded(Function):
    """`F.pad` with zeros that writes each pixel once."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, pads: list[int]) -> Tensor:
        left, right, top, bottom = pads
        *_, height, width = inputs.shape
        ctx.inner = slice(top, top + height), slice(left, left + width)
        shape = (*inputs.shape[:2], top + height + bottom, left + width + right)
        padded = torch.empty(shape, dtype=inputs.dtype, memory_format=torch.channels_last)
        padded[..., *ctx.inner] = inputs
        for edge in (
            padded[..., :top, :],
            padded[..., top + height :, :],
            padded[..., :left],
            padded[..., left + width :],
        ):
            edge.zero_()
        return padded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient[..., *ctx.inner], None
