"""States of DVC's own files that would stop every command until somebody mends them by hand.

A kill or a power cut leaves an empty or half written dvc.lock or rwlock, an entry in rwlock whose process is gone while
another one has its number, or a cached file of zero bytes that DVC calls up to date. Each is mended only where it is
proven broken, and as much of it is kept as is whole: what is valid does not run again.
"""

import configparser
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from thaw.project import provenance, workspace
from thaw.project.journal import replace

EMPTY = hashlib.md5(b"").hexdigest()
STAGE = re.compile(r"^ {2}\S", re.MULTILINE)  # where dvc.lock tells of another stage


class Fault(NamedTuple):
    """Something that is broken, as a sentence that says what becomes of it, and how that is done."""

    sentence: str
    mend: Callable[[], None]


def faults() -> Iterator[Fault]:
    """What is broken now; nothing is changed by looking."""
    yield from _lock_file()
    yield from _rwlock()
    yield from _cache()


# ------------------------------------------------------------------------------------------------------- dvc.lock


def _lock_file() -> Iterator[Fault]:
    file = workspace.ROOT / "dvc.lock"
    if not file.is_file():
        return
    text = file.read_bytes().decode(errors="replace")
    if _stages(text) is not None:
        return
    text = text.partition("\0")[0]  # what a file system gives for bytes that never came
    starts = [found.start() for found in STAGE.finditer(text)]
    blocks = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    head = "schema: '2.0'\nstages:\n"
    whole = [block for block in blocks if _stages(head + block)]
    names = [block.strip().partition(":")[0] for block in whole]
    kept = f"what it says of {', '.join(names)} is kept" if names else "it says nothing of any phase"
    yield Fault(
        f"dvc.lock is empty or half written: {kept}, the other phases come back from DVC's cache",
        partial(_mend_lock_file, file, head + "".join(whole) if whole else ""),
    )


def _stages(text: str) -> dict[str, Any] | None:
    """The stages of a dvc.lock; None where DVC cannot read it."""
    try:
        values = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        return None
    stages = values.get("stages", {}) if isinstance(values, dict) else None
    good = isinstance(stages, dict) and all(map(_is_whole, stages.values()))
    return stages if good else None


def _is_whole(stage: Any) -> bool:
    """Whether DVC can read what dvc.lock says of a stage."""
    if not isinstance(stage, dict) or "cmd" not in stage or not isinstance(stage.get("params", {}), dict):
        return False
    entries = [stage.get("deps", []), stage.get("outs", [])]
    return all(
        isinstance(listed, list) and all(isinstance(entry, dict) and "path" in entry for entry in listed)
        for listed in entries
    )


def _mend_lock_file(file: Path, whole: str) -> None:
    aside = workspace.ROOT / ".dvc" / "tmp" / "thaw" / "dvc.lock.broken"
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, aside)
    if whole:
        replace(file, whole.encode())
    else:
        file.unlink()


# --------------------------------------------------------------------------------------------------------- rwlock


def _rwlock() -> Iterator[Fault]:
    file = workspace.ROOT / ".dvc" / "tmp" / "rwlock"
    if not file.is_file():
        return
    entries = _entries(file)
    if entries is None:
        yield Fault(".dvc/tmp/rwlock is empty or half written: it is made anew", partial(_mend_rwlock, file))
    elif gone := _gone(entries, file.stat().st_mtime):
        numbers = ", ".join(sorted({str(entry["pid"]) for entry in gone}))
        yield Fault(
            f".dvc/tmp/rwlock names process {numbers}, which is gone and whose number another one has: it is let go",
            partial(_mend_rwlock, file),
        )


def _entries(file: Path) -> dict[str, dict[str, Any]] | None:
    """Who reads and who writes which paths; None where DVC cannot read it."""
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        return None
    if not isinstance(values, dict) or not all(isinstance(values.get(mode, {}), dict) for mode in ("read", "write")):
        return None
    return values


def _gone(entries: dict[str, dict[str, Any]], written: float) -> list[dict[str, Any]]:
    """The entries whose process is proven to be another one than that which made them, before `written`."""
    readers = [entry for listed in entries.get("read", {}).values() for entry in listed]
    every = [*readers, *entries.get("write", {}).values()]
    return [entry for entry in every if _is_another(entry, written)]


def _is_another(entry: dict[str, Any], written: float) -> bool:
    """Whether the process with the number of an entry began after the entry was written, or runs something else.

    Where no process has the number, DVC itself lets the entry go.
    """
    import psutil  # type: ignore[import-untyped]

    try:
        process = psutil.Process(entry["pid"])
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > written + 1:
            return True
        arguments = str(entry["cmd"]).split()[1:]
        return process.cmdline()[-len(arguments) :] != arguments if arguments else False
    except psutil.Error:
        return False


def _mend_rwlock(file: Path) -> None:
    """Take out what is broken, while no DVC reads or writes the file."""
    import zc.lockfile  # type: ignore[import-untyped]

    with suppress(zc.lockfile.LockError), _guard(file.with_name("rwlock.lock")):
        entries = _entries(file)
        if entries is None:
            file.unlink()
            return
        gone = _gone(entries, file.stat().st_mtime)
        read = {path: [one for one in listed if one not in gone] for path, listed in entries.get("read", {}).items()}
        write = {path: one for path, one in entries.get("write", {}).items() if one not in gone}
        left = {"read": {path: listed for path, listed in read.items() if listed}, "write": write}
        replace(file, json.dumps(left).encode())


@contextmanager
def _guard(file: Path) -> Iterator[None]:
    """What DVC holds while it looks into its rwlock."""
    import zc.lockfile

    guard = zc.lockfile.LockFile(str(file))
    try:
        yield
    finally:
        guard.close()


# ---------------------------------------------------------------------------------------------------------- cache


def _cache() -> Iterator[Fault]:
    """Cached files of zero bytes that dvc.lock or data.dvc name; made anew where the workspace has what they held."""
    cache = _cache_folder()
    for path, digest in _pinned():
        file = _place(cache, digest)
        if _is_emptied(file, digest):
            yield _emptied(file, digest, path)
        elif digest.endswith(".dir"):
            for member in _members(file):
                inner = _place(cache, member["md5"])
                if _is_emptied(inner, member["md5"]):
                    yield _emptied(inner, member["md5"], f"{path}/{member['relpath']}")


def _cache_folder() -> Path:
    config = configparser.ConfigParser()
    config.read([workspace.ROOT / ".dvc" / name for name in ("config", "config.local")])
    return workspace.ROOT / ".dvc" / config.get("cache", "dir", fallback="cache")


def _pinned() -> Iterator[tuple[str, str]]:
    """Path and hash of everything that dvc.lock and data.dvc name."""
    for name in ("dvc.lock", "data.dvc"):
        with suppress(OSError, YAMLError, ValueError, AttributeError):
            values = YAML(typ="safe").load(workspace.ROOT / name)
            for stage in values.get("stages", {"": values}).values():
                yield from ((out["path"], out["md5"]) for out in stage.get("outs", []) if out.get("md5"))


def _place(cache: Path, digest: str) -> Path:
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def _is_emptied(file: Path, digest: str) -> bool:
    """Whether a cached file has lost all its bytes, which no content but nothing has."""
    try:
        return digest != EMPTY and file.stat().st_size == 0
    except OSError:
        return False


def _members(file: Path) -> list[dict[str, str]]:
    try:
        listed: list[dict[str, str]] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return []
    return listed


def _emptied(file: Path, digest: str, path: str) -> Fault:
    content = _content(path, digest)
    lost = "`dvc fetch` brings it where a remote has it, else what makes it runs again"
    becomes = "it is copied back from there" if content is not None else lost
    return Fault(f"DVC's cache has lost the content of {path}: {becomes}", partial(_refill, file, content))


def _content(path: str, digest: str) -> bytes | Path | None:
    """What a cached file has to hold, where the workspace has it."""
    place = workspace.ROOT / path
    if provenance.hash_at(place) != digest:
        return None
    return provenance.listing(place) if digest.endswith(".dir") else place


def _refill(file: Path, content: bytes | Path | None) -> None:
    file.chmod(0o644)
    file.unlink()
    if content is None:
        return
    replace(file, content if isinstance(content, bytes) else content.read_bytes())
    file.chmod(0o444)
