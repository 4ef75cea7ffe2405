"""What every phase shares: one way to start, to fail and to write."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks import settings
from tasks.settings import Settings
from tasks.workspace import ARTIFACTS
from thaw.errors import InputError


def start(phase: Callable[[Settings], None]) -> None:
    """Run a phase as the command that DVC calls: a user's mistake is one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that `outputs` tidies up
    try:
        phase(settings.read())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


@contextmanager
def outputs(target: Path) -> Iterator[Path]:
    """A folder to write into; what is in it moves to `target` when all went well, and else is gone."""
    partial = ARTIFACTS / f".{target.name}.partial"
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
    """Write values so that people can read them and equal values make equal bytes."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
