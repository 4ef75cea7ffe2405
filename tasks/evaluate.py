"""evaluate: measure the head-only and the fine-tuned network on the same test pictures, which no
earlier phase reads.

thaw phase evaluate      artifacts/{head,unfreeze} -> artifacts/evaluate/{metrics.json,...}

Their temperature and their threshold are chosen on validation.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from thaw.data.manifest import groups_of, labels_of, write_table
from thaw.data.pictures import VIEWS, Normaliser, in_batches
from thaw.learning import checkpoint, forgetting, processes
from thaw.learning.backbones import Classifier, old_head
from thaw.learning.cut import Pair
from thaw.learning.folding import fold_batchnorm
from thaw.learning.prediction import predict
from thaw.progress import Progress
from thaw.project import networks, phase
from thaw.project.networks import Dataset
from thaw.project.settings import Settings
from thaw.project.workspace import artifacts
from thaw.statistics import evaluation, metrics, records
from thaw.statistics.evaluation import Pictures

LOOKED_AT = 256  # validation pictures used to measure how far the network moved


def evaluate(config: Settings) -> None:
    """From two networks to their figures and the gain."""
    device = networks.use_resources(config)
    data = networks.dataset(config, "val", "test")
    for split in ("val", "test"):
        processes.check(split, len(data.split(split)))
    normalise = Normaliser(networks.preprocessing(data), device)
    head, _ = _network("head", data, device)
    finetuned, meta = _network("unfreeze", data, device)
    val, test = _logits(Pair(head, finetuned, data.pictures.shape.blank().to(device)), config, data, normalise)
    if not processes.first():
        return

    rows = data.rows.loc[data.split("test")].reset_index(drop=True)
    val_labels, labels = labels_of(data.rows.loc[data.split("val")], data.classes), labels_of(rows, data.classes)
    slices, groups, section = data.meta["slices"], groups_of(rows), config.evaluate
    both = {
        name: evaluation.evaluate(
            Pictures(val[:, number], val_labels),
            Pictures(test[:, number], labels),
            data.classes,
            groups,
            section.promise,
            section.at_least,
        )
        for number, name in enumerate(("head", "finetuned"))
    }
    figures: dict[str, Any] = {"test_pictures": len(rows), "phase_2": records.of_phase_2(meta)}
    figures |= {name: network.figures for name, network in both.items()}
    gain = metrics.gain(both["head"].probabilities, both["finetuned"].probabilities, labels, groups)
    # The gain of a network over itself, which is zero, would look measured.
    figures["gain"] = dict.fromkeys(gain) if records.same_networks(figures) else gain
    if len(data.classes) == 2:
        kept = {name: network.operating for name, network in both.items()}
        figures["operating"] = {"promise": section.promise, "at_least": section.at_least, **kept}
    val_rows = data.split("val")
    some = val_rows[np.linspace(0, len(val_rows) - 1, min(len(val_rows), LOOKED_AT)).astype(np.int64)]
    figures["forgetting"], blocks = forgetting.compare(
        head.backbone,
        finetuned.backbone,
        lambda: map(normalise, data.pictures.batches(in_batches(some, section.batch_size))),
        old_head(config.backbone.name, config.backbone.weights),
    )

    tables = evaluation.tables(both, labels, data.classes, rows[slices])
    tables["predictions"] = evaluation.predictions(both, rows[["path", "label", "group", *slices]], data.classes)
    tables["forgetting"] = blocks
    with phase.outputs("evaluate") as folder:
        for name, table in tables.items():
            write_table(table, folder / f"{name}.csv")
        for file, values in zip(("metrics.json", "details.json"), records.split(figures), strict=True):
            phase.write_json(folder / file, values)
    print(_sentence(figures))


def _network(trained_by: str, data: Dataset, device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """The network that a phase trained, folded, and its meta.json."""
    model, meta = checkpoint.load(artifacts(trained_by) / "model")
    if not meta["folded"]:
        fold_batchnorm(model, data.pictures.shape.blank())
    return model.to(device), meta


def _logits(pair: Pair, config: Settings, data: Dataset, normalise: Normaliser) -> tuple[Tensor, Tensor]:
    """The logits (pictures, networks, classes) of validation and test."""
    views, batch_size = VIEWS[config.evaluate.views], config.evaluate.batch_size
    val, test = data.split("val"), data.split("test")
    progress = Progress((len(val) + len(test)) * views)
    on_val, on_test = (
        predict(pair, data.pictures, rows, normalise, views, batch_size, progress, "both networks")
        for rows in (val, test)
    )
    return on_val, on_test


def _sentence(figures: dict[str, Any]) -> str:
    head, gain = figures["head"]["accuracy"], figures["gain"]
    if figures["phase_2"]["same"]:
        return (
            f"accuracy {head:.1%} of both networks: they are the same, phase 2 was not kept; "
            "the report says what to try"
        )
    span = f"no interval: {gain.get('no_interval')}"
    if gain["low"] is not None:
        span = f"95 % interval {gain['low']:+.1%} to {gain['high']:+.1%}"
    return f"accuracy {head:.1%} -> {figures['finetuned']['accuracy']:.1%}, gain {gain['accuracy']:+.1%} ({span})"


if __name__ == "__main__":
    phase.start(evaluate, shared=True)
