"""The results of a study: formatted tables, and its page."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from thaw.formats import DASH, change, in_percent, score
from thaw.report.drawing import data_uri
from thaw.report.page import environment
from thaw.statistics.studies import SPREAD


def readable(table: pd.DataFrame, percent: Sequence[str] = ()) -> list[dict[str, str]]:
    """A formatted table: mean and spread in one cell, an interval after its mean; `percent` names
    columns of shares."""
    rows = []
    for _, values in table.iterrows():
        row = {}
        for column in table.columns:
            if column.endswith((SPREAD, "_low", "_high")):
                continue
            text = _written(values[column], column in percent, column.startswith("gain") or "over_" in column)
            spread, low, high = (values.get(f"{column}{end}") for end in (SPREAD, "_low", "_high"))
            if spread is not None and not pd.isna(spread):
                text += f" ± {_written(spread, column in percent)}"
            if low is not None and not pd.isna(low):
                text += " [{}, {}]".format(*(_written(end, column in percent, True) for end in (low, high)))
            row[column.replace("_", " ")] = text
        rows.append(row)
    return rows


def _written(value: Any, percent: bool, with_sign: bool = False) -> str:
    """A share in percent, a score with three decimals, anything else unchanged."""
    if not isinstance(value, float):
        return DASH if value is None else str(value)
    if with_sign:
        return change(value, "percent" if percent else "score")
    return in_percent(value) if percent else score(value)


def page(title: str, about: Sequence[str], tables: dict[str, list[dict[str, str]]], figures: dict[str, bytes]) -> str:
    """One HTML page that needs no other file and no network."""
    images = {name: data_uri(png) for name, png in figures.items()}
    template = environment().get_template("study.html.jinja")
    return template.render(title=title, about=about, tables=tables, figures=images)
