"""Laws of the metrics: they agree with definitions, and an interval does what it promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.statistics import metrics


def two(p: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(p), np.array(p)], axis=1)


def test_headline_of_a_known_case() -> None:
    result = metrics.headline(two([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert result["accuracy"] == 0.75
    assert result["balanced_accuracy"] == 0.75
    assert result["auc"] == 0.75
    assert result["f1"] == pytest.approx(2 / 3)


def test_auc_is_undefined_where_a_class_is_absent() -> None:
    assert metrics.auc(two([0.1, 0.2]), np.array([0, 0])) is None


@pytest.mark.parametrize("classes", [2, 4])
def test_auc_agrees_with_scikit_learn_under_ties(classes: int) -> None:
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(0)
    labels = random.integers(classes, size=120)
    p = np.round(random.dirichlet(np.ones(classes), size=120), 1)
    aucs = [roc_auc_score(labels == k, p[:, k]) for k in ([1] if classes == 2 else range(classes))]
    assert metrics.auc(p, labels) == pytest.approx(np.mean(aucs))


def test_calibration_error_is_zero_for_the_calibrated_and_large_for_the_sure_and_wrong() -> None:
    labels = np.array([1, 1, 1, 0])
    assert metrics.calibration_error(two([0.75] * 4), labels) == pytest.approx(0)
    assert metrics.calibration_error(two([1.0] * 4), 1 - np.ones(4, int)) == pytest.approx(1)


def test_no_change_is_no_gain_and_no_certainty() -> None:
    p, labels = two([0.1, 0.9, 0.2, 0.7] * 10), np.array([0, 1, 1, 0] * 10)
    result = metrics.gain(p, p, labels, None)
    assert (result["accuracy"], result["auc"]) == (0, 0)
    for low, high in (("low", "high"), ("auc_low", "auc_high")):
        assert result[low] == -result[high] < -0.05


def test_one_group_has_no_interval_and_says_why() -> None:
    p, labels = two([0.1, 0.9, 0.2, 0.7] * 10), np.array([0, 1, 1, 0] * 10)
    result = metrics.gain(1 - p, p, labels, ["g"] * 40)
    assert (result["low"], result["high"], result["auc_low"]) == (None, None, None)
    assert result["no_interval"] == "an interval takes 6 groups of test pictures, there is 1"


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_gain_is_antisymmetric_and_its_interval_holds_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.arange(200) % 2
    before, after = two(list(random.random(200))), two(list(0.3 * random.random(200) + 0.6 * labels))
    forth = metrics.gain(before, after, labels, None)
    back = metrics.gain(after, before, labels, None)
    assert forth["accuracy"] == pytest.approx(-back["accuracy"])
    assert forth["low"] == pytest.approx(-back["high"])
    assert forth["low"] <= forth["accuracy"] <= forth["high"]
    assert forth["auc_low"] <= forth["auc"] <= forth["auc_high"]
    assert forth["low"] > 0


def test_slices_are_measured_apart() -> None:
    import pandas as pd

    slices = pd.DataFrame({"wafer": ["mono", "mono", "poly", "poly"]})
    table = metrics.per_slice(two([0.1, 0.9, 0.9, 0.9]), np.array([0, 1, 0, 1]), slices)
    assert table.set_index("value")["accuracy"].to_dict() == {"mono": 1.0, "poly": 0.5}
    assert table.set_index("value")["recall"].to_dict() == {"mono": 1.0, "poly": 1.0}
    assert table["pictures"].tolist() == [2, 2]
