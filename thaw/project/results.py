"""What the flow and the command line show of a workspace: what a run is called, what the phases left behind."""

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

RECIPE = ("seed", "backbone", "prepare", "embed", "head", "unfreeze", "evaluate")  # the settings that make the result
MOST_NAMED = 3  # changed settings in the name of a run


def metrics() -> dict[str, Any]:
    """All figures of `evaluate`: those of metrics.json and those of details.json, if there is one."""
    folder = workspace.ROOT / "artifacts" / "evaluate"
    details = folder / "details.json"
    return joined(
        json.loads((folder / "metrics.json").read_text(encoding="utf-8")),
        json.loads(details.read_text(encoding="utf-8")) if details.is_file() else {},
    )


def learning_curves(*phases: str) -> bytes:
    """The learning curves of `head`, or of `head` and `unfreeze`, as the bytes of a PNG."""
    import pandas as pd

    from thaw.report.curves import curves

    history = {phase: pd.read_csv(workspace.ROOT / "artifacts" / phase / "history.csv") for phase in phases}
    return curves(history["head"], history.get("unfreeze"))


def summary() -> str:
    """What phase 2 gained, as Markdown."""
    from thaw.report.summary import summary as _summary

    return _summary(metrics())


def warning() -> str:
    """What to know before the gain is read, in one sentence; empty where all is well."""
    from thaw.report.summary import warning as _warning

    return _warning(metrics())


def data() -> str:
    """Pictures by class and split, and what prepare warned of and left out, as Markdown; empty without prepare."""
    from thaw.data.manifest import read_manifest
    from thaw.project import notes
    from thaw.report.data import data_markdown

    folder = workspace.ROOT / "artifacts" / "prepare"
    if not (folder / "manifest.csv").is_file():
        return ""
    classes = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["classes"]
    return data_markdown(read_manifest(folder / "manifest.csv"), classes, notes.read(folder))


def picture(name: str) -> bytes:
    """A plot that the phase `report` drew, such as `confusion`, as the bytes of a PNG."""
    return (workspace.ROOT / "artifacts/report" / f"{name}.png").read_bytes()


def promotion(decision: Mapping[str, Any], standing: str) -> str:
    """Why a new model was promoted or not, as Markdown."""
    from thaw.report.promotion import markdown

    return markdown(decision, standing)


def name_of(changes: list[str]) -> str:
    """A name that tells one run from another: backbone, ratio, settings other than committed, data and date."""
    chosen = overrides.settings_with(changes)
    changed = _changed(chosen)
    more = [f"{len(changed) - MOST_NAMED} more"] if len(changed) > MOST_NAMED else []
    words = [f"{chosen.backbone.name} ratio {chosen.unfreeze.ratio:g}"]
    words += [f"({', '.join(changed[:MOST_NAMED] + more)})"] if changed else []
    words += [f"data {data}"] if (data := data_hash()) else []
    return " ".join([*words, f"{datetime.now().astimezone():%m-%d %H:%M}"])


def _changed(chosen: Settings) -> list[str]:
    """What differs from params.yaml as committed, as `section.key=value`; the name of a run has the ratio anyway."""
    from ruamel.yaml import YAML

    text = git("show", "HEAD:./params.yaml") or (workspace.ROOT / "params.yaml").read_text()
    committed = YAML(typ="safe").load(text)
    found = []
    for key in settings.all_keys():
        section, _, name = key.partition(".")
        now, before = chosen.model_dump()[section], committed.get(section)
        if name:
            now, before = now[name], before.get(name) if isinstance(before, dict) else None
        if section in RECIPE and now != before and key not in ("backbone.name", "unfreeze.ratio"):
            found.append(f"{key}={pipeline.setting(now)}")
    return found


def commit() -> str:
    """The short git commit of the workspace, with a plus where files differ from it; empty outside git."""
    return git("describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+")


def data_hash() -> str:
    """The first letters of the hash by which data.dvc pins the data; empty where there is none."""
    pin = workspace.ROOT / "data.dvc"
    found = re.search(r"md5: (\w{7})", pin.read_text()) if pin.is_file() else None
    return found[1] if found else ""


def report_page() -> Path:
    """The report; it exists once the phase `report` is done."""
    return workspace.ROOT / "artifacts" / "report" / "report.html"
