"""Pictures to predict, one at a time, from files, folders, archives, tables and standard input.

    a.jpg               a picture
    photographs/        every picture below it, by the suffix of its name
    week.zip, week.tar  the pictures in an archive, named week.zip/inner/a.jpg; nothing is unpacked
    week.csv            the column `path`, relative to the table; other columns are kept
    -                   paths on standard input, one a line

At most the file names of one folder are in memory.
"""

import csv
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TextIO

from thaw.data.manifest import is_picture
from thaw.data.pictures import SUFFIXES
from thaw.errors import InputError

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz")
STANDARD_INPUT = "-"
LARGEST = 2**28  # bytes of a picture in an archive
OURS = ("prediction", "decision", "unsure", "unlike", "distance", "error")  # columns of predictions
SHARE = "p_"  # prefix of the columns of probabilities
# What reading a broken archive or table can raise.
BROKEN = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    csv.Error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
)


@dataclass(frozen=True)
class Picture:
    """A picture to predict: its path, its bytes if it is not a file of its own, the other columns
    of its row, and why it cannot be read."""

    path: Path
    file: BinaryIO | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def check(sources: Sequence[str]) -> list[str]:
    """Raise if a source is missing or holds no picture; returns the columns that tables among them
    have beside `path`."""
    if not sources:
        raise InputError("no pictures given: name files, folders, archives, a CSV with a column path, or - for a list")
    columns: list[str] = []
    for source in sources:
        path = Path(source)
        if source == STANDARD_INPUT:
            continue
        if not path.exists():
            raise InputError(f"there is no {source}; name pictures, folders, archives or a CSV with a column path")
        if path.suffix.lower() == ".csv":
            columns += [name for name in _columns(path) if name not in columns]
        elif path.is_dir() or _is_archive(path):
            first = next(_of(source, None), None)
            if first is None:
                raise InputError(f"{source} holds no pictures; allowed are files that end in {_endings()}")
            if first.error and first.path == path:
                raise InputError(f"{source} is no archive that can be read ({first.error}); pack it again")
        elif path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{source} is no picture by its name, and neither a folder, an archive nor a CSV; allowed are "
                f"{_endings()}, .zip, {', '.join(TARS)} and .csv"
            )
    return columns


def pictures(sources: Iterable[str], lines: TextIO | None = None) -> Iterator[Picture]:
    """The pictures of all sources in turn; `lines` is what - stands for."""
    for source in sources:
        for picture in _of(source, lines):
            is_there = picture.file or picture.error or picture.path.exists()
            yield picture if is_there else replace(picture, error="there is no such file")


def count(sources: Iterable[str]) -> int | None:
    """The number of pictures, or None if only reading would tell: archives, standard input."""
    total = 0
    for source in sources:
        path = Path(source)
        if source == STANDARD_INPUT or _is_archive(path):
            return None
        total += sum(1 for _ in _of(source, None))
    return total


def _of(source: str, lines: TextIO | None) -> Iterator[Picture]:
    path = Path(source)
    if source == STANDARD_INPUT:
        return (Picture(Path(line)) for line in map(str.strip, lines or ()) if line)
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() == ".csv":
        return _in_table(path)
    if path.suffix.lower() == ".zip":
        return _in_zip(path)
    return _in_tar(path) if _is_archive(path) else iter([Picture(path)])


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".zip", *TARS)) and not path.is_dir()


def _endings() -> str:
    return ", ".join(sorted(SUFFIXES))


def _in_folder(folder: Path) -> Iterator[Picture]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if is_picture(path.relative_to(folder)):
                yield Picture(path)


def _in_zip(archive: Path) -> Iterator[Picture]:
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if not member.is_dir() and is_picture(PurePosixPath(member.filename)):
                    yield _member(archive / member.filename, member.file_size, partial(opened.read, member))
    except BROKEN as error:
        yield _broken(archive, error)


def _in_tar(archive: Path) -> Iterator[Picture]:
    try:
        with tarfile.open(archive, "r|*") as opened:  # a stream: no member is kept
            for member in opened:
                if member.isfile() and is_picture(PurePosixPath(member.name)):
                    content = opened.extractfile(member)
                    assert content
                    yield _member(archive / member.name, member.size, content.read)
                opened.members = []  # type: ignore[attr-defined]
    except BROKEN as error:
        yield _broken(archive, error)


def _member(path: Path, size: int, read: Callable[[], bytes]) -> Picture:
    if size > LARGEST:
        return Picture(path, error=f"it has {size:,} bytes; allowed in an archive are {LARGEST:,}")
    try:
        return Picture(path, BytesIO(read()))
    except BROKEN as error:
        return Picture(path, error=_reason(error))


def _broken(source: Path, error: Exception) -> Picture:
    """Stands for the rest of a source that cannot be read any further."""
    return Picture(source, error=f"it cannot be read from here on: {_reason(error)}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _in_table(table: Path) -> Iterator[Picture]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened, restkey="", restval="")
            names = rows.fieldnames or []
            path_of = next(name for name in names if _is_path(name))
            for row in rows:
                columns = {name: row[name] for name in names if name != path_of}
                path = row[path_of].strip()
                error = "" if path else f"line {rows.line_num} of the table has no path"
                yield Picture(table.parent / path if path else table, columns=columns, error=error)
    except BROKEN as error:
        yield _broken(table, error)


def _columns(table: Path) -> list[str]:
    """The columns of a table other than `path`."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            names = next(csv.reader(opened), [])
    except BROKEN as error:
        raise InputError(f"{table} cannot be read as CSV: {_reason(error)}") from None
    if sum(map(_is_path, names)) != 1:
        raise InputError(
            f"{table} has {sum(map(_is_path, names))} columns 'path' among {names}; it needs one, from its folder on"
        )
    columns = [name for name in names if not _is_path(name)]
    for name in columns:
        if name in OURS or name.startswith(SHARE) or columns.count(name) > 1:
            why = "twice" if columns.count(name) > 1 else "and thaw writes one of that name"
            raise InputError(f"{table} has the column '{name}' {why}; rename it")
    return columns


def _is_path(name: str) -> bool:
    return name.strip().casefold() == "path"
