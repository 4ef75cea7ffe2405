"""Promotion: whether a new model takes the place of the one in use, judged on the same test pictures, and why.

decision = decide(before, after, labels, classes, groups, slices, Limits(0.01, 0.05, 0.05, 20), seed=0)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from thaw.formats import percent, points
from thaw.statistics import metrics
from thaw.statistics.metrics import Labels, Probabilities

ROUNDING = 1e-9  # a fall of exactly the limit is within it, however its binary fraction ends


class Limits(NamedTuple):
    """How much worse a new model may be, as shares: in accuracy, in a class's recall, in a slice's accuracy."""

    margin: float
    class_limit: float
    slice_limit: float
    smallest: int  # classes and slices with fewer test pictures do not decide


@dataclass(frozen=True)
class Decision:
    """The verdict with the sentence that explains it and the numbers behind it, all of them plain JSON values.

    `gain` is that of `metrics.gain` with both accuracies and the number of pictures; `falls` has a row for each
    class (recall) and each slice value (accuracy), with `limit` None where too few pictures stand behind it.
    """

    promoted: bool
    reason: str
    gain: dict[str, Any]
    falls: list[dict[str, Any]]


def aligned(probabilities: Probabilities, known: Sequence[str], classes: Sequence[str]) -> Probabilities:
    """The columns in the order of `classes`; a class the model does not know has probability 0."""
    columns = {name: probabilities[:, number] for number, name in enumerate(known)}
    return np.column_stack([columns.get(name, np.zeros(len(probabilities))) for name in classes])


def decide(
    before: Probabilities,
    after: Probabilities,
    labels: Labels,
    classes: Sequence[str],
    groups: Sequence[str] | None,
    slices: pd.DataFrame,
    limits: Limits,
    seed: int,
) -> Decision:
    """Compare the model in use with a new one by their probabilities (n, classes) of the same test pictures.

    The new one is promoted if it is better, or not worse by more than the margin (the 95 % interval of the
    difference must show it), and no class and no slice loses more than its limit.
    """
    order = np.lexsort([labels, *before.T, *after.T])  # so that the interval does not hang on the pictures' order
    before, after, labels, slices = before[order], after[order], labels[order], slices.iloc[order]
    groups = None if groups is None else [groups[number] for number in order]
    found: dict[str, Any] = {
        "test_pictures": len(labels),
        "test_groups": None if groups is None else len(set(groups)),
        "before": float((before.argmax(1) == labels).mean()),
        "after": float((after.argmax(1) == labels).mean()),
        "margin": limits.margin,
        **metrics.gain(before, after, labels, groups),
    }
    falls = _falls(before, after, labels, classes, slices, limits)
    enough, verdict, change = _judged(found)
    fallen = [_fall(row) for row in falls if not row["within"]]
    part = fallen[0] + (f" (and {len(fallen) - 1} more)" if len(fallen) > 1 else "") if fallen else ""
    if enough and part:
        reason = f"worse in a part: {part}; {change}"
    elif enough:
        reason = f"{verdict}: {change}, and no class or slice loses more than its limit"
    else:
        reason = f"{verdict}: {change}" + (f"; {part}" if part else "")
    return Decision(enough and not part, reason, found, falls)


def _falls(
    before: Probabilities,
    after: Probabilities,
    labels: Labels,
    classes: Sequence[str],
    slices: pd.DataFrame,
    limits: Limits,
) -> list[dict[str, Any]]:
    by_class = [metrics.per_class(found, labels, classes) for found in (before, after)]
    by_slice = [metrics.per_slice(found, labels, slices) for found in (before, after)]
    rows = [
        ("class", old["class"], old["pictures"], old["recall"], new["recall"], limits.class_limit)
        for old, new in zip(*(table.to_dict("records") for table in by_class), strict=True)
        if old["pictures"]
    ] + [
        (old["slice"], old["value"], old["pictures"], old["accuracy"], new["accuracy"], limits.slice_limit)
        for old, new in zip(*(table.to_dict("records") for table in by_slice), strict=True)
    ]
    return [
        {
            "part": part,
            "value": value,
            "pictures": int(pictures),
            "before": float(old),
            "after": float(new),
            "change": float(new - old),
            "limit": limit if pictures >= limits.smallest else None,
            "within": bool(pictures < limits.smallest or new - old >= -limit - ROUNDING),
        }
        for part, value, pictures, old, new, limit in rows
    ]


def _judged(found: dict[str, Any]) -> tuple[bool, str, str]:
    """Whether the interval of the accuracy's difference is good enough, that in a few words, and the numbers."""
    low, high, margin = found["low"], found["high"], found["margin"]
    change = (
        f"accuracy went from {percent(found['before'])} to {percent(found['after'])} "
        f"({points(found['accuracy'])} points, 95 % interval {points(low)} to {points(high)})"
    )
    if low > 0:
        return True, "better", change
    if low >= -margin - ROUNDING:
        return True, f"not worse by more than the margin of {100 * margin:.1f} points", change
    if high < 0:
        return False, "worse", change
    groups = f" in {found['test_groups']} groups" if found["test_groups"] else ""
    why = (
        f"{change}; the interval reaches down to {points(low)} points, the margin is "
        f"{100 * margin:.1f}; {found['test_pictures']} test pictures{groups} cannot show more"
    )
    return False, "not shown to be as good", why


def _fall(row: dict[str, Any]) -> str:
    where = f"class '{row['value']}'" if row["part"] == "class" else f"slice {row['part']} '{row['value']}'"
    return (
        f"{where} falls from {percent(row['before'])} to {percent(row['after'])} of its {row['pictures']} "
        f"pictures, and the limit is {100 * row['limit']:.1f} points"
    )
