"""Notes of what was begun, so that whoever holds the workspace after a kill can end it or undo it."""

import json
import os
from pathlib import Path
from typing import Any

from thaw.project import workspace


class Journal:
    """One such note, beside DVC's temporary files; it is there from `begin` to `end`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def file(self) -> Path:
        """Where it is kept, in the workspace of now."""
        return workspace.ROOT / ".dvc" / "tmp" / "thaw" / f"{self.name}.json"

    def begin(self, **values: Any) -> None:
        """Note what is about to be done."""
        replace(self.file, json.dumps(values).encode())

    def read(self) -> dict[str, Any] | None:
        """What was begun and has not ended; None where nothing was, or where the note itself came to harm."""
        try:
            values: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return values

    def end(self) -> None:
        """It is done, or undone."""
        self.file.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write a file so that it is the old one or the new one, whenever this is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
