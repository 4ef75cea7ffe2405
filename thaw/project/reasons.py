"""Why phases would run: what changed since `dvc.lock` was written, or which outputs do not match
the settings."""

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
    """Ask DVC in the background; the next `changed()` uses the answer."""
    global _early
    pool = ThreadPoolExecutor(1)
    _early = _modified(), pool.submit(_ask_dvc)
    pool.shutdown(wait=False)


def changed() -> Reasons:
    """The reasons to run, by phase; a phase without an entry would have nothing to do."""
    global _early
    early, _early = _early, None
    if early:
        before, future = early
        reasons = future.result()
        if before == _modified():
            return reasons
    return _ask_dvc()


def _modified() -> list[int]:
    """When the files that DVC's answer depends on were modified."""
    names = ("dvc.lock", "dvc.yaml", "data.dvc", "params.yaml", recipe.NAME)
    files = [add.journal(), *(workspace.root() / name for name in names)]
    return [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]


def _ask_dvc() -> Reasons:
    lines: list[str] = []
    run(dvc("status", "--json"), lines.append)
    answer = next((line for line in reversed(lines) if line.startswith("{")), None)
    if answer is None:  # DVC cannot read its files and will say so again when it runs a phase
        return {"data": lines[-1:] or ["DVC did not answer"]}
    status = json.loads(answer)
    locked = _locked_params() if status else {}
    reasons = {} if (workspace.root() / "data.dvc").is_file() else {"data": ["data.dvc is gone"]}
    for stage, entries in status.items():
        has_run = stage in locked or stage.endswith(".dvc")
        reasons[stage.removesuffix(".dvc")] = (
            list(_sentences(entries, locked.get(stage, {}))) if has_run else ["dvc.lock has no run of it"]
        )
    if mixed_up := _mixed_up(locked.get("prepare", {}).get("prepare", {})):
        reasons["prepare"] = [mixed_up, *reasons.get("prepare", [])]
    return provenance.misfits() | reasons  # DVC may be wrong to have no reason


def _mixed_up(locked: dict[str, Any]) -> str:
    """A sentence if DVC's run cache restored pictures of another size, which an earlier thaw did
    not prevent."""
    file = workspace.root() / "artifacts/prepare/meta.json"
    if "size" not in locked or not file.is_file():
        return ""
    meta = json.loads(file.read_text(encoding="utf-8"))
    locked_size, actual_size = locked["size"] or meta["preprocessing"]["size"], meta["shape"]["size"]
    if locked_size == actual_size:
        return ""
    return (
        f"dvc.lock says {locked_size} pixels, but DVC restored pictures of {actual_size}, and the later phases used "
        "them"
    )


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


def _settings(locked: dict[str, Any], names: set[str]) -> Iterator[str]:
    """How the settings and the recipe under these keys differ from the last run."""
    before, now = pipeline.flat(locked), pipeline.flat(pipeline.read("params.yaml") | pipeline.read(recipe.NAME))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and any(f"{key}.".startswith(f"{name}.") for name in names):
            yield recipe.sentence(key, before.get(key), now.get(key))


def _locked_params() -> dict[str, dict[str, Any]]:
    stages = pipeline.read("dvc.lock").get("stages", {})
    locked = ((name, stage.get("params", {})) for name, stage in stages.items())
    return {name: params.get("params.yaml", {}) | params.get(recipe.NAME, {}) for name, params in locked}
