"""What a model said of new pictures, beside what validation lets expect."""

from collections.abc import Mapping
from typing import Any

from thaw.formats import DASH, change, count, escaped, percent


def markdown(predicted: Mapping[str, Any]) -> str:
    """The share of each decision and of unlike pictures, in Markdown."""
    readable = predicted["pictures"] - predicted["unreadable"]
    expected, decisions = predicted["expected"], predicted["decisions"]
    names = dict.fromkeys([*expected, *decisions])
    rows = [_row(escaped(name), decisions.get(name, 0), readable, expected.get(name)) for name in names]
    if predicted["unlike"] is not None:
        rows.append(_row("*unlike the training*", predicted["unlike"], readable, predicted["false_alarms"]))
    rows.append(_row("*unsure*", predicted["unsure"], readable, None))
    lines = ["| | new pictures | share | on validation | difference, points |", "|---|---:|---:|---:|---:|", *rows]
    plural = "s" * (predicted["pictures"] != 1)
    unread = f", {count(predicted['unreadable'])} of them unreadable" if predicted["unreadable"] else ""
    top = f"{count(predicted['pictures'])} new picture{plural}{unread}; the rows are in `{predicted['file']}`."
    return "\n".join([top, "", *lines])


def _row(name: str, number: int, readable: int, expected: float | None) -> str:
    share = number / readable if readable else None
    difference = change(share - expected, "percent") if share is not None and expected is not None else DASH
    return f"| {name} | {count(number)} | {percent(share)} | {percent(expected)} | {difference} |"
