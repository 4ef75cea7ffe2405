"""Laws of calibration: the temperature removes overconfidence, a threshold keeps its promise."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.statistics import calibration
from thaw.statistics.metrics import calibration_error

ROOT = Path(__file__).resolve().parents[2]


def _drawn(n: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from just their probabilities: calibrated as they are."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_temperature_finds_the_factor_that_made_logits_too_large(classes: int, factor: float) -> None:
    logits, labels = _drawn(20_000, classes)
    result = calibration.temperature(logits * factor, labels)
    assert result == pytest.approx(factor, rel=0.05)
    before, after = ((logits * factor / t).double().softmax(1).numpy() for t in (1, result))
    assert calibration_error(after, labels.numpy()) < 0.02
    if factor != 1:
        assert calibration_error(before, labels.numpy()) > 0.05
    assert (before.argmax(1) == after.argmax(1)).all()


def test_temperature_stays_finite_where_every_verdict_is_right() -> None:
    labels = torch.arange(10) % 2
    assert 0.01 < calibration.temperature(torch.eye(2)[labels], labels) < 1


@given(
    cells=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30),
    at_least=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
    promise=st.sampled_from(["precision", "specificity"]),
)
@settings(max_examples=150, deadline=None)
def test_threshold_keeps_its_promise_and_no_other_that_does_finds_more(
    cells: list[tuple[int, bool]], at_least: float, promise: str
) -> None:
    scores = np.array([cell[0] / 6 for cell in cells])
    positive = np.array([cell[1] for cell in cells])

    def kept_and_found(cut: float) -> tuple[float, int]:
        called = scores >= cut
        result = int((called & positive).sum())
        if promise == "precision":
            return result / max(called.sum(), 1), result
        return 1 - (called & ~positive).sum() / max((~positive).sum(), 1), result

    cut = calibration.threshold(scores, positive, promise, at_least)
    most = max((result for kept, result in map(kept_and_found, scores) if kept >= at_least), default=0)
    if cut is None:
        assert most == 0
    else:
        kept, result = kept_and_found(cut)
        assert kept >= at_least
        assert result == most


def test_at_threshold_agrees_with_a_count_and_its_intervals_hold_it() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1] * 10)
    positive = np.array([True, True, False, True, True, False, False, False] * 10)
    result = calibration.at_threshold(scores, positive, 0.6, None)
    assert [result[name]["value"] for name in ("recall", "precision", "specificity")] == [0.75, 0.75, 0.75]
    for values in result.values():
        assert values["low"] < values["value"] < values["high"]


def test_at_threshold_of_an_absent_class_has_no_value() -> None:
    result = calibration.at_threshold(np.array([0.2, 0.9]), np.array([False, False]), 0.5, None)
    assert result["recall"] == {"value": None, "low": None, "high": None}
    assert result["specificity"]["value"] == 0.5


def test_one_function_makes_probabilities_and_only_an_exported_graph_has_another() -> None:
    files = [file for folder in ("thaw", "tasks") for file in (ROOT / folder).rglob("*.py")]
    makers = {file.relative_to(ROOT).as_posix() for file in files if re.search(r"(?<!_)softmax\(", file.read_text())}
    assert makers == {"thaw/statistics/calibration.py", "thaw/model/onnx.py"}
