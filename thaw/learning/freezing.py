"""Freezing: who is trainable is said here and nowhere else, by block, and the frozen rest stays in
eval mode."""

import difflib
import math
import re
from functools import partial
from typing import Any

from torch import nn
from torchvision.ops import StochasticDepth

from thaw.errors import InputError
from thaw.learning.backbones import Block, Classifier, blocks

Selection = str | int | list[str]


def select(all_blocks: list[Block], selection: Selection, epoch: int = 1, epochs: int = 1) -> list[Block]:
    """The blocks that `selection` names: `all`, the last N, `first N`, a list of names, or
    `gradual`.

    `gradual` starts with the last block, adds blocks evenly in each epoch, and has all of them in
    the last epoch.
    """
    count = len(all_blocks)
    if selection == "all":
        return all_blocks
    if selection == "gradual":
        return all_blocks[-math.ceil(count * epoch / epochs) :]
    first = re.fullmatch(r"first (\d+)", selection) if isinstance(selection, str) else None
    number = int(first[1]) if first else selection
    if isinstance(number, int):
        if not 1 <= number <= count:
            raise InputError(
                f"unfreeze.blocks is {selection}, but the backbone has {count} blocks: "
                f"use all, 1 to {count} for the last ones, or first 1 to first {count}"
            )
        return all_blocks[:number] if first else all_blocks[-number:]
    if isinstance(selection, (str, int)) or not selection:
        raise InputError(
            f"unfreeze.blocks is {selection!r}; allowed are all, gradual, a number of last blocks, first N, "
            "or a list of names"
        )
    names = [block.name for block in all_blocks]
    for name in selection:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.0)[0]
            raise InputError(f"unfreeze.blocks names '{name}', which is no block of this backbone; nearest is '{near}'")
    return [block for block in all_blocks if block.name in selection]


def freeze(module: nn.Module) -> None:
    """Freeze for good: no gradients, and eval mode that no `train()` of the module or of a parent
    undoes."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for part in module.modules():
        stay_in_eval(part)


def stay_in_eval(module: nn.Module) -> None:
    """Put one module in eval mode; no `train()` of its own or of a parent undoes it."""
    module.eval()
    module.train = partial(_ignore_mode, module)  # type: ignore[method-assign]


def obey_mode(module: nn.Module) -> None:
    """Undo `stay_in_eval`: the module follows `train()` and `eval()` again."""
    module.__dict__.pop("train", None)


def _ignore_mode(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def unfreeze(model: Classifier, selection: Selection, batchnorm: str, epoch: int = 1, epochs: int = 1) -> list[str]:
    """Make the head and the selected blocks trainable, freeze the rest; returns the names of the
    trainable blocks.

    With `batchnorm` "train" the statistics in trainable blocks follow the new pictures; otherwise
    every BatchNorm keeps its own. An earlier call has no effect, so each epoch may unfreeze other
    blocks.
    """
    all_blocks = blocks(model.backbone)
    selected = select(all_blocks, selection, epoch, epochs)
    for module in model.backbone.modules():
        obey_mode(module)
    for block in all_blocks:
        trainable = any(block is other for other in selected)
        for parameter in block.parameters:
            parameter.requires_grad_(trainable)
        for module in block.modules:
            if not trainable:
                freeze(module)
            elif batchnorm != "train":
                for part in module.modules():
                    if isinstance(part, nn.modules.batchnorm._BatchNorm):
                        stay_in_eval(part)
    return [block.name for block in selected]


def scale_dropout(model: nn.Module, factor: float) -> None:
    """Multiply the rates of dropout and stochastic depth by `factor`: a short training needs
    little of them."""
    for module in model.modules():
        if isinstance(module, (nn.Dropout, StochasticDepth)):
            module.p *= factor


def parameter_groups(
    model: Classifier, rate: float, ratio: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: the head at `rate`, the last block at `rate / ratio`, and each earlier
    block at `layer_decay` times the rate of the next one. Weight decay applies to the weights of
    convolutions and linear layers only."""
    before_the_last = {
        parameter: number
        for number, block in enumerate(reversed(blocks(model.backbone)))
        for parameter in block.parameters
    }
    groups: dict[tuple[bool, float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        head = parameter not in before_the_last
        own = rate if head else rate / ratio * layer_decay ** before_the_last[parameter]
        decays = _decays(name, parameter)
        group = groups.setdefault(
            (head, own, decays),
            {
                "name": "head" if head else "backbone",
                "lr": own,
                "weight_decay": weight_decay if decays else 0.0,
                "params": [],
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to weights of convolutions and linear layers, not to shifts
    and scales.

    As in torchvision's reference training and timm, norms, biases, class tokens, positional
    embeddings, layer scales (of ndim 3 in torchvision's ConvNeXt) and relative position bias
    tables do not decay; nor, as in Swin v2, do `logit_scale` and `cpb_mlp`, the small network that
    computes the table there.
    """
    return parameter.ndim > 1 and name.endswith("weight") and ".cpb_mlp." not in name
