"""report: one HTML page that needs no network, and its plots.

thaw phase report      artifacts/ -> artifacts/report/{report.html,curves.png,confusion.png,mistakes.png,...}

The list of sections below is the page from top to bottom; docs/report.md shows how to add one.
"""

import platform
from functools import partial
from importlib.metadata import version

import pandas as pd

from thaw.data.manifest import read_manifest, read_predictions, read_table
from thaw.project import notes, phase
from thaw.project.settings import Settings
from thaw.project.workspace import DATA, EVALUATE, HEAD, PREPARE, REPORT, UNFREEZE
from thaw.report import sections
from thaw.report.calibration import calibration
from thaw.report.confusion import confusion_plot
from thaw.report.curves import curves
from thaw.report.drawing import both_widths, thumbnail
from thaw.report.forgetting import forgetting
from thaw.report.mistakes import mistakes, worst_mistakes
from thaw.report.page import html
from thaw.report.summary import chosen_on_validation, temperatures
from thaw.statistics.records import joined

PACKAGES = ("torch", "torchvision", "prefect", "dvc", "pandas", "numpy", "scikit-learn")


def report(config: Settings) -> None:
    """From what the phases wrote to something to read."""
    meta = phase.read_json(PREPARE / "meta.json")
    classes = meta["classes"]
    manifest = read_manifest(PREPARE / "manifest.csv")
    head, head_history = phase.read_json(HEAD / "metrics.json"), pd.read_csv(HEAD / "history.csv")
    unfreeze_history = pd.read_csv(UNFREEZE / "history.csv")
    model = phase.read_json(UNFREEZE / "model" / "meta.json")
    metrics = joined(*(phase.read_json(EVALUATE / name) for name in ("metrics.json", "details.json")))
    predictions = read_predictions(EVALUATE / "predictions.csv")
    by_class = read_table(EVALUATE / "classes.csv", ["precision", "recall", "f1", "pictures"])
    figures = ["accuracy", "balanced_accuracy", "precision", "recall", "pictures"]
    by_slice = read_table(EVALUATE / "slices.csv", figures)
    params = model["params"] | {"evaluate": config.evaluate.model_dump()}
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}

    plots = {
        "curves": both_widths(partial(curves, head_history, unfreeze_history)),
        "confusion": confusion_plot(predictions, classes),
        "calibration": both_widths(partial(calibration, predictions, classes, temperatures(metrics))),
        "forgetting": both_widths(partial(forgetting, pd.read_csv(EVALUATE / "forgetting.csv"))),
    }
    worst = worst_mistakes(predictions, classes)
    pictures = [thumbnail(DATA / path) for path in worst["path"]]
    decided = chosen_on_validation(head, metrics)
    page = [
        sections.metrics_section(metrics, predictions, manifest, classes),
        sections.curves_section(plots["curves"], metrics, head, unfreeze_history),
        sections.confusion_section(plots["confusion"], classes),
        sections.calibration_section(plots["calibration"], metrics),
        sections.operating_section(metrics, classes),
        sections.forgetting_section(plots["forgetting"], metrics),
        sections.mistakes_section(worst, pictures, predictions),
        sections.classes_section(by_class, metrics),
        sections.slices_section(by_slice, metrics, classes),
        sections.data_section(manifest, classes, meta["slices"], notes.read(PREPARE), decided),
        sections.settings_section(params, versions, meta["data"]),
    ]
    title = f"{model['backbone']} on {len(manifest)} pictures of {len(classes)} classes"
    top = sections.top(metrics, predictions)
    with phase.outputs(REPORT) as folder:
        for name, plot in plots.items():
            (folder / f"{name}.png").write_bytes(plot.wide)
        (folder / "mistakes.png").write_bytes(mistakes(worst, pictures))
        text = html(title, top, [section for section in page if section])
        (folder / "report.html").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    phase.start(report)
