"""Prediction: features of the backbone, or logits, of pictures."""

import mmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.data.pictures import Normaliser, Pictures, copied, in_batches, in_views, view
from thaw.learning import processes
from thaw.learning.backbones import Classifier
from thaw.learning.convolutions import quicken
from thaw.progress import Progress

Rows = NDArray[np.int64]


def features_of(
    model: Classifier,
    pictures: Pictures,
    rows: Rows,
    normalise: Normaliser,
    views: NDArray[np.int64],
    batch_size: int,
    out: Any,
) -> None:
    """Write the frozen backbone's features of each picture, in its `views` (n, views), into `out`
    (n, views, features).

    Each rank writes those of its own pictures.
    """
    model.eval()
    quicken(model)
    progress = Progress(views.size)
    batches = in_batches(processes.share(np.arange(len(rows))), batch_size)
    with torch.inference_mode():
        for batch, pixels in zip(batches, pictures.batches([rows[places] for places in batches]), strict=True):
            pixels = copied(pixels, normalise.device)
            for place, numbers in enumerate(torch.from_numpy(views[batch]).unbind(1)):
                features = model.backbone(normalise(in_views(pixels, numbers)))
                out[batch[0] : batch[-1] + 1, place] = features.float().cpu().numpy()
                progress.step(len(pixels) * processes.world_size(), "features")
            file: object = out.base
            if isinstance(file, mmap.mmap):
                # these pages are in the file; in memory they would pile up
                file.madvise(mmap.MADV_DONTNEED)


def predict(
    model: nn.Module,
    pictures: Pictures,
    rows: Rows,
    normalise: Normaliser,
    views: int,
    batch_size: int,
    progress: Progress | None = None,
    label: str = "",
) -> Tensor:
    """Logits (n, classes), or of a pair of networks (n, 2, classes), of the pictures in `rows`,
    averaged over their first `views` views.

    Each rank computes its own part and gets the result for all.
    """
    model.eval()
    quicken(model)
    parts = []
    with torch.inference_mode():
        for pixels in pictures.batches(in_batches(processes.share(rows), batch_size)):
            pixels = copied(pixels, normalise.device)
            first, *others = (model(normalise(view(pixels, number))).float() for number in range(views))
            parts.append((sum(others, first) / views).cpu())  # in this order, whatever the shape
            if progress:
                progress.step(len(pixels) * views * processes.world_size(), label)
    return processes.all_gather(torch.cat(parts))
