"""Laws of intervals: they cover the truth from few groups on, and never claim too much."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from thaw.statistics import intervals
from thaw.statistics.intervals import FEWEST, Figure


def drawn(seed: int, groups: int = 9, classes: int = 3, more: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities with ties, labels, and uneven groups; each class is in two groups at least."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(2 * classes) % classes, random.integers(classes, size=more)])
    codes = np.concatenate([np.arange(2 * classes) // classes, random.integers(groups, size=more)])
    codes = np.unique(codes, return_inverse=True)[1]
    return random.dirichlet(np.ones(classes), len(labels)).round(1), labels, codes


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("grouped", [False, True])
@given(seed=st.integers(0, 1000))
@settings(max_examples=6, deadline=None)
def test_figures_without_a_group_are_those_of_the_other_pictures(classes: int, grouped: bool, seed: int) -> None:
    p, labels, codes = drawn(seed, classes=classes, more=60 if grouped else 20)
    if not grouped:
        codes = np.arange(len(labels))
    predicted = p.argmax(1)

    def area(rows: np.ndarray) -> float:
        target = [1] if classes == 2 else range(classes)
        return float(np.mean([roc_auc_score(labels[rows] == k, p[rows, k]) for k in target]))

    def f1(rows: np.ndarray) -> float:
        return float(f1_score(labels[rows], predicted[rows], average="macro", labels=range(classes), zero_division=0))

    for figure, expected in (
        (intervals.auc(p, labels, codes), area),
        (intervals.macro_f1(predicted, labels, codes, classes), f1),
    ):
        assert figure.value == pytest.approx(expected(np.ones(len(labels), bool)))
        assert figure.left_out == pytest.approx([expected(codes != code) for code in range(codes.max() + 1)])


def test_there_is_no_interval_from_fewer_than_six_groups_or_pictures() -> None:
    changes = np.tile([1.0, 0.0, -1.0, 1.0], 30)
    for codes, unit in ((np.arange(120) % 5, "groups of test pictures"), (np.arange(5), "test pictures")):
        span = intervals.of_change(changes[: len(codes)], codes)
        assert span == (None, None, f"an interval takes {FEWEST} {unit}, there are 5")
    assert intervals.of_change(changes, np.arange(120) % 6).low is not None


@pytest.mark.parametrize("n", [6, 30, 400])
def test_no_changed_verdict_leaves_a_width_of_about_three_pictures(n: int) -> None:
    span = intervals.of_change(np.zeros(n), np.arange(n))
    assert span.low is not None
    assert span.high is not None
    assert span.low == -span.high
    assert 2 / n < span.high < 4 / n


def test_no_mistake_in_ten_pictures_is_no_proof_of_none() -> None:
    every = np.ones(10, bool)
    span = intervals.of_share(every, every, np.arange(10))
    assert span.low is not None
    assert 0.6 < span.low < 0.75
    assert span.high == 1


def test_as_few_groups_as_wholly_agree_show_it_only_from_six_on() -> None:
    """The sign test finds six of six by chance in 3 % of cases."""
    span = intervals.of_change(np.ones(120), np.arange(120) // 20)
    assert span.low is not None
    assert span.low > 0


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_intervals_are_antisymmetric_and_wider_for_more_confidence(seed: int) -> None:
    random = np.random.default_rng(seed)
    changes, codes = random.integers(-1, 2, 80).astype(float), random.integers(8, size=80)
    codes = np.unique(codes, return_inverse=True)[1]
    low, high, _ = intervals.of_change(changes, codes)
    back = intervals.of_change(-changes, codes)
    narrow = intervals.of_change(changes, codes, confidence=0.6)
    assert None not in (low, high, *back[:2], *narrow[:2])
    assert (low, high) == (pytest.approx(-back.high), pytest.approx(-back.low))  # type: ignore[operator]
    assert low < narrow.low <= narrow.high < high  # type: ignore[operator]


def test_interval_by_group_is_wider_where_pictures_of_a_group_agree() -> None:
    better = np.repeat(np.random.default_rng(0).random(20) < 0.6, 20).astype(float)
    alone = intervals.of_change(better, np.arange(400))
    together = intervals.of_change(better, np.arange(400) // 20)
    assert together.high - together.low > 2 * (alone.high - alone.low)  # type: ignore[operator]


def test_degrees_of_freedom_are_those_of_alike_groups_and_few_where_one_is_large() -> None:
    assert intervals._degrees(np.full(11, 60.0)) == pytest.approx(10)
    assert intervals._degrees(np.array([600.0, *[10.0] * 10])) < 2


def test_degrees_of_freedom_are_those_of_the_noise() -> None:
    """Satterthwaite: twice the squared mean over the variance of the jackknife's estimate,
    for independent noise.
    """
    sizes = np.array([40, 5, 10, 20, 5, 2, 8])
    codes, random = np.repeat(np.arange(7), sizes), np.random.default_rng(0)
    results = []
    for _ in range(20_000):
        sums = np.bincount(codes, weights=random.normal(size=90))
        results.append(intervals._jackknife(Figure(sums.sum() / 90, (sums.sum() - sums) / (90 - sizes))))
    assert intervals._degrees(sizes.astype(float)) == pytest.approx(
        2 * np.mean(results) ** 2 / np.var(results), rel=0.1
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_interval_covers_the_truth_from_eleven_groups_and_few_seeds(seeds: int) -> None:
    """Groups and seeds both shift what a picture gains; the truth is a gain of 0.05."""
    hits, random = 0, np.random.default_rng(0)
    codes = np.arange(220) // 20
    for _ in range(400):
        shift = 0.05 + random.normal(0, 0.08, 11)[codes, None] + (random.normal(0, 0.05, seeds) if seeds > 1 else 0)
        changes = (random.random((220, seeds)) < 0.3 + shift / 2) * 1.0 - (
            random.random((220, seeds)) < 0.3 - shift / 2
        )
        low, high, _ = intervals.of_change(changes, codes)
        assert low is not None
        assert high is not None
        hits += low <= 0.05 <= high
    assert hits / 400 >= 0.93


def test_a_class_in_one_group_has_no_interval_of_auc() -> None:
    labels, codes = np.array([0] * 20 + [1] * 20), np.array([*np.arange(20) % 7, *[7] * 20])
    p = np.random.default_rng(0).dirichlet([1, 1], 40)
    span = intervals.of_figure([intervals.auc(p, labels, codes)], intervals.sizes_by_class(labels, codes))
    assert span == (None, None, "all pictures of a class are in one group")


def test_an_interval_of_a_figure_stays_where_figures_can_be() -> None:
    labels, codes = np.arange(100) % 2, np.maximum(0, np.arange(100) - 94)
    figures = [intervals.auc(p, labels, codes) for p in np.random.default_rng(0).dirichlet([1, 1], (2, 100))]
    span = intervals.of_class_mean([intervals.difference(*figures)], labels, codes, 1)
    assert (span.low, span.high) == (-1, 1)
