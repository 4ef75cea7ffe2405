"""Ten simulated weeks of retraining: from ImageNet each week, or from the model of the week before.

    python -m benchmarks.weeks FOLDER ... [--seeds 3]

A FOLDER has the layout of data/; sets are thinned, split and decoded as in `benchmarks.sizes`. A
tenth of the pictures is there in the first week, and another tenth arrives each week; every fifth
one is validation, and the test split stays the same. Each week both arms train a new head, then
phase 2, on all pictures so far, with the settings of params.yaml. The second arm starts from its
backbone of the week before, like `backbone.weights: prod` if every model is promoted. Each week is
a line of benchmarks/results/weeks.jsonl; a run that was stopped continues with the next seed.
"""

import argparse
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.sizes import ROOT, DataSet, load, network, phase_2, trained_head
from thaw.data.pictures import VIEWS
from thaw.learning.batches import Split, TrainingData
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import unfreeze
from thaw.learning.losses import VAL_LOSS, Objective, cross_entropy
from thaw.learning.prediction import predict
from thaw.learning.training import enough_epochs, fine_tune
from thaw.project import settings
from thaw.statistics import calibration, metrics

RESULTS = ROOT / "benchmarks" / "results" / "weeks.jsonl"
WEEKS = 10
ARMS = {"ImageNet": False, "the week before": True}


def year(data: DataSet, config: settings.Settings, seed: int) -> Iterator[dict[str, Any]]:
    """The figures of each arm and week on the test split."""
    pool = np.random.default_rng(seed).permutation(data.rows.index[data.rows["split"] != "test"].to_numpy(np.int64))
    test = data.rows.index[data.rows["split"] == "test"].to_numpy(np.int64)
    for arm, goes_on in ARMS.items():
        backbone = None
        for week in range(1, WEEKS + 1):
            here = pool[: round(len(pool) * week / WEEKS)]
            is_val = np.arange(len(here)) % 5 == 4
            model = retrained(data, config, seed, np.sort(here[~is_val]), np.sort(here[is_val]), backbone)
            backbone = model.backbone.state_dict() if goes_on else None
            logits = predict(model, data.pictures, test, data.normalise, VIEWS["flip"], 64)
            p, labels = calibration.probabilities(logits, 1), data.labels(test)
            yield {"set": data.name, "seed": seed, "arm": arm, "week": week, "pictures": len(here)} | {
                "accuracy": float((p.argmax(1) == labels).mean()),
                "auc": metrics.auc(p, labels),
            }


def retrained(data: DataSet, config: settings.Settings, seed: int, train: Any, val: Any, backbone: Any) -> Any:
    """A new head, then phase 2, from this backbone, or from ImageNet's."""
    model = network(data, config, seed)
    fold_batchnorm(model, data.pictures.shape.blank())
    if backbone:
        model.backbone.load_state_dict(backbone)
    model.head.load_state_dict(trained_head(data, config, model, seed, train, val))
    unfreeze(model, "all", "frozen")
    epochs = config.unfreeze.epochs
    if epochs == "auto":
        epochs = enough_epochs(len(train), config.unfreeze.batch_size)
    parts = (Split(rows, data.targets[rows]) for rows in (train, val))
    with contextlib.redirect_stdout(io.StringIO()):
        weights = fine_tune(
            model,
            TrainingData(data.pictures, data.normalise, *parts),
            phase_2(config, seed, epochs=epochs),
            Objective(cross_entropy(), VAL_LOSS),
        ).weights
    model.load_state_dict(weights)
    return model


def table(results: pd.DataFrame) -> pd.DataFrame:
    """By set and arm: the mean over seeds of some weeks, and paired differences of all weeks."""
    means = results.pivot_table(index=["set", "arm"], columns="week", values=["accuracy", "auc"])
    figures = means[[("accuracy", week) for week in (1, 2, 4, 7, WEEKS)] + [("auc", WEEKS)]]
    both = results.pivot_table(index=["set", "seed", "week"], columns="arm", values="accuracy")
    gains = 100 * (both["the week before"] - both["ImageNet"]).groupby(["set", "seed"]).mean()
    by_set = gains.groupby("set").agg(["mean", "std"])
    figures[("points over ImageNet", "mean")] = figures.index.map(
        lambda key: by_set["mean"][key[0]] if ARMS[key[1]] else None
    )
    figures[("points over ImageNet", "std")] = figures.index.map(
        lambda key: by_set["std"][key[0]] if ARMS[key[1]] else None
    )
    return figures.round(3)


def main() -> None:
    """Simulate what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    config = settings.read(ROOT / "params.yaml")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    results = [json.loads(line) for line in lines]
    for folder in arguments.folders:
        data = load(folder, config)
        for seed in range(arguments.seeds):
            if any((row["set"], row["seed"]) == (data.name, seed) for row in results):
                continue
            rows = list(year(data, config, seed))
            with RESULTS.open("a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows)
            results += rows
            print(f"{data.name}, seed {seed}: done", flush=True)
    print(table(pd.DataFrame(results)).to_string())


if __name__ == "__main__":
    main()
