"""evaluate: measure the head-only and the fine-tuned network on the same test pictures, which no
earlier phase reads.

thaw phase evaluate      artifacts/{head,unfreeze} -> artifacts/evaluate/{metrics.json,...}

Their temperature and their threshold are chosen on validation.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

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
from thaw.statistics import calibration, metrics, records

NETWORKS = {"head": "head", "finetuned": "unfreeze"}  # and the phase that trained each
LOOKED_AT = 256  # validation pictures used to measure how far the network moved


def evaluate(config: Settings) -> None:
    """From two networks to their figures and the gain."""
    device = networks.use_resources(config)
    data = networks.dataset(config, "val", "test")
    val, test = data.split("val"), data.split("test")
    for split, pictures in (("val", val), ("test", test)):
        processes.check(split, len(pictures))
    views, normalise = VIEWS[config.evaluate.views], Normaliser(networks.preprocessing(data), device)
    models, metas = {}, {}
    for name, trained_by in NETWORKS.items():
        models[name], metas[name] = checkpoint.load(artifacts(trained_by) / "model")
        if not metas[name]["folded"]:
            fold_batchnorm(models[name], data.pictures.shape.blank())
        models[name].to(device)
    pair = Pair(models["head"], models["finetuned"], data.pictures.shape.blank().to(device))
    progress = Progress((len(val) + len(test)) * views)
    both = [
        predict(pair, data.pictures, rows, normalise, views, config.evaluate.batch_size, progress, "both networks")
        for rows in (val, test)
    ]
    logits = {name: [each[:, number] for each in both] for number, name in enumerate(NETWORKS)}
    if not processes.first():
        return

    rows = data.rows.loc[test].reset_index(drop=True)
    slices = data.meta["slices"]
    val_labels, labels = labels_of(data.rows.loc[val], data.classes), labels_of(rows, data.classes)
    groups = groups_of(rows)
    figures: dict[str, Any] = {"test_pictures": len(test), "phase_2": _phase_2(metas["finetuned"])}
    operating: dict[str, Any] = {"promise": config.evaluate.promise, "at_least": config.evaluate.at_least}
    predictions = rows[["path", "label", "group", *slices]].copy()
    columns, by_class, by_slice = [], [], []
    for name, (val_logits, test_logits) in logits.items():
        temperature = calibration.temperature(val_logits, torch.from_numpy(val_labels))
        val_probabilities = calibration.probabilities(val_logits, temperature)
        probabilities = calibration.probabilities(test_logits, temperature)
        predicted = np.unique(probabilities.argmax(1))
        figures[name] = metrics.headline(probabilities, labels) | {
            "temperature": temperature,
            "ece_uncalibrated": metrics.calibration_error(calibration.probabilities(test_logits, 1), labels),
            "only_class": data.classes[predicted[0]] if len(predicted) == 1 else None,
        }
        cut = calibration.threshold(
            val_probabilities[:, 1], val_labels == 1, config.evaluate.promise, config.evaluate.at_least
        )
        operating[name] = None
        if cut is not None:
            rates = calibration.at_threshold(probabilities[:, 1], labels == 1, cut, groups)
            operating[name] = {"threshold": cut, **rates}
            figures[name]["recall"] = rates["recall"]["value"]
        decided = calibration.decided(val_probabilities, cut if len(data.classes) == 2 else None)
        shares = np.bincount(decided, minlength=len(data.classes)) / len(val)
        figures[name]["decisions_on_val"] = dict(zip(data.classes, shares.tolist(), strict=True))
        predictions[f"{name}_prediction"] = np.array(data.classes)[probabilities.argmax(1)]
        columns.append(pd.DataFrame(probabilities, columns=[f"{name}_p_{label}" for label in data.classes]))
        by_class.append(metrics.per_class(probabilities, labels, data.classes).assign(model=name))
        by_slice.append(metrics.per_slice(probabilities, labels, rows[slices]).assign(model=name))
    before, after = (frame.to_numpy() for frame in columns)
    figures["gain"] = metrics.gain(before, after, labels, groups)
    if records.same_networks(figures):  # a gain of zero would look measured
        figures["gain"] = dict.fromkeys(figures["gain"])
    if len(data.classes) == 2:
        figures["operating"] = operating
    figures["forgetting"], blocks = _forgotten(models, config, data, normalise)
    with phase.outputs("evaluate") as folder:
        write_table(pd.concat([predictions, *columns], axis=1), folder / "predictions.csv")
        write_table(blocks, folder / "forgetting.csv")
        for file, tables in (("classes.csv", by_class), ("slices.csv", by_slice)):
            table = pd.concat(tables, ignore_index=True)
            first = table.pop("model")
            table.insert(0, "model", first)
            write_table(table, folder / file)
        for file, values in zip(("metrics.json", "details.json"), records.split(figures), strict=True):
            phase.write_json(folder / file, values)
    if figures["phase_2"]["same"]:
        print(
            f"accuracy {figures['head']['accuracy']:.1%} of both networks: they are the same, phase 2 was not kept; "
            "the report says what to try"
        )
    else:
        gain = figures["gain"]
        span = f"no interval: {gain.get('no_interval')}"
        if gain["low"] is not None:
            span = f"95 % interval {gain['low']:+.1%} to {gain['high']:+.1%}"
        print(
            f"accuracy {figures['head']['accuracy']:.1%} -> {figures['finetuned']['accuracy']:.1%}, "
            f"gain {gain['accuracy']:+.1%} ({span})"
        )


def _phase_2(meta: dict[str, Any]) -> dict[str, Any]:
    """Which weights of phase 2 are kept; `same`: none, so both networks are the same."""
    kept, config = meta["kept"], meta["params"]["unfreeze"]
    share = {"share": kept["share"]} if "share" in kept else {}
    trained = kept["epoch"] > 0 and kept.get("share") != 0
    adapted = config["batchnorm"] == "adapt"  # epoch 0 has the new statistics too
    return {"keep": config["keep"], "kept_epoch": kept["epoch"], **share, "same": not (trained or adapted)}


def _forgotten(
    models: dict[str, Classifier], config: Settings, data: Dataset, normalise: Normaliser
) -> tuple[dict[str, float], pd.DataFrame]:
    """How far phase 2 moved the backbone, measured on some validation pictures: figures, and a
    table by block."""
    val = data.split("val")
    some = val[np.linspace(0, len(val) - 1, min(len(val), LOOKED_AT)).astype(np.int64)]

    head = old_head(config.backbone.name, config.backbone.weights)
    if head:
        head[1].to(normalise.device)
    before, after = (
        forgetting.look(
            model.backbone, map(normalise, data.pictures.batches(in_batches(some, config.evaluate.batch_size))), head
        )
        for model in models.values()
    )
    blocks = forgetting.by_block(before, after)
    figures = {name: float(blocks[name].mean()) for name in ("distance", "cka")}
    if head:
        figures |= forgetting.drift(before.scores, after.scores)
    return figures, blocks


if __name__ == "__main__":
    phase.start(evaluate, shared=True)
