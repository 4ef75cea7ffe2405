"""What the rows of all runs say: figures, ratios, scores, a table and a plot.

A row is what one run took: contestant, repeat, seconds and peak_gb of its processes, and `told`, the lists of what it
printed. It is a sample of one epoch of each phase, completed at the pace of that epoch, or of repeat 0: all epochs,
for accuracy.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from thaw.data.manifest import labels_of
from thaw.statistics import metrics

WHOLE = 0  # the repeat that trains all epochs; with it nothing is timed, because kept runs may be older
FRAMEWORKS = ("fastai", "lightning", "transformers")
NAMES = {
    "plain": "plain PyTorch",
    "fastai": "fastai",
    "lightning": "Lightning",
    "transformers": "Transformers' Trainer",
    "thaw": "thaw",
    "plain-last": "plain PyTorch, last blocks",
    "thaw-last": "thaw, last blocks",
}
# Learning rates of phase 1; of phase 2. Nobody's were tuned for this bench: they are those of tutorials and defaults.
RATES = {
    "plain": "1e-3; 1e-5",
    "fastai": "2e-3; backbone 1e-5, head 1e-3",
    "lightning": "1e-3; backbone from 1e-4 up to 1e-3, head 1e-3",
    "transformers": "1e-3; 5e-5",
    "thaw": "params.yaml",
    "plain-last": "1e-3; 1e-5",
    "thaw-last": "params.yaml",
}
# All say how many times as fast thaw is: the other's seconds over thaw's, or thaw's rate over the bare loop's.
RATIOS: dict[str, Callable[[dict[str, Any]], float]] = {
    "phase1_vs_plain": lambda at: at["plain"]["phase1"] / at["thaw"]["phase1"],
    "phase2_vs_plain": lambda at: at["plain"]["epoch"] / at["thaw"]["epoch"],
    "phase2_last_blocks_vs_plain": lambda at: at["plain-last"]["epoch"] / at["thaw-last"]["epoch"],
    "total_vs_plain": lambda at: at["plain"]["total"] / at["thaw"]["total"],
    "total_vs_fastest_peer": lambda at: min(at[name]["total"] for name in FRAMEWORKS) / at["thaw"]["total"],
    "embed_vs_bare_loop": lambda at: at["bare"]["embed_rate"] / at["bare"]["bare_embed_rate"],
    "phase2_vs_bare_loop": lambda at: at["bare"]["training_rate"] / at["bare"]["bare_training_rate"],
}


def figures(row: dict[str, Any], head_epochs: int, epochs: int) -> dict[str, float]:
    """Seconds of phase 1, of an epoch of phase 2 and in total, and pictures/s, as far as the contestant has them."""
    told: dict[str, list[float]] = row["told"]
    total, found = row["seconds"], {}
    if "phase 1" in told:
        found["phase1"] = sum(told["phase 1"])
    elif "head epoch" in told:
        assert len(told["head epoch"]) <= head_epochs
        missing = (head_epochs - len(told["head epoch"])) * median(told["head epoch"])
        found["phase1"] = sum(told["head epoch"]) + missing
        total += missing
    if "unfreeze epoch" in told:
        assert len(told["unfreeze epoch"]) <= epochs
        found["epoch"] = median(told["unfreeze epoch"])
        if "phase1" in found:
            found["total"] = total + (epochs - len(told["unfreeze epoch"])) * found["epoch"]
    return found | {what.replace(" ", "_"): median(rates) for what, rates in told.items() if what.endswith(" rate")}


def ratios(rows: Sequence[dict[str, Any]], head_epochs: int, epochs: int) -> dict[str, dict[str, float]]:
    """Median, least and greatest of each ratio over the repeats, runs of one repeat against each other.

    Left out is a ratio whose contestants did not all run.
    """
    found: dict[str, list[float]] = {name: [] for name in RATIOS}
    for repeat in sorted({row["repeat"] for row in rows} - {WHOLE}):
        at = {row["contestant"]: figures(row, head_epochs, epochs) for row in rows if row["repeat"] == repeat}
        for name, ratio in RATIOS.items():
            try:
                found[name].append(ratio(at))
            except KeyError:
                continue
    return {name: {"median": median(all_), "min": min(all_), "max": max(all_)} for name, all_ in found.items() if all_}


def scores(test: pd.DataFrame, classes: Sequence[str], predictions: Path, plain: Path) -> dict[str, Any]:
    """Accuracy and AUC of a file of predictions, and its gain over plain's with the paired interval, by group."""
    labels, found = labels_of(test, classes), _probabilities(predictions, test)
    scored: dict[str, Any] = {name: metrics.headline(found, labels)[name] for name in ("accuracy", "auc")}
    if plain.is_file():
        groups = test["group"].where(test["group"] != "", test["hash"]).tolist()
        scored["over_plain"] = metrics.gain(_probabilities(plain, test), found, labels, groups)
    return scored


def _probabilities(predictions: Path, test: pd.DataFrame) -> metrics.Probabilities:
    """Class probabilities in the order of the test rows; every test picture must be there, and no other."""
    found = pd.read_csv(predictions, header=None, index_col=0)
    assert sorted(found.index) == sorted(test["path"]), f"{predictions} is not about the test pictures"
    return found.loc[test["path"]].to_numpy(dtype=np.float64)


def table(rows: Sequence[dict[str, Any]], protocol: dict[str, Any]) -> str:
    """Medians over the repeats, and the most memory, as Markdown; accuracy and AUC are of the run of all epochs."""
    head_epochs, epochs, pictures = (protocol[name] for name in ("head_epochs", "epochs", "training_pictures"))
    lines = [
        f"| {protocol['pictures']} pictures, {protocol['size']} px | phase 1, {head_epochs} epochs | phase 2, an epoch "
        f"| pictures/s | all, {epochs} epochs | peak memory | accuracy | AUC | accuracy over plain, 95 % interval "
        "| learning rates |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for contestant, name in NAMES.items():
        own = _timed(rows, contestant)
        if not own:
            continue
        each = [figures(row, head_epochs, epochs) for row in own]
        phase1, epoch, total = (_median(each, key) for key in ("phase1", "epoch", "total"))
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
            RATES[contestant],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _timed(rows: Sequence[dict[str, Any]], contestant: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["contestant"] == contestant and row["repeat"] != WHOLE]


def _median(each: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [one[key] for one in each if one.get(key) is not None]
    return median(values) if values else None


def _interval(gain: dict[str, float] | None) -> str:
    if gain is None:
        return ""
    if gain["low"] is None:
        return f"{100 * gain['accuracy']:+.1f}"
    return f"{100 * gain['accuracy']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"


def plot(rows: Sequence[dict[str, Any]], protocol: dict[str, Any], path: Path) -> None:
    """Where the time goes, in total and in an epoch of phase 2; lines reach from the fastest to the slowest repeat."""
    from matplotlib.figure import Figure

    head_epochs, epochs = protocol["head_epochs"], protocol["epochs"]
    each = {name: [figures(row, head_epochs, epochs) for row in _timed(rows, name)] for name in NAMES}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for contestant, found in each.items():
        phase1, epoch, total = (_median(found, key) for key in ("phase1", "epoch", "total"))
        if epoch is None:
            continue
        name, ours = NAMES[contestant], contestant.startswith("thaw")
        seconds = [one["epoch"] for one in found]
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
