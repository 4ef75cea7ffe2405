"""For tests of many trainings: a workspace whose commit workers can start from."""

import shutil
from pathlib import Path

from children import call

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "toy"


def with_our_code(folder: Path) -> Path:
    """A workspace with the project's code, the toy's phases and data in DVC, uncommitted."""
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
