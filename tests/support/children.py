"""Other processes in tests: start them, wait for what they do, see whether they live."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def importing(*folders: Path) -> str:
    """A PYTHONPATH with these folders before the tests' own, which commands need to be forked."""
    return os.pathsep.join([*map(str, folders), os.environ["PYTHONPATH"]])


def call(folder: Path, *command: str) -> str:
    """Run a command that must succeed, with this Python's programs first; returns its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def thaw(
    folder: Path, *arguments: str, patience: float = 300, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command line of the code in a folder, however it ends."""
    return subprocess.run(
        [sys.executable, "-m", "thaw", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=patience,
    )


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody."""
    return call(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments)


def until(ready: Callable[[], Any], patience: float = 300.0) -> Any:
    """What `ready` returns once it is true. The limit is long: a busy machine may need it.

    It is called less often as time passes: a server that answers has other things to do.
    """
    start = time.monotonic()
    while not (result := ready()):
        waited = time.monotonic() - start
        assert waited < patience, "waited in vain"
        time.sleep(min(0.1 + waited / 20, 1.0))
    return result


def alive(pid: int) -> bool:
    """Whether a process lives. A zombie has ended, and only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def slow_phase(root: Path) -> list[int]:
    """Wait until the toy's slow phase runs; returns its process and its child deaf to SIGTERM."""
    file = root / ".dvc" / "tmp" / "pids"

    def noted() -> list[int]:
        pids = file.read_text().split() if file.exists() else []
        return [int(pid) for pid in pids] if len(pids) == 2 else []

    return list(until(noted))
