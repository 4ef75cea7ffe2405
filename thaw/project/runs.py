"""The log of runs: when each began and ended in this workspace, and how. No server is needed for
it.

A line of JSON when a run begins and one when it ends, in `.prefect/runs.jsonl`. A run without an
end whose process is gone was killed.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from thaw.project import lock, workspace
from thaw.project.journal import replace

MOST = 2000  # lines; of more than that the older half goes
RUNNING, KILLED, MISSED = "Running", "Killed", "Did not run"
GOOD = ("Completed", "Cached", RUNNING)  # Cached: a prediction without new pictures
RETRAIN, PREDICT = "retrain", "predict"  # the flows whose runs are logged


@dataclass(frozen=True)
class Run:
    """A run: of which schedule and flow, when it was due and began and ended, and how."""

    name: str
    schedule: str | None
    recorded: bool
    due: datetime
    began: datetime | None
    ended: datetime | None
    outcome: str
    message: str
    flow: str = RETRAIN


@contextmanager
def noted(number: str, **about: Any) -> Iterator[Callable[[str, str], None]]:
    """Note that a run begins, and how it ends: as the block says, or by what it raises."""
    import psutil  # type: ignore[import-untyped]

    process = {"pid": os.getpid(), "since": psutil.Process().create_time()}
    _append({"id": number, "began": _now(), "process": process} | about)
    end: dict[str, str] = {}
    try:
        yield lambda outcome, message: end.update(outcome=outcome, message=message)
    except BaseException as error:
        failed = isinstance(error, Exception)
        end.update(outcome="Failed", message=str(error)) if failed else end.update(outcome="Cancelled", message="")
        raise
    finally:
        _append({"id": number, "ended": _now()} | end)


def read() -> list[Run]:
    """All runs that the log has, in the order in which they began."""
    begun = _begun()
    return [_run(values, begun) for values in begun.values()]


def going_on() -> set[str]:
    """The numbers of the runs that have begun and not ended, and whose processes live."""
    begun = _begun()
    return {number for number, values in begun.items() if _run(values, begun).outcome == RUNNING}


def _begun() -> dict[str, dict[str, Any]]:
    """What was noted of each run, by its number."""
    by_id: dict[str, dict[str, Any]] = {}
    for line in _file().read_text(encoding="utf-8").splitlines() if _file().is_file() else []:
        with suppress(ValueError):  # half a line, of a full disk
            values = json.loads(line)
            by_id.setdefault(values["id"], {}).update(values)
    return {number: values for number, values in by_id.items() if "began" in values}


def _run(values: dict[str, Any], begun: dict[str, dict[str, Any]]) -> Run:
    began = datetime.fromisoformat(values["began"])
    ended, flow = values.get("ended"), values.get("flow", RETRAIN)
    outcome = values.get("outcome") or (RUNNING if _goes_on(values, begun) else KILLED)
    due = values.get("due")
    return Run(
        name=values.get("name", ""),
        schedule=values.get("schedule"),
        recorded=values.get("recorded", False),
        due=datetime.fromisoformat(due) if due else began,
        began=began,
        ended=datetime.fromisoformat(ended) if ended else None,
        outcome=outcome,
        message=values.get("message", ""),
        flow=flow,
    )


def _goes_on(values: dict[str, Any], begun: dict[str, dict[str, Any]]) -> bool:
    """Whether the process of a run lives, or holds the workspace or waits for it in a container.

    Processes of a container are not seen. A run that began before the one that holds the workspace
    does neither.
    """
    import psutil

    process = values["process"]
    with suppress(psutil.Error):
        if abs(psutil.Process(process["pid"]).create_time() - process["since"]) < 1:
            return True
    holder = lock.holder(lock.PREDICTION if values.get("flow") == PREDICT else lock.RETRAINING)
    held_by = [run for run in begun.values() if lock.note(run.get("name", ""), run["process"]["pid"]) == holder]
    return holder is not None and all(run["began"] <= values["began"] for run in held_by)


def _append(values: dict[str, Any]) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as log:
        log.seek(-min(1, log.seek(0, 2)), 2)
        half = log.read() not in (b"", b"\n")  # a line, of a full disk or a power cut
        log.write(b"\n" * half + json.dumps(values).encode() + b"\n")
    lines = file.read_bytes().splitlines(keepends=True)
    if len(lines) > MOST:
        replace(file, b"".join(lines[-MOST // 2 :]))


def _now() -> str:
    return datetime.now().astimezone().isoformat()


def _file() -> Path:
    return workspace.root() / ".prefect" / "runs.jsonl"
