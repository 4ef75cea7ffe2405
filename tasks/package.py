"""package: write the fine-tuned network and all that its use needs into a folder, with a card.

thaw phase package      artifacts/{unfreeze,evaluate} -> artifacts/package/
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import thaw
from thaw.data.manifest import labels_of, read_manifest, read_table
from thaw.data.pictures import in_batches
from thaw.learning import checkpoint
from thaw.model import package as packages
from thaw.model import unlike
from thaw.model.model import BATCH, Network
from thaw.model.package import Package
from thaw.model.unlike import Features
from thaw.progress import Progress
from thaw.project import networks, phase, recipe
from thaw.project.networks import Dataset
from thaw.project.settings import Settings
from thaw.project.workspace import artifacts
from thaw.report.card import card
from thaw.statistics.records import joined

COMPUTES = ("torch", "torchvision", "numpy", "pillow")
LOOKED_AT = 1024  # validation pictures whose distances decide what is unlike the training
SCORES = ["accuracy", "balanced_accuracy", "precision", "recall", "pictures"]


def package(config: Settings) -> None:
    """From a network and what evaluate found to a model that can be taken away."""
    device = networks.use_resources(config)
    data = networks.dataset(config, "train", "val")
    network = checkpoint.read_meta(artifacts("unfreeze/model"))
    network["params"] |= {"evaluate": config.evaluate.model_dump(), "package": config.package.model_dump()}
    meta = packages.meta_of(
        network,
        joined(*(phase.read_json(artifacts(f"evaluate/{name}.json")) for name in ("metrics", "details"))),
        _finetuned(read_table(artifacts("evaluate/classes.csv"), ["precision", "recall", "f1", "pictures"])),
        _finetuned(read_table(artifacts("evaluate/slices.csv"), SCORES)),
        views=config.evaluate.views,
        sure=config.package.sure,
        versions={"thaw": thaw.__version__} | {name: recipe.installed(name) or "" for name in COMPUTES},
    )
    train, val = _features(Network(artifacts("unfreeze/model"), replace(Package.of(meta), views="none"), device), data)
    neighbours = unlike.fit(train)
    threshold = unlike.threshold(neighbours.distances(val), config.package.false_alarms)
    meta["unlike"] = {"threshold": threshold, "false_alarms": config.package.false_alarms}
    text = card(meta, read_manifest(artifacts("prepare/manifest.csv")), config.package.license)
    with phase.outputs("package") as folder:
        packages.write(folder, artifacts("unfreeze/model"), neighbours, meta, text)
    point = meta["operating"]
    rule = f"{point['class']} from {point['threshold']:.3f} on" if point else "the most probable class"
    print(f"{len(meta['classes'])} classes, temperature {meta['temperature']:.3f}, decision: {rule}")


def _features(network: Network, data: Dataset) -> Iterator[Features]:
    """Features of some training pictures, then of some of validation, each as it is."""
    train, val = data.split("train"), data.split("val")
    rows = [
        train[unlike.drawn(labels_of(data.rows.loc[train], data.classes))],
        np.sort(np.random.default_rng(0).permutation(val)[:LOOKED_AT]),
    ]
    progress = Progress(sum(map(len, rows)))
    for numbers in rows:
        parts = []
        for pixels in data.pictures.batches(in_batches(numbers, BATCH)):
            features = network(pixels.permute(0, 2, 3, 1).numpy()).features
            assert features is not None
            parts.append(features)
            progress.step(len(pixels), "features")
        yield np.concatenate(parts)


def _finetuned(table: pd.DataFrame) -> list[dict[str, Any]]:
    """What evaluate says of the fine-tuned network; NaN, which JSON does not have, is None."""
    rows = table[table["model"] == "finetuned"].drop(columns="model").astype(object)
    return [
        {str(key): value for key, value in row.items()} for row in rows.where(rows.notna(), None).to_dict("records")
    ]


if __name__ == "__main__":
    phase.start(package)
