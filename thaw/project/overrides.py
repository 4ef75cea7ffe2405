"""Overrides of settings, such as `unfreeze.ratio=30`: checked together, written, and undone after
a run.

A command at a terminal writes them into params.yaml for good. Those of a scheduled run are in
params.yaml, where DVC reads them, only until the run ends. A journal beside DVC's temporary files
has the earlier values. After a kill the journal is still there, and the next command undoes the
overrides (`undo`).
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
from thaw.project import settings, start, workspace
from thaw.project.journal import Journal, replace
from thaw.project.settings import Settings

JOURNAL = Journal("overrides")
ABOUT_THE_NETWORK = ("backbone", "prepare.resolution", "unfreeze.blocks")


def settings_with(changes: list[str]) -> Settings:
    """The settings with the changes; raises at the first mistake, and writes nothing."""
    return _changed(changes)[0]


def write(changes: list[str]) -> None:
    """Write the changes into params.yaml for good, all of them or none."""
    if changes:
        replace(_file(), _changed(changes)[1])


@contextmanager
def for_this_run(changes: list[str]) -> Iterator[None]:
    """Keep the changes in params.yaml while the block runs. The caller must hold the workspace."""
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
        with suppress(InputError):  # params.yaml is half edited: the next command undoes this
            undo()


def undo() -> None:
    """Undo the changes of a run that has ended. Edits that the user made meanwhile stay; if
    params.yaml is not valid YAML just now, raise and do nothing. The caller must hold the
    workspace.
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
    """The settings with the changes, checked, and the new content of params.yaml."""
    if not changes:
        return settings.read(_file()), b""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "params.yaml"
        if _file().exists():
            shutil.copy(_file(), trial)
        settings.override(changes, trial)
        result = settings.read(trial)
        if any(change.strip().startswith(ABOUT_THE_NETWORK) for change in changes):
            named = result.unfreeze.blocks
            blocks = tuple(named) if isinstance(named, list) else named
            _check_network(result.backbone.name, result.backbone.weights, result.prepare.resolution, blocks)
        return result, trial.read_bytes()


@cache
def _check_network(name: str, weights: str, resolution: int | None, blocks: str | int | tuple[str, ...]) -> None:
    """Raise unless the backbone exists with these weights, size and blocks; imports torch, which
    takes seconds."""
    import torch
    from torchvision.models import get_model_weights

    from thaw.learning import backbones, freezing

    expected = backbones.preprocessing_of(name, weights).size
    size = resolution or expected
    registered = weights in get_model_weights(name).__members__
    if not (registered or backbones.RANDOM.fullmatch(weights) or start.is_model(weights)):
        file = workspace.root() / weights
        # raises if the file is wrong
        backbones.create(name, str(file) if file.is_file() else weights, 2, size)
    backbones.check_size(name, weights, size)
    # RegNet cannot be built on meta
    with suppress(NotImplementedError), torch.device("meta"):
        all_blocks = backbones.blocks(backbones.create(name, "random", 2, size).backbone)
        freezing.select(all_blocks, list(blocks) if isinstance(blocks, tuple) else blocks)


def _back(before: Any, during: Any, now: Any, prefix: str = "") -> list[str]:
    """The changes that restore each value of `before` that was overridden and not edited since."""
    changes = []
    for key in during:
        old, new = before.get(key), during[key]
        if old == new or key not in now:
            continue
        if all(isinstance(value, dict) for value in (old, new, now[key])):
            changes += _back(old, new, now[key], f"{prefix}{key}.")
        elif now[key] == new:
            changes.append(f"{prefix}{key}={json.dumps(old)}")
    return changes


def _file() -> Path:
    return workspace.root() / "params.yaml"
