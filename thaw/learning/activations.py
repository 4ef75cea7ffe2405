"""Activations: the outputs of frozen blocks, computed once and kept in a file for one training.

The file has no name, so it disappears with the process, however the process ends.
"""

import os
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.data.pictures import Normaliser, Pictures, copied, in_batches, in_views
from thaw.learning.cut import Cut
from thaw.progress import Progress

Rows = NDArray[np.int64]


class Activations:
    """Outputs for every picture in each of its views (`shape`); `one` are those for any picture."""

    def __init__(self, folder: Path, one: Tensor, shape: tuple[int, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        self.dtype, self.shape, self.device = one.dtype, shape, one.device
        last = one.ndim == 4 and one.is_contiguous(memory_format=torch.channels_last)
        self.order = (0, 2, 3, 1) if last else tuple(range(one.ndim))
        self.one = one.permute(self.order).shape[1:]
        self.bytes = one.nbytes

    def write(self, pictures: Rows, number: int, values: Tensor) -> None:
        """Keep the activations of pictures in their view of that number."""
        rows = values.permute(self.order).contiguous().cpu().view(len(values), -1).view(torch.uint8).numpy()
        for picture, row in zip(pictures.tolist(), rows, strict=True):
            os.pwrite(self.file, row, (picture * self.shape[1] + number) * self.bytes)

    def read(self, pictures: Rows, numbers: Rows) -> Tensor:
        """The activations of pictures, each in the view of its number."""
        rows = np.empty((len(pictures), self.bytes), np.uint8)
        for place, row in zip(np.ravel_multi_index((pictures, numbers), self.shape).tolist(), rows, strict=True):
            os.preadv(self.file, [row.data], place * self.bytes)
        values = torch.from_numpy(rows).view(self.dtype).view(len(rows), *self.one)
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return copied(values.permute(back), self.device)


class Frozen:
    """The frozen first blocks of a network, and the room there is to keep their outputs."""

    def __init__(self, parts: Cut, folder: Path, most: float) -> None:
        """`most` is how many bytes may be kept in the folder."""
        self.before, self.number = parts.before, parts.number
        self.folder, self.left = folder, most

    def keep(
        self, pictures: Pictures, rows: Rows, normalise: Normaliser, views: Rows, batch_size: int
    ) -> Activations | None:
        """Their outputs for the pictures in `rows`, each in its views (n, views); None if there is
        no room for them."""
        one = self.before(pictures.shape.blank().to(normalise.device))
        if (size := views.size * one.nbytes) > self.left:
            return None
        try:
            kept = Activations(self.folder, one, views.shape)
            progress = Progress(views.size)
            batches = in_batches(np.arange(len(rows)), batch_size)
            for places, pixels in zip(batches, pictures.batches([rows[places] for places in batches]), strict=True):
                pixels = copied(pixels, normalise.device)
                for number, column in enumerate(torch.from_numpy(views[places]).unbind(1)):
                    kept.write(places, number, self.before(normalise(in_views(pixels, column))))
                    progress.step(len(pixels), "outputs of frozen blocks")
        except OSError as error:
            why = f"{self.folder} cannot hold the outputs of frozen blocks ({error.strerror})"
            print(f"warning: {why}; they are computed anew each time", flush=True)
            return None
        self.left -= size
        return kept
