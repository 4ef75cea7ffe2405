"""The notes of prepare: warnings, files left out, pictures that cannot be read."""

import json
from pathlib import Path

from thaw.data.manifest import read_table
from thaw.report.data import Notes


def read(folder: Path) -> Notes:
    """The notes in prepare's folder; empty if an older thaw wrote it."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    return Notes(meta.get("warnings", []), _pairs(folder / "left_out.csv"), _pairs(folder / "quarantine.csv"))


def _pairs(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        return []
    table = read_table(file)
    return list(zip(table["path"], table["reason"], strict=True))
