"""Calibration: a temperature that makes probabilities reliable, and a threshold that keeps a
promise.

Both are chosen on validation only, and then measured on the test pictures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from thaw.statistics import intervals

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The divisor of the logits (n, classes) that maximises the likelihood of the labels (n,) (Guo
    et al. 2017).

    It changes no predicted class. It is above 1 for overconfident networks, and 1 if there are no
    pictures.
    """
    if not len(labels):
        return 1.0
    logits = logits.double()
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        # With all predictions correct the minimum would be at 0: the second term is a very weak
        # prior at 1.
        value = F.cross_entropy(logits / logarithm.exp(), labels) + 1e-3 * logarithm**2
        value.backward()
        return value

    optimizer.step(loss)
    return float(logarithm.detach().exp())


def probabilities(logits: Tensor, temperature: float) -> Scores:
    """The probabilities used everywhere: the softmax of the logits, which are the mean over the
    views of a picture, divided by the temperature."""
    result: Scores = (logits.double() / temperature).softmax(1).numpy()
    return result


def threshold(scores: Scores, positive: Mask, promise: str, at_least: float) -> float | None:
    """The threshold with the highest recall among those that keep the promise.

    Args:
        scores: probability of the positive class.
        positive: whether the picture is positive.
        promise: `precision` or `specificity`.
        at_least: its smallest allowed value.

    Returns:
        The lowest score that is called positive, or None if no threshold keeps the promise.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    hits = np.cumsum(positive[order])[last_of_ties]
    called = last_of_ties + 1
    negatives = max(int((~positive).sum()), 1)
    rates = hits / called if promise == "precision" else 1 - (called - hits) / negatives
    allowed = np.flatnonzero((rates >= at_least) & (hits > 0))
    if not len(allowed):
        return None
    best = allowed[hits[allowed] == hits[allowed].max()][0]  # of equal recall, the strictest
    return float(scores[order][last_of_ties[best]])


def decided(scores: Scores, cut: float | None) -> NDArray[np.int64]:
    """The class that is decided on for each picture by probabilities (n, classes): the most
    probable one, or of two the second where it reaches the threshold `cut`."""
    codes: NDArray[np.int64] = scores.argmax(1) if cut is None else (scores[:, 1] >= cut).astype(np.int64)
    return codes


def at_threshold(scores: Scores, positive: Mask, cut: float, groups: Sequence[str] | None) -> dict[str, Any]:
    """Recall, precision and specificity of `scores >= cut`, each with its 95 % interval (over
    whole groups)."""
    called, codes = scores >= cut, intervals.codes_of(groups, len(scores))
    rates: dict[str, Any] = {}
    for name, hits, of in (
        ("recall", called, positive),
        ("precision", positive, called),
        ("specificity", ~called, ~positive),
    ):
        span = intervals.of_share(hits, of, codes)
        rates[name] = {"value": float(hits[of].mean()) if of.any() else None, "low": span.low, "high": span.high}
    return rates
