"""predict: pictures that have no prediction yet, through a model; a table for each time that
there were some.

python -m thaw.project.predict SOURCE MODEL      -> predictions/MODEL/2026-11-28T030000Z.csv

SOURCE is a folder, an archive or a table. The folder of tables bears the model's identity:
another model predicts every picture anew, and what the one before said stays beside it.
`predictions.dvc` versions them all.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.errors import InputError
from thaw.progress import Progress
from thaw.project import experiment, workspace
from thaw.project.git import dvc
from thaw.project.stage import OnLine, answer, ask, finish
from thaw.startup import search_less_for_garbage

if TYPE_CHECKING:
    pass

FOLDER = "predictions"


@dataclass(frozen=True)
class Predicted:
    """What a model said of new pictures: their number, how many of each decision, unsure, unlike
    and unreadable; and what is expected by validation, the share of each decision and of unlike
    pictures."""

    file: str
    pictures: int
    decisions: dict[str, int]
    unsure: int
    unlike: int | None
    unreadable: int
    expected: dict[str, float]
    false_alarms: float

    def __str__(self) -> str:
        return f"{self.pictures:,} new picture{'s' * (self.pictures > 1)} in {self.file}"


def run(source: str, model: str, on_line: OnLine = print) -> Predicted | None:
    """Predict what is new in a source, version the table with DVC and send it to its remote; None
    if nothing is new."""
    found: dict[str, Any] | None = ask("predict", "thaw.project.predict", source, model, on_line=on_line)
    if not found:
        return None
    finish("pin", dvc("add", "--quiet", FOLDER), on_line)
    if experiment.has_remote():
        finish("push", dvc("push", "--quiet", f"{FOLDER}.dvc"), on_line)
    return Predicted(**found)


def predict(source: str, name: str) -> Predicted | None:
    """The child process: predict what is new, and write the table."""
    from thaw.model import predictions, sources
    from thaw.project import models

    # A folder may be empty: nothing has arrived.
    columns = [] if Path(source).is_dir() else sources.check([source])
    model = models.load(name)
    folder = workspace.ROOT / FOLDER / model.about.identity[:12]
    known = _paths_in(folder)
    new = (picture for picture in sources.pictures([source]) if str(picture.path) not in known)
    first = next(new, None)
    if first is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.csv"
    tally = predictions.write_file(model, chain([first], new), columns, str(file), Progress(None))
    meta = model.about.meta
    return Predicted(
        file=file.relative_to(workspace.ROOT).as_posix(),
        pictures=tally.pictures,
        decisions=dict(tally.decisions),
        unsure=tally.unsure,
        unlike=tally.unlike if model.neighbours else None,
        unreadable=tally.unreadable,
        expected=meta["results"]["finetuned"].get("decisions_on_val", {}),
        false_alarms=(meta["unlike"] or {}).get("false_alarms", 0.0),
    )


def _paths_in(folder: Path) -> set[str]:
    """The pictures that the tables in a folder name."""

    def paths(table: Path) -> Iterator[str]:
        with table.open(encoding="utf-8", newline="") as opened:
            yield from (row["path"] for row in csv.DictReader(opened))

    return set(chain.from_iterable(map(paths, sorted(folder.glob("*.csv")))))


if __name__ == "__main__":
    search_less_for_garbage()
    try:
        found = predict(sys.argv[1], sys.argv[2])
        answer(asdict(found) if found else None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
