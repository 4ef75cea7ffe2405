"""Predictions as rows: a table or lines of JSON, written while they come, and what they are in
sum.

path, the columns that came along, prediction, p_CLASS for each class, decision, unsure, unlike,
distance, error
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from thaw.data.manifest import csv_of
from thaw.errors import InputError
from thaw.model import sources
from thaw.model.model import BATCH, Model, Prediction
from thaw.model.sources import SHARE, STANDARD_INPUT, Picture
from thaw.progress import Progress

STANDARD_OUTPUT = STANDARD_INPUT
JSON = ".jsonl"
ROWS = 256  # that become text at once


@dataclass
class Tally:
    """What the predictions of many pictures are in sum."""

    pictures: int = 0
    unreadable: int = 0
    unsure: int = 0
    unlike: int = 0
    decisions: Counter[str] = field(default_factory=Counter)

    def count(self, said: Prediction) -> None:
        """Take one more prediction in."""
        self.pictures += 1
        if said.error:
            self.unreadable += 1
            return
        self.decisions[said.decision] += 1
        self.unsure += bool(said.unsure)
        self.unlike += bool(said.unlike)

    def __str__(self) -> str:
        decided = [f"{count:,} {name}" for name, count in self.decisions.most_common()]
        others = {"unsure": self.unsure, "unlike": self.unlike, "unreadable": self.unreadable}
        words = [*decided, *(f"{count:,} {name}" for name, count in others.items() if count)]
        return f"{self.pictures:,} picture{'s' * (self.pictures != 1)}: {', '.join(words)}"


def predict(model: Model, paths: Sequence[str], out: str, batch_size: int = BATCH) -> Tally:
    """Predict the pictures of files, folders, archives, tables and a list that comes in, and
    write them to `out`."""
    columns = sources.check(paths)
    progress = Progress(sources.count(paths), file=sys.stderr)
    return write_file(model, sources.pictures(paths, sys.stdin), columns, out, progress, batch_size)


def write_file(
    model: Model,
    pictures: Iterable[Picture],
    columns: Sequence[str],
    out: str,
    progress: Progress,
    batch_size: int = BATCH,
) -> Tally:
    """Predict pictures and write them to `out`; `columns` are those that come along."""

    def counted() -> Iterator[Prediction]:
        for each in model.stream(pictures, batch_size):
            progress.step(1, "predicted")
            yield each

    with opened(out) as file:
        tally = write(counted(), model.classes, columns, file, out.lower().endswith(JSON))
        if not tally.pictures:
            raise InputError("no pictures came in: - reads paths, one a line")
    return tally


def check(out: str) -> None:
    """Raise unless predictions can be written there."""
    if out != STANDARD_OUTPUT and not out.lower().endswith((".csv", JSON)):
        raise InputError(f"--out {out}: predictions are a file in .csv or {JSON}, or - for standard output")


@contextmanager
def opened(out: str) -> Iterator[TextIO]:
    """Where predictions go: standard output, or a file that is there when all went well and else
    is not."""
    if out == STANDARD_OUTPUT:
        yield sys.stdout
        return
    path = Path(out)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # Names of files need not be UTF-8. JSON too writes what cannot be encoded with backslashes.
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def write(
    said: Iterable[Prediction], classes: Sequence[str], columns: Sequence[str], file: TextIO, as_json: bool
) -> Tally:
    """Write predictions as they come; `columns` are those that come along."""
    tally, rest, first = Tally(), iter(said), True
    while rows := list(islice(rest, ROWS)):
        for row in rows:
            tally.count(row)
        if as_json:
            file.writelines(f"{json.dumps(_record(row), ensure_ascii=False)}\n" for row in rows)
        else:
            file.write(csv_of(pd.DataFrame([_cells(row, classes, columns) for row in rows], dtype=object), first))
        file.flush()
        first = False
    return tally


def _record(said: Prediction) -> dict[str, Any]:
    """A prediction as a line of JSON; what is not known is null."""
    values = _values(said)
    shares = dict(said.probabilities) or None
    return {
        "path": said.path,
        **said.columns,
        "prediction": said.label or None,
        "probabilities": shares,
        **{name: None if value == "" else value for name, value in values.items()},
    }


def _cells(said: Prediction, classes: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """A prediction as a row of a table; what is not known is empty."""
    values = {name: str(value).lower() if isinstance(value, bool) else value for name, value in _values(said).items()}
    return {
        "path": said.path,
        **{name: said.columns.get(name, "") for name in columns},
        "prediction": said.label,
        **{f"{SHARE}{label}": said.probabilities.get(label, "") for label in classes},
        **values,
    }


def _values(said: Prediction) -> dict[str, Any]:
    known = {"decision": said.decision, "unsure": said.unsure, "unlike": said.unlike, "distance": said.distance}
    return {name: "" if value is None else value for name, value in known.items()} | {"error": said.error}
