"""How often a 95 % interval holds the truth, by how many groups the test pictures come from.

    python -m benchmarks.coverage              # a minute; prints the table of docs/learning.md
    python -m benchmarks.coverage --trials 200

Pictures are drawn from a known truth again and again. `before` is the percentile bootstrap of
whole groups that thaw used until it had thaw/statistics/intervals.py.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from thaw.statistics import intervals
from thaw.statistics.intervals import Codes, Numbers, Span

GROUPS = (6, 8, 11, 20, 50)
PICTURES = 20  # of a group, on average
RESAMPLES = 400
# the interval, whether the bootstrap holds the truth (not computed for AUC), and the truth
Draw = tuple[Span, bool, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print("| 95 % interval of | " + " | ".join(f"{count} groups" for count in GROUPS) + " | before, 11 groups |")
    print("|---|" + "---:|" * (len(GROUPS) + 1))
    for name, draw in CASES.items():
        shares, old = [], 0.0
        for count in GROUPS:
            random = np.random.default_rng(count)
            held = [_held(draw(random, count)) for _ in range(trials)]
            shares.append(np.mean([new for new, _ in held]))
            old = float(np.mean([before for _, before in held])) if count == 11 else old
        cells = [f"{100 * share:.0f} %" for share in shares] + [f"{100 * old:.0f} %" if old else "–"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _held(draw: Draw) -> tuple[bool, bool]:
    span, before, truth = draw
    return span.low is not None and span.high is not None and span.low <= truth <= span.high, before


def _sizes(random: np.random.Generator, groups: int, kind: str) -> Codes:
    """Sizes of groups: equal, uneven (up to four times the usual), or one as large as the rest."""
    sizes = np.full(groups, PICTURES)
    if kind == "uneven":
        sizes = np.maximum(1, random.lognormal(np.log(PICTURES) - 0.32, 0.8, groups).round()).astype(np.int64)
    elif kind == "one large":
        sizes[0] *= groups
    return sizes


def _accuracy(better: float, worse: float, alike: float, kind: str = "alike", seeds: int = 1) -> Callable[..., Draw]:
    """Changes of verdicts; each group has its own odds, `alike` is the correlation inside."""

    def draw(random: np.random.Generator, groups: int) -> Draw:
        sizes = _sizes(random, groups, kind)
        shares = np.tile([better, worse, 1 - better - worse], (groups, 1))
        if alike == 1:
            shares = random.multinomial(1, shares[0], size=groups).astype(np.float64)
        elif alike:
            shares = random.dirichlet(shares[0] * (1 - alike) / alike, size=groups)
        codes = np.repeat(np.arange(groups), sizes)
        shift = random.normal(0, 0.04, seeds) if seeds > 1 else np.zeros(1)
        chance = random.random((len(codes), seeds))
        up, down = (shares[codes, side, None] for side in (0, 1))
        changes = (chance < up + shift) * 1.0 - (chance > 1 - down + shift)
        span = intervals.of_change(changes, codes)
        return span, _bootstrap(random, changes, sizes, codes, better - worse), better - worse

    return draw


def _bootstrap(random: np.random.Generator, changes: Numbers, sizes: Codes, codes: Codes, truth: float) -> bool:
    """Whether the percentile bootstrap over groups, and over seeds, holds the truth."""
    sums = np.stack([np.bincount(codes, weights=of_seed) for of_seed in changes.T], 1)
    groups, seeds = sums.shape
    weights = random.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    shares = weights @ sums / (weights @ sizes)[:, None]
    drawn = (shares * random.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)).sum(1) / seeds
    low, high = np.quantile(drawn, [0.025, 0.975])
    return bool(low <= truth <= high)


def _recall(share: float, alike: float) -> Callable[..., Draw]:
    """The share of positives found; each group has five positives."""

    def draw(random: np.random.Generator, groups: int) -> Draw:
        odds = (1 - alike) / alike if alike else 0.0
        shares = random.beta(share * odds, (1 - share) * odds, groups) if alike else np.full(groups, share)
        codes = np.repeat(np.arange(groups), 5)
        hits = random.random(len(codes)) < shares[codes]
        drawn = random.choice(np.bincount(codes, weights=hits) / 5, (RESAMPLES, groups)).mean(1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return intervals.of_share(hits, np.ones(len(codes), bool), codes), bool(low <= share <= high), share

    return draw


def _auc(before: float, after: float, alike: float) -> Callable[..., Draw]:
    """The change of AUC between networks with normal scores; a group shifts both scores."""
    variance = 1 / (1 - alike)

    def draw(random: np.random.Generator, groups: int) -> Draw:
        codes = np.repeat(np.arange(groups), PICTURES)
        labels: NDArray[np.int64] = (np.arange(len(codes)) % 5 == 0).astype(np.int64)
        common, scores_of_both = random.normal(size=len(codes)), []
        for auc in (before, after):
            distance = norm.ppf(auc) * np.sqrt(2 * variance)
            noise = np.sqrt(0.5) * (common + random.normal(size=len(codes)))
            scores = distance * labels + noise + random.normal(0, np.sqrt(variance - 1), groups)[codes]
            scores_of_both.append(np.stack([-scores, scores], 1))
        figures = [intervals.auc(scores, labels, codes) for scores in scores_of_both]
        span = intervals.of_figure([intervals.difference(*figures)], intervals.sizes_by_class(labels, codes))
        return span, False, after - before

    return draw


CASES: dict[str, Callable[..., Draw]] = {
    "gain of 7 points, pictures independent": _accuracy(0.15, 0.08, 0),
    "the same, correlation 0.3 in a group": _accuracy(0.15, 0.08, 0.3),
    "the same, groups uneven": _accuracy(0.15, 0.08, 0.3, "uneven"),
    "the same, one group as large as all others": _accuracy(0.15, 0.08, 0.3, "one large"),
    "the same, each group all better, all worse or unchanged": _accuracy(0.15, 0.08, 1),
    "no gain, 6 % of the verdicts changed": _accuracy(0.03, 0.03, 0),
    "the same, correlation 0.1, groups uneven": _accuracy(0.03, 0.03, 0.1, "uneven"),
    "gain of 7 points over three seeds that differ": _accuracy(0.15, 0.08, 0.1, seeds=3),
    "the same, ten seeds": _accuracy(0.15, 0.08, 0.1, seeds=10),
    "recall of 90 %, five positives in a group": _recall(0.9, 0),
    "the same, correlation 0.3": _recall(0.9, 0.3),
    "change of AUC from 0.80 to 0.88": _auc(0.80, 0.88, 0),
    "the same, correlation 0.3 of the scores": _auc(0.80, 0.88, 0.3),
    "change of AUC from 0.99 to 0.995": _auc(0.99, 0.995, 0),
}

if __name__ == "__main__":
    main()
