"""report: one HTML file that needs no network, and its plots, of what the run found.

python -m tasks.report      artifacts/ -> artifacts/report/{report.html,curves.png,confusion.png,mistakes.png,...}
"""

import io
import platform
import subprocess
from importlib.metadata import version

import pandas as pd

from tasks import phase
from tasks.settings import Settings
from tasks.workspace import DATA, EVALUATE, HEAD, PREPARE, REPORT, ROOT, UNFREEZE
from thaw import report as page
from thaw.manifest import read_manifest, read_predictions, read_table
from thaw.pictures import open_picture

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
    metrics = phase.read_json(EVALUATE / "metrics.json")
    head, unfreeze = (pd.read_csv(folder / "history.csv") for folder in (HEAD, UNFREEZE))
    model = phase.read_json(UNFREEZE / "model" / "meta.json")
    with phase.outputs(REPORT) as folder:
        (folder / "curves.png").write_bytes(page.curves(head, unfreeze))
        (folder / "confusion.png").write_bytes(page.confusion(predictions, classes))
        (folder / "calibration.png").write_bytes(page.calibration(predictions, classes, page.temperatures(metrics)))
        (folder / "forgetting.png").write_bytes(page.forgetting(blocks))
        worst = page.worst_mistakes(predictions, classes)
        (folder / "mistakes.png").write_bytes(page.mistakes(worst, [thumbnail(path) for path in worst["path"]]))
        html = page.html(
            title=f"{model['backbone']} on {len(manifest)} pictures of {len(classes)} classes",
            metrics=metrics,
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
        (folder / "report.html").write_text(html, encoding="utf-8")


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
