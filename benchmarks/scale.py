"""How time and memory of every phase grow with the number of pictures.

    .venv/bin/python -m benchmarks.scale                       # 2,600, 26,000, 100,000 pictures
    .venv/bin/python -m benchmarks.scale --pictures 300 3000      # a first look

Draws grey pictures of 64 x 64, runs each phase on them in a child process as DVC does, all sizes in
turn, and writes `benchmarks/results/scale.json` and `scale.png`. Pictures are read both ways: kept
decoded, and decoded on the fly. A run that was stopped continues after the last finished child.

Time per picture is the time for the pictures beyond the smallest set (`--start`), so the constant
start of a process does not count; the start is shown beside it. A time below ten times the spread
of starts is noise and is left out. Memory is the peak resident memory of the process tree, memory
maps included; `own` is the part that the kernel cannot drop, because no file backs it.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from thaw.project import settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SIZE = 64
PHASES = {
    "kept decoded": ("prepare", "embed", "head", "unfreeze", "evaluate", "package", "report"),
    "on the fly": ("prepare", "embed", "unfreeze"),  # the others read no pictures, or as embed does
}
MILLION = 1_000_000


def draw(folder: Path, count: int) -> None:
    """The first `count` pictures, no two alike; every second one is striped, ten are a group."""
    for number in range(count):
        file = folder / _path(number)
        if file.is_file():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 160, (SIZE, SIZE), dtype=np.uint8)
        pixels[:: 4 + number % 3] += 60 * (number % 2)
        Image.fromarray(pixels).save(file.with_suffix(".partial"), "PNG", compress_level=1)
        file.with_suffix(".partial").replace(file)


def _path(number: int) -> str:
    return f"pictures/{number // 1000:04}/{number:07}.png"


def workspace(folder: Path, data: Path, count: int, way: str) -> None:
    """A workspace with the first `count` pictures and settings that make every phase short."""
    for path in map(_path, range(count)):
        file = folder / "data" / path
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.hardlink_to(data / path)
    number = np.arange(count)
    rows = {"path": map(_path, number), "label": np.where(number % 2, "striped", "plain")}
    rows |= {"group": [f"g{n // 10}" for n in number], "line": [f"line {n % 3}" for n in number]}
    pd.DataFrame(rows).to_csv(folder / "data/labels.csv", index=False)
    params = settings.read(ROOT / "params.yaml").model_dump()
    params["prepare"] |= {"resolution": SIZE, "cache_gb": 1000.0 if way == "kept decoded" else 0.0}
    params["head"] |= {"max_epochs": 5, "patience": 5}
    params["unfreeze"] |= {"epochs": 1, "blocks": 1}
    for phase in ("embed", "unfreeze", "evaluate"):
        params[phase]["views"] = "none"
    (folder / "params.yaml").write_text(json.dumps(params))  # JSON is YAML


def measure(folder: Path, phase: str) -> dict[str, float]:
    """Run a phase in a child process; its seconds, and its process tree's peak memory in MB."""
    shutil.rmtree(folder / "artifacts" / phase, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (folder / f"{phase}.log").open("w") as log:
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", f"tasks.{phase}"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        resident, own = 0.0, 0.0
        while child.poll() is None:
            pages = [_memory(process) for process in _tree(child.pid)]
            resident = max(resident, sum(page["VmRSS"] for page in pages))
            own = max(own, sum(page["RssAnon"] + page["RssShmem"] for page in pages))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(f"{phase} failed:\n{(folder / f'{phase}.log').read_text()[-2000:]}")
    return {"seconds": round(seconds, 3), "memory_mb": round(resident), "own_mb": round(own)}


def _tree(process: int) -> Iterator[int]:
    yield process
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = listed.read_text().split()
        except OSError:  # the thread has ended
            continue
        for child in children:
            yield from _tree(int(child))


def _memory(process: int) -> dict[str, float]:
    memory = {"VmRSS": 0.0, "RssAnon": 0.0, "RssShmem": 0.0}
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return memory
    return memory | {name: int(value.split()[0]) / 1e3 for name, _, value in (line.partition(":") for line in lines)
                    if name in memory}  # fmt: skip


def run(folder: Path, counts: list[int], start: int, repeats: int) -> pd.DataFrame:
    """A row for each child process; rows of a stopped run are not run again."""
    kept = folder / "rows.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    done = {(row["pictures"], row["repeat"], row["way"], row["phase"]) for row in rows}
    counts = [start, *counts]
    for count in counts:
        print(f"drawing {count:,} pictures", flush=True)
        draw(folder, count)
    for way, phases in PHASES.items():
        for count in counts:
            workspace(folder / str(count), folder, count, way)
        # sizes in turn, so that a slow hour of the machine slows all of them
        for phase, repeat, count in product(phases, range(max(1, repeats)), counts):
            often = max(1, min(repeats, 10_000 // count))
            if repeat >= often or (count, repeat, way, phase) in done:
                continue
            measured = measure(folder / str(count), phase)
            rows.append({"pictures": count, "repeat": repeat, "way": way, "phase": phase, **measured})
            print(" ".join(f"{value}" for value in rows[-1].values()), flush=True)
            with kept.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame, start: int) -> list[dict[str, Any]]:
    """By way and phase: start, time per picture and memory at each size, extrapolated to a million.

    The extrapolation is a straight line through the two largest sets.
    """
    summaries = []
    together = rows.groupby(["way", "pictures", "repeat"], sort=False, as_index=False).agg(
        {"seconds": "sum", "memory_mb": "max", "own_mb": "max"}
    )
    rows = pd.concat([rows, together.assign(phase="all of them")])
    for (way, phase), part in rows.groupby(["way", "phase"], sort=False):
        seconds = part.groupby("pictures")["seconds"].apply(median)
        memory, own = (part.groupby("pictures")[name].max() for name in ("memory_mb", "own_mb"))
        counts = [int(count) for count in seconds.index if count != start]
        starts = part[part["pictures"] == start]["seconds"]
        above = {count: float(seconds[count] - seconds[start]) for count in counts}
        per_picture = {
            count: round(1e3 * above[count] / (count - start), 4) if above[count] > 10 * np.ptp(starts) else None
            for count in counts
        }
        times = [value for value in per_picture.values() if value]
        before, last = list(seconds.index)[-2:]

        def at_a_million(values: pd.Series, before: int = before, last: int = last) -> float:
            slope = (values[last] - values[before]) / (last - before)
            return float(values[last] + slope * (MILLION - last))

        summaries.append(
            {
                "way": way,
                "phase": phase,
                "start_s": round(float(seconds[start]), 2),
                "ms_per_picture": per_picture,
                "spread": round(max(times) / min(times) - 1, 3) if len(times) > 1 else None,
                "memory_mb": {count: int(memory[count]) for count in counts},
                "own_mb": {count: int(own[count]) for count in counts},
                "million_minutes": round(at_a_million(seconds) / 60, 1),
                "million_mb": round(at_a_million(memory)),
            }
        )
    return summaries


def table(summaries: list[dict[str, Any]]) -> str:
    """The summary as Markdown."""
    counts = list(summaries[0]["ms_per_picture"])
    heads = [*(f"ms, {n:,}" for n in counts), "apart", *(f"MB, {n:,}" for n in counts), "a million"]
    lines = ["| way | phase | start, s | " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) + 1)]
    for row in summaries:
        cells = [row["way"], row["phase"], f"{row['start_s']:.1f}"]
        cells += ["–" if value is None else f"{value:.3f}" for value in row["ms_per_picture"].values()]
        cells += ["–" if row["spread"] is None else f"{100 * row['spread']:.0f} %"]
        cells += [f"{row['memory_mb'][n]:,} ({row['own_mb'][n]:,})" for n in counts]
        lines.append("| " + " | ".join([*cells, f"{row['million_minutes']} min, {row['million_mb']:,} MB"]) + " |")
    return "\n".join(lines) + "\n\nMB: resident, in brackets what belongs to no file.\n"


def plot(summaries: list[dict[str, Any]], file: Path) -> None:
    """Time per picture and memory against the number of pictures, dotted up to a million."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(row["phase"] for row in summaries))[:-1]  # the last is all of them
    for row in summaries:
        if row["phase"] not in names:
            continue
        counts, style = [int(count) for count in row["memory_mb"]], "-" if row["way"] == "kept decoded" else "--"
        values = [np.nan if value is None else value for value in row["ms_per_picture"].values()]
        colour, memory = f"C{names.index(row['phase'])}", list(row["memory_mb"].values())
        left.plot(counts, values, style, marker="o", markersize=3, color=colour)
        right.plot(counts, memory, style, marker="o", markersize=3, color=colour, label=f"{row['phase']}, {row['way']}")
        right.plot([counts[-1], MILLION], [memory[-1], row["million_mb"]], ":", color=colour)
    right.axhline(2000, color="black", linewidth=0.8)
    left.set(ylabel="ms per picture, without the start of a process")
    right.set(ylabel="most resident memory, MB", ylim=(0, None))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="pictures")
    left.set(ylim=(0, None))
    right.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=130, metadata={"Software": None})


def main() -> None:
    """Draw, run, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, nargs="+", default=[2600, 26_000, 100_000])
    parser.add_argument("--start", type=int, default=260, help="pictures of the set that tells what a start takes")
    parser.add_argument("--repeats", type=int, default=3, help="of sets below 10,000 pictures; larger ones run once")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "thaw-scale")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = run(options.folder, sorted(options.pictures), options.start, options.repeats)
    summaries = summary(rows, options.start)
    print("\n" + table(summaries))
    options.results.mkdir(parents=True, exist_ok=True)
    machine = {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    values = {"machine": machine, "phases": summaries, "runs": rows.to_dict("records")}
    (options.results / "scale.json").write_text(json.dumps(values, indent=2) + "\n")
    plot(summaries, options.results / "scale.png")
    shutil.rmtree(options.folder)


def _processor() -> str:
    names = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
