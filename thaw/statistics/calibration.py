"""Calibration: probabilities that mean what they say, and a threshold that keeps a promise.

Both are chosen on validation and then judged on test pictures, which have no say in them.
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
    """The number that logits (n, classes) are divided by so that labels (n,) are as likely as can be (Guo et al. 2017).

    It changes no verdict. Networks that are too sure of themselves have one above 1; without pictures it is 1.
    """
    if not len(labels):
        return 1.0
    logits = logits.double()
    logarithm = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logarithm], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        # Verdicts that are all right would make it infinitely sure: the second term is a very weak belief in 1.
        value = F.cross_entropy(logits / logarithm.exp(), labels) + 1e-3 * logarithm**2
        value.backward()
        return value

    optimizer.step(loss)
    return float(logarithm.detach().exp())


def probabilities(logits: Tensor, temperature: float) -> Scores:
    """What a network's answer is taken as, everywhere: the softmax of its logits, which are averaged over the views of
    a picture and then divided by the temperature that validation chose."""
    found: Scores = (logits.double() / temperature).softmax(1).numpy()
    return found


def threshold(scores: Scores, positive: Mask, promise: str, at_least: float) -> float | None:
    """The score from which on a picture is called positive so that most positives are found and the promise is kept.

    Args:
        scores: probability of the positive class.
        positive: whether it is one.
        promise: `precision` (of those called positive so many are) or `specificity` (of the others so many are not).
        at_least: what is promised.

    Returns:
        The threshold, or None if no threshold keeps the promise.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    found = np.cumsum(positive[order])[last_of_ties]
    called = last_of_ties + 1
    others = max(int((~positive).sum()), 1)
    kept = found / called if promise == "precision" else 1 - (called - found) / others
    allowed = np.flatnonzero((kept >= at_least) & (found > 0))
    if not len(allowed):
        return None
    best = allowed[found[allowed] == found[allowed].max()][0]  # of those that find as many, the strictest
    return float(scores[order][last_of_ties[best]])


def decided(scores: Scores, cut: float | None) -> NDArray[np.int64]:
    """The class that is decided on for each picture by probabilities (n, classes): the most probable one, or of two the
    second where it reaches the threshold `cut`."""
    codes: NDArray[np.int64] = scores.argmax(1) if cut is None else (scores[:, 1] >= cut).astype(np.int64)
    return codes


def at_threshold(scores: Scores, positive: Mask, cut: float, groups: Sequence[str] | None) -> dict[str, Any]:
    """Recall, precision and specificity of `scores >= cut`, each with its 95 % interval (of whole groups)."""
    called, codes = scores >= cut, intervals.codes_of(groups, len(scores))
    found: dict[str, Any] = {}
    for name, hits, of in (
        ("recall", called, positive),
        ("precision", positive, called),
        ("specificity", ~called, ~positive),
    ):
        span = intervals.of_share(hits, of, codes)
        found[name] = {"value": float(hits[of].mean()) if of.any() else None, "low": span.low, "high": span.high}
    return found
