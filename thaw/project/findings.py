"""The results of a sweep, read from the experiments of its arms: a table, the best setting, a
plot."""

import json
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.project import workspace
from thaw.project.git import git
from thaw.project.grid import Arm
from thaw.project.sweep import MINUTES, Sweep, finished, reference

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = {  # of the table: where the number is in the metrics of an arm
    "val_loss": ("unfreeze", "val_loss"),
    "head_accuracy": ("evaluate", "head", "accuracy"),
    "accuracy": ("evaluate", "finetuned", "accuracy"),
    "auc": ("evaluate", "finetuned", "auc"),
}
SOURCES = {path[0] for path in COLUMNS.values()}


@dataclass(frozen=True)
class Findings:
    """The results of a sweep: a row for each setting, the best one and one of its arms, a plot,
    and their folder."""

    table: "pd.DataFrame"
    best: str
    arm: Arm
    plot: bytes
    folder: Path


def outcome(of: Sweep) -> Findings | None:
    """The results of the finished arms, if there are any; table and plot are written into the
    sweep's folder."""
    import pandas as pd

    from thaw.report.sweep_plot import sweep_plot
    from thaw.statistics import sweeps

    done = finished(of)
    if not done:
        return None
    arms_done = pd.DataFrame([_row(of, arm) for arm in done])
    table = sweeps.by_setting(arms_done)
    best = sweeps.best(table)
    folder = workspace.artifacts("sweeps") / of.name
    folder.mkdir(parents=True, exist_ok=True)
    arms_done.to_csv(folder / "table.csv", index=False, lineterminator="\n")
    picture = sweep_plot(arms_done, table, best)
    (folder / "plot.png").write_bytes(picture)
    return Findings(table, best, next(arm for arm in done if arm.setting == best), picture, folder)


def _row(of: Sweep, arm: Arm) -> dict[str, Any]:
    """The results of an arm, read from its experiment."""
    from thaw.statistics.records import same_networks

    commit = reference(of, arm.name)
    metrics = {phase: json.loads(git("show", f"{commit}:artifacts/{phase}/metrics.json")) for phase in SOURCES}
    row: dict[str, Any] = {"arm": arm.name, "setting": arm.setting, "seed": arm.settings.seed}
    row |= {column: reduce(lambda place, part: place[part], path, metrics) for column, path in COLUMNS.items()}
    # 0 where phase 2 was not kept, for the mean over seeds
    row["gain"] = row["accuracy"] - row["head_accuracy"]
    row["same"] = same_networks(metrics["evaluate"])
    took = git("log", "-1", f"--format=%(trailers:key={MINUTES},valueonly)", commit)
    return row | {"minutes": float(took) if took else None}
