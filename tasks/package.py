"""package: the fine-tuned network and all that its use needs as one folder, with a model card.

thaw phase package      artifacts/{unfreeze,evaluate} -> artifacts/package/{weights.safetensors,meta.json,README.md}
"""

from typing import Any

import pandas as pd

import thaw
from thaw.data.manifest import read_manifest, read_table
from thaw.learning import checkpoint
from thaw.model import package as packages
from thaw.project import phase, recipe
from thaw.project.settings import Settings
from thaw.project.workspace import EVALUATE, PACKAGE, PREPARE, UNFREEZE
from thaw.report.card import card
from thaw.statistics.records import joined

COMPUTES = ("torch", "torchvision", "numpy", "pillow")
SCORES = ["accuracy", "balanced_accuracy", "precision", "recall", "pictures"]


def package(config: Settings) -> None:
    """From a network and what evaluate found to a model that can be taken away."""
    figures = joined(*(phase.read_json(EVALUATE / name) for name in ("metrics.json", "details.json")))
    by_class = _finetuned(read_table(EVALUATE / "classes.csv", ["precision", "recall", "f1", "pictures"]))
    by_slice = _finetuned(read_table(EVALUATE / "slices.csv", SCORES))
    network = checkpoint.read_meta(UNFREEZE / "model")
    network["params"] |= {"evaluate": config.evaluate.model_dump(), "package": config.package.model_dump()}
    meta = packages.meta_of(
        network,
        figures,
        by_class,
        by_slice,
        views=config.evaluate.views,
        sure=config.package.sure,
        versions={"thaw": thaw.__version__} | {name: recipe.installed(name) or "" for name in COMPUTES},
    )
    text = card(meta, read_manifest(PREPARE / "manifest.csv"), config.package.license)
    with phase.outputs(PACKAGE) as folder:
        packages.write(folder, UNFREEZE / "model", meta, text)
    point = meta["operating"]
    rule = f"{point['class']} from {point['threshold']:.3f} on" if point else "the most probable class"
    print(f"{len(meta['classes'])} classes, temperature {meta['temperature']:.3f}, decision: {rule}")


def _finetuned(table: pd.DataFrame) -> list[dict[str, Any]]:
    """What evaluate says of the fine-tuned network; NaN, which JSON does not have, is None."""
    rows = table[table["model"] == "finetuned"].drop(columns="model").astype(object)
    return [
        {str(key): value for key, value in row.items()} for row in rows.where(rows.notna(), None).to_dict("records")
    ]


if __name__ == "__main__":
    phase.start(package)
