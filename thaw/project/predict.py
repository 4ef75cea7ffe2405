"""predict: run pictures without a prediction through a model, and write a table of the new ones.

python -m thaw.project.predict SOURCE MODEL      -> predictions/MODEL/2026-11-28T030000Z.csv

SOURCE is a folder, an archive or a table. The folder of the tables is named by the model's
identity: another model predicts every picture anew, and the old tables stay. `predictions.dvc`
versions them all.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from thaw.errors import InputError
from thaw.progress import Progress
from thaw.project import experiment, workspace
from thaw.project.git import dvc
from thaw.project.stage import OnLine, answer, ask, finish
from thaw.startup import search_less_for_garbage

FOLDER = "predictions"


@dataclass(frozen=True)
class Predicted:
    """Predictions of new pictures in sum, and what to expect by validation.

    `expected` is the share of each decision there, `false_alarms` that of unlike pictures.
    """

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
    """Predict what is new in a source, version the table with DVC and push it; None if nothing is
    new."""
    predicted: dict[str, Any] | None = ask("predict", "thaw.project.predict", source, model, on_line=on_line)
    if not predicted:
        return None
    finish("pin", dvc("add", "--quiet", FOLDER), on_line)
    if experiment.has_remote():
        finish("push", dvc("push", "--quiet", f"{FOLDER}.dvc"), on_line)
    return Predicted(**predicted)


def predict(source: str, name: str) -> Predicted | None:
    """Predict what is new, and write the table; runs in a child process."""
    from thaw.model import predictions, sources
    from thaw.project import models

    # A folder may be empty, so only other sources are checked.
    columns = [] if Path(source).is_dir() else sources.check([source])
    model = models.load(name)
    folder = workspace.root() / FOLDER / model.about.identity[:12]
    predicted = _paths_in(folder)
    new = (picture for picture in sources.pictures([source]) if str(picture.path) not in predicted)
    first = next(new, None)
    if first is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.csv"
    tally = predictions.write_file(model, chain([first], new), columns, str(file), Progress(None))
    meta = model.about.meta
    return Predicted(
        file=file.relative_to(workspace.root()).as_posix(),
        pictures=tally.pictures,
        decisions=dict(tally.decisions),
        unsure=tally.unsure,
        unlike=tally.unlike if model.neighbours else None,
        unreadable=tally.unreadable,
        expected=meta["results"]["finetuned"].get("decisions_on_val", {}),
        false_alarms=(meta["unlike"] or {}).get("false_alarms", 0.0),
    )


def _paths_in(folder: Path) -> set[str]:
    """The paths of pictures in all tables of a folder."""

    def paths(table: Path) -> Iterator[str]:
        with table.open(encoding="utf-8", newline="") as file:
            yield from (row["path"] for row in csv.DictReader(file))

    return set(chain.from_iterable(map(paths, sorted(folder.glob("*.csv")))))


if __name__ == "__main__":
    search_less_for_garbage()
    try:
        result = predict(sys.argv[1], sys.argv[2])
        answer(asdict(result) if result else None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
