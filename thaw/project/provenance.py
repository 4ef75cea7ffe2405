"""provenance: a record of the settings and inputs that each phase ran with.

    artifacts/provenance/prepare.json      written by prepare; no later phase depends on it

A cache can be wrong: DVC once restored pictures of another size. So the records of outputs that
DVC calls up to date are compared with the current settings (`misfits`), and no phase starts on
outputs that do not match (`begin`).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from thaw.errors import InputError
from thaw.project import pipeline, recipe, workspace

FOLDER = "artifacts/provenance"
Record = dict[str, dict[str, Any]]


def begin(phase: str) -> Record | None:
    """The record of a phase that is about to run, for `write`; None if dvc.yaml lists no record
    for it.

    Raises if a phase before it ran with other settings or inputs than the current ones.
    """
    stages = pipeline.stages()
    recipe.check(phase)
    if not _is_recorded(phase, stages):
        return None
    differences = misfits()
    for earlier in _before(phase, stages):
        if earlier in differences:
            raise InputError(
                f"{phase} cannot use what {earlier} left: {differences[earlier][0]}; `thaw run` makes it anew, "
                f"and so does `dvc repro --force --single-item {earlier}`"
            )
    settings = _settings(stages[phase], _values())
    return {"settings": settings, "inputs": {path: hash_of(path) for path in _inputs(stages[phase])}}


def write(phase: str, record: Record) -> None:
    """Write the record of a phase whose outputs are complete."""
    file = _file(phase)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def misfits() -> dict[str, list[str]]:
    """How outputs that DVC calls up to date differ from the current settings, as sentences by
    phase; empty if none."""
    stages, values, lock = pipeline.stages(), _values(), pipeline.read("dvc.lock").get("stages", {})
    differences = {
        phase: _differences(phase, _settings(stage, values), lock.get(phase, {}).get("deps", []))
        for phase, stage in stages.items()
        if _is_recorded(phase, stages)
    }
    return {phase: sentences for phase, sentences in differences.items() if sentences}


def _differences(phase: str, now: dict[str, Any], locked: list[dict[str, Any]]) -> list[str]:
    """How the record of a phase differs from the current settings and the inputs in dvc.lock."""
    file = _file(phase)
    if not file.is_file():
        return [f"no {FOLDER}/{file.name} says what it was made with"]
    try:
        record: Record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return [f"{FOLDER}/{file.name}, which says what it was made with, is damaged"]
    before = record["settings"]
    inputs = {dep["path"]: dep.get("md5") for dep in locked}
    settings = [
        f"it was made with {key} {pipeline.setting(before.get(key))}, and {pipeline.setting(now.get(key))} is asked for"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    return settings + [
        f"it was made from another {path}"
        for path, digest in record["inputs"].items()
        if digest and inputs.get(path, digest) != digest
    ]


def _is_recorded(phase: str, stages: dict[str, Any]) -> bool:
    return f"{FOLDER}/{phase}.json" in stages.get(phase, {}).get("outs", [])


def _file(phase: str) -> Path:
    return workspace.root() / FOLDER / f"{phase}.json"


def _before(phase: str, stages: dict[str, Any]) -> list[str]:
    """The phases whose outputs a phase depends on, directly or through others, in the order of the
    pipeline."""
    needed, waiting = set(), [phase]
    while waiting:
        for path in _inputs(stages[waiting.pop()]):
            for name in stages:
                if name not in needed and (path == f"artifacts/{name}" or path.startswith(f"artifacts/{name}/")):
                    needed.add(name)
                    waiting.append(name)
    return [name for name in stages if name in needed and _is_recorded(name, stages)]


def _inputs(stage: dict[str, Any]) -> list[str]:
    """The dependencies of a stage other than code and settings."""
    return [path for path in stage["deps"] if path == "data" or path.startswith("artifacts/")]


def _values() -> dict[str, Any]:
    """All settings, and the recipe's weights and versions, by their full keys.

    Fingerprints of code are left out, so that `dvc commit` accepts a changed comment.
    """
    thaw_yaml = pipeline.read(recipe.NAME)
    return pipeline.flat(pipeline.read("params.yaml") | {key: thaw_yaml.get(key) for key in ("weights", "versions")})


def _settings(stage: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The value of every setting that a stage depends on, by its full key."""
    keys = [key for key in stage.get("params", []) if isinstance(key, str)] + recipe.listed(stage)
    return {key: value for key, value in values.items() if any(f"{key}.".startswith(f"{name}.") for name in keys)}


def hash_of(path: str) -> str | None:
    """The hash of a file or folder in dvc.lock; for the data the hash of their pin, which DVC has
    checked."""
    if path == "data":
        pinned: str | None = pipeline.read("data.dvc").get("outs", [{}])[0].get("md5")
        return pinned
    return hash_at(workspace.root() / path)


def hash_at(place: Path) -> str | None:
    """The hash by which DVC knows a file or folder."""
    if not place.is_dir():
        return _md5(place) if place.is_file() else None
    return hashlib.md5(listing(place)).hexdigest() + ".dir"


def listing(place: Path) -> bytes:
    """DVC's listing of a folder: the hash of each file."""
    files = [file for file in place.rglob("*") if file.is_file()]
    entries = [{"md5": _md5(file), "relpath": file.relative_to(place).as_posix()} for file in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return json.dumps(entries, sort_keys=True).encode()


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
