"""Forgetting: how far fine-tuning moved a network from what it was trained to know.

Three views of it: how far the weights of each block moved, how alike what each block says of the same pictures still
is (linear CKA), and whether the old head, put back, still names the same of its 1000 classes.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

from thaw.backbones import blocks

Batches = Callable[[], Iterable[Tensor]]


def by_block(before: nn.Module, after: nn.Module, pictures: Batches) -> pd.DataFrame:
    """For each block of a backbone how far its weights moved, relative to their size, and the CKA of its outputs.

    Both are of one structure, folded or not; `pictures` gives the same normalised batches each time.
    """
    said = [_outputs(backbone, pictures()) for backbone in (before, after)]
    rows = [
        {"block": old.name, "distance": _distance(old.parameters, new.parameters), "cka": cka(one, other)}
        for old, new, one, other in zip(blocks(before), blocks(after), *said, strict=True)
    ]
    return pd.DataFrame(rows)


def drift(before: nn.Module, after: nn.Module, pictures: Batches) -> dict[str, float]:
    """How far the class scores drifted from those of the first network: `kept` is the share of pictures that the
    second one gives the same class, `kl` the mean divergence in nats."""
    same, divergence, count = 0.0, 0.0, 0
    with torch.inference_mode():
        for batch in pictures():
            old, new = (model.eval()(batch).double().log_softmax(1) for model in (before, after))
            same += float((old.argmax(1) == new.argmax(1)).sum())
            divergence += float((old.exp() * (old - new)).sum())
            count += len(batch)
    return {"kept": same / count, "kl": divergence / count}


def cka(one: Tensor, other: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019) of two descriptions (n, features) of the same pictures.

    1 where one is the other turned and scaled, 0 where they have nothing in common.
    """
    one, other = ((each - each.mean(0)).double() for each in (one, other))
    shared = torch.linalg.matrix_norm(one.T @ other) ** 2
    own = torch.linalg.matrix_norm(one.T @ one) * torch.linalg.matrix_norm(other.T @ other)
    return float(shared / own) if own > 0 else float("nan")


def _distance(old: Iterable[Tensor], new: Iterable[Tensor]) -> float:
    with torch.no_grad():
        pairs = list(zip(old, new, strict=True))
        moved = sum(float(((b - a).double() ** 2).sum()) for a, b in pairs)
        size = sum(float((a.double() ** 2).sum()) for a, _ in pairs)
    return float((moved / size) ** 0.5) if size else 0.0


def _outputs(backbone: nn.Module, pictures: Iterable[Tensor]) -> list[Tensor]:
    """What each block says of the pictures (n, channels), averaged over places."""
    found = blocks(backbone)
    latest: list[Tensor] = [torch.empty(0)] * len(found)
    said: list[list[Tensor]] = [[] for _ in found]

    def note(number: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        latest[number] = output

    with ExitStack() as hooks, torch.inference_mode():
        for number, block in enumerate(found):
            for module in block.modules:
                hooks.callback(module.register_forward_hook(partial(note, number)).remove)
        for batch in pictures:
            backbone.eval()(batch)
            for output, outputs in zip(latest, said, strict=True):
                outputs.append(_without_places(output, isinstance(backbone, SwinTransformer)).float().cpu())
    return [torch.cat(outputs) for outputs in said]


def _without_places(output: Tensor, channels_last: bool) -> Tensor:
    """(n, channels) of (n, channels, height, width), of (n, height, width, channels) or of (n, tokens, channels)."""
    if output.ndim == 4:
        return output.mean((1, 2) if channels_last else (2, 3))
    return output.mean(1) if output.ndim == 3 else output
