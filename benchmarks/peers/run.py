"""`thaw run` as `make run` calls it: a new project with the shared pictures, and its server.

It uses the commands of `.venv`, which has Prefect and DVC. evaluate runs once more, alone, to be
timed. The project is in a temporary folder, because projects cannot be nested.
"""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.peers.contest import Contest, emit, from_command_line

ROOT = Path(__file__).resolve().parents[2]


def main(contest: Contest) -> None:
    """Print the seconds of both commands."""
    changes = {"seed": contest.seed, "prepare.resolution": contest.size, "unfreeze.epochs": contest.epochs}
    settings = [f"--set={key}={value}" for key, value in (changes | contest.levers).items()]
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as folder:
        project = Path(folder, "project")
        seconds_of(project.parent, "init", project.name)
        shutil.copytree(Path(contest.workspace, "data"), project / "data", dirs_exist_ok=True)
        emit("run", seconds_of(project, "run", *settings))
        emit("evaluate", seconds_of(project, "phase", "evaluate"))


def seconds_of(folder: Path, *arguments: str) -> float:
    """Call thaw in a folder; returns its seconds, raises if it fails."""
    commands = ROOT / ".venv/bin"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "THAW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PATH": f"{commands}:{environment['PATH']}"}
    began = time.perf_counter()
    subprocess.run([str(commands / "python"), "-m", "thaw", *arguments], check=True, cwd=folder, env=environment)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(from_command_line())
