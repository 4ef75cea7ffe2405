"""A run of the suite leaves no process behind, whether it ends by itself or by any signal.

Everything that tests start inherits `THAW_TESTS`, the name of the run's own folder. A watcher that
outlives pytest ends whoever has it, in whatever session or process group, and removes the folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "THAW_TESTS"


def watch(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the watcher of this process; it acts once this process has ended."""
    os.environ[MARK] = str(folder)
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(folder: Path, *spared: int) -> None:
    """Kill every process of a run and their children until none is left; remove its folder."""
    deadline = time.monotonic() + 30
    while (left := _processes_of(folder) - {os.getpid(), *spared}) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _processes_of(folder: Path) -> set[int]:
    mark = f"{MARK}={folder}".encode()
    result, children = set(), dict[int, list[int]]()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            if state == "Z":
                continue
            children.setdefault(int(parent), []).append(int(process.name))
            if mark in (process / "environ").read_bytes().split(b"\0"):
                result.add(int(process.name))
    todo = [*result]
    while todo:  # a program may have written over its environment
        more = set(children.get(todo.pop(), ())) - result
        result |= more
        todo += more
    return result


if __name__ == "__main__":
    pytest = os.getppid()
    while os.getppid() == pytest:
        time.sleep(0.2)
    end(Path(sys.argv[1]))
