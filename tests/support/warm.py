"""Python processes that start with torch and the like imported: forks of one that has them."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def environment(*path: Path) -> dict[str, str]:
    """What makes `python -c` such a process, without warnings; imports from these folders too."""
    return {"THAW_WARM_CODE": "1", "PYTHONPATH": os.pathsep.join(map(str, [SUPPORT / "site", *path]))}


def python(folder: Path, code: str, *arguments: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """Run code in such a process, in a folder."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ | environment(path), capture_output=True, text=True)
