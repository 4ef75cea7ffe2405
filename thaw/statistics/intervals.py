"""Intervals: how far a figure could move with other test pictures of the same kind, even with few
groups.

    codes = codes_of(groups, n)
    span = of_change(after - before, codes)      # of a mean over pictures: accuracy, recall, a cost
    span = of_share(hits, of, codes)             # of a share: recall, precision, specificity
    span = of_figure(value, left_out, sizes)     # of anything else: AUC, F1

Pictures of one module or one patient are not independent, so whole groups are resampled: each
group is left out in turn (the jackknife). Student's t gets Bell and McCaffrey's degrees of
freedom, which are few if few groups hold most of the pictures. Shares and paired changes are
converted to the number of independent pictures with the same variance (Korn and Graubard 1998),
and get the intervals of Wilson, and of Bonett and Price (2012): no mistake in ten pictures does
not prove that there are none. `benchmarks/coverage.py` shows how often each interval contains the
truth.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]

CONFIDENCE = 0.95
FEWEST_SEEDS = 3  # two seeds are too few to estimate their variance; with one, only pictures vary
# five groups change the same way by chance in 2 of 32 cases, which is more than 5 %
FEWEST = 6


class Span(NamedTuple):
    """The bounds of an interval, or why there is none."""

    low: float | None
    high: float | None
    why: str = ""


class Figure(NamedTuple):
    """A figure over all pictures, and its value without each group; NaN where that is
    undefined."""

    value: float
    left_out: Numbers


def codes_of(groups: Sequence[str] | None, n: int) -> Codes:
    """The number of each picture's group; without groups each picture is a group of its own."""
    return np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def of_change(differences: Numbers, codes: Codes, confidence: float = CONFIDENCE, largest: float = 1.0) -> Span:
    """Interval of the mean of differences (n,) between -largest and largest; with (n, seeds) over
    seeds too."""
    by_seed = differences.reshape(len(differences), -1) / largest
    by_picture = by_seed.mean(1)
    sizes = np.bincount(codes).astype(np.float64)
    if few := too_few(sizes, by_seed.shape[1]):
        return few
    mean, square, count = float(by_picture.mean()), float((by_picture**2).mean()), len(by_picture)
    sums = np.bincount(codes, weights=by_picture)
    variance, degrees = _with_seeds(
        _jackknife(Figure(mean, (sums.sum() - sums) / (count - sizes))), _degrees(sizes), by_seed.mean(0)
    )
    count_equal = _equal(count, (square - mean**2) / count, variance)
    middle = count_equal * mean / (count_equal + 2)  # add one picture that gains and one that loses
    spread = (count_equal * square + 2) / (count_equal + 2) - middle**2
    half = _quantile(confidence, degrees) * math.sqrt(spread / (count_equal + 2))
    return Span(largest * max(middle - half, -1.0), largest * min(middle + half, 1.0))


def of_share(hits: Mask, of: Mask, codes: Codes, confidence: float = CONFIDENCE) -> Span:
    """Interval of the share of hits among the pictures in `of`."""
    present, codes = np.unique(codes[of], return_inverse=True)
    sizes = np.bincount(codes, minlength=len(present)).astype(np.float64)
    if few := too_few(sizes):
        return few
    count = float(sizes.sum())
    sums = np.bincount(codes, weights=hits[of].astype(np.float64))
    share = float(sums.sum() / count)
    variance = _jackknife(Figure(share, (sums.sum() - sums) / (count - sizes)))
    return wilson(share, _equal(count, share * (1 - share) / count, variance), _quantile(confidence, _degrees(sizes)))


def wilson(share: float, count: float, quantile: float = 1.96) -> Span:
    """Wilson's interval of a share of `count` independent pictures."""
    square = quantile**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = quantile / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return Span(max(0.0, middle - half), min(1.0, middle + half))


def of_figure(figures: Sequence[Figure], sizes: Numbers, least: float = 0.0, confidence: float = CONFIDENCE) -> Span:
    """Interval of the mean of one figure per seed, between -1 and 1; `least` is the half width if
    no group changes the figure."""
    if few := too_few(sizes, len(figures)):
        return few
    value = float(np.mean([figure.value for figure in figures]))
    left_out = np.mean([figure.left_out for figure in figures], axis=0)
    if np.isnan(left_out).any():
        return Span(None, None, "all pictures of a class are in one group")
    variance, degrees = _with_seeds(
        _jackknife(Figure(value, left_out)), _degrees(sizes), np.array([figure.value for figure in figures])
    )
    half = _quantile(confidence, degrees) * math.sqrt(variance) or least
    return Span(max(value - half, -1.0), min(value + half, 1.0))


def of_class_mean(
    figures: Sequence[Figure], labels: Codes, codes: Codes, classes: int, confidence: float = CONFIDENCE
) -> Span:
    """Interval of a figure that is a mean over `classes` classes, such as AUC or F1, averaged over
    seeds.

    If no group changes the figure, an unseen picture of the rarest class still might (the rule of
    three).
    """
    rarest = np.unique(labels, return_counts=True)[1].min()
    least = min(1.0, -math.log(1 - confidence) / (rarest * classes))
    return of_figure(figures, sizes_by_class(labels, codes), least, confidence)


def averaged(probabilities: Numbers) -> int:
    """The number of classes that AUC is averaged over: with two classes it is that of the second
    one only."""
    classes = probabilities.shape[1]
    return 1 if classes == 2 else classes


def too_few(sizes: Numbers, seeds: int = 1) -> Span | None:
    """The reason if these groups or seeds are too few for an interval, else None."""
    if 1 < seeds < FEWEST_SEEDS:
        return Span(None, None, f"an interval over seeds takes {FEWEST_SEEDS}, there are {seeds}")
    if len(sizes) >= FEWEST:
        return None
    units = "test pictures" if sizes.max(initial=0) <= 1 else "groups of test pictures"
    return Span(
        None, None, f"an interval takes {FEWEST} {units}, there {'is' if len(sizes) == 1 else 'are'} {len(sizes)}"
    )


def sizes_by_class(labels: Codes, codes: Codes) -> Numbers:
    """The size of each group, in pictures, if every class has the same weight."""
    weights = 1 / np.bincount(labels)[labels]
    return np.asarray(np.bincount(codes, weights=weights * len(labels) / weights.sum()), dtype=np.float64)


def difference(before: Figure, after: Figure) -> Figure:
    return Figure(after.value - before.value, after.left_out - before.left_out)


def share(hits: Mask, of: Mask, codes: Codes) -> Figure:
    """The share of hits among the pictures in `of`, as a `Figure`: for differences of shares of
    different pictures."""
    groups = int(codes.max()) + 1
    hits_of_groups, sizes = (np.bincount(codes[rows], minlength=groups) for rows in (hits & of, of))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Figure(
            float(hits_of_groups.sum() / np.float64(sizes.sum())),
            (hits_of_groups.sum() - hits_of_groups) / (sizes.sum() - sizes),
        )


def auc(probabilities: Numbers, labels: Codes, codes: Codes) -> Figure:
    """Area under the ROC curve; with more than two classes the mean of one-vs-rest over the
    classes."""
    classes = probabilities.shape[1]
    areas = [_area(probabilities[:, k], labels == k, codes) for k in ([1] if classes == 2 else range(classes))]
    left_out = np.zeros(int(codes.max()) + 1)
    for area in areas:
        left_out += area.left_out / len(areas)
    return Figure(float(np.mean([area.value for area in areas])), left_out)


def _area(scores: Numbers, positive: Mask, codes: Codes) -> Figure:
    """AUC from ranks: the number of negatives below each positive, ties count half."""
    groups = int(codes.max()) + 1
    below = rankdata(scores)  # minus the rank within its own class, it counts the other class
    below[positive] -= rankdata(scores[positive])
    below[~positive] -= rankdata(scores[~positive])
    positives, negatives = (np.bincount(codes[kind], minlength=groups) for kind in (positive, ~positive))
    pairs = float(below[positive].sum())
    # the pairs won that each picture is part of
    wins = np.where(positive, below, positive.sum() - below)
    remaining = pairs - np.bincount(codes, weights=wins, minlength=groups)
    if groups < len(codes):
        remaining += _pairs_inside(scores, positive, codes, positives, negatives)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = remaining / ((positive.sum() - positives) * ((~positive).sum() - negatives))
        return Figure(float(np.float64(pairs) / (positive.sum() * (~positive).sum())), left_out)


def _pairs_inside(scores: Numbers, positive: Mask, codes: Codes, positives: Codes, negatives: Codes) -> Numbers:
    """Per group, the pairs of a positive above a negative of the same group, ties count half."""
    levels, level = np.unique(scores, return_inverse=True)
    place = codes * len(levels) + level  # orders by group, then by score
    earlier = np.concatenate([[0], np.cumsum(negatives)[:-1]])
    below = rankdata(place)[positive] - rankdata(place[positive]) - earlier[codes[positive]]
    return np.asarray(np.bincount(codes[positive], weights=below, minlength=len(positives)), dtype=np.float64)


def macro_f1(predicted: Codes, labels: Codes, codes: Codes, classes: int) -> Figure:
    """F1, averaged over the classes that have pictures or are predicted."""
    right = predicted == labels
    # Without a group only the classes that it has or predicts change: one cell for each group and
    # class.
    cells, place = np.unique(
        np.concatenate([codes * classes + labels, codes * classes + predicted]), return_inverse=True
    )
    actual = np.bincount(place[: len(labels)], minlength=len(cells))
    predicted_count = np.bincount(place[len(labels) :], minlength=len(cells))
    hits = np.bincount(place[: len(labels)], weights=right, minlength=len(cells))
    group, of = cells // classes, cells % classes
    all_actual, all_predicted, all_hits = (
        np.bincount(of, weights=counts) for counts in (actual, predicted_count, hits)
    )
    present = all_actual + all_predicted > 0
    f1 = np.divide(2 * all_hits, all_actual + all_predicted, out=np.zeros(len(present)), where=present)
    remaining = (all_actual + all_predicted)[of] - actual - predicted_count
    changed = np.divide(2 * (all_hits[of] - hits), remaining, out=np.zeros(len(cells)), where=remaining > 0) - f1[of]
    changed[(actual > 0) & (actual == all_actual[of])] = np.nan
    value = float(f1.sum() / present.sum())
    return Figure(value, value + np.bincount(group, weights=changed) / present.sum())


def _jackknife(figure: Figure) -> float:
    count = len(figure.left_out)
    return float((count - 1) / count * ((figure.left_out - figure.value) ** 2).sum())


def _degrees(sizes: Numbers) -> float:
    """Bell and McCaffrey's degrees of freedom of the jackknife variance: the number of groups
    minus one if all are equally large, and near one if a single group holds most of the
    pictures."""
    weights = sizes / sizes.sum()
    # the variance is the sum of factor * (mean of the group - mean) ** 2
    factors = (weights / (1 - weights)) ** 2
    noise = 1 / sizes
    total = factors.sum()
    trace = (noise * (factors - 2 * factors * weights + total * weights**2)).sum()
    squares = ((factors * noise) ** 2).sum()
    squares += 2 * (factors * noise**2 * (total * weights**2 - 2 * factors * weights)).sum()
    inner = np.array([[0, -1], [-1, total]]) @ np.array(
        [
            [(factors**2 * noise).sum(), (factors * weights * noise).sum()],
            [(factors * weights * noise).sum(), (weights**2 * noise).sum()],
        ]
    )
    return float(trace**2 / (squares + np.trace(inner @ inner)))


def _with_seeds(variance: float, degrees: float, means: Numbers) -> tuple[float, float]:
    """Variance and degrees of freedom (Satterthwaite) with the variance over seeds added, if there
    are several."""
    if len(means) < 2:
        return variance, degrees
    other = float(means.var(ddof=1) / len(means))
    both = variance + other
    if both == 0:
        return both, degrees
    return both, both**2 / (variance**2 / degrees + other**2 / (len(means) - 1))


def _equal(count: float, independent: float, variance: float) -> float:
    """The number of independent pictures that would have this variance; at most `count`."""
    return min(count, count * independent / variance) if variance > 0 and independent > 0 else count


def _quantile(confidence: float, degrees: float) -> float:
    return float(t.ppf(0.5 + confidence / 2, degrees))
