"""Studies: the arms of `thaw seeds`, `thaw curve` and `thaw ablate`, and their results.

A study is a sweep (thaw/project/sweep.py) that answers one question. The answer needs each arm's
predictions for the test pictures, which are read from DVC.
"""

import io
import json
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from thaw.errors import InputError
from thaw.project import workspace
from thaw.project.git import dvc, git
from thaw.project.grid import Arm, arm
from thaw.project.overrides import settings_with
from thaw.project.sweep import Sweep, finished, reference
from thaw.statistics.records import NETWORKS, is_whole, joined

if TYPE_CHECKING:
    from thaw.statistics.studies import Training

RECIPE = "recipe"
NO_HEAD = "head.max_epochs=0"
# Keeping the best epoch, epoch 0 included, would hide what a mistake does to a network. So an
# ablation keeps the last epoch, whatever params.yaml says.
LAST = "unfreeze.keep=last"
# The mistakes that the recipe avoids. With both ratios 1 all layers learn at the rate of phase 1.
ABLATION = {
    RECIPE: [LAST],
    "high rate": [LAST, "unfreeze.ratio=1", "unfreeze.head_ratio=1"],
    "no phase 1, high rate": [LAST, NO_HEAD, "unfreeze.ratio=1"],
    "no phase 1, low rate": [LAST, NO_HEAD],
    "random weights": [LAST, NO_HEAD, "unfreeze.ratio=1", "backbone.weights=random {seed}"],
}
# Options that are off in the recipe, one at a time.
OPTIONS = {
    RECIPE: [],
    "label smoothing": ["unfreeze.label_smoothing=0.1"],
    "L2-SP": ["unfreeze.l2_sp=10"],
    "mixup": ["unfreeze.mixup=0.2"],
    "cutmix": ["unfreeze.cutmix=1"],
    "moving average": ["unfreeze.ema=0.99"],
    "interpolation": ["unfreeze.interpolate=true"],
    "best epoch": ["unfreeze.keep=best"],
    "batchnorm adapt": ["unfreeze.batchnorm=adapt"],
    "batchnorm train": ["unfreeze.batchnorm=train"],
    "gradual": ["unfreeze.blocks=gradual"],
    "layer decay": ["unfreeze.layer_decay=0.8"],
    "class weights": ["class_weights=balanced"],
    "one view in the test": ["evaluate.views=none"],
}
COMPARED = (
    "over head, over recipe: points of test accuracy. auc over recipe: points of AUC, which also shows a worse "
    "ranking. Both with the 95 % interval over groups and seeds, from six groups and three seeds on (or one). "
    "distance, cka, kept, kl: how far the network moved from what it was trained to know, as in every report. "
    "Accuracy, distance and kept are in percent."
)
ABOUT = {
    "seeds": [
        "Mean ± standard deviation over the seeds; 95 % intervals over groups of pictures and seeds, from six groups "
        "and three seeds on (or one)."
    ],
    "curve": [
        "Whether more labels would help: a curve that still rises at its end says yes. Mean and spread over the seeds."
    ],
    "ablate": [
        "The recipe against common mistakes: the same split, seeds and number of epochs in phase 2. The last epoch is "
        "kept, because choosing the best one on validation would hide what a mistake does.",
        COMPARED,
    ],
    "options": ["The options that are off in the recipe, each turned on alone and compared with the recipe.", COMPARED],
}


@dataclass(frozen=True)
class Answer:
    """The results of a study: formatted tables, figures, and the folder with both and a page."""

    tables: dict[str, list[dict[str, str]]]
    figures: dict[str, bytes]
    folder: Path


def seeds(count: int, folds: int | None, changes: list[str]) -> list[Arm]:
    """The settings of params.yaml with `count` seeds, each on every fold if there are folds."""
    fold_changes = [[f"prepare.folds={folds}", f"prepare.fold={fold}"] for fold in range(folds)] if folds else [[]]
    _refuse(changes, *(change.partition("=")[0] for change in fold_changes[0]))
    return [arm("recipe", [*changes, *fold, f"seed={seed}"]) for seed in _seeds(count) for fold in fold_changes]


def curve(count: int, shares: list[float], changes: list[str]) -> list[Arm]:
    """A growing share of the training labels, each with `count` seeds."""
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(f"--shares {shares}: give shares above 0 and up to 1, such as 0.05,0.25,1")
    _refuse(changes, "labels")
    return [
        arm(f"{share:g}", [*changes, f"labels={share}", f"seed={seed}"])
        for share in sorted({float(f"{share:g}") for share in shares})
        for seed in _seeds(count)
    ]


def ablation(count: int, changes: list[str], arms: dict[str, list[str]] = ABLATION) -> list[Arm]:
    """The recipe and its mistakes, or its OPTIONS, each with `count` seeds."""
    _refuse(changes)
    return [
        arm(name, [*changes, *(change.format(seed=seed) for change in own), f"seed={seed}"])
        for name, own in arms.items()
        for seed in _seeds(count)
    ]


def _refuse(changes: list[str], *own: str) -> None:
    """Raise if a change is one that the study makes itself."""
    for key in (change.partition("=")[0].strip() for change in changes):
        if key in ("seed", *own):
            raise InputError(f"--set {key}: the study chooses {key} itself; leave it out")


def _seeds(count: int) -> range:
    if count < 1:
        raise InputError(f"{count} seeds leave nothing to train; give 1 or more")
    first = settings_with([]).seed
    return range(first, first + count)


def answer(question: str, of: Sweep) -> Answer | None:
    """The results of the finished arms, if there are any; tables, figures and a page go into the
    study's folder."""
    from thaw.report import studies as looks
    from thaw.report.ablation import ablation_plot
    from thaw.report.differences import differences
    from thaw.report.label_curve import label_curve
    from thaw.statistics import studies

    runs = [_run(of, arm) for arm in finished(of)]
    if not runs:
        return None
    tables, figures = {}, {}
    if question == "curve":
        table = studies.curve(runs)
        percent = [f"{network}_accuracy" for network in NETWORKS]
        tables["accuracy and AUC by share of the labels"] = looks.readable(table, percent)
        figures["do more labels help?"] = label_curve(table)
    elif question in ("ablate", "options"):
        if not any(run.setting == RECIPE for run in runs):
            return None
        table = studies.ablation(runs, RECIPE)
        tables["arms"] = looks.readable(table, ["accuracy", "over_head", "over_recipe", "distance", "kept"])
        if question == "ablate":
            figures["the lesson"] = ablation_plot(runs, table)
        elif len(table) > 2:
            figures["over the recipe"] = differences(table)
    else:
        standard = {"path", "label", "group", "seed"}
        slices = [
            name
            for name in map(str, runs[0].predictions)
            if name not in standard and "_prediction" not in name and "_p_" not in name
        ]
        table, by_slice = studies.seeds(runs, slices)
        tables["figures"] = looks.readable(table, [*NETWORKS, "gain"])
        if len(by_slice):
            tables["accuracy by slice"] = looks.readable(by_slice, [*NETWORKS, "gain"])
    folder = workspace.artifacts("studies") / of.name
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "table.csv", index=False, lineterminator="\n")
    for number, png in enumerate(figures.values()):
        (folder / f"figure{number or ''}.png").write_bytes(png)
    counts = f"{len(runs)} trainings from commit {of.base.commit[:7]}"
    page = looks.page(f"{question}: {counts}", ABOUT[question], tables, figures)
    (folder / "report.html").write_text(page, encoding="utf-8")
    return Answer(tables, figures, folder)


def _run(of: Sweep, arm: Arm) -> "Training":
    """The results of an arm, read from its experiment: small files from git, predictions from
    DVC."""
    import pandas as pd

    from thaw.data.manifest import read_predictions
    from thaw.statistics.studies import Training

    commit = reference(of, arm.name)
    metrics = json.loads(git("show", f"{commit}:artifacts/evaluate/metrics.json"))
    if not is_whole(metrics):
        metrics = joined(metrics, json.loads(_file(commit, "details.json", arm.name)))
    history = pd.read_csv(io.StringIO(git("show", f"{commit}:artifacts/unfreeze/history.csv")))
    predictions = read_predictions(io.BytesIO(_file(commit, "predictions.csv", arm.name)))
    return Training(arm.setting, arm.settings.seed, metrics, history, predictions)


@cache
def _file(commit: str, name: str, arm_name: str) -> bytes:
    """A file that evaluate wrote in an arm; cached, because each call of DVC takes a second or
    two."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        command = dvc("get", ".", f"artifacts/evaluate/{name}", "--rev", commit)
        result = subprocess.run(
            [*command, "--out", str(file)],
            cwd=workspace.root(),
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            raise InputError(f"{name} of {arm_name} is neither in DVC's cache nor in its remote")
        return file.read_bytes()
