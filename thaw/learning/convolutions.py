"""Convolutions on a CPU, and their gradients, by ways quicker than the usual one; the numbers are the same.

A profile of phase 2 names five: uneven padding, a copy of the pictures that is even where pictures and kernels are
turned; ReLU6 after a convolution, which can be part of it, and whose gradient needs no memory of its own; the weights
of 1 x 1 convolutions, which are one matrix product where pixels are channels last; the weights of depthwise
convolutions wider than three, for which oneDNN has its quick kernel only up to that width; and ReLU6 in place, whose
input is copied first.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.nn import functional as F
from torchvision.models.efficientnet import EfficientNet

from thaw.learning.efficientnet_lite0 import SameConv2d

# oneDNN's convolution that ends with an activation, as torch.compile uses it; None where PyTorch is without oneDNN.
_WITH_ACTIVATION = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
Geometry = tuple[Any, ...]  # stride, padding, dilation, groups
OfWeight = Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]  # the gradient of the weights, from that of the output


def quicken(model: nn.Module) -> None:
    """Let the convolutions of a network on a CPU, and their gradients, go by the quickest way."""
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return
    for module in [*model.modules()]:
        if isinstance(module, EfficientNet):
            _turn(module.features)
        if type(module).forward is nn.Sequential.forward:
            _take_in_activations(module)
        elif isinstance(module, nn.ReLU6):
            module.inplace = False
        elif isinstance(module, nn.Conv2d) and _of_weight(module) is not _usual and not _is_quick(module):
            _replace(module, False, False)


def _turn(features: nn.Module) -> None:
    """Turn pictures and kernels by 180 degrees, where padding is uneven: it is even then.

    TensorFlow pads right and bottom by one more, where at all. Turned, that is left and top, and what even padding adds
    to the right and the bottom a strided kernel does not reach.
    """
    layers = [module for module in features.modules() if isinstance(module, nn.Conv2d)]
    if any(isinstance(layer, SameConv2d) for layer in layers):
        features.register_forward_pre_hook(lambda _, inputs: inputs[0].flip(2, 3))
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


def _take_in_activations(sequential: nn.Module) -> None:
    """Of layers that run one after the other each ReLU6 that follows a convolution becomes part of it."""
    layers = list(_layers(sequential))
    layers.append((sequential, "", nn.Identity()))  # what comes after the last one is not known
    for (_, _, module), (parent, name, following), (_, _, then) in zip(layers, layers[1:], layers[2:], strict=False):
        if isinstance(module, nn.Conv2d) and isinstance(following, nn.ReLU6) and _takes_activation(module):
            _replace(module, True, isinstance(then, nn.Conv2d))
            setattr(parent, name, nn.Identity())


def _layers(sequential: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Parent, name and layer of all that run one after the other, in sequentials within it too."""
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


def _replace(module: nn.Conv2d, clamped: bool, alone: bool) -> None:
    """`clamped`: with a ReLU6 at its end; `alone`: nobody but a convolution takes its output."""
    geometry = module.stride, module.padding, module.dilation, module.groups
    module._conv_forward = partial(_Convolution.apply, geometry, clamped, alone, _of_weight(module))  # type: ignore[method-assign]


class _Convolution(Function):
    """A convolution that may end with ReLU6, and whose weights get their gradient by the quickest way."""

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any,
        geometry: Geometry,
        clamped: bool,
        alone: bool,
        of_weight: OfWeight,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        if not clamped:
            output = F.conv2d(inputs, weight, bias, *geometry)
        elif _WITH_ACTIVATION and inputs.dtype == torch.float32:
            stride, padding, *rest = geometry
            output = _WITH_ACTIVATION(inputs, weight, bias, padding, stride, *rest, "hardtanh", [0.0, 6.0], "")
        else:
            output = F.conv2d(inputs, weight, bias, *geometry).clamp_(0, 6)
        ctx.save_for_backward(inputs, weight, output if clamped else None)
        ctx.geometry, ctx.alone, ctx.of_weight = geometry, alone, of_weight
        return output

    @staticmethod
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inputs, weight, clamped = ctx.saved_tensors
        if clamped is not None:
            # What one convolution alone has given nobody else has, so that it may be changed.
            into = gradient if ctx.alone else torch.empty_like(gradient)
            gradient = torch.ops.aten.hardtanh_backward.grad_input(gradient, clamped, 0.0, 6.0, grad_input=into)
        _, _, _, _, inputs_wanted, weight_wanted, bias_wanted = ctx.needs_input_grad
        return (
            None,
            None,
            None,
            None,
            _native(gradient, inputs, weight, ctx.geometry, 0) if inputs_wanted else None,
            ctx.of_weight(gradient, inputs, weight, ctx.geometry) if weight_wanted else None,
            gradient.sum((0, 2, 3)) if bias_wanted else None,
        )


def _native(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry, which: int) -> Tensor:
    """PyTorch's own gradient: of the inputs (0) or of the weights (1)."""
    stride, padding, dilation, groups = geometry
    needed = [which == 0, which == 1, False]
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient, inputs, weight, None, stride, padding, dilation, False, [0, 0], groups, needed
    )
    return gradients[which]


def _of_weight(module: nn.Conv2d) -> OfWeight:
    """The quickest way to the gradient of its weights."""
    return _product if _is_product(module) else _columns if _is_wide(module) else _usual


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


def _usual(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    return _native(gradient, inputs, weight, geometry, 1)


def _product(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Of weights (outputs, inputs, 1, 1), each pixel being a row of both factors."""
    rows, columns = (tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in (gradient, inputs))
    return (rows.T @ columns)[:, :, None, None]


def _columns(gradient: Tensor, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Of weights (channels, 1, 5, 5): the three columns in the middle at once, the outer ones each."""
    if inputs.shape[-1] < 3:  # so narrow that the outer ones see nothing
        return _usual(gradient, inputs, weight, geometry)

    def part(gradient: Tensor, inputs: Tensor, columns: int) -> Tensor:
        gradient, inputs = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (gradient, inputs))
        stride, (high, _), *rest = geometry
        return _usual(gradient, inputs, weight[..., :columns], (stride, (high, columns // 2), *rest))

    first = part(gradient[..., 2:], inputs[..., :-2], 1)
    last = part(gradient[..., :-2], inputs[..., 2:], 1)
    return torch.cat([first, part(gradient, inputs, 3), last], 3)
