"""Saved states of trainings; each stays until dvc.lock has the result.

A finished phase marks its state with the hash of its output. If DVC fails to write dvc.lock after
that (a full disk, a kill), it runs the phase again: with the state there is nothing left to train.
"""

import json
from contextlib import suppress
from pathlib import Path

from thaw.project import pipeline, provenance, workspace

DONE = ".done"


def finished(state: Path, made: str) -> None:
    """Mark the state of a finished training; `made` is one of its outputs."""
    with suppress(OSError):  # a full disk: the state stays
        if state.is_file():
            state.with_suffix(DONE).write_text(json.dumps({made: provenance.hash_of(made)}), encoding="utf-8")


def tidy() -> None:
    """Remove the states of trainings whose results are in dvc.lock."""
    marks = list(workspace.scratch().glob(f"*{DONE}"))
    if not marks:
        return
    stages = pipeline.read("dvc.lock").get("stages", {}).values()
    locked = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
    for mark in marks:
        with suppress(OSError, ValueError):
            outputs = json.loads(mark.read_text(encoding="utf-8"))
            if all(digest and locked.get(path) == digest for path, digest in outputs.items()):
                mark.with_suffix(".pt").unlink(missing_ok=True)
                mark.unlink()
