"""thaw itself: one process a phase, default settings except for what all contestants share.

Phase 1 is embed and head, to convergence. One setting below differs from the defaults to make
terms equal: one view of each test picture. With `before`, only phase 2 of the last blocks and
evaluate run. Levers are further settings.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import projects
from benchmarks.peers.contest import BATCH_SIZE, LAST_BLOCKS, Contest, emit, from_command_line, write_predictions
from thaw.project import settings

ROOT = Path(__file__).resolve().parents[2]
Parts = dict[str, dict[str, float]]


def main(contest: Contest) -> None:
    """Run the phases and print their seconds."""
    root = workspace_of(contest)
    if not contest.before:
        run("prepare", root)
        emit("phase 1", run("embed", root)[0] + run("head", root)[0])
    emit_epochs(contest, run("unfreeze", root)[1], read(root / "artifacts/unfreeze/history.csv"))
    run("evaluate", root)
    rows = read(root / "artifacts/evaluate/predictions.csv")
    columns = [column for column in rows[0] if column.startswith("finetuned_p_")]
    write_predictions(contest, [row["path"] for row in rows], [[float(row[name]) for name in columns] for row in rows])


def emit_epochs(contest: Contest, parts: Parts, history: list[dict[str, str]]) -> None:
    """Print each epoch of phase 2 with its share of one-off work, and its validation accuracy."""
    once = parts.get("outputs of frozen blocks", {"seconds": 0.0})["seconds"] / contest.epochs
    for epoch, row in enumerate(history):
        name = f"epoch {epoch}/{contest.epochs}"
        validation = parts[f"{name}, validation"]
        if epoch:
            emit("unfreeze epoch", once + parts[name]["seconds"] + validation["seconds"])
        emit("val accuracy", float(row["val_accuracy"]), validation["end"])


def workspace_of(contest: Contest) -> Path:
    """A fresh workspace with the shared split; with `before`, that run's phase 1 too."""
    root = Path(contest.out, "workspace")
    root.mkdir()
    shutil.copytree(Path(contest.workspace, "data"), root / "data", copy_function=os.link)
    projects.make(root, Path(contest.workspace, "params.yaml"))
    changes = {
        "seed": contest.seed,
        "head.batch_size": BATCH_SIZE,
        "unfreeze.batch_size": BATCH_SIZE,
        "unfreeze.blocks": LAST_BLOCKS if contest.before else "all",
        "unfreeze.epochs": contest.epochs,
        "evaluate.views": "none",
    }
    settings.override([f"{key}={value}" for key, value in (changes | contest.levers).items()], root / "params.yaml")
    if contest.before:
        artifacts = Path(contest.before, "workspace/artifacts").resolve()
        (root / "artifacts/provenance").mkdir(parents=True)
        for phase in ("prepare", "embed", "head"):
            (root / "artifacts" / phase).symlink_to(artifacts / phase)
            shutil.copy(artifacts / f"provenance/{phase}.json", root / "artifacts/provenance")
    return root


def run(phase: str, root: Path) -> tuple[float, Parts]:
    """Run a phase; returns the seconds of its process, and the parts of its progress."""
    began = time.perf_counter()
    parts = root / f"{phase}.json"
    command = [sys.executable, "-m", "benchmarks.peers.parts", phase, str(parts)]
    subprocess.run(command, check=True, cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return time.perf_counter() - began, json.loads(parts.read_text())


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


if __name__ == "__main__":
    main(from_command_line())
