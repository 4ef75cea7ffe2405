"""What tests of many trainings share: a workspace of its own, from whose commit workers can start."""

import shutil
from pathlib import Path

from children import call

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "toy"


def with_our_code(folder: Path) -> Path:
    """A workspace with the project's code, the phases of the toy and data that DVC knows; nothing is committed yet."""
    for name in ("thaw", "tasks", "flows"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "params.yaml", ROOT / ".gitignore", TOY / "dvc.yaml", TOY / "phases.py"):
        shutil.copy(file, folder)
    (folder / "data").mkdir()
    (folder / "data" / "picture.txt").write_text("a picture")
    call(folder, "git", "init", "-q")
    call(folder, "dvc", "init", "-q")
    call(folder, "dvc", "add", "-q", "data")
    return folder
