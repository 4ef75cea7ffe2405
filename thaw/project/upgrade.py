"""upgrade: update a project's files to the installed thaw (`thaw upgrade`).

Settings are merged by key: new ones are added with default and comment, values stay. All other
files are merged three ways: as the project was made (`.thaw/made`), as its owner changed them, and
as thaw has them now.
"""

import difflib
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version
from ruamel.yaml import YAML

import thaw
from thaw.errors import InputError
from thaw.project import pipeline, recipe, settings, template, workspace
from thaw.project.create import MADE, write_made
from thaw.project.journal import replace

PARAMS = "params.yaml"
BY_HAND = (
    "this project has no .thaw/made, which says what its files were made from: make a new one beside it with "
    "`thaw init`, and bring over params.yaml, data.dvc, data/, and .dvc/config"
)


@dataclass
class Plan:
    """What an upgrade changes in a project's files."""

    texts: dict[str, str] = field(default_factory=dict)  # new texts of files that change, by path
    removed: list[str] = field(default_factory=list)  # unchanged files that thaw no longer has
    conflicts: list[str] = field(default_factory=list)


def upgrade(apply: bool) -> Iterator[str]:
    """Show line by line what an upgrade changes, and with `apply` do it."""
    _check()
    new = template.texts(demo=False)
    new.pop(recipe.NAME)
    plan = _plan(new)
    before = pipeline.read(recipe.NAME)
    changed = recipe.changes()
    versions = {key: change for key, change in changed.items() if not key.startswith("code.")}
    if not (plan.texts or plan.removed or changed) and before.get("thaw") == thaw.__version__:
        yield f"nothing to do: this project is up to date with thaw {thaw.__version__}"
        return
    yield f"from thaw {before.get('thaw')} to {thaw.__version__}"
    for path, text in plan.texts.items():
        yield from _diff(path, _read(path), text)
    yield from (f"{path} is removed: thaw no longer has it" for path in plan.removed)
    yield from (recipe.sentence(key, *change) for key, change in versions.items())
    again = _phases_that_run_again(plan, changed.keys())
    yield f"run again: {', '.join(again) if again else 'no phase'}"
    yield from (f"conflict in {path}: mend it between <<<<<<< and >>>>>>>" for path in plan.conflicts)
    if not apply:
        yield "nothing is changed yet; `thaw upgrade --apply` does it"
        return
    for path, text in plan.texts.items():
        replace(workspace.root() / path, text.encode())
    for path in plan.removed:
        (workspace.root() / path).unlink()
    write_made(workspace.root(), new)
    if plan.conflicts:
        raise InputError(
            f"{', '.join(plan.conflicts)}: both you and thaw changed the same lines; mend what stands between <<<<<<< "
            "and >>>>>>>, then `thaw upgrade --apply` again"
        )
    recipe.write({"thaw": thaw.__version__} | recipe.current())
    yield "done: look at it with `git diff`, keep it with `git commit`"


def _check() -> None:
    """Raise if there is nothing to upgrade."""
    if recipe.in_own_repository():
        raise InputError("this is thaw's own repository: git brings its changes, and `thaw run` its recipe up to date")
    if not (workspace.root() / MADE).is_dir():
        raise InputError(BY_HAND)
    made_with = str(pipeline.read(recipe.NAME).get("thaw"))
    try:
        newer = Version(made_with) > Version(thaw.__version__)
    except InvalidVersion:
        sentence = f"{recipe.NAME} says thaw: {made_with}, which is not a version; write the one it was made with"
        raise InputError(sentence) from None
    if newer:
        raise InputError(
            f"this project was made with thaw {made_with}, which is newer than {thaw.__version__} that is installed: "
            f"install thaw-vision {made_with} or a later one"
        )


def _plan(new: dict[str, str]) -> Plan:
    plan = Plan()
    old = {
        path.relative_to(workspace.root() / MADE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((workspace.root() / MADE).rglob("*"))
        if path.is_file()
    }
    old.pop(recipe.NAME, None)  # which projects made by the first versions have there
    for path, text in new.items():
        exists = (workspace.root() / path).is_file()
        if path == PARAMS and exists:
            merged, conflict = merge_settings(_read(path), old.get(path, ""), text), False
        elif not exists:
            if path in old:  # its owner took it away
                continue
            merged, conflict = text, False
        else:
            merged, conflict = merge(_read(path), old.get(path, ""), text)
        if not exists or merged != _read(path):
            plan.texts[path] = merged
        if conflict:
            plan.conflicts.append(path)
    plan.removed = [path for path in old if path not in new and path != template.DEMO and _read(path) == old[path]]
    return plan


def merge(ours: str, base: str, theirs: str) -> tuple[str, bool]:
    """A file merged three ways, with conflicts marked as git does, and whether there are any."""
    if ours in (base, theirs):
        return theirs, False
    if base == theirs:
        return ours, False
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("ours", "base", "theirs")]
        for file, text in zip(files, (ours, base, theirs), strict=True):
            file.write_text(text, encoding="utf-8")
        labels = [part for name in ("yours", "as it was made", f"thaw {thaw.__version__}") for part in ("-L", name)]
        merged = subprocess.run(["git", "merge-file", "-p", *labels, *files], text=True, capture_output=True)
    if not 0 <= merged.returncode < 128:
        raise InputError(f"git cannot merge: {merged.stderr.strip()}")
    return merged.stdout, merged.returncode > 0


def merge_settings(ours: str, base: str, theirs: str) -> str:
    """params.yaml with the keys of the new one; values, comments and the project's own sections
    stay."""
    lines = ours.splitlines()
    for old, new in settings.RENAMED.items():
        lines = _rename(lines, old, new)
    dropped = _keys(base) - _keys(theirs)
    for key in sorted(dropped & _keys("\n".join(lines))):
        start, end = _places(lines)[key]
        del lines[start:end]
    source = theirs.splitlines()
    previous: dict[str, str] = {}  # the last key so far, of each section and of the file
    for key, (start, end) in _places(source).items():
        section, places = key.rpartition(".")[0], _places(lines)
        if key not in places and (not section or section in places):
            before = previous.get(section)
            after = places[before][1] if before in places else places[section][0] + 1 if section else 0
            lines[after:after] = ["", *source[start:end]] if before and not section else source[start:end]
        previous[section] = key
    return "\n".join(lines) + "\n"


def _keys(text: str) -> set[str]:
    values = YAML(typ="safe").load(text) or {}
    inner = {f"{name}.{key}" for name, section in values.items() if isinstance(section, dict) for key in section}
    return set(values) | inner


def _places(lines: list[str]) -> dict[str, tuple[int, int]]:
    """For each key of a params.yaml, in order, its first line and the line after its last; a
    comment on lines of its own belongs to the key after it."""
    values: Any = YAML().load("\n".join(lines)) or {}
    starts: list[tuple[int, str]] = []
    for name, section in values.items():
        starts.append((values.lc.key(name)[0], str(name)))
        if hasattr(section, "lc") and section.lc.line != values.lc.key(name)[0]:
            starts += [(section.lc.key(key)[0], f"{name}.{key}") for key in section]
    starts.sort()
    places = {}
    for number, (start, key) in enumerate(starts):
        inner = [line for line, other in starts[number + 1 :] if other.startswith(f"{key}.")]
        following = [line for line, other in starts[number + 1 :] if not other.startswith(f"{key}.")]
        end = following[0] if following else len(lines)
        while end - 1 > max([start, *inner]) and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1
        places[key] = (start, end)
    return places


def _rename(lines: list[str], old: str, new: str) -> list[str]:
    places = _places(lines)
    if old not in places or new in places:
        return lines
    start, _ = places[old]
    names = (old.rpartition(".")[2], new.rpartition(".")[2])
    return [*lines[:start], lines[start].replace(*names, 1), *lines[start + 1 :]]


def _phases_that_run_again(plan: Plan, changed: Collection[str]) -> list[str]:
    """The phases whose recipe, file, stage or settings change, and the phases that use their
    outputs."""
    stages = pipeline.stages()
    yaml = YAML(typ="safe")
    try:
        after = yaml.load(plan.texts["dvc.yaml"])["stages"] if "dvc.yaml" in plan.texts else stages
    except Exception:  # lines that conflict are no YAML
        after = stages
    new_params = pipeline.flat(yaml.load(plan.texts.get(PARAMS, _read(PARAMS))))
    old_params = pipeline.flat(pipeline.read(PARAMS))
    settings_changed = {
        key for key in new_params.keys() | old_params.keys() if new_params.get(key) != old_params.get(key)
    }
    again: list[str] = []
    for phase, stage in after.items():
        names = [key for key in stage.get("params", []) if isinstance(key, str)]
        own = (
            any(key in changed for key in recipe.listed(stage))
            or f"tasks/{phase}.py" in plan.texts
            or stages.get(phase) != stage
            or any(f"{key}.".startswith(f"{name}.") for key in settings_changed for name in names)
        )
        if own or any(_reads(stage, earlier) for earlier in again):
            again.append(phase)
    return again


def _reads(stage: dict[str, Any], phase: str) -> bool:
    return any(f"{path}/".startswith(f"artifacts/{phase}/") for path in stage.get("deps", []))


def _diff(path: str, before: str, after: str) -> Iterator[str]:
    yield from difflib.unified_diff(before.splitlines(), after.splitlines(), path, path, lineterm="", n=1)


def _read(path: str) -> str:
    file = workspace.root() / path
    return file.read_text(encoding="utf-8") if file.is_file() else ""
