"""States of trainings, from which one that was stopped goes on; each stays until DVC has locked in what came out.

A phase that is done marks its state with the hash of what it made. DVC may still fail to write that into dvc.lock (a
full disk, a kill), and then has the phase run again: with its state there is nothing left to train.
"""

import json
from contextlib import suppress
from pathlib import Path

from thaw.project import pipeline, provenance, workspace

DONE = ".done"


def finished(state: Path, made: str) -> None:
    """Mark the state of a training whose outputs are complete; `made` is one of them."""
    with suppress(OSError):  # a full disk: the state stays
        if state.is_file():
            state.with_suffix(DONE).write_text(json.dumps({made: provenance.hash_of(made)}), encoding="utf-8")


def tidy() -> None:
    """Remove the states of trainings whose results dvc.lock has."""
    marks = list((workspace.ROOT / ".dvc" / "tmp" / "thaw").glob(f"*{DONE}"))
    if not marks:
        return
    stages = pipeline.read("dvc.lock").get("stages", {}).values()
    locked = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
    for mark in marks:
        with suppress(OSError, ValueError):
            made = json.loads(mark.read_text(encoding="utf-8"))
            if all(digest and locked.get(path) == digest for path, digest in made.items()):
                mark.with_suffix(".pt").unlink(missing_ok=True)
                mark.unlink()
