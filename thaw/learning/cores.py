"""Cores: on a CPU each core computes the gradients of its own part of a batch.

This is faster than sharing every operation. The operations of a small network are short: cores
that share one wait for each other at its end, and all access memory at the same time.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth

from thaw.learning import processes
from thaw.learning.losses import LossFn

MIN_PICTURES = 8  # in a part; each part reads all weights
MAX_PARTS = 8  # each part has gradients of its own


def backward(network: nn.Module, loss_fn: LossFn, pictures: Tensor, targets: Tensor, weight: float = 1.0) -> Tensor:
    """Returns `weight` times the mean loss of a batch, and adds its gradients to those of the
    parameters."""
    count = _parts(network, len(pictures))
    parts = list(zip(pictures.tensor_split(count), targets.tensor_split(count), strict=True))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def part_loss(part: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = part
        return loss_fn(network(inputs).float(), labels) * (weight * len(inputs) / len(pictures))

    def learn(part: tuple[Tensor, Tensor]) -> Tensor:
        loss = part_loss(part)
        loss.backward()
        return loss.detach()

    def gradients(part: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = part_loss(part)
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    if count == 1:
        return learn(parts[0])
    team = _team(count, torch.get_num_threads())
    first, of_others = team.submit(learn, parts[0]), [*team.map(gradients, parts[1:])]
    total = first.result()
    for loss, theirs in of_others:  # in a fixed order, so that rounding is reproducible
        total += loss
        for parameter, gradient in zip(parameters, theirs, strict=True):
            if parameter.grad is not None and gradient is not None:
                parameter.grad += gradient
    return total


def _parts(network: nn.Module, pictures: int) -> int:
    """The number of parts of a batch; 1 if its pictures depend on each other or random numbers are
    drawn.

    Also 1 if the first layers are frozen: the steps are then so short that threads wait for each
    other's Python.
    """
    first = next(network.parameters())
    if processes.world_size() > 1 or first.device.type != "cpu" or not first.requires_grad:
        return 1
    for module in network.modules():
        draws = isinstance(module, (nn.Dropout, StochasticDepth)) and module.p > 0
        if module.training and (draws or isinstance(module, _BatchNorm)):
            return 1
    cores = torch.get_num_threads()
    most = min(MAX_PARTS, cores, pictures // MIN_PICTURES)
    # As many parts as leave the fewest cores idle.
    return max(range(1, max(1, most) + 1), key=lambda count: (cores - cores % count, count))


@cache
def _team(count: int, cores: int) -> ThreadPoolExecutor:
    """A pool of threads that share the cores evenly."""
    ready = Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # otherwise the thread's first operation resets it
        torch.set_num_threads(cores // count)

    team = ThreadPoolExecutor(count, "core", begin)
    for _ in range(count):
        team.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(cores)  # for this thread and later ones
    return team
