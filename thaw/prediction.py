"""Prediction: what a network says of pictures, as features of its backbone or as logits."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.backbones import Classifier
from thaw.pictures import Normaliser, Pictures, in_batches, view
from thaw.progress import Progress

Rows = NDArray[np.int64]


def features_of(
    model: Classifier,
    pictures: Pictures,
    rows: Rows,
    normalise: Normaliser,
    views: int,
    batch_size: int,
    out: Any,
) -> None:
    """Write the frozen backbone's features of every picture and view into `out` (n, views, features), in order."""
    model.eval()
    progress, start = Progress(len(rows) * views), 0
    with torch.inference_mode():
        for pixels in pictures.batches(in_batches(rows, batch_size)):
            normalised = normalise(pixels)
            for number in range(views):
                features = model.backbone(view(normalised, number).contiguous(memory_format=torch.channels_last))
                out[start : start + len(pixels), number] = features.float().cpu().numpy()
                progress.step(len(pixels), "features")
            start += len(pixels)


def predict(
    model: nn.Module,
    pictures: Pictures,
    rows: Rows,
    normalise: Normaliser,
    views: int,
    batch_size: int,
    progress: Progress | None = None,
    what: str = "",
) -> Tensor:
    """Logits (n, classes) of the pictures in `rows`, averaged over their first `views` views."""
    model.eval()
    found = []
    with torch.inference_mode():
        for pixels in pictures.batches(in_batches(rows, batch_size)):
            normalised = normalise(pixels)
            seen = (view(normalised, number) for number in range(views))
            logits = [model(each.contiguous(memory_format=torch.channels_last)) for each in seen]
            found.append(torch.stack(logits).mean(0).float().cpu())
            if progress:
                progress.step(len(pixels) * views, what)
    return torch.cat(found)
