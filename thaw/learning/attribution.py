"""Attribution: where in a picture the evidence for a class lies.

The last features that still have places are multiplied by the gradient of the class's log-odds and
summed over channels. For a network that ends in pooling and a linear head that is Grad-CAM, and
the map adds up to the log-odds without their bias; for a vision transformer they are the tokens of
its last block.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thaw.data.pictures import Normaliser, turned_back, view
from thaw.learning.backbones import Classifier
from thaw.learning.convolutions import is_turned


def evidence(
    model: Classifier, pixels: Tensor, normalise: Normaliser, views: int, targets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Maps (n, side, side) of the evidence for one class of each picture, and the logits (n,
    classes).

    Both are averages over the first `views` views, each map turned back. Negative is evidence
    against the class. Without `targets` (n) it is the class that the network names.
    """
    model.eval()
    layer = _last_with_places(model.backbone, pixels.shape[-1])
    latest: list[Tensor] = []

    def start_gradient(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        latest[:] = [output.detach().requires_grad_()]
        return latest[0].clone()  # what follows may work in place

    features, logits = [], []
    hook = layer.register_forward_hook(start_gradient)
    try:
        with _without_parameters(model):
            for number in range(views):
                logits.append(model(normalise(view(pixels, number))))
                features += latest
    finally:
        hook.remove()
    mean = torch.stack(logits).mean(0)
    if targets is None:
        targets = mean.argmax(1)
    gradients = torch.autograd.grad(log_odds(mean, targets).sum(), features)
    maps = torch.zeros(())
    for number, (activation, gradient) in enumerate(zip(features, gradients, strict=True)):
        places = _by_place(activation.detach() * gradient)
        assert places is not None
        side = math.isqrt(places.shape[1])
        square = places.sum(2).view(-1, 1, side, side).float().cpu()
        maps = maps + turned_back(square.flip(2, 3) if is_turned(model) else square, number)
    return maps[:, 0], mean.detach().float().cpu()


def log_odds(logits: Tensor, targets: Tensor) -> Tensor:
    """log p / (1 - p) of each row's target class: what all classes share counts for none of
    them."""
    of_target = targets[:, None].to(logits.device)
    others = logits.scatter(1, of_target, -torch.inf).logsumexp(1)
    return logits.gather(1, of_target)[:, 0] - others


def _last_with_places(backbone: nn.Module, size: int) -> nn.Module:
    """The last module whose output has places of which more than one counts, as seen in a pass of
    noise.

    What comes after a vision transformer's last attention has tokens, but only the class token
    goes on from there.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and _by_place(output) is not None:
            outputs.append((module, output))

    device = next(backbone.parameters()).device
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    hooks = [module.register_forward_hook(note) for module in backbone.modules()]
    try:
        with _without_parameters(backbone):
            features = backbone(noise)
    finally:
        for hook in hooks:
            hook.remove()
    # uneven weights: a plain sum of normalised features is constant
    uneven = torch.arange(1.0, features.shape[1] + 1, device=device)
    gradients = torch.autograd.grad(
        (features * uneven).sum(), [output for _, output in outputs], materialize_grads=True
    )
    for (module, _), gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        places = _by_place(gradient)
        if places is not None and (places != 0).any(2).sum() > 1:
            return module
    raise AssertionError(f"no part of {type(backbone).__name__} has places at {size} x {size} pixels")


def _by_place(values: Tensor) -> Tensor | None:
    """(n, channels, side, side), or (n, tokens, channels) with or without a class token, as (n,
    places, channels)."""
    if values.ndim == 4 and values.shape[2] == values.shape[3] > 1:
        return values.flatten(2).transpose(1, 2)
    side = math.isqrt(values.shape[1]) if values.ndim == 3 else 0
    if side > 1 and values.shape[1] - side**2 in (0, 1):
        return values[:, -(side**2) :]
    return None


@contextmanager
def _without_parameters(model: nn.Module) -> Iterator[None]:
    """No gradients of parameters, so that nothing is kept for them."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
