"""What the flow and the command line show of a workspace: its settings, and what the phases left behind."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tasks import settings, workspace


def metrics() -> dict[str, Any]:
    """The numbers of `evaluate`: test_pictures, head, finetuned, gain."""
    found: dict[str, Any] = json.loads((workspace.ROOT / "artifacts/evaluate/metrics.json").read_text())
    return found


def learning_curves(*phases: str) -> bytes:
    """The learning curves of `head`, or of `head` and `unfreeze`, as the bytes of a PNG."""
    import pandas as pd

    from thaw import report

    history = {phase: pd.read_csv(workspace.ROOT / "artifacts" / phase / "history.csv") for phase in phases}
    return report.curves(history["head"], history.get("unfreeze"))


def summary() -> str:
    """What phase 2 gained, as Markdown."""
    from thaw import report

    return report.summary(metrics())


def settings_with(overrides: list[str]) -> settings.Settings:
    """The settings as they would be with the overrides, or the first mistake in them; nothing is written."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "params.yaml"
        if (workspace.ROOT / trial.name).exists():
            shutil.copy(workspace.ROOT / trial.name, trial)
        settings.override(overrides, trial)
        return settings.read(trial)


def apply(overrides: list[str]) -> None:
    """Write the overrides into the workspace's params.yaml."""
    settings.override(overrides, workspace.ROOT / "params.yaml")


def report_page() -> Path:
    """The report; it exists once the phase `report` is done."""
    return workspace.ROOT / "artifacts" / "report" / "report.html"
