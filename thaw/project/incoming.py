"""incoming: move new pictures into the data, and empty the folder in which they arrived.

    retrain.incoming  -> data/, and the files that were taken to ARCHIVE/taken/WHEN
                      -> files that cannot be used to ARCHIVE/set-aside/WHEN, with reasons.csv

One bad file does not stop the rest. It is set aside in the layout in which it arrived, so `thaw
add` takes it once it is mended. Files that were taken are in data/ too, so the oldest are deleted
beyond `retrain.archive_gb`. Files that were set aside have no other copy and stay.
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from thaw.errors import InputError, Refused
from thaw.project import add, workspace
from thaw.project.journal import Journal, replace
from thaw.project.settings import Retrain
from thaw.project.stage import OnLine

if TYPE_CHECKING:
    import pandas as pd

TABLE, REASONS = "labels.csv", "reasons.csv"
QUIET = 10.0  # seconds without a change after which a delivery counts as complete
LONGEST_WAIT = 600.0
MOVES = Journal("incoming")


@dataclass(frozen=True)
class Taken:
    """What became of the pictures that arrived."""

    added: add.Added | None  # None if nothing was left to add
    set_aside: int
    where: str  # the folder of the files set aside

    @property
    def changed(self) -> bool:
        """Whether the data changed, or files were set aside."""
        return bool(self.set_aside or (self.added and self.added.new))

    def __str__(self) -> str:
        message = str(self.added) if self.added else "nothing new"
        return message + (f", {self.set_aside} set aside: see {self.where}/{REASONS}" if self.set_aside else "")


def take(retrain: Retrain, on_line: OnLine) -> Taken | None:
    """Move what arrived into the data; None if nothing did. The caller holds the workspace."""
    if not retrain.incoming or not add.arrived(folder := workspace.root() / retrain.incoming):
        return None
    archive = _archive(retrain.archive, folder)
    when = f"{datetime.now().astimezone():%Y-%m-%d-%H%M%S}"
    taken, aside = archive / "taken" / when, archive / "set-aside" / when
    _wait_until_quiet(folder, on_line)
    added, set_aside = None, 0
    reasons: Mapping[str, str]
    while added is None and add.arrived(folder):
        try:
            added = add.add_held(folder, on_line=on_line)
            reasons = added.left_out
        except Refused as refused:
            reasons = refused.reasons
        if added:
            _move(folder, taken, added.paths, on_line)
        if reasons and not _set_aside(folder, aside, reasons, on_line) and not added:
            raise InputError(next(iter(reasons.values())))
        set_aside += len(reasons)
    _trim(taken.parent, retrain.archive_gb * 1e9)
    return Taken(added, set_aside, f"{retrain.archive}/set-aside/{when}")


def finish() -> None:
    """Finish a move that was killed half-way. The caller holds the workspace."""
    if begun := MOVES.read():
        _carry_out(Path(begun["source"]), Path(begun["target"]), begun["names"], print)


def waiting(archive: Path) -> int:
    """The number of files that were set aside."""
    from thaw.data import manifest

    return sum(len(manifest.read_table(file)) for file in archive.glob(f"set-aside/*/{REASONS}"))


def _archive(name: str, incoming: Path) -> Path:
    """The folder of the archive, which git ignores."""
    archive = workspace.root() / name
    for other in (incoming, workspace.data()):
        a, b = archive.resolve(), other.resolve()
        if a.is_relative_to(b) or b.is_relative_to(a):
            raise InputError(f"retrain.archive is {name}, which lies in {other} or contains it; name another folder")
    archive.mkdir(parents=True, exist_ok=True)
    (archive / ".gitignore").write_text("*\n")
    return archive


def _wait_until_quiet(folder: Path, on_line: OnLine) -> None:
    """Wait until nothing changes: a file that is still being copied looks broken."""
    announced, deadline = False, time.monotonic() + LONGEST_WAIT
    while time.monotonic() < deadline:
        since = time.time() - max(file.lstat().st_ctime for file in [folder, *folder.rglob("*")])
        if not 0 <= since < QUIET:  # below zero: the clock of a file server is ahead
            return
        if not announced:
            on_line(f"{folder} has just changed: its pictures are taken once nothing has changed for {QUIET:g} seconds")
            announced = True
        time.sleep(QUIET - since)


def _set_aside(folder: Path, target: Path, reasons: Mapping[str, str], on_line: OnLine) -> int:
    """Set files aside with the reasons; returns how many files and rows of the table were moved."""
    import pandas as pd

    table = pd.DataFrame(sorted(reasons.items()), columns=["path", "reason"])
    _append(target / REASONS, table.map(lambda text: text.encode("utf-8", "backslashreplace").decode()))
    on_line(f"warning: set aside in {target}: {len(reasons)}, the first because {next(iter(reasons.values()))}")
    return _move(folder, target, reasons, on_line)


def _move(source: Path, target: Path, names: Iterable[str], on_line: OnLine) -> int:
    """Move files and their rows of labels.csv to another folder; a journal survives a kill."""
    MOVES.begin(source=str(source), target=str(target), names=list(names))
    return _carry_out(source, target, list(names), on_line)


def _carry_out(source: Path, target: Path, names: list[str], on_line: OnLine) -> int:
    moved = 0
    try:
        moved += _move_rows(source / TABLE, target / TABLE, names)
        for name in names:
            place = PurePosixPath(name)
            file = source / place
            is_inside = name and not place.is_absolute() and ".." not in place.parts
            if is_inside and (file.is_symlink() or file.is_file()):
                (target / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, target / place)
                moved += 1
    except OSError as error:
        on_line(f"warning: {source} cannot be emptied ({error}); what is left there is looked at again next time")
    MOVES.end()
    return moved


def _move_rows(table: Path, target: Path, names: list[str]) -> int:
    """Move the rows of some pictures from one table to another; returns how many."""
    from thaw.data import manifest

    if not table.is_file() or table.name in names:
        return 0
    rows = manifest.written_rows(table)
    named = rows["path"].isin(names)
    if named.any():
        _append(target, rows[named])
        replace(table, manifest.csv_of(rows[~named]).encode())
    return int(named.sum())


def _append(table: Path, rows: "pd.DataFrame") -> None:
    """Append rows to a table, without duplicates."""
    import pandas as pd

    from thaw.data import manifest

    if table.is_file():
        rows = pd.concat([manifest.read_table(table), rows]).drop_duplicates()
    replace(table, manifest.csv_of(rows).encode())


def _trim(taken: Path, most: float) -> None:
    """Delete the oldest batches until the rest needs at most `most` bytes; data/ has them too."""
    size = 0
    for batch in sorted(taken.glob("*"), reverse=True):
        size += sum(file.lstat().st_size for file in batch.rglob("*") if not file.is_dir())
        if size > most:
            shutil.rmtree(batch)
