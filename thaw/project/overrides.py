"""Changes of settings that a run is given, such as `unfreeze.ratio=30`: checked as a whole, written, taken back.

A command at a terminal writes them into params.yaml to stay. Those of a scheduled run are its own: they stand there,
where DVC reads them, until the run has ended. A journal beside DVC's temporary files says what was there before. Where
it outlives its run, the run was killed, and whoever holds the workspace next takes the changes back (`undo`).
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from thaw.errors import InputError
from thaw.project import settings, workspace
from thaw.project.journal import Journal, replace
from thaw.project.settings import Settings

JOURNAL = Journal("overrides")
ABOUT_THE_NETWORK = ("backbone", "prepare.resolution", "unfreeze.blocks")


def settings_with(changes: list[str]) -> Settings:
    """The settings as they would be with the changes, or the first mistake in them; nothing is written."""
    return _changed(changes)[0]


def write(changes: list[str]) -> None:
    """Write the changes into params.yaml to stay, all of them or none."""
    if changes:
        replace(_file(), _changed(changes)[1])


@contextmanager
def for_this_run(changes: list[str]) -> Iterator[None]:
    """Have the changes in params.yaml for as long as the block lasts. The caller holds the workspace."""
    if not changes:
        yield
        return
    undo()
    during = _changed(changes)[1]
    JOURNAL.begin(before=_file().read_bytes().decode(), during=during.decode())
    replace(_file(), during)
    try:
        yield
    finally:
        with suppress(InputError):  # params.yaml is half edited: the next command takes the changes back
            undo()


def undo() -> None:
    """Take the changes of a run that has ended back. What the user has edited meanwhile stays, and where that is no
    YAML yet, raise and do nothing. The caller holds the workspace.
    """
    noted = JOURNAL.read()
    if noted and _file().is_file():
        before, during = noted["before"], noted["during"]
        now = _file().read_bytes().decode()
        if now == during:
            replace(_file(), before.encode())
        elif now != before:
            settings.read(_file())
            settings.override(_back(*(YAML(typ="safe").load(text) for text in (before, during, now))), _file())
    JOURNAL.end()


def _changed(changes: list[str]) -> tuple[Settings, bytes]:
    """The settings with the changes, checked, and params.yaml as it would be."""
    if not changes:
        return settings.read(_file()), b""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "params.yaml"
        if _file().exists():
            shutil.copy(_file(), trial)
        settings.override(changes, trial)
        chosen = settings.read(trial)
        if any(change.strip().startswith(ABOUT_THE_NETWORK) for change in changes):
            named = chosen.unfreeze.blocks
            blocks = tuple(named) if isinstance(named, list) else named
            _check_network(chosen.backbone.name, chosen.backbone.weights, chosen.prepare.resolution, blocks)
        return chosen, trial.read_bytes()


@cache
def _check_network(name: str, weights: str, resolution: int | None, blocks: str | int | tuple[str, ...]) -> None:
    """Raise unless there is such a backbone with such weights, size and blocks; takes the seconds that torch takes."""
    import torch
    from torchvision.models import get_model_weights

    from thaw.learning import backbones, freezing

    wanted = backbones.preprocessing_of(name, weights).size
    size = resolution or wanted
    if weights not in get_model_weights(name).__members__ and not backbones.RANDOM.fullmatch(weights):
        file = workspace.ROOT / weights
        backbones.create(name, str(file) if file.is_file() else weights, 2, size)  # reads it and says what is wrong
    backbones.check_size(name, weights, size)
    with suppress(NotImplementedError), torch.device("meta"):  # RegNet cannot be built without numbers
        known = backbones.blocks(backbones.create(name, "random", 2, size).backbone)
        freezing.select(known, list(blocks) if isinstance(blocks, tuple) else blocks)


def _back(before: Any, during: Any, now: Any, prefix: str = "") -> list[str]:
    """The changes that bring back each value of `before` that was changed and that nobody has edited since."""
    found = []
    for key in during:
        old, new = before.get(key), during[key]
        if old == new or key not in now:
            continue
        if all(isinstance(value, dict) for value in (old, new, now[key])):
            found += _back(old, new, now[key], f"{prefix}{key}.")
        elif now[key] == new:
            found.append(f"{prefix}{key}={json.dumps(old)}")
    return found


def _file() -> Path:
    return workspace.ROOT / "params.yaml"
