"""Intervals: what other test pictures, drawn as these were, would have said, from few groups too.

    codes = codes_of(groups, n)
    span = of_change(after - before, codes)      # of a mean over pictures: accuracy, recall, a cost
    span = of_share(hits, of, codes)             # of a share: recall, precision, specificity
    span = of_figure(value, left_out, sizes)     # of anything else: AUC, F1

Whole groups vary, since pictures of one module or one patient are not independent: each group is left out in turn (the
jackknife), and Student's t has Bell and McCaffrey's degrees of freedom, which are few where few groups hold most
pictures. Shares and changes of verdicts are taken as seen in as many independent pictures as have the same variance
(Korn and Graubard 1998), with the intervals of Wilson, and of Bonett and Price (2012) for paired shares: no mistake in
ten pictures is no proof of none. `benchmarks/coverage.py` shows how often each interval holds the truth.
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
FEWEST_SEEDS = 3  # two say too little of how much seeds differ; one says nothing, and has pictures alone
FEWEST = 6  # if every group of five got better, that happens by chance in 2 of 32 cases, which is more than 5 %


class Span(NamedTuple):
    """The ends of an interval, or why there is none."""

    low: float | None
    high: float | None
    why: str = ""


class Figure(NamedTuple):
    """A figure of all pictures, and what it is when each group is left out; NaN where it is undefined then."""

    value: float
    left_out: Numbers


def codes_of(groups: Sequence[str] | None, n: int) -> Codes:
    """The number of each picture's group; without groups each picture is one."""
    return np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def of_change(differences: Numbers, codes: Codes, confidence: float = CONFIDENCE, largest: float = 1.0) -> Span:
    """Of the mean of differences (n,), each between -largest and largest; or (n, seeds), where other seeds vary too."""
    by_seed = differences.reshape(len(differences), -1) / largest
    each = by_seed.mean(1)
    sizes = np.bincount(codes).astype(np.float64)
    if few := too_few(sizes, by_seed.shape[1]):
        return few
    mean, square, count = float(each.mean()), float((each**2).mean()), len(each)
    sums = np.bincount(codes, weights=each)
    variance, degrees = _with_seeds(
        _jackknife(Figure(mean, (sums.sum() - sums) / (count - sizes))), _degrees(sizes), by_seed.mean(0)
    )
    count_equal = _equal(count, (square - mean**2) / count, variance)
    middle = count_equal * mean / (count_equal + 2)  # one picture more that won all, and one that lost all
    spread = (count_equal * square + 2) / (count_equal + 2) - middle**2
    half = _quantile(confidence, degrees) * math.sqrt(spread / (count_equal + 2))
    return Span(largest * max(middle - half, -1.0), largest * min(middle + half, 1.0))


def of_share(hits: Mask, of: Mask, codes: Codes, confidence: float = CONFIDENCE) -> Span:
    """Of the share of the pictures `of` that are hits too."""
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
    """Of a share seen in `count` independent pictures, few of them too."""
    square = quantile**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = quantile / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return Span(max(0.0, middle - half), min(1.0, middle + half))


def of_figure(figures: Sequence[Figure], sizes: Numbers, least: float = 0.0, confidence: float = CONFIDENCE) -> Span:
    """Of the mean of one figure per seed; `least` is the smallest half width, where no group makes a difference."""
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
    return Span(value - half, value + half)


def of_class_mean(
    figures: Sequence[Figure], labels: Codes, codes: Codes, classes: int, confidence: float = CONFIDENCE
) -> Span:
    """Of a figure that is the mean over so many classes, such as AUC or F1, and of its mean over seeds.

    Where no group makes a difference, a picture of the rarest class that was not seen yet might (the rule of three).
    """
    rarest = np.unique(labels, return_counts=True)[1].min()
    least = min(1.0, -math.log(1 - confidence) / (rarest * classes))
    return of_figure(figures, sizes_by_class(labels, codes), least, confidence)


def averaged(probabilities: Numbers) -> int:
    """Over how many classes AUC is a mean: of two it is that of the second alone."""
    classes = probabilities.shape[1]
    return 1 if classes == 2 else classes


def too_few(sizes: Numbers, seeds: int = 1) -> Span | None:
    """Why these groups or seeds are too few for an interval, if they are."""
    if 1 < seeds < FEWEST_SEEDS:
        return Span(None, None, f"an interval over seeds takes {FEWEST_SEEDS}, there are {seeds}")
    if len(sizes) >= FEWEST:
        return None
    what = "test pictures" if sizes.max(initial=0) <= 1 else "groups of test pictures"
    return Span(
        None, None, f"an interval takes {FEWEST} {what}, there {'is' if len(sizes) == 1 else 'are'} {len(sizes)}"
    )


def sizes_by_class(labels: Codes, codes: Codes) -> Numbers:
    """The part that each group has in figures in which every class counts the same, in pictures."""
    weights = 1 / np.bincount(labels)[labels]
    return np.asarray(np.bincount(codes, weights=weights * len(labels) / weights.sum()), dtype=np.float64)


def difference(before: Figure, after: Figure) -> Figure:
    return Figure(after.value - before.value, after.left_out - before.left_out)


def share(hits: Mask, of: Mask, codes: Codes) -> Figure:
    """The share of the pictures `of` that are hits too, for differences of shares of different pictures."""
    groups = int(codes.max()) + 1
    found, all_ = (np.bincount(codes[rows], minlength=groups) for rows in (hits & of, of))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Figure(float(found.sum() / np.float64(all_.sum())), (found.sum() - found) / (all_.sum() - all_))


def auc(probabilities: Numbers, labels: Codes, codes: Codes) -> Figure:
    """Area under the ROC curve, with more than two classes the mean over them, each against all others."""
    classes = probabilities.shape[1]
    each = [_area(probabilities[:, k], labels == k, codes) for k in ([1] if classes == 2 else range(classes))]
    left_out = np.zeros(int(codes.max()) + 1)
    for area in each:
        left_out += area.left_out / len(each)
    return Figure(float(np.mean([area.value for area in each])), left_out)


def _area(scores: Numbers, positive: Mask, codes: Codes) -> Figure:
    """By ranks: how many negatives are below each positive, ties count half."""
    groups = int(codes.max()) + 1
    below = rankdata(scores)  # of all; less the rank among its own kind it is that among the other
    below[positive] -= rankdata(scores[positive])
    below[~positive] -= rankdata(scores[~positive])
    positives, negatives = (np.bincount(codes[kind], minlength=groups) for kind in (positive, ~positive))
    pairs = float(below[positive].sum())
    lost = np.where(positive, below, positive.sum() - below)  # the pairs that each picture wins or lets win
    rest = pairs - np.bincount(codes, weights=lost, minlength=groups)
    if groups < len(codes):
        rest += _pairs_inside(scores, positive, codes, positives, negatives)
    with np.errstate(invalid="ignore", divide="ignore"):
        left_out = rest / ((positive.sum() - positives) * ((~positive).sum() - negatives))
        return Figure(float(np.float64(pairs) / (positive.sum() * (~positive).sum())), left_out)


def _pairs_inside(scores: Numbers, positive: Mask, codes: Codes, positives: Codes, negatives: Codes) -> Numbers:
    """The pairs of each group that a positive wins over a negative of the same group, ties count half."""
    levels, level = np.unique(scores, return_inverse=True)
    place = codes * len(levels) + level  # orders by group, then by score
    earlier = np.concatenate([[0], np.cumsum(negatives)[:-1]])
    below = rankdata(place)[positive] - rankdata(place[positive]) - earlier[codes[positive]]
    return np.asarray(np.bincount(codes[positive], weights=below, minlength=len(positives)), dtype=np.float64)


def macro_f1(predicted: Codes, labels: Codes, codes: Codes, classes: int) -> Figure:
    """F1 as the mean over the classes that have pictures or are predicted."""
    right = predicted == labels
    # Leaving a group out changes the classes of its pictures and of its verdicts alone: a cell for each such pair.
    cells, place = np.unique(
        np.concatenate([codes * classes + labels, codes * classes + predicted]), return_inverse=True
    )
    wanted = np.bincount(place[: len(labels)], minlength=len(cells))
    called = np.bincount(place[len(labels) :], minlength=len(cells))
    hits = np.bincount(place[: len(labels)], weights=right, minlength=len(cells))
    group, of = cells // classes, cells % classes
    all_wanted, all_called, all_hits = (np.bincount(of, weights=each) for each in (wanted, called, hits))
    present = all_wanted + all_called > 0
    f1 = np.divide(2 * all_hits, all_wanted + all_called, out=np.zeros(len(present)), where=present)
    left = (all_wanted + all_called)[of] - wanted - called
    changed = np.divide(2 * (all_hits[of] - hits), left, out=np.zeros(len(cells)), where=left > 0) - f1[of]
    changed[(wanted > 0) & (wanted == all_wanted[of])] = np.nan
    value = float(f1.sum() / present.sum())
    return Figure(value, value + np.bincount(group, weights=changed) / present.sum())


def _jackknife(figure: Figure) -> float:
    count = len(figure.left_out)
    return float((count - 1) / count * ((figure.left_out - figure.value) ** 2).sum())


def _degrees(sizes: Numbers) -> float:
    """Bell and McCaffrey's degrees of freedom of the jackknife's variance: as many as groups, less one, if all are
    alike, and near one if a single group holds most of the pictures."""
    weights = sizes / sizes.sum()
    factors = (weights / (1 - weights)) ** 2  # the variance is the sum of factor * (mean of the group - mean) ** 2
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
    """Variance and degrees of freedom (Satterthwaite) with that of other seeds, where there is more than one."""
    if len(means) < 2:
        return variance, degrees
    other = float(means.var(ddof=1) / len(means))
    both = variance + other
    if both == 0:
        return both, degrees
    return both, both**2 / (variance**2 / degrees + other**2 / (len(means) - 1))


def _equal(count: float, independent: float, variance: float) -> float:
    """How many independent pictures would have this variance; never more than there are."""
    return min(count, count * independent / variance) if variance > 0 and independent > 0 else count


def _quantile(confidence: float, degrees: float) -> float:
    return float(t.ppf(0.5 + confidence / 2, degrees))
