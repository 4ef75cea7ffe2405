"""thaw on ELPV by the protocol of Deitsch et al. 2019, and by the honest split beside it.

    make bench-elpv                                  # five seeds of both splits; hours on two cores
    make bench-elpv ARGS="--seeds 1 --split random"
    make bench-elpv ARGS="--backbone efficientnet_lite0 --backbone resnet50"

Random: 75/25, stratified, as in the paper. Grouped: the same shares, in blocks of 60 neighbouring
rows, because cells of one module are neighbours. Each seed draws its own split. A cell is positive
if its defect probability is above 0.5. The same networks are also judged with the limit at 0, and
on the cells that the experts were sure of (0 or 1). TUNED holds what was tuned, on validation.

Writes benchmarks/results/elpv.json and keeps its rows of the same settings, so a bench that was
stopped continues where it was.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from benchmarks import projects
from thaw.project import settings
from thaw.statistics import metrics

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "benchmarks" / "runs" / "elpv"
RESULTS = ROOT / "benchmarks" / "results" / "elpv.json"
PHASES = ("prepare", "embed", "head", "unfreeze", "evaluate")
# Chosen by validation loss, never on a test: resolution, label smoothing and moving average on the
# default run's split. On a random split with seed 10, twelve epochs at 224 px (0.314) beat eight at
# 300 px (0.316) and at 160 px (0.333); ratios of 5 and 30 and mixup were tried there too, and not
# taken. The last epoch is kept, because validation has too few pictures to choose one.
TUNED = {
    "prepare.resolution": 224,
    "prepare.val": 0.075,
    "prepare.test": 0.25,
    "unfreeze.epochs": 12,
    "unfreeze.label_smoothing": 0.1,
    "unfreeze.ema": 0.99,
    "unfreeze.keep": "last",
}
PUBLISHED = {"SVM": {"accuracy": 0.8244}, "VGG19, 143 M parameters": {"accuracy": 0.8842, "auc": 0.944}}


def main() -> None:
    """Run what is missing, then print the summary."""
    parser = argparse.ArgumentParser(
        usage='make bench-elpv ARGS="[options]"',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 on (5)")
    parser.add_argument("--split", action="append", choices=("random", "grouped"), help="one of them only (both)")
    parser.add_argument("--backbone", action="append", help="of torchvision, its weights reachable (the default one)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds is at least 1")
    changes = [f"{key}={value}" for key, value in TUNED.items()] + options.set
    rows = earlier(changes)
    backbones = options.backbone or [settings.read(ROOT / "params.yaml").backbone.name]
    for seed, backbone, split in product(range(options.seeds), backbones, options.split or ("random", "grouped")):
        of_split = measured(backbone, split, seed, changes)
        rows = [
            row for row in rows if (row["backbone"], row["split"], row["seed"]) != (backbone, split, seed)
        ] + of_split
        print(f"{backbone}, {split}, seed {seed}: {of_split[0]['accuracy']:.1%}", flush=True)
        summary = write(changes, rows)
    print(pd.DataFrame(summary).to_string(index=False))


def earlier(changes: list[str]) -> list[dict[str, Any]]:
    """The rows that were measured before with these settings."""
    if not RESULTS.is_file():
        return []
    values = json.loads(RESULTS.read_text(encoding="utf-8"))
    return list(values["rows"]) if values["settings"] == changes else []


def write(changes: list[str], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write all rows so far; returns the summary."""
    summary = summed_up(pd.DataFrame(rows))
    values = {"settings": changes, "published": PUBLISHED, "summary": summary, "rows": rows}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return summary


def measured(backbone: str, split: str, seed: int, changes: list[str]) -> list[dict[str, Any]]:
    """Train and judge one network; train nothing that was trained with these settings."""
    folder = RUNS / f"{backbone}-{split}-{seed}"
    changes = [*changes, f"backbone.name={backbone}", f"seed={seed}", f"prepare.seed={seed}"]
    note = folder / "settings.json"
    if not note.is_file() or json.loads(note.read_text()) != changes:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        for entry in (ROOT / "data").iterdir():
            if entry.is_dir():
                shutil.copytree(entry, folder / "data" / entry.name, copy_function=os.link)
        labels = pd.read_csv(ROOT / "data" / "labels.csv")
        labels = labels.drop(columns="group") if split == "random" else labels
        labels.to_csv(folder / "data" / "labels.csv", index=False)
        projects.make(folder, ROOT / "params.yaml")
        settings.override(changes, folder / "params.yaml")
        for phase in PHASES:
            with (folder / f"{phase}.log").open("w") as log:
                command = [sys.executable, "-m", f"tasks.{phase}"]
                environment = os.environ | {"PYTHONPATH": str(ROOT)}
                done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
            if done.returncode:
                raise SystemExit(f"{phase} failed, see {folder / f'{phase}.log'}")
        note.write_text(json.dumps(changes))
    return judged(folder, backbone, split, seed)


def judged(folder: Path, backbone: str, split: str, seed: int) -> list[dict[str, Any]]:
    """A row for each protocol and network."""
    predictions = pd.read_csv(folder / "artifacts/evaluate/predictions.csv")
    target = predictions["path"].map(pd.read_csv(ROOT / "data" / "labels.csv").set_index("path")["target"])
    protocols = {
        "> 0.5": (target > 0.5, np.ones(len(target), dtype=bool)),
        "> 0": (target > 0, np.ones(len(target), dtype=bool)),
        "confident": (target > 0.5, target.isin([0, 1])),
    }
    rows = []
    for protocol, (positive, counted) in protocols.items():
        for network in ("finetuned", "head"):
            # the positive class comes last
            columns = [column for column in predictions if column.startswith(f"{network}_p_")]
            p = predictions.loc[counted, columns].to_numpy()
            figures = metrics.headline(p, positive[counted].to_numpy().astype(int))
            rows.append(
                {
                    "protocol": protocol,
                    "split": split,
                    "seed": seed,
                    "backbone": backbone,
                    "network": network,
                    **{name: figures[name] for name in ("accuracy", "auc", "balanced_accuracy")},
                    "pictures": int(counted.sum()),
                }
            )
    return rows


def summed_up(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean over seeds and its 95 % interval (Student's t), by protocol, split and network."""
    summary = []
    for keys, part in rows.groupby(["protocol", "split", "backbone", "network"], sort=False):
        row: dict[str, Any] = dict(zip(("protocol", "split", "backbone", "network"), keys, strict=True))
        row["seeds"] = count = len(part)
        for name in ("accuracy", "auc", "balanced_accuracy"):
            mean = row[name] = float(part[name].mean())
            if count > 1:
                half = float(t.ppf(0.975, count - 1) * part[name].std(ddof=1) / count**0.5)
                row |= {f"{name}_low": mean - half, f"{name}_high": mean + half}
        summary.append(row)
    return summary


if __name__ == "__main__":
    main()
