"""report: write one HTML page that needs no network, and its plots.

thaw phase report      artifacts/ -> artifacts/report/{report.html,curves.png,confusion.png,...}

The list of sections below is the page from top to bottom; docs/report.md shows how to add one.
"""

import io
import platform
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from thaw.data.manifest import groups_of, labels_of, read_manifest, read_predictions, read_table
from thaw.data.overlay import beside, over
from thaw.data.pictures import VIEWS, Normaliser, Shape, open_picture
from thaw.learning import checkpoint
from thaw.learning.attribution import evidence
from thaw.project import networks, notes, phase, workspace
from thaw.project.settings import Settings
from thaw.project.workspace import artifacts
from thaw.report import sections
from thaw.report.calibration import calibration
from thaw.report.confusion import confusion_plot
from thaw.report.curves import curves
from thaw.report.drawing import both_widths
from thaw.report.forgetting import forgetting
from thaw.report.mistakes import mistakes, worst_mistakes
from thaw.report.page import html
from thaw.report.summary import chosen_on_validation, temperatures
from thaw.statistics import promotion
from thaw.statistics.records import NETWORKS, joined

PACKAGES = ("torch", "torchvision", "prefect", "dvc", "pandas", "numpy", "scikit-learn")
LARGEST = 240  # pixels of a shown picture's longer side


def report(config: Settings) -> None:
    """From the outputs of all phases to a page."""
    meta = phase.read_json(artifacts("prepare/meta.json"))
    classes = meta["classes"]
    manifest = read_manifest(artifacts("prepare/manifest.csv"))
    head, head_history = phase.read_json(artifacts("head/metrics.json")), pd.read_csv(artifacts("head/history.csv"))
    unfreeze_history = pd.read_csv(artifacts("unfreeze/history.csv"))
    model = phase.read_json(artifacts("unfreeze/model/meta.json"))
    metrics = joined(*(phase.read_json(artifacts(f"evaluate/{name}.json")) for name in ("metrics", "details")))
    predictions = read_predictions(artifacts("evaluate/predictions.csv"))
    by_class = read_table(artifacts("evaluate/classes.csv"), ["precision", "recall", "f1", "pictures"])
    figures = ["accuracy", "balanced_accuracy", "precision", "recall", "pictures"]
    by_slice = read_table(artifacts("evaluate/slices.csv"), figures)
    params = model["params"] | {"evaluate": config.evaluate.model_dump()}
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}

    plots = {
        "curves": both_widths(partial(curves, head_history, unfreeze_history)),
        "confusion": confusion_plot(predictions, classes),
        "calibration": both_widths(partial(calibration, predictions, classes, temperatures(metrics))),
        "forgetting": both_widths(partial(forgetting, pd.read_csv(artifacts("evaluate/forgetting.csv")))),
    }
    worst = worst_mistakes(predictions, classes)
    pictures = with_maps(worst, config) if len(worst) else []
    decided = chosen_on_validation(head, metrics)
    page = [
        sections.metrics_section(
            metrics, predictions, manifest, classes, deciding(config, manifest, predictions, metrics, classes)
        ),
        sections.curves_section(plots["curves"], metrics, head, unfreeze_history),
        sections.confusion_section(plots["confusion"], classes),
        sections.calibration_section(plots["calibration"], metrics),
        sections.operating_section(metrics, classes),
        sections.forgetting_section(plots["forgetting"], metrics),
        sections.mistakes_section(worst, pictures, predictions),
        sections.classes_section(by_class, metrics),
        sections.slices_section(by_slice, metrics, classes),
        sections.data_section(manifest, classes, meta["slices"], notes.read(artifacts("prepare")), decided),
        sections.settings_section(params, versions, meta["data"]),
    ]
    title = f"{model['backbone']} on {len(manifest)} pictures of {len(classes)} classes"
    top = sections.top(metrics, predictions)
    with phase.outputs("report") as folder:
        for name, plot in plots.items():
            (folder / f"{name}.png").write_bytes(plot.wide)
        (folder / "mistakes.png").write_bytes(mistakes(worst, pictures))
        text = html(title, top, [section for section in page if section])
        (folder / "report.html").write_text(text, encoding="utf-8")


def deciding(
    config: Settings, manifest: pd.DataFrame, predictions: pd.DataFrame, metrics: dict[str, Any], classes: list[str]
) -> dict[str, Any] | None:
    """Of both networks the figure that `promote.by` names, unless that is accuracy, which comes
    first anyway."""
    rule = config.promote
    promotion.check(rule.by, rule.costs, classes)
    if rule.by == "accuracy":
        return None
    before, after = (
        predictions[[f"{network}_p_{label}" for label in classes]].to_numpy(np.float64) for network in NETWORKS
    )
    operating = metrics.get("operating") or {}
    cut_before, cut_after = ((operating.get(network) or {}).get("threshold") for network in NETWORKS)
    points = promotion.Points(1, cut_before, cut_after, config.evaluate.promise) if len(classes) == 2 else None
    limits = promotion.Limits(**rule.model_dump(exclude={"approve", "wait"}))
    rows = manifest[manifest["split"] == "test"].reset_index(drop=True)
    assert rows["path"].tolist() == predictions["path"].tolist(), "evaluate saw other test pictures"
    return promotion.deciding(before, after, labels_of(rows, classes), classes, groups_of(rows), limits, points)


def with_maps(worst: pd.DataFrame, config: Settings) -> list[bytes]:
    """Each mistake as PNG, and beside it where the network saw what it said."""
    device = networks.use_resources(config)
    data = networks.dataset(config, "test")
    model, _ = checkpoint.load(artifacts("unfreeze/model"))
    numbers = pd.Series(data.rows.index, index=data.rows["path"])[worst["path"]].to_numpy(np.int64)
    said = torch.tensor([data.classes.index(name) for name in worst["prediction"]], device=device)
    (pixels,) = data.pictures.batches([numbers])
    normalise = Normaliser(networks.preprocessing(data), device)
    maps, _ = evidence(model.to(device), pixels.to(device), normalise, VIEWS[config.evaluate.views], said)
    shape = data.pictures.shape
    return [with_map(path, values, shape) for path, values in zip(worst["path"], maps.numpy(), strict=True)]


def with_map(path: str, values: NDArray[np.float32], shape: Shape) -> bytes:
    """A picture of the data, small enough to show, beside itself under its map."""
    picture = open_picture(workspace.data() / path)
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    beside(picture, over(picture, values, shape)).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    phase.start(report)
