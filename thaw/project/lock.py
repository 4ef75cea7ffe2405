"""One retraining at a time holds the workspace.

Its children hold it too: while one lives whose caller was killed, nobody else starts.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from thaw.errors import InputError
from thaw.project import workspace

_files: set[int] = set()


class Busy(InputError):
    """Another retraining holds the workspace."""


def inherited() -> tuple[int, ...]:
    """The open files that a child has to inherit."""
    return tuple(_files)


@contextmanager
def only_retraining(name: str) -> Iterator[None]:
    """Hold the workspace for one retraining; refuse at once if another one, in any process, holds it."""
    path = workspace.ROOT / ".dvc" / "tmp" / "retrain.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise Busy(f"another retraining holds this workspace ({holder}): wait until it ends, or stop it") from None
        lock.truncate(0)
        lock.write(f"{name}, process {os.getpid()}")
        lock.flush()
        _files.add(lock.fileno())
        try:
            yield
        finally:
            _files.discard(lock.fileno())
