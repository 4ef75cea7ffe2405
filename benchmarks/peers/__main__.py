"""thaw against its peers on the default data: one split, one backbone, one resolution, as many epochs.

    make bench                                       # three repeats of ten and eight epochs
    make bench ARGS="--whole 0"                      # samples only: faster, and no accuracy
    make bench ARGS="--only plain --only thaw"

Every run is a process of its own, alone on the machine; each repeat runs every contestant once, one after the other.
In the first repeat (--whole) what trains both phases trains all epochs. All else are samples: one epoch of each phase,
from which the seconds of all are computed. The table and the ratios are printed and written to
`benchmarks/results/peers.json` and `peers.png`.
Rows lie in `benchmarks/runs/` as they come, and a bench that was stopped goes on from there; one with other settings,
code or pictures begins anew.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from benchmarks.peers import results
from benchmarks.peers.contest import BATCH_SIZE, LAST_BLOCKS, WORKERS, Contest
from tasks import settings
from thaw import manifest

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "benchmarks" / "runs"
# In the order of a repeat: what is compared stands together. "-last" goes on from phase 1 of the whole recipe.
CONTESTANTS = ("plain", "thaw", "bare", "plain-last", "thaw-last", "fastai", "lightning", "transformers")
PACKAGES = ("torch", "torchvision", "fastai", "lightning", "transformers", "accelerate")
NOTES = (
    "all contestants train on the hard labels, from the same weights, on the same split, on the CPU",
    "accuracy and AUC are of one view of each test picture",
    "total is everything from the start of the first process to the predictions on test: of thaw prepare, embed, head, "
    "unfreeze and evaluate, of both its networks",
    "phase 1 of thaw is embed and head to convergence with the start of both processes, of the others the epochs alone",
    "an epoch is training and validation; embed and training alone run in turn with bare loops, all in one process",
    "plain is as tutorials show it; fastai, Lightning and Trainer run channels last, fastai without training BatchNorm",
    "rows that are not whole trained one epoch of each phase; the seconds of all epochs are computed from these",
    "memory is that of the whole process tree, shared pages counted once",
)


def main() -> None:
    """Run what is missing, then tell."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the running child is ended
    parser = argparse.ArgumentParser(
        usage='make bench ARGS="[options]"', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=160, help="side of the pictures (160)")
    parser.add_argument(
        "--head-epochs", type=int, default=10, help="epochs of phase 1 (10); thaw's goes to convergence"
    )
    parser.add_argument("--epochs", type=int, default=8, help="epochs of phase 2 (8)")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything runs (3)")
    parser.add_argument("--whole", type=int, default=1, help="how many of them train all epochs (1)")
    parser.add_argument("--pictures", type=int, help="about so many pictures, evenly out of all (all)")
    parser.add_argument("--only", action="append", choices=CONTESTANTS, metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/peers.json", help="the file of results")
    chosen = parser.parse_args()
    contest = prepare(chosen.size, chosen.head_epochs, chosen.epochs, chosen.pictures)
    folder = Path(contest.workspace).parent
    jobs = [(repeat, name) for repeat in range(1, chosen.repeats + 1) for name in chosen.only or CONTESTANTS]
    rows = []
    for number, (repeat, name) in enumerate(jobs, 1):
        whole = repeat <= chosen.whole and not name.endswith("-last")  # of the last blocks only the epoch is compared
        rows.append(run(name, repeat, whole, contest, folder))
        print(f"[{number}/{len(jobs)}] repeat {repeat}, {name}: {rows[-1]['seconds']:.0f} s", flush=True)
    tell(add_scores(rows, contest), protocol_of(contest), chosen.out)


def prepare(size: int, head_epochs: int, epochs: int, pictures: int | None) -> Contest:
    """The shared workspace: the pictures without soft targets, and the split that thaw's prepare makes of them."""
    rows = manifest.read_folder(ROOT / "data")
    rows = rows.iloc[:: max(1, len(rows) // pictures)] if pictures else rows
    folder = folder_of(f"{size} {head_epochs} {epochs} {manifest.fingerprint(rows)}")
    contest = Contest(str(folder / "workspace"), "", size, 0, head_epochs, epochs)
    workspace = Path(contest.workspace)
    splits = workspace / "data/splits.csv"  # with it every prepare keeps this split, whatever its seed
    if not splits.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        (workspace / "data").mkdir(parents=True)
        for entry in (ROOT / "data").iterdir():
            if entry.is_dir():
                (workspace / "data" / entry.name).symlink_to(entry.resolve())
        rows.drop(columns="target", errors="ignore").to_csv(workspace / "data/labels.csv", index=False)
        shutil.copy(ROOT / "params.yaml", workspace)
        classes = manifest.classes_of(rows, None, 1)
        positive = classes[-1] if len(classes) == 2 else "null"
        settings.override([f"prepare.size={size}", f"prepare.positive={positive}"], workspace / "params.yaml")
        environment = os.environ | {"THAW_ROOT": str(workspace)}
        if subprocess.run([sys.executable, "-m", "tasks.prepare"], cwd=ROOT, env=environment).returncode:
            sys.exit(2)  # it has said why
        found = pd.read_csv(workspace / "artifacts/prepare/manifest.csv", keep_default_na=False)
        found[["path", "split"]].to_csv(splits, index=False)
    return contest


def folder_of(protocol: str) -> Path:
    """Where the runs of one protocol lie that one state of the code made."""
    key = hashlib.sha256(protocol.encode())
    sources = [path for part in ("thaw", "tasks", "benchmarks/peers") for path in (ROOT / part).rglob("*.py")]
    for path in [ROOT / "params.yaml", *sorted(sources)]:
        key.update(path.read_bytes())
    return RUNS / key.hexdigest()[:12]


def run(contestant: str, repeat: int, whole: bool, contest: Contest, folder: Path) -> dict[str, Any]:
    """The row of one run: that of an earlier one if it was as long, else made now."""
    kept = folder / f"{repeat}-{contestant}" / "row.json"
    if kept.is_file():
        row: dict[str, Any] = json.loads(kept.read_text())
        if row["whole"] or not whole:
            return row
    name, _, last = contestant.partition("-")
    before = folder / f"{repeat}-{name}"
    if last and not (before / "row.json").is_file():
        sys.exit(f"error: {contestant} goes on from the phase 1 of {name}; run both, with --only {name} too")
    shutil.rmtree(kept.parent, ignore_errors=True)
    kept.parent.mkdir(parents=True)
    contest = replace(contest, out=str(kept.parent), seed=repeat - 1, before=str(before) if last else None)
    if not whole:
        contest = replace(contest, head_epochs=min(1, contest.head_epochs), epochs=1)
    row = {"contestant": contestant, "repeat": repeat, "whole": whole} | watch(name, contest)
    kept.write_text(json.dumps(row))  # last: it says that the run is complete
    return row


def watch(name: str, contest: Contest) -> dict[str, Any]:
    """Run a contestant to its end: the seconds, the most memory that its processes had together, what it told."""
    command = [sys.executable, "-m", f"benchmarks.peers.{name}", json.dumps(asdict(contest))]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    environment["THAW_ROOT"] = contest.workspace
    log = Path(contest.out, "log.txt")
    began = time.perf_counter()
    with log.open("w") as file:
        child = psutil.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        peak = [0]
        done = threading.Event()
        watcher = threading.Thread(target=_measure, args=(child, peak, done))
        watcher.start()
        try:
            code = child.wait()
        finally:
            seconds = time.perf_counter() - began
            done.set()
            watcher.join()
            for process in [*child.children(recursive=True), child] if child.is_running() else []:
                process.kill()
    lines = log.read_text().splitlines()
    if code:
        sys.exit("\n".join([*lines[-15:], f"error: {name} ended with {code}; all that it printed is in {log}"]))
    told: dict[str, list[float]] = {}
    for line in lines:
        if line.startswith('{"what": '):
            event = json.loads(line)
            told.setdefault(event["what"], []).append(event["value"])
    return {"seconds": seconds, "peak_gb": peak[0] / 1e9, "told": told}


def _measure(child: psutil.Process, peak: list[int], done: threading.Event) -> None:
    """Twice a second the memory of a process and all below it; a page that they share counts once."""
    while not done.wait(0.5):
        total = 0
        with suppress(psutil.Error):  # one has ended since
            for process in [child, *child.children(recursive=True)]:
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
        peak[0] = max(peak[0], total)


def add_scores(rows: list[dict[str, Any]], contest: Contest) -> list[dict[str, Any]]:
    """The rows, those of whole runs with accuracy and AUC."""
    folder = Path(contest.workspace)
    found = pd.read_csv(folder / "artifacts/prepare/manifest.csv", keep_default_na=False)
    test = found[found["split"] == "test"]
    classes = json.loads((folder / "artifacts/prepare/meta.json").read_text())["classes"]

    def scored(row: dict[str, Any]) -> dict[str, Any]:
        predictions, plain = (
            folder.parent / f"{row['repeat']}-{name}" / "predictions.csv" for name in (row["contestant"], "plain")
        )
        if not row["whole"] or not predictions.is_file():
            return row
        return row | {"scores": results.scores(test, classes, predictions, plain)}

    return [scored(row) for row in rows]


def protocol_of(contest: Contest) -> dict[str, Any]:
    """How it was measured."""
    found = pd.read_csv(Path(contest.workspace, "artifacts/prepare/manifest.csv"))
    return {
        "pictures": len(found),
        "training_pictures": int((found["split"] == "train").sum()),
        "test_pictures": int((found["split"] == "test").sum()),
        "size": contest.size,
        "head_epochs": contest.head_epochs,
        "epochs": contest.epochs,
        "batch_size": BATCH_SIZE,
        "workers": WORKERS,
        "last_blocks": LAST_BLOCKS,
        "notes": NOTES,
    }


def machine() -> dict[str, Any]:
    """Where it was measured."""
    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.is_file() else []
    return {
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def tell(rows: list[dict[str, Any]], protocol: dict[str, Any], out: Path) -> None:
    """Print the table and the ratios; write both with all rows, and the plot."""
    epochs = protocol["head_epochs"], protocol["epochs"]
    found = results.ratios(rows, *epochs)
    print(f"\n{results.table(rows, protocol)}\n")
    for name, ratio in found.items():
        print(f"{name}: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    rows = [row | {"figures": results.figures(row, *epochs)} for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "protocol": protocol, "ratios": found, "rows": rows}, indent=1)
    out.write_text(f"{text}\n")
    results.plot(rows, protocol, out.with_suffix(".png"))
    print(f"{out} and {out.with_suffix('.png')} hold all of it")


if __name__ == "__main__":
    main()
