"""Forgetting: how far fine-tuning moved a network from its pretrained weights.

Three measures: how far the weights of each block moved, how similar its outputs on the same
pictures still are (linear CKA), and how often the pretrained head, put back, still predicts the
same of its 1000 classes.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from thaw.learning.backbones import Block, blocks


class Look(NamedTuple):
    """What a backbone computes for some pictures: the outputs of each block (n, channels),
    averaged over positions, and its final outputs."""

    blocks: list[Block]
    outputs: list[Tensor]
    scores: Tensor


def look(backbone: nn.Module, pictures: Iterable[Tensor], head: tuple[str, nn.Module] | None = None) -> Look:
    """Run normalised batches through a backbone; with its old `head` (path, module) it ends in
    class scores."""
    all_blocks = blocks(backbone)
    if head:
        backbone.set_submodule(*head)
    latest: list[Tensor] = [torch.empty(0)] * len(all_blocks)
    outputs_of: list[list[Tensor]] = [[] for _ in all_blocks]
    scores = []

    def note(number: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        latest[number] = output

    with ExitStack() as hooks, torch.inference_mode():
        for number, block in enumerate(all_blocks):
            for module in block.modules:
                hooks.callback(module.register_forward_hook(partial(note, number)).remove)
        for batch in pictures:
            scores.append(backbone.eval()(batch).float().cpu())
            for output, outputs in zip(latest, outputs_of, strict=True):
                outputs.append(_without_places(output, isinstance(backbone, SwinTransformer)).float().cpu())
    return Look(all_blocks, [torch.cat(outputs) for outputs in outputs_of], torch.cat(scores))


def compare(
    before: nn.Module,
    after: nn.Module,
    batches: Callable[[], Iterable[Tensor]],
    head: tuple[str, nn.Module] | None = None,
) -> tuple[dict[str, float], pd.DataFrame]:
    """How far `after` moved from `before`: means over all blocks, and a row for each block.

    `batches` gives the same normalised batches each time. With the old `head` (path, module) the
    figures say how its predictions drifted, too.
    """
    if head:
        head[1].to(next(before.parameters()).device)
    first, second = (look(backbone, batches(), head) for backbone in (before, after))
    rows = by_block(first, second)
    figures = {name: float(rows[name].mean()) for name in ("distance", "cka")}
    return figures | (drift(first.scores, second.scores) if head else {}), rows


def by_block(before: Look, after: Look) -> pd.DataFrame:
    """A row for each block: how far its weights moved relative to their norm, and the CKA of its
    outputs.

    Both backbones must have the same structure, folded or not, and must have seen the same
    pictures.
    """
    rows = [
        {"block": old.name, "distance": _distance(old.parameters, new.parameters), "cka": cka(x, y)}
        for old, new, x, y in zip(before.blocks, after.blocks, before.outputs, after.outputs, strict=True)
    ]
    return pd.DataFrame(rows)


def drift(before: Tensor, after: Tensor) -> dict[str, float]:
    """How far class scores (n, classes) drifted. `kept` is the share of pictures with the same top
    class, `kl` the mean divergence in nats."""
    old, new = (scores.cpu().double().log_softmax(1) for scores in (before, after))
    same, divergence = (old.argmax(1) == new.argmax(1)).double(), (old.exp() * (old - new)).sum(1)
    return {"kept": float(same.mean()), "kl": float(divergence.mean())}


def cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019) of two sets of features (n,
    features) of the same pictures: 1 if they differ by rotation and scale only, 0 if they have
    nothing in common.
    """
    x, y = ((outputs - outputs.mean(0)).cpu().double() for outputs in (x, y))
    shared = torch.linalg.matrix_norm(x.T @ y) ** 2
    own = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return float(shared / own) if own > 0 else float("nan")


def _distance(old: Iterable[Tensor], new: Iterable[Tensor]) -> float:
    with torch.no_grad():
        pairs = list(zip(old, new, strict=True))
        # .cpu(): MPS has no float64
        moved = sum(float(((b - a).cpu().double() ** 2).sum()) for a, b in pairs)
        size = sum(float((a.cpu().double() ** 2).sum()) for a, _ in pairs)
    return float((moved / size) ** 0.5) if size else 0.0


def _without_places(output: Tensor, channels_last: bool) -> Tensor:
    """Average over positions: (n, channels, height, width), (n, height, width, channels) or (n,
    tokens, channels) becomes (n, channels)."""
    if output.ndim == 4:
        return output.mean((1, 2) if channels_last else (2, 3))
    return output.mean(1) if output.ndim == 3 else output
