"""Laws of promotion: who takes the place of the model in use, and who does not."""

import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thaw.report.page import Section
from thaw.report.page import html as html_of
from thaw.report.promotion import page
from thaw.statistics.promotion import Decision, Limits, Points, aligned, decide
from thaw.statistics.records import FIGURES

LIMITS = Limits(by="accuracy", costs={}, margin=0.01, sure=0.975, class_limit=0.05, slice_limit=0.05, smallest=20)
PICTURES = 400
LABELS = np.arange(PICTURES) % 2
WAFER = np.where(np.arange(PICTURES) % 8 < 2, "mono", "poly")  # both classes in each
# 100 and 300 pictures
MONO, POLY = np.flatnonzero(WAFER == "mono"), np.flatnonzero(WAFER == "poly")
CLASSES = ["functional", "defective"]


def answers(wrong: Any = (), labels: Any = LABELS, classes: int = 2) -> np.ndarray:
    """Probabilities that are right except for the pictures in `wrong`."""
    output = labels.copy()
    output[np.asarray(wrong, dtype=int)] = (labels[np.asarray(wrong, dtype=int)] + 1) % classes
    return np.where(np.eye(classes, dtype=bool)[output], 0.8, 0.2 / (classes - 1))


def judged(before: np.ndarray, after: np.ndarray, groups: Any = None, **changes: Any) -> Decision:
    slices = pd.DataFrame({"wafer": WAFER})
    return decide(before, after, LABELS, CLASSES, groups, slices, LIMITS._replace(**changes))


WRONG = np.arange(80)  # 20 %, evenly over classes and slices


def test_an_equal_model_is_promoted() -> None:
    result = judged(answers(WRONG), answers(WRONG))
    assert result.promoted
    assert result.reason.startswith("not worse by more than the margin of 1.0 points")
    assert result.gain["change"] == 0
    assert 0.005 < result.gain["high"] == -result.gain["low"] < 0.01


def test_a_better_model_is_promoted_whatever_the_margin() -> None:
    result = judged(answers(WRONG), answers(WRONG[:20]), margin=0.0)
    assert result.promoted
    assert result.reason.startswith("better: accuracy went from 80.0 % to 95.0 % (+15.0 points, 95 % interval +")


def test_a_worse_model_is_refused() -> None:
    result = judged(answers(WRONG[:20]), answers(WRONG))
    assert not result.promoted
    assert result.reason.startswith("worse: accuracy went from 95.0 % to 80.0 %")


def test_a_margin_as_wide_as_the_loss_promotes_a_worse_model() -> None:
    assert judged(answers(WRONG[:20]), answers(WRONG), margin=0.3, class_limit=0.3, slice_limit=0.3).promoted


def test_a_test_set_that_cannot_tell_is_refused_and_says_so() -> None:
    result = judged(answers(np.arange(0, 20)), answers(np.arange(20, 40)))
    assert result.gain["change"] == 0
    assert not result.promoted
    low = f"{100 * result.gain['low']:+.1f}"
    assert f"97.5 % sure is only that it changes by {low} points or more, and the margin is 1.0 points" in result.reason


def test_groups_widen_the_interval() -> None:
    before, after = answers(np.arange(0, 8)), answers(np.arange(8, 16))
    alone = judged(before, after).gain
    grouped = judged(before, after, [f"module {number // 8}" for number in range(PICTURES)])
    assert grouped.gain["high"] - grouped.gain["low"] > 1.5 * (alone["high"] - alone["low"])
    assert "400 test pictures in 50 groups cannot show more" in grouped.reason


def test_a_model_worse_in_one_class_is_refused_though_better_overall() -> None:
    missed = np.flatnonzero(LABELS == 1)[:20]
    result = judged(answers(np.flatnonzero(LABELS == 0)[:80]), answers(missed))
    assert result.gain["low"] > 0
    assert not result.promoted
    assert result.reason.startswith(
        "worse in a part: class 'defective' falls from 100.0 % to 90.0 % of its 200 pictures"
    )
    assert judged(answers(np.flatnonzero(LABELS == 0)[:80]), answers(missed), class_limit=0.1, slice_limit=1.0).promoted


def test_a_model_worse_in_one_slice_is_refused_though_better_overall() -> None:
    result = judged(answers(POLY[:100]), answers(MONO[:8]))
    assert result.gain["low"] > 0
    assert not result.promoted
    assert ": slice wafer 'mono' falls from 100.0 % to 92.0 % of its 100 pictures" in result.reason
    assert "more)" not in result.reason
    fallen = [(row["part"], row["value"]) for row in result.falls if not row["within"]]
    assert fallen == [("wafer", "mono")]


def test_a_slice_with_too_few_pictures_does_not_decide() -> None:
    result = judged(answers(POLY[:100]), answers(MONO[:8]), smallest=101)
    assert result.promoted
    row = next(row for row in result.falls if row["value"] == "mono")
    assert (row["limit"], row["within"]) == (None, True)


def test_a_class_that_falls_in_too_few_groups_is_told() -> None:
    labels = (np.arange(PICTURES) < 60).astype(int)
    groups = [str(number // 20) for number in range(PICTURES)]
    result = decide(
        answers(np.arange(60, 300), labels), answers(np.arange(60), labels), labels, CLASSES, groups,
        pd.DataFrame({"wafer": WAFER}), LIMITS,
    )  # fmt: skip
    assert result.promoted
    sentence = (
        "class 'defective' falls from 100.0 % to 0.0 % of its 60 pictures, in too few groups (3) to tell whether by"
    )
    assert sentence in result.reason
    row = next(row for row in result.falls if row["value"] == "defective")
    assert (row["limit"], row["within"], row["untold"]) == (None, True, True)


def test_a_fall_of_exactly_the_limit_is_allowed_and_a_larger_one_where_chance_does_not_explain_it() -> None:
    assert judged(answers(POLY[:100]), answers(MONO[:5])).promoted
    assert judged(answers(POLY[:100]), answers(MONO[:6])).promoted
    assert not judged(answers(POLY[:100]), answers(MONO[:8])).promoted


@pytest.mark.parametrize("classes", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_classes_and_slices_refuse_equal_models_in_one_of_twenty_cases_at_most(classes: int) -> None:
    random, refused, labels = np.random.default_rng(0), 0, np.arange(20 * classes) % classes
    limits, slices = LIMITS._replace(margin=1.0), pd.DataFrame({"camera": labels % 4 % 3})
    for _ in range(40):
        hard = random.random(len(labels))
        lines = [
            answers(np.flatnonzero(hard + random.normal(0, 0.1, len(labels)) > 0.9), labels, classes) for _ in "ab"
        ]
        refused += not decide(*lines, labels, [str(k) for k in range(classes)], None, slices, limits).promoted
    assert refused <= 4  # of forty; by their plain change nearly all were


def test_a_single_group_is_not_promoted_and_the_reason_is_said() -> None:
    result = judged(answers(WRONG), answers(WRONG[:20]), ["all"] * PICTURES)
    assert not result.promoted
    assert result.reason == (
        "cannot be told: accuracy went from 80.0 % to 95.0 % (+15.0 points), "
        "and an interval takes 6 groups of test pictures, there is 1"
    )


def test_less_sure_promotes_what_looks_as_good() -> None:
    before, after = answers(np.arange(0, 20)), answers(np.arange(20, 40))
    assert [judged(before, after, sure=sure).promoted for sure in (0.5, 0.975)] == [True, False]


@pytest.mark.parametrize("by", ["accuracy", "auc", "macro_f1", "recall"])
def test_the_figure_that_is_named_decides_and_comes_first(by: str) -> None:
    """The new model finds 40 defects more from 0.3 on; its verdicts are the same."""
    before, after = answers(POLY[:40]), answers(POLY[:40])
    missed = np.flatnonzero(LABELS == 1)[:60]
    before[missed] = [0.9, 0.1]
    after[missed] = [0.9, 0.1]
    after[missed[:40]] = [0.6, 0.4]
    slices = pd.DataFrame({"wafer": WAFER})
    points = Points(1, 0.3, 0.3, "precision")
    result = decide(before, after, LABELS, CLASSES, None, slices, LIMITS._replace(by=by), points)
    assert [row["by"] for row in result.gain["figures"]] == [by, *(n for n in FIGURES if n not in (by, "cost"))]
    assert result.gain["by"] == by
    assert result.promoted
    assert result.reason.startswith("better" if by in ("auc", "recall") else "not worse")
    assert FIGURES[by] in result.reason
    back = decide(after, before, LABELS, CLASSES, None, slices, LIMITS._replace(by=by), points)
    assert back.promoted == (by in ("accuracy", "macro_f1"))
    assert [row.get("positives") for row in back.gain["figures"] if row["by"] == "recall"] == [(LABELS == 1).sum()]


def test_costs_decide_against_a_model_with_fewer_but_dearer_mistakes() -> None:
    """One takes 40 of 200 functional cells for defective; the other misses 20 defects."""
    cautious, careless = answers(np.flatnonzero(LABELS == 0)[:40]), answers(np.flatnonzero(LABELS == 1)[:20])
    costs = {"defective": {"functional": 10.0}}
    changes: Any = {"costs": costs, "class_limit": 1.0, "slice_limit": 1.0}
    result = judged(cautious, careless, by="cost", **changes)
    assert (result.gain["before"], result.gain["after"]) == (40 / PICTURES, 200 / PICTURES)
    assert not result.promoted
    assert result.reason.startswith("worse: mean cost of a picture went from 0.100 to 0.500 (+0.400, 95 % interval +")
    assert judged(careless, cautious, by="cost", **changes).reason.startswith("better: ")
    assert judged(cautious, careless, by="accuracy", **changes).promoted
    also = next(row for row in judged(cautious, careless, **changes).gain["figures"] if row["by"] == "cost")
    assert also["low"] == result.gain["low"]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.7, 0.975]))
@settings(max_examples=25, deadline=None)
def test_mistakes_that_all_cost_one_decide_as_accuracy_does(seed: int, sure: float) -> None:
    random = np.random.default_rng(seed)
    before, after = (answers(random.choice(PICTURES, random.integers(80), replace=False)) for _ in "ab")
    one = judged(before, after, sure=sure)
    other = judged(before, after, sure=sure, by="cost", costs={"defective": {"functional": 1.0}})
    assert (one.promoted, one.reason.split(":")[0].split(" of ")[0]) == (
        other.promoted, other.reason.split(":")[0].split(" of ")[0],
    )  # fmt: skip
    assert other.gain["low"] == pytest.approx(-one.gain["high"])
    assert other.gain["floor"] == pytest.approx(-one.gain["floor"])


def test_where_no_threshold_keeps_the_promise_nothing_is_found() -> None:
    points = Points(1, 0.5, None, "precision")
    result = decide(
        answers(), answers(), LABELS, CLASSES, None, pd.DataFrame(index=LABELS), LIMITS._replace(by="recall"), points
    )
    assert (result.gain["before"], result.gain["after"], result.promoted) == (1, 0, False)


def test_recall_that_is_bought_with_precision_is_refused() -> None:
    """The new model's threshold finds every defect, and half of what it flags is none."""
    before, after = answers(np.flatnonzero(LABELS == 1)[:60]), np.full((PICTURES, 2), 0.5)
    slices = pd.DataFrame({"wafer": WAFER})
    for promise in ("precision", "specificity"):
        points = Points(1, 0.5, 0.5, promise)
        result = decide(
            before, after, LABELS, CLASSES, None, slices, LIMITS._replace(by="recall", class_limit=0.1), points
        )
        assert result.gain["low"] > 0
        assert not result.promoted
        assert f"{promise} at the operating point falls from 100.0 %" in result.reason


def test_a_figure_that_is_undefined_decides_nothing_and_no_other_takes_its_place() -> None:
    labels = np.zeros(40, int)
    result = decide(
        answers(labels=labels), answers(labels=labels), labels, CLASSES, None, pd.DataFrame(index=labels),
        LIMITS._replace(by="auc"),
    )  # fmt: skip
    assert result.reason == "cannot be told: AUC, and it is undefined, because a class has no test pictures"
    assert not result.promoted


def test_auc_is_over_the_classes_that_have_pictures() -> None:
    before, after = (aligned(answers(wrong), CLASSES, [*CLASSES, "gone"]) for wrong in (WRONG, WRONG[:20]))
    result = decide(
        before, after, LABELS, [*CLASSES, "gone"], None, pd.DataFrame(index=LABELS), LIMITS._replace(by="auc")
    )
    assert result.promoted
    assert result.gain["before"] == pytest.approx(0.8)


def test_a_class_the_model_in_use_does_not_know_counts_for_the_one_that_does() -> None:
    # every fourth is of class 2
    labels = np.arange(PICTURES) % 4 // 2 + (np.arange(PICTURES) % 4 == 3)
    known = ["defective", "functional"]  # in another order, too
    classes = ["functional", "defective", "cracked"]
    before = aligned(answers(labels=1 - np.minimum(labels, 1)), known, classes)
    assert before[:, 2].tolist() == [0] * PICTURES
    assert (before.argmax(1) == labels).mean() == 0.75
    result = decide(
        before, answers(labels=labels, classes=3), labels, classes, None, pd.DataFrame(index=labels), LIMITS
    )
    assert result.promoted
    assert [(row["value"], row["before"], row["after"]) for row in result.falls] == [
        ("functional", 1, 1),
        ("defective", 1, 1),
        ("cracked", 0, 1),
    ]
    back = decide(answers(labels=labels, classes=3), before, labels, classes, None, pd.DataFrame(index=labels), LIMITS)
    assert not back.promoted


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_pictures_changes_nothing(random: Any, grouped: bool) -> None:
    numbers = np.random.default_rng(random.randrange(2**32))
    labels = numbers.integers(0, 3, 60)
    before, after = (numbers.dirichlet(np.ones(3), 60).round(1) for _ in range(2))
    slices = pd.DataFrame({"side": numbers.choice(["left", "right"], 60)})
    groups = [f"g{number}" for number in numbers.integers(0, 9, 60)]
    limits, other = Limits("accuracy", {}, 0.2, 0.7, 0.2, 0.2, 5), numbers.permutation(60)

    def decision(order: np.ndarray) -> Decision:
        names = [groups[number] for number in order] if grouped else None
        return decide(before[order], after[order], labels[order], list("abc"), names, slices.iloc[order], limits)

    assert decision(np.arange(60)) == decision(other)


def test_a_decision_is_plain_json() -> None:
    result = judged(answers(WRONG), answers(WRONG[:20]), list("abcdefgh") * (PICTURES // 8))
    assert Decision(**json.loads(json.dumps(asdict(result)))) == result


def test_the_report_says_why_at_its_top_and_escapes_names() -> None:
    result = judged(answers(WRONG), answers(WRONG[:20]))
    rows = [{**result.falls[0], "value": "<b>"}, *result.falls[1:]]
    report = html_of("a run", "", [Section("metrics", "Metrics", "")])
    html = page(report, b"PNG", champion="v1.0.0", **{**asdict(result), "falls": rows})
    assert re.search(r'<div class="wide crowded plot"><img src="data:image/png', html), "wider than the page"
    assert html.index("#promotion") < html.index('<section id="promotion">') < html.index('<section id="metrics">')
    assert result.reason[1:] in html.replace("\u00a0", " ")
    assert "To be put in use" in html
    assert "&lt;b&gt;" in html


@pytest.mark.parametrize("state", ["no model was in use", "it is v1.0.0, the model in use"])
def test_the_page_needs_no_comparison(state: str) -> None:
    html = page("<main></main>", promoted=False, reason=state, champion="v1.0.0", gain={}, falls=[])
    assert state[1:] in html
    assert "<table" not in html
