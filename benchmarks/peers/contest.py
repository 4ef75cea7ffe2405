"""What the bench asks of a contestant, and how a contestant answers. Cheap to import.

A contestant is a process of its own, `python -m benchmarks.peers.NAME CONTEST`, with the contest
as JSON.
"""

import csv
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

BATCH_SIZE = 32
WORKERS = 2
LAST_BLOCKS = 4
# Settings of the contestants with levers. The first are those that `benchmarks.accuracy`
# recommends.
LEVERS: dict[str, dict[str, object]] = {
    "thaw-quick": {"unfreeze.precision": "bfloat16"},
    "thaw-last-quick": {"unfreeze.draws": 4, "unfreeze.precision": "bfloat16"},
}
LEVERS["run-quick"] = LEVERS["thaw-quick"]


@dataclass(frozen=True)
class Contest:
    """One run of one contestant."""

    workspace: str  # holds data/ and artifacts/prepare/manifest.csv, the split that all share
    out: str  # the folder for the results of this run
    size: int
    seed: int
    head_epochs: int
    epochs: int
    # `out` of another run: train only phase 2 of the last blocks, from its phase 1
    before: str | None = None
    rate: float = 1.0  # of a peer: a multiple of its learning rate
    levers: dict[str, object] = field(default_factory=dict)  # of thaw: settings


def from_command_line() -> Contest:
    """The contest on the command line."""
    return Contest(**json.loads(sys.argv[1]))


def emit(name: str, value: float, at: float | None = None) -> None:
    """Print one line that the runner reads: what was measured, and when it was (now)."""
    print(json.dumps({"name": name, "value": value, "at": at or time.time()}), flush=True)


def laps(contest: Contest) -> Callable[[float], None]:
    """Start the clock; call the result with the validation accuracy at the end of each epoch."""
    remaining = [0 if contest.before else contest.head_epochs]
    start = [time.perf_counter()]

    def lap(accuracy: float) -> None:
        now = time.perf_counter()
        emit("val accuracy", accuracy)
        emit("head epoch" if remaining[0] > 0 else "unfreeze epoch", now - start[0])
        remaining[0] -= 1
        start[0] = now

    return lap


def write_predictions(contest: Contest, paths: list[str], probabilities: list[list[float]]) -> None:
    """Keep the class probabilities of the test pictures, classes in the order of `meta.json`."""
    with Path(contest.out, "predictions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([path, *shares] for path, shares in zip(paths, probabilities, strict=True))
