"""Losses: what training minimises, and the criterion that picks the best epoch. Both are passed in
as one value.

fine_tune(model, data, config, Objective(cross_entropy(label_smoothing=0.1), VAL_LOSS))
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

# From logits and class probabilities, both (n, classes), to the mean loss of the batch.
LossFn = Callable[[Tensor, Tensor], Tensor]


class Criterion(NamedTuple):
    """A figure to compute on the validation pictures, and its name in the history; lower is
    better."""

    name: str
    measure: LossFn


class Objective(NamedTuple):
    """What training minimises, and what epochs are chosen by."""

    loss_fn: LossFn
    criterion: Criterion


def cross_entropy(label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> LossFn:
    """Cross-entropy; `class_weights` (classes,) is the weight of each class."""

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        weight = None if class_weights is None else class_weights.to(logits.device)
        return F.cross_entropy(logits, targets, weight, label_smoothing=label_smoothing)

    return loss_fn


VAL_LOSS = Criterion("val_loss", cross_entropy())


def lowest_loss(class_weights: Tensor | None) -> Criterion:
    """The validation loss, weighted if there are class weights."""
    if class_weights is None:
        return VAL_LOSS
    return Criterion("weighted_val_loss", cross_entropy(class_weights=class_weights))
