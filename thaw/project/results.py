"""What the flow and the command line show of a workspace: the name of a run, and the results of
the phases."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from thaw.project import overrides, pipeline, settings, workspace
from thaw.project.git import git
from thaw.project.settings import Settings
from thaw.statistics.records import joined

# settings that decide the result
RECIPE = ("seed", "backbone", "prepare", "embed", "head", "unfreeze", "evaluate")
MOST_NAMED = 3  # changed settings in the name of a run


def metrics() -> dict[str, Any]:
    """All figures of `evaluate`: those of metrics.json and those of details.json, if there is
    one."""
    folder = workspace.artifacts("evaluate")
    details = folder / "details.json"
    return joined(
        json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        json.loads(details.read_text(encoding="utf-8")) if details.is_file() else {},
    )


def learning_curves(*phases: str) -> bytes:
    """The learning curves of `head`, or of `head` and `unfreeze`, as the bytes of a PNG."""
    import pandas as pd

    from thaw.report.curves import curves

    history = {phase: pd.read_csv(workspace.artifacts(f"{phase}/history.csv")) for phase in phases}
    return curves(history["head"], history.get("unfreeze"))


def summary() -> str:
    """What phase 2 gained, as Markdown."""
    from thaw.report.summary import summary as _summary

    return _summary(metrics())


def warning() -> str:
    """One sentence of caution about the gain; empty if all is well."""
    from thaw.report.summary import warning as _warning

    return _warning(metrics())


def data() -> str:
    """Pictures by class and split, warnings, and files left out, as Markdown; empty before prepare
    has run."""
    from thaw.data.manifest import read_manifest
    from thaw.project import notes
    from thaw.report.data import data_markdown

    folder = workspace.artifacts("prepare")
    if not (folder / "manifest.csv").is_file():
        return ""
    classes = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["classes"]
    return data_markdown(read_manifest(folder / "manifest.csv"), classes, notes.read(folder))


def picture(name: str) -> bytes:
    """A plot that the phase `report` drew, such as `confusion`, as the bytes of a PNG."""
    return workspace.artifacts(f"report/{name}.png").read_bytes()


def promotion(decision: Mapping[str, Any], standing: str) -> str:
    """Why a new model was promoted or not, as Markdown."""
    from thaw.report.promotion import markdown

    return markdown(decision, standing)


def predictions(predicted: Mapping[str, Any]) -> str:
    """What a model said of new pictures, beside what validation lets expect, as Markdown."""
    from thaw.report.predictions import markdown

    return markdown(predicted)


def name_of(changes: list[str]) -> str:
    """A name for a run: backbone, ratio, settings that differ from the commit, data and date."""
    config = overrides.settings_with(changes)
    changed = _changed(config)
    more = [f"{len(changed) - MOST_NAMED} more"] if len(changed) > MOST_NAMED else []
    parts = [f"{config.backbone.name} ratio {config.unfreeze.ratio:g}"]
    parts += [f"({', '.join(changed[:MOST_NAMED] + more)})"] if changed else []
    parts += [f"data {data}"] if (data := data_hash()) else []
    return " ".join([*parts, f"{datetime.now().astimezone():%m-%d %H:%M}"])


def _changed(config: Settings) -> list[str]:
    """The settings that differ from the committed params.yaml, as `section.key=value`; without
    backbone and ratio, which the name of a run has anyway."""
    from ruamel.yaml import YAML

    text = git("show", "HEAD:./params.yaml") or settings.file().read_text()
    committed = YAML(typ="safe").load(text)
    changes = []
    for key in settings.all_keys():
        section, _, name = key.partition(".")
        now, before = config.model_dump()[section], committed.get(section)
        if name:
            now, before = now[name], before.get(name) if isinstance(before, dict) else None
        if section in RECIPE and now != before and key not in ("backbone.name", "unfreeze.ratio"):
            changes.append(f"{key}={pipeline.setting(now)}")
    return changes


def commit() -> str:
    """The short git commit of the workspace, with a plus where files differ from it; empty outside
    git."""
    return git("describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+")


def data_hash() -> str:
    """The first letters of the hash in data.dvc; empty if the data are not pinned."""
    pin = workspace.root() / "data.dvc"
    match = re.search(r"md5: (\w{7})", pin.read_text()) if pin.is_file() else None
    return match[1] if match else ""


def report_page() -> Path:
    """The report; it exists once the phase `report` is done."""
    return workspace.artifacts("report/report.html")
