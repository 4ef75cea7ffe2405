"""The sections of a run's report: values in, sections out. Nothing here opens a file of the
workspace."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from thaw.formats import DASH, change, count, number, percent, score, text
from thaw.report.confusion import MOST_NUMBERED, MOST_ON_A_PHONE
from thaw.report.curves import numbers
from thaw.report.data import Notes, copies_of, data_summary, groups_of, notes_summary
from thaw.report.drawing import NETWORKS, Plot, data_uri
from thaw.report.page import Section, rendered
from thaw.report.summary import (
    deciding_row,
    headline_of,
    kept_epochs,
    metric_rows,
    operating,
    temperatures,
    warning,
)
from thaw.statistics.records import same_networks

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_VALUES = 40  # a slice column with more values than this is cut short
QUALITY = ["precision", "recall", "f1"]


def top(metrics: Mapping[str, Any], predictions: pd.DataFrame) -> "Markup":
    """Above the menu: the verdict in a sentence, and in four cards."""
    label = predictions["label"].astype(str)
    before, after = (predictions[f"{network}_prediction"].astype(str) == label for network in NETWORKS)
    verdict, headline = headline_of(metrics)
    return rendered(
        "top",
        verdict=verdict,
        headline=_unbroken(headline),
        warning=_unbroken(warning(metrics)) if verdict != "same" else "",
        accuracy={network: percent(metrics[network]["accuracy"]) for network in NETWORKS},
        gain=DASH if verdict == "same" else change(metrics["gain"]["accuracy"], "percent"),
        interval=[change(metrics["gain"].get(end), "percent") for end in ("low", "high")],
        bar=None if verdict == "same" else _interval_bar(metrics["gain"]),
        corrected=count(int((after & ~before).sum())),
        spoiled=count(int((before & ~after).sum())),
        test_pictures=count(metrics["test_pictures"]),
    )


def metrics_section(
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    manifest: pd.DataFrame,
    classes: Sequence[str],
    deciding: Mapping[str, Any] | None = None,
) -> Section:
    """`deciding` is the figure that decides about a new model where that is not accuracy; it comes
    first."""
    rows = metric_rows(metrics)
    if deciding:
        first = deciding_row(deciding, same_networks(metrics))
        rows = [first, *(row for row in rows if row["name"] != first["name"])]
    groups = groups_of(predictions)
    body = rendered(
        "metrics_section",
        test_pictures=count(metrics["test_pictures"]),
        copies=copies_of(manifest),
        test_groups=count(groups.nunique()) if len(groups) else "",
        some_alone=0 < len(groups) < len(predictions),
        positive=_positive(classes),
        metric_rows=rows,
    )
    return Section("metrics", "Metrics", body)


def curves_section(
    plot: Plot, metrics: Mapping[str, Any], head: Mapping[str, Any], unfreeze_history: pd.DataFrame | None
) -> Section:
    """`head`: epochs and kept_epoch of phase 1."""
    epochs = 0 if unfreeze_history is None else int(unfreeze_history["epoch"].max())
    sentences = kept_epochs(head, metrics.get("phase_2", {}), epochs)
    body = rendered("curves_section", curves=_images(plot), kept_epochs=sentences)
    return Section("curves", "Learning curves", body)


def confusion_section(plot: Plot, classes: Sequence[str]) -> Section:
    body = rendered(
        "confusion_section",
        confusion=_images(plot),
        confusion_width=800 if len(classes) <= MOST_ON_A_PHONE else 1060,
        numbered=len(classes) <= MOST_NUMBERED,
    )
    return Section("confusion", "Confusion", body)


def calibration_section(plot: Plot, metrics: Mapping[str, Any]) -> Section:
    by_name = {NETWORKS[network]: f"{value:.2f}" for network, value in temperatures(metrics).items()}
    body = rendered("calibration_section", calibration=_images(plot), temperatures=by_name)
    return Section("calibration", "Calibration", body)


def operating_section(metrics: Mapping[str, Any], classes: Sequence[str]) -> Section | None:
    """None unless there are two classes and a promise."""
    config = metrics.get("operating", {})
    if not config.get("promise"):
        return None
    body = rendered(
        "operating_section",
        positive=_positive(classes),
        promise=config["promise"],
        at_least=percent(config.get("at_least")),
        operating=operating(metrics),
    )
    return Section("operating", "Operating point", body)


def forgetting_section(plot: Plot, metrics: Mapping[str, Any]) -> Section:
    moved = metrics["forgetting"]
    body = rendered(
        "forgetting_section",
        forgetting=_images(plot),
        distance=percent(moved["distance"]),
        cka=score(moved["cka"]),
        kept=percent(moved.get("kept")),
        divergence=score(moved.get("kl")),
    )
    return Section("forgetting", "Forgetting", body)


def mistakes_section(worst: pd.DataFrame, pictures: Sequence[bytes], predictions: pd.DataFrame) -> Section:
    """`pictures` are PNGs of the rows of `worst`, each picture beside its map."""
    assert len(pictures) == len(worst), f"{len(worst)} mistakes, {len(pictures)} pictures"
    wrong = predictions["finetuned_prediction"].astype(str) != predictions["label"].astype(str)
    shown = [
        {**record, "confidence": percent(record["confidence"]), "image": data_uri(picture)}
        for record, picture in zip(worst.to_dict("records"), pictures, strict=True)
    ]
    body = rendered("mistakes_section", mistakes=shown, wrong=count(int(wrong.sum())))
    return Section("mistakes", "Worst mistakes", body)


def classes_section(table: pd.DataFrame, metrics: Mapping[str, Any]) -> Section:
    rows = with_gain(pairs(table, ["class"], QUALITY), QUALITY, same_networks(metrics))
    return Section("classes", "Classes", rendered("classes_section", class_rows=rows))


def slices_section(table: pd.DataFrame, metrics: Mapping[str, Any], classes: Sequence[str]) -> Section | None:
    """None if the data have no slices."""
    if not len(table):
        return None
    names = [name for name in ("accuracy", "balanced_accuracy", "precision", "recall") if name in table]
    body = rendered(
        "slices_section",
        slice_rows=with_gain(pairs(largest(table), ["slice", "value"], names), names, same_networks(metrics)),
        slice_columns=[name.replace("_", " ") for name in names],
        positive=_positive(classes),
    )
    return Section("slices", "Slices", body)


def data_section(
    manifest: pd.DataFrame,
    classes: Sequence[str],
    slices: Sequence[str],
    notes: Notes,
    decided: str,
) -> Section:
    """`decided`: what was chosen on validation, see `thaw.report.summary.chosen_on_validation`."""
    body = rendered(
        "data_section",
        data=data_summary(manifest, classes, slices),
        notes=notes_summary(notes),
        chosen_on_validation=decided,
    )
    return Section("data", "Data", body)


def settings_section(params: Mapping[str, Any], versions: Mapping[str, str], data_hash: str) -> Section:
    body = rendered(
        "settings_section",
        sections=_by_phase(params),
        versions=dict(versions),
        data_hash=data_hash or DASH,
    )
    return Section("settings", "Parameters and versions", body)


def pairs(table: pd.DataFrame, keys: list[str], values: list[str]) -> list[dict[str, Any]]:
    """From one row per network to one row per key, with each value as a pair (head only,
    fine-tuned)."""
    table = table.assign(**{name: numbers(table[name]) for name in [*values, "pictures"]})
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in table.to_dict("records"):
        key = tuple(text(record[name]) for name in keys)
        row = rows.setdefault(key, {"key": key, "pictures": count(record["pictures"])})
        for value in values:
            row.setdefault(value, {})[str(record["model"])] = record[value]
    return list(rows.values())


def with_gain(rows: list[dict[str, Any]], values: list[str], same: bool = False) -> list[dict[str, Any]]:
    """Each pair of numbers as three cells: head only, fine-tuned, gain in points; none where both
    are the `same`."""
    shown = []
    for row in rows:
        cells = []
        for value in values:
            before, after = (number(row[value].get(network)) for network in NETWORKS)
            gain = None if same or before is None or after is None else after - before
            cells.append((percent(before), percent(after), change(gain, "percent")))
        shown.append({"key": row["key"], "pictures": row["pictures"], "cells": cells})
    return shown


def largest(slices_table: pd.DataFrame) -> pd.DataFrame:
    """The values of each slice with the most pictures, at most MOST_VALUES of them."""
    ranks = slices_table.groupby(["model", "slice"])["pictures"].rank(method="first", ascending=False)
    return slices_table[ranks <= MOST_VALUES]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested dict as dotted names and values."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", "none" if isinstance(value, Mapping) else text(value)))
    return rows


def _by_phase(params: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The parameters by phase; those of no phase come first, with an empty name."""
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


def _images(plot: Plot) -> dict[str, str | None]:
    return {"wide": data_uri(plot.wide), "narrow": data_uri(plot.narrow) if plot.narrow else None}


def _positive(classes: Sequence[str]) -> str:
    return str(classes[1]) if len(classes) == 2 else ""


def _unbroken(sentence: str) -> str:
    """Keep each number and its percent sign on one line."""
    return sentence.replace(" %", "\u00a0%")
