"""One retraining at a time holds the workspace; another one waits its turn.

Its children hold it too: while one lives whose caller was killed, nobody else starts.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from thaw.errors import InputError
from thaw.project import workspace

PAUSE = 1.0  # seconds between two tries

_files: set[int] = set()


class Busy(InputError):
    """Another retraining holds the workspace."""


def inherited() -> tuple[int, ...]:
    """The open files that a child has to inherit."""
    return tuple(_files)


@contextmanager
def only_retraining(name: str, minutes: float = 0, say: Callable[[str], object] = print) -> Iterator[None]:
    """Hold the workspace for one retraining; wait so long while another one, in any process, holds it."""
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline, told = time.monotonic() + 60 * minutes, False
    while not (lock := _taken(path)):
        if time.monotonic() >= deadline:
            waited = f"; waited {minutes:g} minutes for it, as long as retrain.wait allows" if minutes else ""
            raise Busy(f"another retraining holds this workspace ({holder()}): wait until it ends, or stop it{waited}")
        if not told:
            say(f"Waiting while another retraining holds this workspace ({holder()}), {minutes:g} minutes at most")
            told = True
        time.sleep(PAUSE)
    with lock:
        lock.truncate(0)
        lock.write(f"{name}, process {os.getpid()}")
        lock.flush()
        _files.add(lock.fileno())
        try:
            yield
        finally:
            _files.discard(lock.fileno())


def holder() -> str | None:
    """Who holds the workspace, and by which process; None where nobody does."""
    path = _file()
    if not path.is_file():
        return None
    if lock := _taken(path):
        lock.close()
        return None
    noted = path.read_text(encoding="utf-8").strip()
    name, _, number = noted.rpartition(", process ")
    living = _processes_with(path)
    if not living or number in living:
        return noted or "unknown"
    return f"{name} was killed, and what it started lives on: process {', '.join(living)}"


def _file() -> Path:
    return workspace.ROOT / ".dvc" / "tmp" / "retrain.lock"


def _taken(path: Path) -> IO[str] | None:
    """The locked file, unless somebody else has it; then it is not kept open."""
    lock = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _processes_with(path: Path) -> list[str]:
    """The living processes of this machine that have a file open, as far as this user may see them."""
    import psutil  # type: ignore[import-untyped]

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(opened.path == str(path.resolve()) for opened in process.open_files()):
                found.append(str(process.pid))
    return found
