"""A network cut into two parts before one of its blocks, so that the first part can run only once.

No family of networks is known by name. A cut is tried on random numbers, and it is only made if the
two parts give exactly what the whole network gives.
"""

from copy import deepcopy
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thaw.learning.backbones import Block, Classifier, blocks
from thaw.learning.convolutions import quicken

# For fewer pictures PyTorch may choose other convolutions, which round differently.
FEWEST = 16


class Cut(NamedTuple):
    """The two parts, which share the weights of the network: pictures to activations to logits."""

    number: int  # of blocks in the first part
    before: "Before"
    after: Classifier


class Before:
    """The first blocks of a backbone. Their outputs for a picture do not depend on its batch."""

    def __init__(self, backbone: nn.Module, number: int) -> None:
        self.backbone = backbone
        self.end = blocks(backbone)[number].modules[0]

    def __call__(self, pictures: Tensor) -> Tensor:
        """The activations that the block would take."""
        count = len(pictures)
        if count < FEWEST:
            pictures = pictures[torch.arange(FEWEST) % count].contiguous(memory_format=torch.channels_last)
        with self.end.register_forward_pre_hook(_stop), torch.no_grad():
            try:
                self.backbone(pictures)
            except _Reached as reached:
                return reached.activations[:count]
        raise ValueError("the block takes no part")


class _Reached(Exception):
    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.activations = activations


def _stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    raise _Reached(inputs[0])


def cut(model: Classifier, number: int, example: Tensor) -> Cut | None:
    """The network cut before block `number`; None if nothing is before it or it cannot be cut
    there.

    `example` is a picture whose size and device the network takes; what it shows does not matter.
    """
    if not number:
        return None
    quicken(model)
    parts = Cut(number, Before(model.backbone, number), after(model, number))
    shape = FEWEST, *example.shape[1:]
    random = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example)
    training = model.training
    try:
        with torch.no_grad():
            model.eval()
            parts.after.eval()
            same = torch.equal(parts.after(parts.before(random)), model(random))
    except Exception:  # networks that do more than call their blocks fail in many ways
        same = False
    finally:
        model.train(training)
    return parts if same else None


def after(model: Classifier, number: int) -> Classifier:
    """The network without its first blocks; it shares the weights of the whole."""
    tensors: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    rest = deepcopy(model, tensors)
    skipped = {module for block in blocks(rest.backbone)[:number] for module in block.modules}
    for name, module in [*rest.backbone.named_modules()]:
        if module in skipped:
            rest.backbone.set_submodule(name, nn.Identity())
    return rest


def in_common(one: nn.Module, other: nn.Module) -> int:
    """How many of the first blocks of two backbones have equal weights; the last one is not
    counted."""
    pairs = list(zip(blocks(one), blocks(other), strict=True))
    return next((number for number, (a, b) in enumerate(pairs) if not _same(a, b)), len(pairs) - 1)


def _same(one: Block, other: Block) -> bool:
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _tensors(block: Block) -> list[Tensor]:
    return [*block.parameters, *(buffer for module in block.modules for buffer in module.buffers())]


class Joined(nn.Module):
    """A network that is run in two parts."""

    def __init__(self, before: Before, rest: Classifier) -> None:
        super().__init__()
        self.before, self.rest = before, rest

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures to logits."""
        logits: Tensor = self.rest(self.before(pictures))
        return logits


class Pair(nn.Module):
    """Two networks of one structure look at the same pictures: logits (n, 2, classes).

    The first blocks that they have in common are computed once.
    """

    def __init__(self, one: Classifier, other: Classifier, example: Tensor) -> None:
        super().__init__()
        quicken(other)
        number = in_common(one.backbone, other.backbone)
        parts = cut(one, number, example)
        self.before = parts.before if parts else as_they_are
        self.networks = nn.ModuleList([parts.after, after(other, number)] if parts else [one, other])

    def forward(self, pictures: Tensor) -> Tensor:
        """What both say."""
        activations = self.before(pictures)
        return torch.stack([network(activations) for network in self.networks], 1)


def as_they_are(pictures: Tensor) -> Tensor:
    """The first part of a network that is not cut."""
    return pictures
