"""report: one HTML file that needs no network, and its plots, of what the run found.

python -m tasks.report      artifacts/ -> artifacts/report/{report.html,curves.png,confusion.png,mistakes.png,...}
"""

import io
import platform
import subprocess
from importlib.metadata import version

import pandas as pd

from thaw.data.manifest import read_manifest, read_predictions, read_table
from thaw.data.pictures import open_picture
from thaw.project import phase
from thaw.project.settings import Settings
from thaw.project.workspace import DATA, EVALUATE, HEAD, PREPARE, REPORT, ROOT, UNFREEZE
from thaw.report.calibration import calibration
from thaw.report.confusion import confusion
from thaw.report.curves import curves
from thaw.report.forgetting import forgetting
from thaw.report.mistakes import mistakes, worst_mistakes
from thaw.report.page import html
from thaw.report.summary import temperatures
from thaw.statistics.records import joined

PACKAGES = ("torch", "torchvision", "prefect", "dvc", "pandas", "numpy", "scikit-learn")
LARGEST = 320  # pixels of a shown picture's longer side


def report(chosen: Settings) -> None:
    """From what the phases wrote to something to read."""
    meta = phase.read_json(PREPARE / "meta.json")
    classes, slices = meta["classes"], meta["slices"]
    manifest = read_manifest(PREPARE / "manifest.csv")
    predictions = read_predictions(EVALUATE / "predictions.csv")
    by_class = read_table(EVALUATE / "classes.csv", ["precision", "recall", "f1", "pictures"])
    figures = ["accuracy", "balanced_accuracy", "precision", "recall", "pictures"]
    by_slice = read_table(EVALUATE / "slices.csv", figures)
    blocks = pd.read_csv(EVALUATE / "forgetting.csv")
    metrics = joined(*(phase.read_json(EVALUATE / name) for name in ("metrics.json", "details.json")))
    head, unfreeze = (pd.read_csv(folder / "history.csv") for folder in (HEAD, UNFREEZE))
    model = phase.read_json(UNFREEZE / "model" / "meta.json")
    with phase.outputs(REPORT) as folder:
        (folder / "curves.png").write_bytes(curves(head, unfreeze))
        (folder / "confusion.png").write_bytes(confusion(predictions, classes))
        (folder / "calibration.png").write_bytes(calibration(predictions, classes, temperatures(metrics)))
        (folder / "forgetting.png").write_bytes(forgetting(blocks))
        worst = worst_mistakes(predictions, classes)
        (folder / "mistakes.png").write_bytes(mistakes(worst, [thumbnail(path) for path in worst["path"]]))
        page = html(
            title=f"{model['backbone']} on {len(manifest)} pictures of {len(classes)} classes",
            metrics=metrics,
            head_figures=phase.read_json(HEAD / "metrics.json"),
            head_history=head,
            unfreeze_history=unfreeze,
            predictions=predictions,
            classes_table=by_class,
            slices_table=by_slice,
            blocks_table=blocks,
            classes=classes,
            slices=slices,
            manifest=manifest,
            pictures=lambda paths: [thumbnail(path) for path in paths],
            params=model["params"] | {"evaluate": chosen.evaluate.model_dump()},
            versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            commit=commit(),
            data_hash=meta["data"],
        )
        (folder / "report.html").write_text(page, encoding="utf-8")


def thumbnail(path: str) -> bytes:
    """A picture of the data as PNG, small enough to show."""
    picture = open_picture(DATA / path)
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def commit() -> str:
    """The git commit of the workspace, with a plus where files differ from it; empty outside git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True).stdout.strip()


if __name__ == "__main__":
    phase.start(report)
