"""What a contestant is told, and how it tells what it took. Light on purpose: importing it costs nothing.

A contestant is a process of its own, `python -m benchmarks.peers.NAME CONTEST`, with the contest as JSON.
"""

import csv
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BATCH_SIZE = 32
WORKERS = 2
LAST_BLOCKS = 4


@dataclass(frozen=True)
class Contest:
    """One run of one contestant."""

    workspace: str  # holds data/ and artifacts/prepare/manifest.csv, the split that all share
    out: str  # the folder for what this run leaves
    size: int
    seed: int
    head_epochs: int
    epochs: int
    before: str | None = None  # `out` of another run: only phase 2 of the last blocks, on top of its phase 1


def given() -> Contest:
    """The contest on the command line."""
    return Contest(**json.loads(sys.argv[1]))


def tell(what: str, value: float) -> None:
    """Print one line that the runner reads."""
    print(json.dumps({"what": what, "value": value}), flush=True)


def laps(contest: Contest) -> Callable[[], None]:
    """Begin to time; the result is called at the end of each epoch, with its validation, of both phases."""
    left = [0 if contest.before else contest.head_epochs]
    since = [time.perf_counter()]

    def lap() -> None:
        now = time.perf_counter()
        tell("head epoch" if left[0] > 0 else "unfreeze epoch", now - since[0])
        left[0] -= 1
        since[0] = now

    return lap


def write_predictions(contest: Contest, paths: list[str], probabilities: list[list[float]]) -> None:
    """Keep the class probabilities of the test pictures, classes in the order of `meta.json`."""
    with Path(contest.out, "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([path, *found] for path, found in zip(paths, probabilities, strict=True))
