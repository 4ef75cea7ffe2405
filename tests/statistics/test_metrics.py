"""Laws of the metrics: they agree with definitions, and an interval does what it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.statistics import metrics


def two(p: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(p), np.array(p)], axis=1)


def test_headline_of_a_known_case() -> None:
    found = metrics.headline(two([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.75
    assert found["auc"] == 0.75
    assert found["f1"] == pytest.approx(2 / 3)


def test_auc_is_undefined_where_a_class_is_absent() -> None:
    assert metrics.auc(two([0.1, 0.2]), np.array([0, 0])) is None


@pytest.mark.parametrize("classes", [2, 4])
def test_auc_agrees_with_scikit_learn_under_weights_and_ties(classes: int) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    labels = random.integers(classes, size=120)
    p = np.round(random.dirichlet(np.ones(classes), size=120), 1)
    weights = random.integers(0, 4, size=(3, 120)).astype(float)
    for row, area in zip(weights, metrics.weighted_auc(p, labels, weights), strict=True):
        each = [
            roc_auc_score(labels == k, p[:, k], sample_weight=row) for k in ([1] if classes == 2 else range(classes))
        ]
        assert area == pytest.approx(np.mean(each))


def test_calibration_error_is_zero_for_the_calibrated_and_large_for_the_sure_and_wrong() -> None:
    labels = np.array([1, 1, 1, 0])
    assert metrics.calibration_error(two([0.75] * 4), labels) == pytest.approx(0)
    assert metrics.calibration_error(two([1.0] * 4), 1 - np.ones(4, int)) == pytest.approx(1)


def test_no_change_is_no_gain() -> None:
    p, labels = two([0.1, 0.9, 0.2, 0.7]), np.array([0, 1, 1, 0])
    found = metrics.gain(p, p, labels, None, 0)
    assert (found["accuracy"], found["low"], found["high"], found["mcnemar_p"]) == (0, 0, 0, 1)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_gain_is_antisymmetric_and_its_interval_holds_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.arange(200) % 2
    before, after = two(list(random.random(200))), two(list(0.3 * random.random(200) + 0.6 * labels))
    forth = metrics.gain(before, after, labels, None, 0, 200)
    back = metrics.gain(after, before, labels, None, 0, 200)
    assert forth["accuracy"] == pytest.approx(-back["accuracy"])
    assert forth["low"] == pytest.approx(-back["high"])
    assert forth["low"] <= forth["accuracy"] <= forth["high"]
    assert forth["auc_low"] <= forth["auc"] <= forth["auc_high"]
    assert forth["low"] > 0


def test_interval_by_group_is_wider_where_pictures_of_a_group_agree() -> None:
    random = np.random.default_rng(0)
    labels = np.zeros(400, int)
    better = np.repeat(random.random(20) < 0.6, 20)
    before, after = two([0.9] * 400), two(list(np.where(better, 0.1, 0.9)))
    groups = [f"g{n // 20}" for n in range(400)]
    alone, together = metrics.gain(before, after, labels, None, 0), metrics.gain(before, after, labels, groups, 0)
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for trial in range(60):
        random = np.random.default_rng(trial)
        labels = np.ones(150, int)
        before = two(list(np.where(random.random(150) < 0.7, 0.9, 0.1)))
        after = two(list(np.where(random.random(150) < 0.8, 0.9, 0.1)))
        found = metrics.gain(before, after, labels, None, trial, 200)
        hits += found["low"] <= 0.1 <= found["high"]
    assert 51 <= hits <= 60


def test_resamples_come_few_at_a_time_where_pictures_are_many_and_add_up() -> None:
    for count in (10, 300_000):
        weights = list(metrics.resamples_of(None, count, 0, 12))
        assert sum(len(part) for part in weights) == 12
        assert all(part.size <= 1_000_000 for part in weights)
        assert all((part.sum(1) == count).all() for part in weights)


def test_mcnemar_agrees_with_the_binomial() -> None:
    before = np.array([0.0] * 9 + [1.0] * 1 + [1.0] * 50)
    after = np.array([1.0] * 9 + [0.0] * 1 + [1.0] * 50)
    assert metrics.mcnemar(before, after) == pytest.approx(2 * (1 + 10) / 2**10)


def test_slices_are_measured_apart() -> None:
    import pandas as pd

    slices = pd.DataFrame({"wafer": ["mono", "mono", "poly", "poly"]})
    table = metrics.per_slice(two([0.1, 0.9, 0.9, 0.9]), np.array([0, 1, 0, 1]), slices)
    assert table.set_index("value")["accuracy"].to_dict() == {"mono": 1.0, "poly": 0.5}
    assert table.set_index("value")["recall"].to_dict() == {"mono": 1.0, "poly": 1.0}
    assert table["pictures"].tolist() == [2, 2]
