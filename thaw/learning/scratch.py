"""Scratch: the state of a training after each epoch, from which a stopped run goes on.

A checksum covers the state and the file's name, which is a hash of everything that decides the
result. So a file that is damaged, truncated or from another run is never used.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from thaw.learning import processes

CHECKSUM = 32  # bytes of SHA-256 at the start of a file


def keep(path: Path, state: dict[str, Any]) -> None:
    """Write a state; if that fails, print a warning and go on training."""
    try:
        write(path, state)
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
        why = first_line(error.__context__ or error)
        print(
            f"warning: {path} cannot be written ({why}); phase 2 goes on, but not from here if it is stopped",
            flush=True,
        )


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all."""
    partial_file = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file.open("w+b") as file:
            file.write(bytes(CHECKSUM))
            torch.save(state, file)
            checksum = _checksum(path, file)
            file.seek(0)
            file.write(checksum)
            file.flush()
            os.fsync(file.fileno())
        partial_file.replace(path)
    except BaseException:
        with suppress(OSError):
            partial_file.unlink()
        raise


def read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state in a file; None, with a warning, if it is damaged, from another run, or differs
    between ranks."""
    state, checksum, problem = None, bytes(CHECKSUM), ""
    try:
        with path.open("rb") as file:
            if file.read(CHECKSUM) != _checksum(path, file):
                raise ValueError("its checksum is wrong")
            file.seek(0)
            checksum = file.read(CHECKSUM)
            state = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        pass
    except Exception as error:
        problem = f"is damaged or of another run ({first_line(error)})"
    # A rank that starts anew would wait for ever for ranks that go on from a state.
    checksums = processes.all_gather(torch.tensor([list(checksum)]))
    if not (checksums == checksums[0]).all():
        state, problem = None, "is not the same for all processes"
    if problem:
        warn(path, problem)
    return state


def _checksum(path: Path, file: BinaryIO) -> bytes:
    file.seek(CHECKSUM)
    return hashlib.file_digest(file, lambda: hashlib.sha256(path.name.encode())).digest()  # type: ignore[arg-type]


def warn(path: Path, problem: str) -> None:
    """Say why a state is not used."""
    print(f"warning: {path}, the state of a run that was stopped, {problem}; phase 2 starts anew", flush=True)


def first_line(error: BaseException) -> str:
    """The first line of an exception, or its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
