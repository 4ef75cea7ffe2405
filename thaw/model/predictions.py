"""Predictions as rows of a table or lines of JSON, written as they come, and their tally.

path, the other columns of the input table, prediction, p_CLASS for each class, decision, unsure,
unlike, distance, error
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
ROWS = 256  # rows that are formatted at once


@dataclass
class Tally:
    """Counts over many predictions."""

    pictures: int = 0
    unreadable: int = 0
    unsure: int = 0
    unlike: int = 0
    decisions: Counter[str] = field(default_factory=Counter)

    def count(self, prediction: Prediction) -> None:
        """Count one more prediction."""
        self.pictures += 1
        if prediction.error:
            self.unreadable += 1
            return
        self.decisions[prediction.decision] += 1
        self.unsure += bool(prediction.unsure)
        self.unlike += bool(prediction.unlike)

    def __str__(self) -> str:
        decisions = [f"{count:,} {name}" for name, count in self.decisions.most_common()]
        others = {"unsure": self.unsure, "unlike": self.unlike, "unreadable": self.unreadable}
        counts = [*decisions, *(f"{count:,} {name}" for name, count in others.items() if count)]
        return f"{self.pictures:,} picture{'s' * (self.pictures != 1)}: {', '.join(counts)}"


def predict(model: Model, paths: Sequence[str], out: str, batch_size: int = BATCH) -> Tally:
    """Predict the pictures of files, folders, archives, tables and standard input; write rows to
    `out`."""
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
    """Predict pictures and write rows to `out`; `columns` are the input table's, copied to it."""

    def counted() -> Iterator[Prediction]:
        for prediction in model.stream(pictures, batch_size):
            progress.step(1, "predicted")
            yield prediction

    with opened(out) as file:
        tally = write(counted(), model.classes, columns, file, out.lower().endswith(JSON))
        if not tally.pictures:
            raise InputError("no pictures came in: - reads paths, one a line")
    return tally


def check(out: str) -> None:
    """Raise unless predictions can be written to `out`."""
    if out != STANDARD_OUTPUT and not out.lower().endswith((".csv", JSON)):
        raise InputError(f"--out {out}: predictions are a file in .csv or {JSON}, or - for standard output")


@contextmanager
def opened(out: str) -> Iterator[TextIO]:
    """Open standard output, or a file that appears only if the block succeeds."""
    if out == STANDARD_OUTPUT:
        yield sys.stdout
        return
    path = Path(out)
    partial = path.with_name(f".{path.name}.partial")
    try:
        # File names need not be UTF-8; bytes that are not become backslash escapes, as in JSON.
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)


def write(
    predictions: Iterable[Prediction], classes: Sequence[str], columns: Sequence[str], file: TextIO, as_json: bool
) -> Tally:
    """Write predictions as they come; `columns` are the input table's, copied to each row."""
    tally, rest, first = Tally(), iter(predictions), True
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


def _record(prediction: Prediction) -> dict[str, Any]:
    """A prediction as a line of JSON; missing values are null."""
    values = _values(prediction)
    return {
        "path": prediction.path,
        **prediction.columns,
        "prediction": prediction.label or None,
        "probabilities": dict(prediction.probabilities) or None,
        **{name: None if value == "" else value for name, value in values.items()},
    }


def _cells(prediction: Prediction, classes: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """A prediction as a row of a table; missing values are empty."""
    values = _values(prediction).items()
    return {
        "path": prediction.path,
        **{name: prediction.columns.get(name, "") for name in columns},
        "prediction": prediction.label,
        **{f"{SHARE}{label}": prediction.probabilities.get(label, "") for label in classes},
        **{name: str(value).lower() if isinstance(value, bool) else value for name, value in values},
    }


def _values(prediction: Prediction) -> dict[str, Any]:
    names = ("decision", "unsure", "unlike", "distance", "error")
    values = {name: getattr(prediction, name) for name in names}
    return {name: "" if value is None else value for name, value in values.items()}
