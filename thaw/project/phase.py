"""What all phases share: how they start, fail and write."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thaw.errors import InputError
from thaw.learning import processes
from thaw.project import provenance, recipe, scratch, settings, workspace
from thaw.project.settings import Settings


def start(phase: Callable[[Settings], None], shared: bool = False) -> None:
    """Run a phase as the command that DVC calls: a user's mistake is one sentence and exit code 2.

    A `shared` phase can run in several processes, of which only rank 0 prints.
    """
    # so that `outputs` tidies up
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        recipe.require_same()  # another thaw knows other settings
        config = settings.read()
        count = config.resources.processes if shared else 1
        if count > (cores := os.cpu_count() or 1):
            raise InputError(f"resources.processes is {count}, but this machine has {cores} cores: use at most {cores}")
        if count > 1 and processes.world_size() == 1:
            if code := processes.start(count, [sys.executable, "-m", f"tasks.{phase.__name__}"]):
                sys.exit(code)
            return
        if processes.world_size() > 1 and not shared:
            raise InputError(f"{phase.__name__} runs in one process: start it without torchrun")
        if not processes.first():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (to the end of the process)
        record = provenance.begin(phase.__name__) if processes.first() else None
        if processes.first():
            scratch.tidy()
        phase(config)
        if record:
            provenance.write(phase.__name__, record)
        processes.leave()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    finally:
        # another rank's failure may end this one, but not while Python exits
        if processes.world_size() > 1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def outputs(phase: str) -> Iterator[Path]:
    """A folder to write into. Its content becomes the phase's outputs at the end, or is deleted
    after an error.

    Rank 0 makes the folder and moves its content; the other ranks only get its path.
    """
    target, partial = workspace.artifacts(phase), workspace.artifacts(f".{phase}.partial")
    if not processes.first():
        yield partial
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        target.mkdir(parents=True, exist_ok=True)
        for entry in sorted(partial.iterdir()):
            if (target / entry.name).is_dir():
                shutil.rmtree(target / entry.name)
            entry.replace(target / entry.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path) -> Any:
    """The values in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Write values in a readable form; equal values give equal bytes."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
