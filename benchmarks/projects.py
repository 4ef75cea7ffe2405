"""Folders in which benchmarks run phases: each is a project of its own, even if it lies in one."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, params: Path) -> None:
    """Give a folder these settings, and the pipeline and phases of this repository."""
    shutil.copy(params, folder / "params.yaml")
    for name in ("dvc.yaml", "thaw.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "tasks").symlink_to(ROOT / "tasks")
