"""Promotion: whether a new model replaces the one in use, decided on the same test pictures.

limits = Limits("accuracy", {}, 0.01, 0.7, 0.05, 0.05, 20)
decision = decide(before, after, labels, classes, groups, slices, limits)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.errors import InputError
from thaw.formats import percent, points, score
from thaw.statistics import intervals
from thaw.statistics.intervals import Codes, Figure, Mask, Span
from thaw.statistics.metrics import Labels, Probabilities
from thaw.statistics.records import FIGURES, LOWER_IS_BETTER, for_the_better

ROUNDING = 1e-9  # a fall of exactly the limit is within it, whatever the rounding
CHANCE = 0.05  # the chance that any class or slice of an equal model is called worse


class Limits(NamedTuple):
    """The figure that decides about a new model, and how much worse it may be, as shares."""

    by: str  # one of FIGURES
    # of mistakes, by true and predicted class; others cost 1
    costs: Mapping[str, Mapping[str, float]]
    margin: float  # how much of this figure it may lose
    sure: float  # the required probability that it loses no more than the margin
    class_limit: float  # of the recall of a class
    slice_limit: float  # of the accuracy in a slice
    smallest: int  # classes and slices with fewer test pictures do not decide


class Points(NamedTuple):
    """The operating points of both models: the lowest probability that is called positive. None:
    no threshold keeps the promise, and nothing is called positive."""

    positive: int
    before: float | None
    after: float | None
    promise: str  # precision or specificity


@dataclass(frozen=True)
class Decision:
    """The verdict, the sentence that explains it, and the numbers behind it as plain JSON values.

    `gain` is about the deciding figure: before, after, change, low, high (95 %), floor (the
    largest change for the worse at the required probability), margin. `figures` has the same for
    all figures, the deciding one first; `positives` is the number of pictures of recall. `falls`
    has a row for each class (recall) and each slice value (accuracy); its `limit` is None if
    there are too few pictures or groups, and it is `untold` if it falls by more than its limit in
    too few groups.
    """

    promoted: bool
    reason: str
    gain: dict[str, Any]
    falls: list[dict[str, Any]]


class _Pictures(NamedTuple):
    before: Probabilities
    after: Probabilities
    labels: Labels
    codes: Codes


def aligned(probabilities: Probabilities, own_classes: Sequence[str], classes: Sequence[str]) -> Probabilities:
    """The columns in the order of `classes`; a class that the model does not have gets probability
    0."""
    columns = {name: probabilities[:, number] for number, name in enumerate(own_classes)}
    return np.column_stack([columns.get(name, np.zeros(len(probabilities))) for name in classes])


def decide(
    before: Probabilities,
    after: Probabilities,
    labels: Labels,
    classes: Sequence[str],
    groups: Sequence[str] | None,
    slices: pd.DataFrame,
    limits: Limits,
    points: Points | None = None,
) -> Decision:
    """Compare the model in use with a new one by their probabilities (n, classes) for the same
    test pictures.

    The new one is promoted if it is better or, with the required probability, not worse by more
    than the margin, and if no class and no slice is shown to lose more than its limit.
    """
    pictures, order = _in_order(before, after, labels, groups)
    figures = _figures(pictures, classes, limits, points)
    gain = {
        "test_pictures": len(labels),
        "test_groups": None if groups is None else len(set(groups)),
        "margin": limits.margin,
        "sure": limits.sure,
        **figures[0],
        "figures": figures,
    }
    falls = _falls(pictures, classes, slices.iloc[order], limits, points)
    enough, verdict, numbers = _judged(gain)
    fallen = [_fall(row) for row in falls if not row["within"]]
    part = fallen[0] + (f" (and {len(fallen) - 1} more)" if len(fallen) > 1 else "") if fallen else ""
    if enough and part:
        reason = f"worse in a part: {part}; {numbers}"
    elif enough:
        reason = f"{verdict}: {numbers}, and no class or slice is shown to lose more than its limit"
    else:
        reason = f"{verdict}: {numbers}" + (f"; {part}" if part else "")
    if untold := [row for row in falls if row.get("untold")]:
        reason += f"; {_fallen(untold[0])}, in too few groups ({untold[0]['groups']}) to tell whether by chance"
    return Decision(enough and not part, reason, gain, falls)


def check(by: str, costs: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> None:
    """Raise `InputError` if the rule does not fit the classes of the data."""
    if by == "recall" and len(classes) != 2:
        raise InputError(
            f"promote.by is recall, which is that of the positive one of two classes, and there are {len(classes)}; "
            "set it to accuracy, auc or macro_f1"
        )
    named = {*costs, *(name for row in costs.values() for name in row)}
    if unknown := sorted(named - set(classes)):
        raise InputError(f"promote.costs names '{unknown[0]}', which is no class; the classes are {', '.join(classes)}")


def deciding(
    before: Probabilities,
    after: Probabilities,
    labels: Labels,
    classes: Sequence[str],
    groups: Sequence[str] | None,
    limits: Limits,
    points: Points | None = None,
) -> dict[str, Any]:
    """The figure that decides, of two networks, with its change and the interval of that."""
    return _figures(_in_order(before, after, labels, groups)[0], classes, limits, points)[0]


def _in_order(
    before: Probabilities, after: Probabilities, labels: Labels, groups: Sequence[str] | None
) -> tuple[_Pictures, NDArray[np.intp]]:
    """The pictures in an order that depends on their values alone, so that rounding does too; and
    that order."""
    order = np.lexsort([labels, *before.T, *after.T])
    in_order = None if groups is None else [groups[number] for number in order]
    codes = intervals.codes_of(in_order, len(labels))
    return _Pictures(before[order], after[order], labels[order], codes), order


def _figures(
    pictures: _Pictures, classes: Sequence[str], limits: Limits, points: Points | None
) -> list[dict[str, Any]]:
    """Every figure of both models with its change and interval, the deciding one first."""
    before, after, labels, codes = pictures
    right = [(p.argmax(1) == labels).astype(np.float64) for p in (before, after)]
    rows = [_mean("accuracy", right[0], right[1], codes, limits.sure)]
    present, label_codes = np.unique(labels, return_inverse=True)
    if len(present) > 1:  # AUC is over the classes that have pictures
        columns = [p[:, present] for p in (before, after)]
        areas = [intervals.auc(p, label_codes, codes) for p in columns]
        rows.append(_class_mean("auc", areas, pictures, limits.sure, intervals.averaged(columns[0])))
    f1 = [intervals.macro_f1(p.argmax(1), labels, codes, before.shape[1]) for p in (before, after)]
    rows.append(_class_mean("macro_f1", f1, pictures, limits.sure, before.shape[1]))
    if points:
        positive = labels == points.positive
        if positive.any():
            called = [calls[positive].astype(np.float64) for calls in _called(pictures, points)]
            row = _mean("recall", called[0], called[1], codes[positive], limits.sure)
            rows.append(row | {"positives": int(positive.sum())})
    if limits.costs:
        costs = cost_table(classes, limits.costs)
        paid = [costs[labels, p.argmax(1)] for p in (before, after)]
        rows.append(_mean("cost", paid[0], paid[1], codes, limits.sure, largest=float(costs.max()) or 1.0))
    if all(row["by"] != limits.by for row in rows):
        why = "it is undefined, because a class has no test pictures"
        rows.append(_row(limits.by, np.nan, np.nan, [Span(None, None, why)] * 2))
    return sorted(rows, key=lambda row: row["by"] != limits.by)


def cost_table(classes: Sequence[str], costs: Mapping[str, Mapping[str, float]]) -> Probabilities:
    """The cost of each prediction (true class, predicted class): 0 if correct, 1 by default."""
    table = 1.0 - np.eye(len(classes))
    for right, row in costs.items():
        for said, cost in row.items():
            table[classes.index(right), classes.index(said)] = cost
    return table


def _called(pictures: _Pictures, points: Points) -> list[Mask]:
    return [
        np.asarray(p[:, points.positive] >= (np.inf if cut is None else cut))
        for p, cut in ((pictures.before, points.before), (pictures.after, points.after))
    ]


def _mean(
    by: str, before: Probabilities, after: Probabilities, codes: Codes, sure: float, largest: float = 1.0
) -> dict[str, Any]:
    """Of figures that each picture has its own value of, `largest` at most."""
    codes = np.unique(codes, return_inverse=True)[1]
    levels = (intervals.CONFIDENCE, 2 * sure - 1)
    spans = [intervals.of_change(after - before, codes, level, largest) for level in levels]
    return _row(by, float(before.mean()), float(after.mean()), spans)


def _class_mean(by: str, figures: Sequence[Figure], pictures: _Pictures, sure: float, classes: int) -> dict[str, Any]:
    change = intervals.difference(*figures)
    spans = [
        intervals.of_class_mean([change], pictures.labels, pictures.codes, classes, level)
        for level in (intervals.CONFIDENCE, 2 * sure - 1)
    ]
    return _row(by, figures[0].value, figures[1].value, spans)


def _row(by: str, before: float, after: float, spans: Sequence[Span]) -> dict[str, Any]:
    at_confidence, at_sure = spans
    numbers = {"before": before, "after": after, "change": after - before}
    row: dict[str, Any] = {"by": by, "unit": "score" if by in ("auc", "cost") else "percent"}
    row |= {name: None if np.isnan(value) else value for name, value in numbers.items()}
    floor = at_sure.high if by in LOWER_IS_BETTER else at_sure.low
    row |= {"low": at_confidence.low, "high": at_confidence.high, "floor": floor}
    return row | ({"no_interval": at_confidence.why} if at_confidence.why else {})


def _falls(
    pictures: _Pictures, classes: Sequence[str], slices: pd.DataFrame, limits: Limits, points: Points | None
) -> list[dict[str, Any]]:
    before, after, labels, codes = pictures
    right = [(p.argmax(1) == labels).astype(np.float64) for p in (before, after)]
    parts: list[tuple[str, str, Codes, float]] = [
        ("class", name, np.flatnonzero(labels == k), limits.class_limit) for k, name in enumerate(classes)
    ]
    for column in slices:
        members = sorted(slices.groupby(slices[column]).indices.items())
        parts += [(str(column), str(value), np.asarray(of), limits.slice_limit) for value, of in members]
    rows: list[dict[str, Any]] = [
        {"part": part, "value": value, "pictures": len(of), "limit": limit if len(of) >= limits.smallest else None}
        | {"before": float(right[0][of].mean()), "after": float(right[1][of].mean()), "of": of}
        | {"groups": len(np.unique(codes[of]))}
        for part, value, of, limit in parts
        if len(of)
    ]
    for row in rows:
        row["change"] = row["after"] - row["before"]
        row["untold"] = _beyond(row) and row["groups"] < intervals.FEWEST
        row["limit"] = row["limit"] if row["groups"] >= intervals.FEWEST else None
    promised = _promised(pictures, limits, points) if points and limits.by == "recall" else []
    deciding = max(1, sum(row["limit"] is not None for row in [*rows, *promised]))
    confidence = 1 - 2 * CHANCE / deciding
    for row in rows:
        of = row.pop("of")
        inside = np.unique(codes[of], return_inverse=True)[1]
        row["within"] = _within(row, intervals.of_change(right[1][of] - right[0][of], inside, confidence))
    for row in promised:
        figure, sizes = row.pop("figure"), np.bincount(codes).astype(np.float64)
        row["within"] = _within(row, intervals.of_figure([figure], sizes, confidence=confidence))
    return [*promised, *rows]


def _promised(pictures: _Pictures, limits: Limits, points: Points) -> list[dict[str, Any]]:
    """The promised precision or specificity; without it recall could rise by calling everything
    positive."""
    positive = pictures.labels == points.positive
    figures = [
        intervals.share(positive, called, pictures.codes)
        if points.promise == "precision"
        else intervals.share(~called, ~positive, pictures.codes)
        for called in _called(pictures, points)
    ]
    before, after = (figure.value for figure in figures)
    if np.isnan([before, after]).any():
        return []
    row = {"part": points.promise, "value": "at the operating point", "pictures": len(positive)}
    row |= {"before": before, "after": after, "change": after - before, "limit": limits.class_limit}
    return [row | {"figure": intervals.difference(*figures)}]


def _within(row: dict[str, Any], span: Span) -> bool:
    """Whether a part loses no more than its limit, or may do so by chance."""
    return not _beyond(row) or span.high is None or span.high >= 0


def _beyond(row: dict[str, Any]) -> bool:
    """Whether a part loses more than its limit, by chance or not."""
    return bool(row["limit"] is not None and row["change"] < -row["limit"] - ROUNDING)


def _judged(gain: dict[str, Any]) -> tuple[bool, str, str]:
    """Whether the deciding figure is good enough, a short verdict, and the numbers."""
    low, high, margin, unit = (gain[key] for key in ("low", "high", "margin", "unit"))
    least, most, floor = for_the_better(gain)
    shown, sure = percent if unit == "percent" else score, f"{100 * gain['sure']:g} % sure"
    allowed = f"{100 * margin:.1f} points" if unit == "percent" else f"{margin:.3f}"
    moved = f"{FIGURES[gain['by']]} went from {shown(gain['before'])} to {shown(gain['after'])} "
    if low is None:
        moved = f"{moved}({_signed(gain['change'], unit)})" if gain["change"] is not None else FIGURES[gain["by"]]
        return False, "cannot be told", f"{moved}, and {gain['no_interval']}"
    span = f"{_signed(low, unit).removesuffix(' points')} to {_signed(high, unit).removesuffix(' points')}"
    moved += f"({_signed(gain['change'], unit)}, 95 % interval {span})"
    if least > 0:
        return True, "better", moved
    if floor >= -margin - ROUNDING:
        return True, f"not worse by more than the margin of {allowed}, {sure}", moved
    if most < 0:
        return False, "worse", moved
    of = f"{gain['test_pictures']} test pictures" + (f" in {gain['test_groups']} groups" if gain["test_groups"] else "")
    if "positives" in gain:
        of = f"{gain['positives']} positive test pictures"
    end = "less" if gain["by"] in LOWER_IS_BETTER else "more"
    why = (
        f"{moved}; {sure} is only that it changes by {_signed(gain['floor'], unit)} or {end}, and the margin is "
        f"{allowed}; {of} cannot show more"
    )
    return False, "not shown to be as good", why


def _signed(value: float, unit: str) -> str:
    return points(value) + " points" if unit == "percent" else f"{value:+z.3f}"


def _fall(row: dict[str, Any]) -> str:
    return f"{_fallen(row)}, and the limit is {100 * row['limit']:.1f} points"


def _fallen(row: dict[str, Any]) -> str:
    name = f"class '{row['value']}'" if row["part"] == "class" else f"slice {row['part']} '{row['value']}'"
    if row["part"] in ("precision", "specificity") and row["value"] == "at the operating point":
        name = f"{row['part']} at the operating point"
    return f"{name} falls from {percent(row['before'])} to {percent(row['after'])} of its {row['pictures']} pictures"
