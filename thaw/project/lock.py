"""The locks of the workspace: one retraining at a time, and one prediction; another one waits its
turn.

Child processes inherit them, so a training that outlives a killed caller keeps others out.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from thaw.errors import InputError
from thaw.project import workspace

PAUSE = 1.0  # seconds between two attempts
RETRAINING, PREDICTION = "retraining", "prediction"
FILES = {RETRAINING: "retrain.lock", PREDICTION: "predict.lock"}

Say = Callable[[str], object]
_files: set[int] = set()


class Busy(InputError):
    """Another run holds the workspace."""


def inherited() -> tuple[int, ...]:
    """File descriptors of the locks, for child processes to inherit."""
    return tuple(_files)


def only_retraining(name: str, minutes: float = 0, say: Say = print) -> AbstractContextManager[None]:
    """Hold the workspace for one retraining; wait up to `minutes` while another one holds it."""
    return _only(RETRAINING, name, minutes, say)


def only_prediction(name: str, minutes: float = 0, say: Say = print) -> AbstractContextManager[None]:
    """The same for one run that predicts new pictures, which may go on beside a retraining."""
    return _only(PREDICTION, name, minutes, say)


@contextmanager
def _only(kind: str, name: str, minutes: float, say: Say) -> Iterator[None]:
    path = _file(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, announced = time.monotonic() + 60 * minutes, False
    while not (lock := _try_lock(path)):
        if time.monotonic() >= deadline:
            waited = f"; waited {minutes:g} minutes for it, as long as retrain.wait allows" if minutes else ""
            raise Busy(f"another {kind} holds this workspace ({holder(kind)}): wait until it ends, or stop it{waited}")
        if not announced:
            say(f"Waiting while another {kind} holds this workspace ({holder(kind)}), {minutes:g} minutes at most")
            announced = True
        time.sleep(PAUSE)
    with lock:
        lock.truncate(0)
        lock.write(note(name, os.getpid()))
        lock.flush()
        _files.add(lock.fileno())
        try:
            yield
        finally:
            _files.discard(lock.fileno())


def note(name: str, pid: int) -> str:
    """What a lock says of who holds it."""
    return f"{name}, process {pid}"


def holder(kind: str = RETRAINING) -> str | None:
    """Who holds the workspace, and in which process; None if nobody does."""
    path = _file(kind)
    if not path.is_file():
        return None
    if lock := _try_lock(path):
        lock.close()
        return None
    text = path.read_text(encoding="utf-8").strip()
    name, _, pid = text.rpartition(", process ")
    living = _processes_with(path)
    if not living or pid in living:
        return text or "unknown"
    return f"{name} was killed, and what it started lives on: process {', '.join(living)}"


def _file(kind: str) -> Path:
    return workspace.root() / ".dvc" / "tmp" / FILES[kind]


def _try_lock(path: Path) -> IO[str] | None:
    """Lock the file and return it open; None if somebody else holds the lock."""
    lock = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _processes_with(path: Path) -> list[str]:
    """The processes that have a file open, as far as this user may see them."""
    import psutil  # type: ignore[import-untyped]

    pids = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(file.path == str(path.resolve()) for file in process.open_files()):
                pids.append(str(process.pid))
    return pids
