"""Figures, ratios, scores, tables and plots from the rows of all runs.

A row is one run: contestant, repeat, seconds and peak_gb of its processes, and `told`, the values
that it printed, by name. It is a sample of one epoch of each phase, extrapolated to all epochs, or
(repeat 0) a run of all epochs, for accuracy.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from thaw.data.manifest import labels_of
from thaw.statistics import metrics

# the repeat that trains all epochs; not timed, because its rows may come from an earlier bench
WHOLE = 0
FRAMEWORKS = ("fastai", "lightning", "transformers")
NAMES = {
    "plain": "plain PyTorch",
    "fastai": "fastai",
    "lightning": "Lightning",
    "transformers": "Transformers' Trainer",
    "thaw": "thaw",
    "thaw-quick": "thaw, with levers",
    "plain-last": "plain PyTorch, last blocks",
    "thaw-last": "thaw, last blocks",
    "thaw-last-quick": "thaw, last blocks, with levers",
}
# Learning rates of phase 1; phase 2, from tutorials and defaults. `--tune` finds multiples of them.
RATES = {
    "plain": "1e-3; 1e-5",
    "fastai": "2e-3; backbone 1e-5, head 1e-3",
    "lightning": "1e-3; backbone from 1e-4 up to 1e-3, head 1e-3",
    "transformers": "1e-3; 5e-5",
    "thaw": "params.yaml",
    "thaw-quick": "params.yaml",
    "plain-last": "1e-3; 1e-5",
    "thaw-last": "params.yaml",
    "thaw-last-quick": "params.yaml",
}
# How many times as fast thaw is: the peer's seconds over thaw's, or thaw's rate over the bare
# loop's.
RATIOS: dict[str, Callable[[dict[str, Any]], float]] = {
    "phase1_vs_plain": lambda at: at["plain"]["phase1"] / at["thaw"]["phase1"],
    "phase2_vs_plain": lambda at: at["plain"]["epoch"] / at["thaw"]["epoch"],
    "phase2_last_blocks_vs_plain": lambda at: at["plain-last"]["epoch"] / at["thaw-last"]["epoch"],
    "total_vs_plain": lambda at: at["plain"]["total"] / at["thaw"]["total"],
    "total_vs_fastest_peer": lambda at: min(at[name]["total"] for name in FRAMEWORKS) / at["thaw"]["total"],
    "total_with_levers_vs_plain": lambda at: at["plain"]["total"] / at["thaw-quick"]["total"],
    "total_with_levers_vs_fastest_peer": lambda at: (
        min(at[name]["total"] for name in FRAMEWORKS) / at["thaw-quick"]["total"]
    ),
    "phase2_all_blocks_with_levers_vs_plain": lambda at: at["plain"]["epoch"] / at["thaw-quick"]["epoch"],
    "phase2_last_blocks_kept_vs_plain": lambda at: at["plain-last"]["epoch"] / at["thaw-last-quick"]["epoch"],
    "run_with_levers_vs_without": lambda at: at["run"]["run"] / at["run-quick"]["run"],
    "evaluate_with_levers_vs_without": lambda at: at["run"]["evaluate"] / at["run-quick"]["evaluate"],
    "embed_vs_bare_loop": lambda at: at["bare"]["embed_rate"] / at["bare"]["bare_embed_rate"],
    "phase2_vs_bare_loop": lambda at: at["bare"]["training_rate"] / at["bare"]["bare_training_rate"],
}

GOALS = {
    "total_with_levers_vs_plain": 10,
    "total_with_levers_vs_fastest_peer": 6,
    "phase2_all_blocks_with_levers_vs_plain": 5,
    "phase2_last_blocks_kept_vs_plain": 15,
    "run_with_levers_vs_without": 2,
    "evaluate_with_levers_vs_without": 2,
}


def figures(row: dict[str, Any], head_epochs: int, epochs: int) -> dict[str, float]:
    """Seconds of phase 1, of an epoch of phase 2 and in total, and pictures/s, where measured."""
    printed: dict[str, list[float]] = row["told"]
    total, result = row["seconds"], {}
    if "phase 1" in printed:
        result["phase1"] = sum(printed["phase 1"])
    elif "head epoch" in printed:
        assert len(printed["head epoch"]) <= head_epochs
        missing = (head_epochs - len(printed["head epoch"])) * median(printed["head epoch"])
        result["phase1"] = sum(printed["head epoch"]) + missing
        total += missing
    if "unfreeze epoch" in printed:
        assert len(printed["unfreeze epoch"]) <= epochs
        result["epoch"] = median(printed["unfreeze epoch"])
        if "phase1" in result:
            result["total"] = total + (epochs - len(printed["unfreeze epoch"])) * result["epoch"]
    measured = {
        name: values for name, values in printed.items() if name.endswith(" rate") or name in ("run", "evaluate")
    }
    return result | {name.replace(" ", "_"): median(values) for name, values in measured.items()}


def ratios(rows: Sequence[dict[str, Any]], head_epochs: int, epochs: int) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum of each ratio over the repeats, each taken within one repeat.

    A ratio is left out if one of its contestants did not run.
    """
    by_name: dict[str, list[float]] = {name: [] for name in RATIOS}
    for repeat in sorted({row["repeat"] for row in rows} - {WHOLE}):
        at = {row["contestant"]: figures(row, head_epochs, epochs) for row in rows if row["repeat"] == repeat}
        for name, ratio in RATIOS.items():
            try:
                by_name[name].append(ratio(at))
            except KeyError:
                continue
    return {
        name: {"median": median(values), "min": min(values), "max": max(values)}
        for name, values in by_name.items()
        if values
    }


def scores(test: pd.DataFrame, classes: Sequence[str], predictions: Path, plain: Path) -> dict[str, Any]:
    """Accuracy and AUC of predictions, and the gain over plain with its paired interval."""
    labels, probabilities = labels_of(test, classes), _probabilities(predictions, test)
    scored: dict[str, Any] = {name: metrics.headline(probabilities, labels)[name] for name in ("accuracy", "auc")}
    if plain.is_file():
        groups = test["group"].where(test["group"] != "", test["hash"]).tolist()
        scored["over_plain"] = metrics.gain(_probabilities(plain, test), probabilities, labels, groups)
    return scored


def _probabilities(predictions: Path, test: pd.DataFrame) -> metrics.Probabilities:
    """Class probabilities in the order of the test rows; exactly these pictures must be there."""
    frame = pd.read_csv(predictions, header=None, index_col=0)
    assert sorted(frame.index) == sorted(test["path"]), f"{predictions} is not about the test pictures"
    return frame.loc[test["path"]].to_numpy(dtype=np.float64)


def table(rows: Sequence[dict[str, Any]], protocol: dict[str, Any]) -> str:
    """Medians over the repeats and peak memory, as Markdown; accuracy after all epochs."""
    head_epochs, epochs, pictures = (protocol[name] for name in ("head_epochs", "epochs", "training_pictures"))
    rates: dict[str, float] = protocol.get("rates", {})
    lines = [
        f"| {protocol['pictures']} pictures, {protocol['size']} px | phase 1, {head_epochs} epochs | phase 2, an epoch "
        f"| pictures/s | all, {epochs} epochs | peak memory | accuracy | AUC | accuracy over plain, 95 % interval "
        "| learning rates |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for contestant, name in NAMES.items():
        timed = _timed(rows, contestant)
        if not timed:
            continue
        repeats = [figures(row, head_epochs, epochs) for row in timed]
        phase1, epoch, total = (_median(repeats, key) for key in ("phase1", "epoch", "total"))
        scored = [row["scores"] for row in rows if row["contestant"] == contestant and "scores" in row]
        cells = [
            name,
            f"{phase1:.0f} s" if phase1 else "",
            f"{epoch:.1f} s" if epoch else "",
            f"{pictures / epoch:.0f}" if epoch else "",
            f"{total:.0f} s" if total else "",
            f"{max(row['peak_gb'] for row in rows if row['contestant'] == contestant):.1f} GB",
            f"{scored[0]['accuracy']:.1%}" if scored else "",
            f"{scored[0]['auc']:.3f}" if scored else "",
            _interval(scored[0].get("over_plain")) if scored and contestant != "plain" else "",
            RATES[contestant]
            + (f", times {rates[peer]:.3g}" if (peer := contestant.partition("-")[0]) in rates else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio_table(spreads: dict[str, dict[str, float]]) -> str:
    """The ratios with their spread and goals, as Markdown."""
    lines = ["| so many times as fast | median | least | most | goal |", "|---|---:|---:|---:|---:|"]
    for name, ratio in spreads.items():
        cells = [f"{ratio[key]:.2f}" for key in ("median", "min", "max")]
        lines.append(f"| {' | '.join([name.replace('_', ' '), *cells, str(GOALS.get(name, ''))])} |")
    return "\n".join(lines)


def over_time(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """By contestant: seconds since its start, and its best validation accuracy so far."""
    curves = {}
    for row in rows:
        if row["repeat"] == WHOLE and row.get("curve"):
            seconds, values = zip(*row["curve"], strict=True)
            curves[row["contestant"]] = list(zip(seconds, accumulate(values, max), strict=True))
    return {name: curves[name] for name in NAMES if name in curves}


def reached(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """When each contestant reached the validation accuracy of plain's last epoch; None if never."""
    last = [row["curve"][-1][1] for row in rows if row["contestant"] == "plain" and row["repeat"] == WHOLE]
    curves = over_time(rows) if last else {}
    return {name: next((at for at, value in curve if value >= last[0]), None) for name, curve in curves.items()}


def time_table(rows: Sequence[dict[str, Any]]) -> str:
    """When each contestant reached it, and its best, as Markdown; empty without whole runs."""
    lines = ["| | reaches plain's last epoch after | best on validation |", "|---|---:|---:|"]
    curves = over_time(rows)
    for name, at in reached(rows).items():
        lines.append(f"| {NAMES[name]} | {'never' if at is None else f'{at:.0f} s'} | {curves[name][-1][1]:.1%} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _timed(rows: Sequence[dict[str, Any]], contestant: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["contestant"] == contestant and row["repeat"] != WHOLE]


def _median(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return median(values) if values else None


def _interval(gain: dict[str, float] | None) -> str:
    if gain is None:
        return ""
    if gain["low"] is None:
        return f"{100 * gain['accuracy']:+.1f}"
    return f"{100 * gain['accuracy']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def plot(rows: Sequence[dict[str, Any]], protocol: dict[str, Any], path: Path) -> None:
    """Where the time goes, in total and in an epoch of phase 2; lines span the repeats."""
    from matplotlib.figure import Figure

    head_epochs, epochs = protocol["head_epochs"], protocol["epochs"]
    by_contestant = {name: [figures(row, head_epochs, epochs) for row in _timed(rows, name)] for name in NAMES}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for contestant, repeats in by_contestant.items():
        phase1, epoch, total = (_median(repeats, key) for key in ("phase1", "epoch", "total"))
        if epoch is None:
            continue
        name, ours = NAMES[contestant], contestant.startswith("thaw")
        seconds = [repeat["epoch"] for repeat in repeats]
        spread = [[epoch - min(seconds)], [max(seconds) - epoch]]
        right.barh(name, epoch, xerr=spread, color="#2f6690" if ours else "#a9bccf", ecolor="#333333")
        right.text(max(seconds), name, f"  {epoch:.0f} s", va="center")
        if phase1 is None or total is None:
            continue
        phase2 = epochs * epoch
        start = 0.0
        for length, colour in zip(
            (phase1, phase2, total - phase1 - phase2), ("#e0a458", "#2f6690", "#c8c8c8"), strict=True
        ):
            left.barh(name, length / 60, left=start / 60, color=colour)
            start += length
        left.text(start / 60, name, f"  {total / 60:.1f}", va="center")
    parts = [f"phase 1, {head_epochs} epochs", f"phase 2, {epochs} epochs", "start and test"]
    left.legend(
        left.containers[:3], parts, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False, fontsize=9
    )
    for axes, title in ((left, "the whole recipe, minutes"), (right, "an epoch of phase 2, seconds")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=110)


def plot_over_time(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The best accuracy on validation so far, against seconds since the start."""
    from matplotlib.figure import Figure

    if not (curves := over_time(rows)):
        return
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        seconds, values = zip(*curve, strict=True)
        width = 2.5 if name.startswith("thaw") else 1.2
        axes.step(seconds, [100 * value for value in values], where="post", label=NAMES[name], linewidth=width)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(lambda at, _: f"{at:g}" if f"{at:e}"[0] in "25" else "")
    axes.set_xlabel("seconds since the start of the first process")
    axes.set_title("best accuracy on validation so far, %", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
