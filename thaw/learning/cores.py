"""Cores: on a CPU each core learns from its own part of a batch, which is faster than sharing every operation.

The operations of a small network are short. Cores that share one wait for each other at its end, and they all need
memory at the same time.
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

FEWEST = 8  # pictures of a part: each reads all weights
MOST = 8  # parts: each has gradients of its own


def backward(network: nn.Module, loss_fn: LossFn, pictures: Tensor, targets: Tensor, weight: float = 1.0) -> Tensor:
    """`weight` times the mean loss of a batch; its gradients are added to those of the parameters."""
    number = _parts(network, len(pictures))
    parts = list(zip(pictures.tensor_split(number), targets.tensor_split(number), strict=True))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def share(part: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = part
        return loss_fn(network(inputs).float(), labels) * (weight * len(inputs) / len(pictures))

    def learn(part: tuple[Tensor, Tensor]) -> Tensor:
        loss = share(part)
        loss.backward()
        return loss.detach()

    def gradients(part: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = share(part)
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    if number == 1:
        return learn(parts[0])
    team = _team(number, torch.get_num_threads())
    first, others = team.submit(learn, parts[0]), [*team.map(gradients, parts[1:])]
    total = first.result()
    for loss, theirs in others:  # in this order, so that the sum is always the same
        total += loss
        for parameter, gradient in zip(parameters, theirs, strict=True):
            if parameter.grad is not None and gradient is not None:
                parameter.grad += gradient
    return total


def _parts(network: nn.Module, pictures: int) -> int:
    """Into how many parts a batch is cut: one if its pictures depend on each other or random numbers are drawn.

    One too if the first layers are frozen: the steps are then so short that threads wait for each other's Python.
    """
    first = next(network.parameters())
    if processes.world_size() > 1 or first.device.type != "cpu" or not first.requires_grad:
        return 1
    for module in network.modules():
        draws = isinstance(module, (nn.Dropout, StochasticDepth)) and module.p > 0
        if module.training and (draws or isinstance(module, _BatchNorm)):
            return 1
    cores = torch.get_num_threads()
    most = min(MOST, cores, pictures // FEWEST)
    return max(range(1, max(1, most) + 1), key=lambda number: (cores - cores % number, number))  # so that none is idle


@cache
def _team(number: int, cores: int) -> ThreadPoolExecutor:
    """A pool of threads, each with its part of the cores."""
    ready = Barrier(number + 1)

    def begin() -> None:
        torch.get_num_threads()  # else the thread's first operation sets it anew
        torch.set_num_threads(cores // number)

    team = ThreadPoolExecutor(number, "core", begin)
    for _ in range(number):
        team.submit(ready.wait)
    ready.wait()
    torch.set_num_threads(cores)  # of this thread and of those to come
    return team
