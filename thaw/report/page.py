"""The report of a run as one HTML file: what phase 2 gained, with plots.

Values in, values out: tables and numbers go in as pandas frames and dicts, text comes out. Nothing here opens a file
of the workspace; `python -m tasks.report` does, and hands over what it read. The same input gives the same bytes, so a
report carries no date.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any

import pandas as pd

from thaw.formats import DASH, change, count, number, percent, score
from thaw.report.calibration import calibration
from thaw.report.confusion import MOST_NUMBERED, confusion
from thaw.report.curves import curves, numbers
from thaw.report.drawing import NETWORKS, data_uri
from thaw.report.forgetting import forgetting
from thaw.report.mistakes import worst_mistakes
from thaw.report.summary import (
    chosen_on_validation,
    headline_of,
    kept_epochs,
    metric_rows,
    operating,
    temperatures,
    warning,
)

MOST_VALUES = 40  # a slice column with more values than this is cut short in the data summary
MOST_ON_A_PHONE = 6  # with more classes a confusion matrix is too wide for a phone, and scrolls
MOST_BESIDE = 14  # with more classes the page shows one confusion matrix above the other


def _text(value: object) -> str:
    """A cell of a frame or of the parameters as people write it; a dash for a missing one."""
    if value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _pairs(table: pd.DataFrame, keys: list[str], values: list[str]) -> list[dict[str, Any]]:
    """From one row per network to one row per key, with each value as a pair (head only, fine-tuned)."""
    table = table.assign(**{name: numbers(table[name]) for name in [*values, "pictures"]})
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in table.to_dict("records"):
        key = tuple(_text(record[name]) for name in keys)
        row = rows.setdefault(key, {"key": key, "pictures": count(record["pictures"])})
        for value in values:
            row.setdefault(value, {})[str(record["model"])] = record[value]
    return list(rows.values())


def _with_gain(rows: list[dict[str, Any]], values: list[str]) -> list[dict[str, Any]]:
    """Each pair of numbers as three cells: head only, fine-tuned, gain in points."""
    shown = []
    for row in rows:
        cells = []
        for value in values:
            before, after = (number(row[value].get(network)) for network in NETWORKS)
            gain = after - before if before is not None and after is not None else None
            cells.append((percent(before), percent(after), change(gain, "percent")))
        shown.append({"key": row["key"], "pictures": row["pictures"], "cells": cells})
    return shown


def _largest(slices_table: pd.DataFrame) -> pd.DataFrame:
    """Of each slice with very many values those with most pictures, so that the page stays one to read."""
    ranks = slices_table.groupby(["model", "slice"])["pictures"].rank(method="first", ascending=False)
    return slices_table[ranks <= MOST_VALUES]


def _groups(frame: pd.DataFrame) -> pd.Series:
    """The group of each picture that has one; an empty cell is none."""
    groups = frame["group"] if "group" in frame.columns else pd.Series(index=frame.index, dtype=object)
    groups = groups.dropna().astype(str)
    return groups[groups != ""]


def _images(draw: Callable[..., bytes]) -> dict[str, str]:
    """A plot as it is drawn for a wide page and for a phone."""
    return {"wide": data_uri(draw()), "narrow": data_uri(draw(narrow=True))}


def _confusion_images(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, str | None]:
    wide = data_uri(confusion(predictions, classes, stacked=len(classes) > MOST_BESIDE))
    if len(classes) > MOST_ON_A_PHONE:
        return {"wide": wide, "narrow": None}
    return {"wide": wide, "narrow": data_uri(confusion(predictions, classes, stacked=True))}


def _copies(manifest: pd.DataFrame) -> int | None:
    """How many test pictures have an identical file in another split; None where nobody looked."""
    if "hash" not in manifest.columns:
        return None
    test = manifest["split"] == "test"
    return int(manifest.loc[test, "hash"].isin(manifest.loc[~test, "hash"]).sum())


def _data_summary(manifest: pd.DataFrame, classes: Sequence[str], slices: Sequence[str]) -> dict[str, Any]:
    """Pictures per split and class, groups per split, pictures per split and value of each slice."""
    usual = ["train", "val", "test"]
    present = [str(name) for name in manifest["split"].unique()]
    splits = [name for name in usual if name in present] + sorted(set(present) - set(usual))
    split = manifest["split"].astype(str)

    def rows(column: pd.Series, names: Iterable[str]) -> list[tuple[str, list[str]]]:
        table = Counter(zip(column, split, strict=True))
        shown = []
        for name in names:
            numbers = [table[name, s] for s in splits]
            shown.append((name, [count(number) for number in [*numbers, sum(numbers)]]))
        return shown

    blocks = [("class", rows(manifest["label"].astype(str), classes), 0)]
    for name in slices:
        if name not in manifest.columns:
            continue
        column = manifest[name].map(_text)
        values = sorted(column.unique())
        blocks.append((name, rows(column, values[:MOST_VALUES]), max(0, len(values) - MOST_VALUES)))
    totals = [int((split == s).sum()) for s in splits]
    grouped = _groups(manifest)
    groups = [count(grouped[split == s].nunique()) for s in splits] + [count(grouped.nunique())]
    return {
        "splits": splits,
        "blocks": blocks,
        "totals": [count(number) for number in [*totals, sum(totals)]],
        "groups": groups if len(grouped) else [],
        "split_groups": int((split[grouped.index].groupby(grouped).nunique() > 1).sum()),
    }


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested dict as dotted names and values."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "none" if isinstance(value, Mapping) else _text(value)))
    return rows


def _sections(params: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The parameters by phase; those that stand outside any phase come first, under no name."""
    loose = {name: value for name, value in params.items() if not isinstance(value, Mapping)}
    sections = [("", _flat(loose))] if loose else []
    return sections + [(str(name), _flat(value)) for name, value in params.items() if isinstance(value, Mapping)]


def _interval_bar(gain: Mapping[str, Any]) -> dict[str, float] | None:
    """Where zero, the gain and its interval lie on a bar that is 100 wide."""
    middle, low, high = (number(gain.get(name)) for name in ("accuracy", "low", "high"))
    if middle is None or low is None or high is None:
        return None
    left, right = min(low, middle, 0.0), max(high, middle, 0.0)
    room = 0.08 * (right - left) or 0.01
    left, right = left - room, right + room

    def place(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    return {
        "zero": place(0),
        "gain": place(middle),
        "low": place(low),
        "width": round(place(high) - place(low), 2),
    }


def html(
    *,
    title: str,
    metrics: Mapping[str, Any],
    head_figures: Mapping[str, Any],
    head_history: pd.DataFrame,
    unfreeze_history: pd.DataFrame | None,
    predictions: pd.DataFrame,
    classes_table: pd.DataFrame,
    slices_table: pd.DataFrame,
    blocks_table: pd.DataFrame,
    classes: Sequence[str],
    slices: Sequence[str],
    manifest: pd.DataFrame,
    pictures: Callable[[list[str]], Sequence[bytes]],
    params: Mapping[str, Any],
    versions: Mapping[str, str],
    commit: str,
    data_hash: str,
    mistakes: int = 12,
) -> str:
    """The whole report as one HTML text that needs no other file and no network.

    `pictures` is asked once for the PNG bytes of the worst mistakes, by the paths of `predictions`.
    """
    import jinja2

    worst = worst_mistakes(predictions, classes, mistakes)
    paths = [str(path) for path in worst["path"]]
    images = pictures(paths) if paths else []
    assert len(images) == len(paths), f"asked for {len(paths)} pictures, got {len(images)}"
    label = predictions["label"].astype(str)
    before = predictions["head_prediction"].astype(str) == label
    after = predictions["finetuned_prediction"].astype(str) == label
    verdict, headline = headline_of(metrics)
    quality = ["precision", "recall", "f1"]
    by_slice = [name for name in ("accuracy", "balanced_accuracy", "precision", "recall") if name in slices_table]
    test_groups = _groups(predictions)
    epochs = 0 if unfreeze_history is None else int(unfreeze_history["epoch"].max())

    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        title=title,
        verdict=verdict,
        headline=headline.replace(" %", "\u00a0%"),
        warning=warning(metrics).replace(" %", "\u00a0%") if verdict != "same" else "",
        accuracy={network: percent(metrics[network]["accuracy"]) for network in NETWORKS},
        gain=DASH if verdict == "same" else change(metrics["gain"]["accuracy"], "percent"),
        interval=[change(metrics["gain"].get(end), "percent") for end in ("low", "high")],
        bar=None if verdict == "same" else _interval_bar(metrics["gain"]),
        corrected=count(int((after & ~before).sum())),
        spoiled=count(int((before & ~after).sum())),
        test_pictures=count(metrics["test_pictures"]),
        test_groups=count(test_groups.nunique()) if len(test_groups) else "",
        some_alone=0 < len(test_groups) < len(predictions),
        positive=str(classes[1]) if len(classes) == 2 else "",
        metric_rows=metric_rows(metrics),
        curves=_images(partial(curves, head_history, unfreeze_history)),
        kept_epochs=kept_epochs(head_figures, metrics.get("phase_2", {}), epochs),
        chosen_on_validation=chosen_on_validation(head_figures, metrics),
        copies=_copies(manifest),
        confusion=_confusion_images(predictions, classes),
        confusion_width=800 if len(classes) <= MOST_ON_A_PHONE else 1060,
        numbered=len(classes) <= MOST_NUMBERED,
        calibration=_images(partial(calibration, predictions, classes, temperatures(metrics))),
        temperatures={NETWORKS[network]: f"{value:.2f}" for network, value in temperatures(metrics).items()},
        operating=operating(metrics),
        promise=metrics.get("operating", {}).get("promise"),
        at_least=percent(metrics.get("operating", {}).get("at_least")),
        forgetting=_images(partial(forgetting, blocks_table)),
        kept=percent(metrics["forgetting"].get("kept")),
        divergence=score(metrics["forgetting"].get("kl")),
        distance=percent(metrics["forgetting"]["distance"]),
        cka=score(metrics["forgetting"]["cka"]),
        wrong=count(int((~after).sum())),
        mistakes=[
            {**record, "confidence": percent(record["confidence"]), "image": data_uri(image)}
            for record, image in zip(worst.to_dict("records"), images, strict=True)
        ],
        class_rows=_with_gain(_pairs(classes_table, ["class"], quality), quality),
        slice_columns=[name.replace("_", " ") for name in by_slice],
        slice_rows=_with_gain(_pairs(_largest(slices_table), ["slice", "value"], by_slice), by_slice),
        data=_data_summary(manifest, classes, slices),
        sections=_sections(params),
        versions=dict(versions),
        commit=commit or DASH,
        data_hash=data_hash or DASH,
    )
