"""Batches of training pictures: shuffled, in random views, jittered, mixed, and split between
ranks.

All random numbers come from the seed and the epoch and are drawn for the whole batch, so neither
an interruption nor the number of processes changes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.data.pictures import Normaliser, Pictures, copied, drawn_views, in_batches, in_views, jittered
from thaw.learning import processes
from thaw.learning.activations import Activations, Frozen
from thaw.learning.cut import as_they_are

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Augmentation:
    """How training pictures vary from epoch to epoch."""

    views: int
    draws: int | None
    jitter: float
    mixup: float
    cutmix: float

    def views_of(self, pictures: int) -> Rows:
        """The views (pictures, draws) of which an epoch shows one: drawn once for each, or all."""
        if self.draws:
            return drawn_views(pictures, self.views, self.draws)
        return np.broadcast_to(np.arange(self.views), (pictures, self.views))

    @property
    def leaves_pictures_as_they_are(self) -> bool:
        """Whether a picture in one view is always the same."""
        return not (self.jitter or self.mixup or self.cutmix)


class Split(NamedTuple):
    """Row numbers of pictures, and their class probabilities (rows, classes)."""

    rows: Rows
    targets: Tensor


class TrainingData(NamedTuple):
    """The pictures of phase 2: those to train on and those to validate on. Outputs of `frozen`
    blocks are kept if there is room for them, which changes the time only."""

    pictures: Pictures
    normalise: Normaliser
    train: Split
    val: Split
    frozen: Frozen | None = None


class Batch(NamedTuple):
    """This rank's part of a batch of `size`; `share` is the fraction of the batch in it, 0 if
    there is none. `inputs` are pictures or, if the frozen blocks have run already, their outputs.
    """

    inputs: Tensor
    targets: Tensor
    share: float
    size: int


def order(rows: Rows, size: int) -> list[Rows]:
    """The batches of an epoch; a last batch of one picture is dropped, because BatchNorm cannot
    train on it."""
    batches = in_batches(rows, size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def training_batches(
    data: TrainingData,
    batch_size: int,
    augmentation: Augmentation,
    seed: tuple[int, int],
    before: Callable[[Tensor], Tensor] = as_they_are,
    kept: Activations | None = None,
) -> Iterator[Batch]:
    """The batches of an epoch; `seed` is the seed of the run and the number of the epoch.

    `before` runs the frozen blocks; `kept` holds their outputs for every picture in its views.
    """
    rows, targets = data.train
    views = augmentation.views_of(len(rows))
    device = data.normalise.device
    batches = order(np.random.default_rng(seed).permutation(len(rows)), batch_size)
    generator = torch.Generator().manual_seed(int(np.random.default_rng([*seed, 2]).integers(2**31)))
    random = np.random.default_rng([*seed, 3])
    mixes = augmentation.mixup > 0 or augmentation.cutmix > 0
    shares = [processes.share(np.arange(len(batch))) for batch in batches]
    # A rank without a share of a short last batch takes its first picture at weight 0.
    mine = [share if len(share) else np.arange(1) for share in shares]
    if mixes:  # each picture with the one before it, which may be in the share of another rank
        mine = [np.r_[places[0] - 1, places] % len(batch) for batch, places in zip(batches, mine, strict=True)]
    read: Iterator[Tensor | None] = repeat(None)
    if not kept:
        read = data.pictures.batches([rows[batch[places]] for batch, places in zip(batches, mine, strict=True)])
    for batch, share, places, pixels in zip(batches, shares, mine, read, strict=kept is None):
        numbers = drawn(len(batch), views.shape[1], generator)[places]
        probabilities = copied(targets[batch[places]], device)
        if kept:
            inputs = kept.read(batch[places], numbers.numpy())
        else:
            assert pixels is not None
            shown = torch.from_numpy(views[batch[places], numbers])
            inputs = augmented(pixels, shown, places, len(batch), data.normalise, augmentation, generator)
            if mixes:
                inputs, probabilities = mixed(inputs, probabilities, augmentation, random)
            inputs = before(inputs)
        yield Batch(inputs, probabilities, len(share) / len(batch), len(batch))


def drawn(pictures: int, views: int, generator: torch.Generator) -> Tensor:
    """A view number for each picture of a batch."""
    if views == 1:
        return torch.zeros(pictures, dtype=torch.int64)
    return torch.randint(views, (pictures,), generator=generator)


def augmented(
    pixels: Tensor,
    views: Tensor,
    places: Rows,
    size: int,
    normalise: Normaliser,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> Tensor:
    """Normalised and augmented pictures, each in its view; `places` are their places in a batch of
    `size`."""
    pixels = copied(pixels, normalise.device)
    if augmentation.views > 1:
        pixels = in_views(pixels, views)
    pictures = normalise(pixels)
    if augmentation.jitter:
        contrast, brightness = (2 * torch.rand(2, size, generator=generator)[:, places] - 1) * augmentation.jitter
        pictures = jittered(pictures, contrast, brightness)
    return pictures


def mixed(
    pictures: Tensor, targets: Tensor, augmentation: Augmentation, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each picture but the first, and its target, with the one before it: mixup (Zhang et al.
    2018), cutmix (Yun et al. 2019), or one of them at random if both are on."""
    alpha = (augmentation.mixup, augmentation.cutmix)
    cut = bool(random.integers(2)) if all(alpha) else alpha[1] > 0
    share = random.beta(alpha[cut], alpha[cut])  # of the picture itself
    pictures, partners = pictures[1:], pictures[:-1]
    if cut:
        height, width = pictures.shape[-2:]
        centre, side = random.integers([height, width]), (1 - share) ** 0.5
        top, left = (int(max(0, c - side * n / 2)) for c, n in zip(centre, (height, width), strict=True))
        bottom, right = (int(min(n, c + side * n / 2)) for c, n in zip(centre, (height, width), strict=True))
        pictures = pictures.clone()
        pictures[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        pictures = partners.lerp(pictures, share)
    return pictures, targets[:-1].lerp(targets[1:], share)
