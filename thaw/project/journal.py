"""Journals: notes of work in progress, so that the next command after a kill can finish or undo
it."""

import json
import os
from pathlib import Path
from typing import Any

from thaw.project import workspace


class Journal:
    """One journal, beside DVC's temporary files; the file exists from `begin` to `end`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def file(self) -> Path:
        """Its file in the workspace."""
        return workspace.scratch() / f"{self.name}.json"

    def begin(self, **values: Any) -> None:
        """Write down what is about to be done."""
        replace(self.file, json.dumps(values).encode())

    def read(self) -> dict[str, Any] | None:
        """What was begun and not ended; None if there is nothing, or if the journal is damaged."""
        try:
            values: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return values

    def end(self) -> None:
        """Remove the journal: the work is done or undone."""
        self.file.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file atomically: after a kill it is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
