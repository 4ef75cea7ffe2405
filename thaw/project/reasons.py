"""Why phases would run: what changed since `dvc.lock` was written, or what does not fit what is asked for."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from thaw.project import add, pipeline, provenance, recipe, workspace
from thaw.project.git import dvc
from thaw.project.stage import run

Reasons = dict[str, list[str]]
_early: tuple[list[int], "Future[Reasons]"] | None = None
WORDS = {"modified": "changed", "deleted": "is gone", "new": "is new", "not in cache": "is not in the cache"}


def ask_early() -> None:
    """Have DVC asked while the caller does something else; the next `changed()` has the answer."""
    global _early
    pool = ThreadPoolExecutor(1)
    _early = _written(), pool.submit(_asked)
    pool.shutdown(wait=False)


def changed() -> Reasons:
    """What has changed, by phase; one that is not in it would find nothing to do."""
    global _early
    early, _early = _early, None
    if early:
        before, answer = early
        found = answer.result()
        if before == _written():
            return found
    return _asked()


def _written() -> list[int]:
    """When what DVC's answer follows from was written by us: by a run, with new settings, or by an add undone."""
    names = ("dvc.lock", "dvc.yaml", "data.dvc", "params.yaml", recipe.NAME)
    files = [add.journal(), *(workspace.ROOT / name for name in names)]
    return [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]


def _asked() -> Reasons:
    lines: list[str] = []
    run(dvc("status", "--json"), lines.append)
    found = next((line for line in reversed(lines) if line.startswith("{")), None)
    if found is None:  # dvc cannot read its files and will say so again when it is asked to run a phase
        return {"data": lines[-1:]}
    status = json.loads(found)
    locked = _locked_params() if status else {}
    reasons = {} if (workspace.ROOT / "data.dvc").is_file() else {"data": ["data.dvc is gone"]}
    for stage, entries in status.items():
        known = stage in locked or stage.endswith(".dvc")
        reasons[stage.removesuffix(".dvc")] = (
            list(_sentences(entries, locked.get(stage, {}))) if known else ["dvc.lock has no run of it"]
        )
    if mixed_up := _mixed_up(locked.get("prepare", {}).get("prepare", {})):
        reasons["prepare"] = [mixed_up, *reasons.get("prepare", [])]
    return provenance.misfits() | reasons  # where DVC has no reason, it may be wrong


def _mixed_up(locked: dict[str, Any]) -> str:
    """What is wrong with pictures that an earlier version let DVC's run cache restore at another size."""
    file = workspace.ROOT / "artifacts/prepare/meta.json"
    if "size" not in locked or not file.is_file():
        return ""
    meta = json.loads(file.read_text(encoding="utf-8"))
    asked, made = locked["size"] or meta["preprocessing"]["size"], meta["shape"]["size"]
    if asked == made:
        return ""
    return f"dvc.lock says {asked} pixels, but DVC restored pictures of {made}, and the later phases used them"


def _sentences(entries: list[Any], locked: dict[str, Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):  # such as "changed command"
            yield entry
            continue
        for path, state in (entry.get("changed outs", {}) | entry.get("changed deps", {})).items():
            if isinstance(state, dict):
                yield from _settings(locked, set(state))
            else:
                yield f"{path} {WORDS.get(state, state)}"


def _settings(locked: dict[str, Any], keys: set[str]) -> Iterator[str]:
    """How the settings and the recipe under the keys differ from those of the last run."""
    before, now = pipeline.flat(locked), pipeline.flat(pipeline.read("params.yaml") | pipeline.read(recipe.NAME))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and any(f"{key}.".startswith(f"{each}.") for each in keys):
            yield recipe.sentence(key, before.get(key), now.get(key))


def _locked_params() -> dict[str, dict[str, Any]]:
    stages = pipeline.read("dvc.lock").get("stages", {})
    locked = ((name, stage.get("params", {})) for name, stage in stages.items())
    return {name: params.get("params.yaml", {}) | params.get(recipe.NAME, {}) for name, params in locked}
