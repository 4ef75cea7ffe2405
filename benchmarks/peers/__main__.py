"""thaw against its peers on the default data: the same split, backbone, resolution and epochs.

    make bench                                       # three repeats, then accuracy
    make bench ARGS="--samples"                      # the repeats only: faster, and no accuracy
    make bench ARGS="--samples --repeats 1 --pictures 400"   # the ratios, in 15 minutes
    make bench ARGS="--tune --pictures 600"          # a learning rate for each peer
    make bench ARGS="--only plain --only thaw"

Every run is a process alone on the machine; a repeat runs every contestant once, in turn. Most
runs are samples: one epoch of each phase, from which the time of all epochs is computed. `thaw run`
and the contestants that keep the outputs of frozen blocks train all epochs. At the end, every
contestant that trains both phases trains all epochs once, for accuracy, AUC, and accuracy over
time. Tables and ratios are printed, and written to `benchmarks/results/peers.json`, `peers.png` and
`peers-time.png`.

The bench first says how long it will take. Rows are kept in `benchmarks/runs/`, and a bench that
was stopped continues from there; with other settings, code or pictures it starts anew. `--tune`
trains each peer at up to five multiples of its learning rate and writes the best one on validation
to `benchmarks/results/rates.json`, which later benches use.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil

from benchmarks import projects
from benchmarks.peers import results
from benchmarks.peers.contest import BATCH_SIZE, LAST_BLOCKS, LEVERS, WORKERS, Contest
from thaw.data import manifest
from thaw.project import settings

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "benchmarks" / "runs"
EARLIER = "benchmarks/results/peers.json"
RATES = ROOT / "benchmarks" / "results" / "rates.json"
# In the order of a repeat: what is compared runs side by side.
# these start from phase 1 of plain or thaw
FROM_PHASE_1 = ("plain-last", "thaw-last", "thaw-last-quick")
WHOLE_RUNS = ("thaw-last-quick", "run", "run-quick")  # all epochs in repeats too
CONTESTANTS = (
    "plain", "thaw", "thaw-quick", "bare", *FROM_PHASE_1, *results.FRAMEWORKS, "run", "run-quick",
)  # fmt: skip
PEERS = ("plain", *results.FRAMEWORKS)
LEARNERS = ("thaw", "thaw-quick", *PEERS)  # of both phases
OF_ALL = ("params.yaml", "thaw", "tasks", "benchmarks/peers")
# learning rates tried for a peer: at most 5, each 3 times the one before
TRIALS, STEP = 5, 3.0
START = 15  # seconds of a run, roughly, that do not depend on the number of pictures
PACKAGES = ("torch", "torchvision", "fastai", "lightning", "transformers", "accelerate")
NOTES = (
    "all contestants train on the hard labels, from the same weights, on the same split, on the CPU",
    "all are tested on one view of each test picture",
    "total is everything from the start of the first process to the predictions on test: of thaw prepare, embed, head, "
    "unfreeze and evaluate, of both its networks",
    "phase 1 of thaw is embed and head to convergence with the start of both processes, of the others the epochs alone",
    "an epoch is training and validation; embed and training alone run in turn with bare loops, all in one process",
    "plain is as tutorials show it; fastai, Lightning and Trainer run channels last, fastai without training BatchNorm",
    "times are of runs of one epoch of each phase, with kept activations and for `thaw run` of all epochs; the seconds "
    "of all epochs are computed from these, and making what is kept counts as time of the epochs",
    "run is `thaw run` in a new project, with the start of its server, and evaluate the command of its stage",
    "accuracy and AUC are of runs of all epochs, the rows of repeat 0",
    "memory is the most of any run, that of the whole process tree, shared pages counted once",
)


def main() -> None:
    """Run what is missing, then print and write the results."""
    # so that the running child is ended
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(
        usage='make bench ARGS="[options]"', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=160, help="side of the pictures (160)")
    parser.add_argument(
        "--head-epochs", type=int, default=10, help="epochs of phase 1 (10); thaw's goes to convergence"
    )
    parser.add_argument("--epochs", type=int, default=8, help="epochs of phase 2 (8)")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything runs (3)")
    parser.add_argument("--samples", action="store_true", help="no runs of all epochs, and no accuracy")
    parser.add_argument("--pictures", type=int, help="about so many pictures, evenly out of all (all)")
    parser.add_argument("--tune", action="store_true", help="only find the learning rates of the peers")
    parser.add_argument("--only", action="append", choices=CONTESTANTS, metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/peers.json", help="the file of results")
    options = parser.parse_args()
    contest = prepare(options.size, options.head_epochs, options.epochs, options.pictures)
    contestants = options.only or CONTESTANTS
    protocol = protocol_of(contest)
    if options.tune:
        tune([name for name in contestants if name in PEERS], contest, protocol)
        return
    jobs = [(repeat, name) for repeat in range(1, options.repeats + 1) for name in contestants]
    jobs += [(results.WHOLE, name) for name in contestants if name in LEARNERS and not options.samples]
    missing = [job for job in jobs if not (folder_of(job[1], job[0], contest, tuned(job[1])) / "row.json").is_file()]
    print(f"{len(missing)} runs, about {minutes_of(missing, protocol):.0f} minutes, from {EARLIER}", flush=True)
    rows = []
    for number, (repeat, name) in enumerate(jobs, 1):
        rows.append(run(name, repeat, contest, tuned(name)))
        which_epochs = f"repeat {repeat}" if repeat != results.WHOLE else "all epochs"
        print(f"[{number}/{len(jobs)}] {which_epochs}, {name}: {rows[-1]['seconds']:.0f} s", flush=True)
    write_results(add_scores(rows, contest), protocol, options.out)


def minutes_of(jobs: Sequence[tuple[int, str]], protocol: dict[str, Any]) -> float:
    """The minutes that runs will take, scaled from an earlier bench by pictures and pixels."""
    earlier = json.loads((ROOT / EARLIER).read_text())
    past, seconds_of = earlier["protocol"], dict[tuple[bool, str], list[float]]()
    for row in earlier["rows"]:
        seconds_of.setdefault((row["repeat"] == results.WHOLE, row["contestant"]), []).append(row["seconds"])
    scale = protocol["pictures"] / past["pictures"] * (protocol["size"] / past["size"]) ** 2
    slowest = seconds_of[True, "thaw"]  # stands in for contestants that the earlier bench lacks
    estimates = (median(seconds_of.get((repeat == results.WHOLE, name), slowest)) for repeat, name in jobs)
    return sum(START + max(0.0, seconds - START) * scale for seconds in estimates) / 60


def tuned(contestant: str) -> float:
    """The multiple of a peer's learning rate that was best on validation; 1 if it was not tuned."""
    known = json.loads(RATES.read_text()) if RATES.is_file() else {}
    return float(known.get(contestant.partition("-")[0], {"rate": 1.0})["rate"])


def tune(peers: Sequence[str], contest: Contest, protocol: dict[str, Any]) -> None:
    """Find the best rate of each peer, and write it with all trials."""
    minutes = minutes_of([(results.WHOLE, name) for name in peers], protocol)
    print(f"at most {TRIALS} trials of each of {len(peers)} peers, {minutes:.0f} minutes if each took one", flush=True)
    for name in peers:

        def judge(rate: float, name: str = name) -> float:
            accuracies = run(name, results.WHOLE, contest, rate)["told"]["val accuracy"]
            best: float = max(accuracies[contest.head_epochs :])
            print(f"{name}, rate times {rate:.3g}: {best:.1%} on validation", flush=True)
            return best

        trials = climb(judge)
        known = json.loads(RATES.read_text()) if RATES.is_file() else {}
        best = max(trials, key=lambda rate: trials[rate])
        settings_used = {key: protocol[key] for key in ("pictures", "size", "head_epochs", "epochs")}
        known[name] = {
            "rate": best,
            "trials": {f"{rate:.3g}": value for rate, value in trials.items()},
            **settings_used,
        }
        RATES.write_text(json.dumps(known, indent=1) + "\n")


def climb(judge: Callable[[float], float]) -> dict[float, float]:
    """The score of each multiple of the rate: upwards while it improves, else downwards."""
    trials = {1.0: judge(1.0)}
    for step in (STEP, 1 / STEP):
        rate = 1.0
        while len(trials) < TRIALS:
            following = rate * step
            trials[following] = judge(following)
            if trials[following] <= trials[rate]:
                break
            rate = following
        if rate != 1.0:
            break
    return trials


def prepare(size: int, head_epochs: int, epochs: int, pictures: int | None) -> Contest:
    """The shared workspace: pictures with hard labels, and the split that thaw's prepare makes."""
    rows = manifest.read_folder(ROOT / "data")
    rows = rows.iloc[:: max(1, len(rows) // pictures)] if pictures else rows
    protocol = f"{size} {head_epochs} {epochs} {manifest.fingerprint(rows)}"
    folder = RUNS / key_of(protocol, *OF_ALL)
    contest = Contest(str(folder / "workspace"), "", size, 0, head_epochs, epochs)
    workspace = Path(contest.workspace)
    splits = workspace / "data/splits.csv"  # every prepare keeps this split, whatever its seed
    if not splits.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        (workspace / "data").mkdir(parents=True)
        for entry in (ROOT / "data").iterdir():
            if entry.is_dir():
                shutil.copytree(entry, workspace / "data" / entry.name, copy_function=os.link)
        rows.drop(columns="target", errors="ignore").to_csv(workspace / "data/labels.csv", index=False)
        projects.make(workspace, ROOT / "params.yaml")
        classes = manifest.classes_of(rows, None, 1)
        positive = classes[-1] if len(classes) == 2 else "null"
        settings.override([f"prepare.resolution={size}", f"prepare.positive={positive}"], workspace / "params.yaml")
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if subprocess.run([sys.executable, "-m", "tasks.prepare"], cwd=workspace, env=environment).returncode:
            sys.exit(2)  # it has printed why
        drawn = pd.read_csv(workspace / "artifacts/prepare/manifest.csv", keep_default_na=False)
        drawn[["path", "split"]].to_csv(splits, index=False)
    return contest


def key_of(purpose: str, *sources: str) -> str:
    """A hash of sources (files and folders) and of what they are used for."""
    key = hashlib.sha256(purpose.encode())
    for source in sources:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            key.update(file.read_bytes())
    return key.hexdigest()[:12]


def folder_of(contestant: str, repeat: int, contest: Contest, rate: float) -> Path:
    """The folder of a run, beside the workspace."""
    return Path(contest.workspace).parent / f"{repeat}-{contestant}{'' if rate == 1 else f'-{rate:.3g}'}"


def run(contestant: str, repeat: int, contest: Contest, rate: float = 1.0) -> dict[str, Any]:
    """The row of a run: from its file if it is there, else from running it now."""
    folder = folder_of(contestant, repeat, contest, rate)
    file = folder / "row.json"
    if file.is_file():
        row: dict[str, Any] = json.loads(file.read_text())
        return row
    name, from_phase_1 = contestant.partition("-")[0], contestant in FROM_PHASE_1
    before = folder_of(name, repeat, contest, rate)
    if from_phase_1 and not (before / "row.json").is_file():
        sys.exit(f"error: {contestant} goes on from the phase 1 of {name}; run both, with --only {name} too")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    levers = LEVERS.get(contestant, {})
    contest = replace(contest, out=str(folder), seed=repeat, before=str(before) if from_phase_1 else None)
    contest = replace(contest, rate=rate, levers=levers)
    if repeat != results.WHOLE and contestant not in WHOLE_RUNS:
        contest = replace(contest, head_epochs=min(1, contest.head_epochs), epochs=1)
    row = {"contestant": contestant, "repeat": repeat} | watch(name, contest)
    file.write_text(json.dumps(row))  # written last: it marks the run as complete
    return row


def watch(name: str, contest: Contest) -> dict[str, Any]:
    """Run a contestant: its seconds, the peak memory of its process tree, and what it printed."""
    command = [sys.executable, "-m", f"benchmarks.peers.{name}", json.dumps(asdict(contest))]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    log = Path(contest.out, "log.txt")
    began, clock = time.perf_counter(), time.time()
    with log.open("w") as file:
        child = psutil.Popen(command, cwd=contest.workspace, env=environment, stdout=file, stderr=subprocess.STDOUT)
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
    values: dict[str, list[float]] = {}
    curve = []  # seconds since the start, and the accuracy on validation then
    for event in (json.loads(line) for line in lines if line.startswith('{"name": ')):
        values.setdefault(event["name"], []).append(event["value"])
        if event["name"] == "val accuracy":
            curve.append((event["at"] - clock, event["value"]))
    return {"seconds": seconds, "peak_gb": peak[0] / 1e9, "told": values, "curve": curve}


def _measure(child: psutil.Process, peak: list[int], done: threading.Event) -> None:
    """Twice a second, the memory of a process tree; a page that processes share counts once."""
    while not done.wait(0.5):
        total = 0
        with suppress(psutil.Error):  # a process has ended meanwhile
            for process in [child, *child.children(recursive=True)]:
                memory = process.memory_full_info()
                total += getattr(memory, "pss", memory.rss)
        peak[0] = max(peak[0], total)


def add_scores(rows: list[dict[str, Any]], contest: Contest) -> list[dict[str, Any]]:
    """The rows; runs of all epochs also get accuracy and AUC."""
    folder = Path(contest.workspace, "artifacts/prepare")
    pictures = pd.read_csv(folder / "manifest.csv", keep_default_na=False)
    test = pictures[pictures["split"] == "test"]
    classes = json.loads((folder / "meta.json").read_text())["classes"]

    def predictions(contestant: str) -> Path:
        return folder_of(contestant, results.WHOLE, contest, tuned(contestant)) / "predictions.csv"

    def scored(row: dict[str, Any]) -> dict[str, Any]:
        if row["repeat"] != results.WHOLE:
            return row
        return row | {"scores": results.scores(test, classes, predictions(row["contestant"]), predictions("plain"))}

    return [scored(row) for row in rows]


def protocol_of(contest: Contest) -> dict[str, Any]:
    """The settings of the bench."""
    pictures = pd.read_csv(Path(contest.workspace, "artifacts/prepare/manifest.csv"))
    return {
        "pictures": len(pictures),
        "training_pictures": int((pictures["split"] == "train").sum()),
        "test_pictures": int((pictures["split"] == "test").sum()),
        "size": contest.size,
        "head_epochs": contest.head_epochs,
        "epochs": contest.epochs,
        "batch_size": BATCH_SIZE,
        "workers": WORKERS,
        "last_blocks": LAST_BLOCKS,
        "levers": LEVERS,
        "rates": {name: rate for name in PEERS if (rate := tuned(name)) != 1},
        "notes": NOTES,
    }


def machine() -> dict[str, Any]:
    """The machine and its packages."""
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


def write_results(rows: list[dict[str, Any]], protocol: dict[str, Any], out: Path) -> None:
    """Print the tables and the ratios; write them with all rows, and the plots."""
    epochs = protocol["head_epochs"], protocol["epochs"]
    ratios = results.ratios(rows, *epochs)
    print("", results.table(rows, protocol), results.ratio_table(ratios), results.time_table(rows), sep="\n\n")
    rows = [row | {"figures": results.figures(row, *epochs)} for row in rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), "protocol": protocol, "ratios": ratios, "rows": rows}, indent=1)
    out.write_text(f"{text}\n")
    results.plot(rows, protocol, out.with_suffix(".png"))
    results.plot_over_time(rows, out.with_name(f"{out.stem}-time.png"))
    print(f"{out} and the pictures beside it hold all of it")


if __name__ == "__main__":
    main()
