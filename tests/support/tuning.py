"""Trainings of the tests: options are off unless a test turns them on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from thaw.data.pictures import Normaliser, Pictures
from thaw.learning.activations import Frozen
from thaw.learning.backbones import Classifier
from thaw.learning.batches import Split, TrainingData
from thaw.learning.losses import VAL_LOSS, Objective, cross_entropy, lowest_loss
from thaw.learning.training import FineTuning, HeadTraining, Trained, fine_tune, fit_head

Rows = np.ndarray[Any, np.dtype[np.int64]]
PLAIN: dict[str, Any] = {
    "seed": 0, "learning_rate": 0.003, "head_ratio": 1, "ratio": 10, "layer_decay": 1.0, "weight_decay": 0.05,
    "batch_size": 8, "epochs": 3, "warmup": 0.1, "views": 2, "draws": None, "jitter": 0.1, "l2_sp": 0.0, "mixup": 0.0,
    "cutmix": 0.0, "ema": 0.0, "interpolate": False, "keep": "last",
}  # fmt: skip


def fine_tuning(**changes: Any) -> FineTuning:
    """Settings of phase 2 with some of them changed."""
    return FineTuning(**PLAIN | changes)


def tune(
    model: Classifier,
    pictures: Pictures,
    train: tuple[Rows, Tensor],
    val: tuple[Rows, Tensor],
    normalise: Normaliser,
    settings: FineTuning,
    scratch: Path | None = None,
    unfreeze: Callable[[int], object] = lambda epoch: None,
    weight: Tensor | None = None,
    frozen: Frozen | None = None,
) -> Trained:
    """Phase 2 with cross-entropy; `weight` is how much each class counts."""
    data = TrainingData(pictures, normalise, Split(*train), Split(*val), frozen)
    return fine_tune(
        model, data, settings, Objective(cross_entropy(class_weights=weight), lowest_loss(weight)), unfreeze, scratch
    )


def fit(head: nn.Linear, train: Any, val: Any, settings: HeadTraining) -> Trained:
    """Phase 1 with cross-entropy."""
    return fit_head(head, train, val, settings, Objective(cross_entropy(), VAL_LOSS))
