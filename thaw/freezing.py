"""Freezing: who is trainable is said here and nowhere else, by block, and the frozen rest stays in eval mode."""

import difflib
from functools import partial
from typing import Any

from torch import nn
from torchvision.ops import StochasticDepth

from thaw.backbones import Block, Classifier, blocks
from thaw.errors import InputError

Selection = str | int | list[str]


def select(found: list[Block], which: Selection) -> list[Block]:
    """The blocks that `which` names: `all`, the last N, or a list of names."""
    if which == "all":
        return found
    if isinstance(which, int):
        if not 1 <= which <= len(found):
            raise InputError(
                f"unfreeze.blocks is {which}, but the backbone has {len(found)} blocks: use all or 1 to {len(found)}"
            )
        return found[-which:]
    if isinstance(which, str):
        raise InputError(f"unfreeze.blocks is '{which}'; allowed are all, a number of last blocks, or a list of names")
    names = [block.name for block in found]
    for name in which:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)[0]
            raise InputError(f"unfreeze.blocks names '{name}', which is no block of this backbone; nearest is '{near}'")
    return [block for block in found if block.name in which]


def freeze(module: nn.Module) -> None:
    """Freeze for good: no gradients, and eval mode that no later `train()` on it or around it undoes."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for part in module.modules():
        stay_in_eval(part)


def stay_in_eval(module: nn.Module) -> None:
    """Put one module in eval mode so that no `train()` of its own or of a parent undoes it."""
    module.eval()
    module.train = partial(_ignore_mode, module)  # type: ignore[method-assign]


def _ignore_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def unfreeze(model: Classifier, which: Selection, batchnorm: str) -> list[str]:
    """Make the head and the selected blocks trainable, freeze the rest; returns the names of the trainable blocks.

    With `batchnorm` "frozen" every BatchNorm keeps its statistics, in trainable blocks too; "train" lets them follow
    the new pictures there.
    """
    found = blocks(model.backbone)
    chosen = select(found, which)
    for block in found:
        trainable = any(block is other for other in chosen)
        for parameter in block.parameters:
            parameter.requires_grad_(trainable)
        for module in block.modules:
            if not trainable:
                freeze(module)
            elif batchnorm == "frozen":
                for part in module.modules():
                    if isinstance(part, nn.modules.batchnorm._BatchNorm):
                        stay_in_eval(part)
    return [block.name for block in chosen]


def scale_dropout(model: nn.Module, factor: float) -> None:
    """Dropout and stochastic depth at `factor` times what the architecture has: few epochs want little of them."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, StochasticDepth)):
            module.p *= factor


def parameter_groups(model: Classifier, rate: float, ratio: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: the head at `rate`, the backbone at `rate / ratio`; norms and biases without weight decay."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith("head.") else "backbone"
        decays = parameter.ndim > 1
        group = groups.setdefault(
            (part, decays),
            {
                "name": part,
                "lr": rate if part == "head" else rate / ratio,
                "weight_decay": weight_decay if decays else 0.0,
                "params": [],
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
