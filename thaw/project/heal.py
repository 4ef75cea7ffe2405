"""Repair states of DVC's own files that would stop every command.

A kill or a power cut can leave an empty or half-written dvc.lock or rwlock, an rwlock entry of a
dead process whose number another process has now, or a cached file of zero bytes that DVC calls up
to date. A file is repaired only if it is provably broken, and its valid parts are kept, so valid
stages do not run again.
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
STAGE = re.compile(r"^ {2}\S", re.MULTILINE)  # the start of a stage in dvc.lock


class Fault(NamedTuple):
    """Something broken: a sentence that says what it is and what is done about it, and the
    function that does it."""

    sentence: str
    mend: Callable[[], None]


def faults() -> Iterator[Fault]:
    """Everything that is broken now; changes nothing."""
    yield from _lock_file()
    yield from _rwlock()
    yield from _cache()


# ----------------------------------------------------------------------------------------- dvc.lock


def _lock_file() -> Iterator[Fault]:
    file = workspace.root() / "dvc.lock"
    if not file.is_file():
        return
    text = file.read_bytes().decode(errors="replace")
    if _stages(text) is not None:
        return
    text = text.partition("\0")[0]  # after a crash a file system may fill lost bytes with zeros
    starts = [match.start() for match in STAGE.finditer(text)]
    blocks = [text[start:end] for start, end in pairwise([*starts, len(text)])]
    head = "schema: '2.0'\nstages:\n"
    whole = [block for block in blocks if _stages(head + block)]
    names = [block.strip().partition(":")[0] for block in whole]
    rest = f"its entries of {', '.join(names)} are kept" if names else "it has no whole entry"
    yield Fault(
        f"dvc.lock is empty or half written: {rest}, other phases are restored from DVC's cache",
        partial(_mend_lock_file, file, head + "".join(whole) if whole else ""),
    )


def _stages(text: str) -> dict[str, Any] | None:
    """The stages of a dvc.lock; None if DVC cannot read it."""
    try:
        values = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        return None
    stages = values.get("stages", {}) if isinstance(values, dict) else None
    readable = isinstance(stages, dict) and all(map(_is_whole, stages.values()))
    return stages if readable else None


def _is_whole(stage: Any) -> bool:
    """Whether DVC can read this stage of dvc.lock."""
    if not isinstance(stage, dict) or "cmd" not in stage or not isinstance(stage.get("params", {}), dict):
        return False
    entries = [stage.get("deps", []), stage.get("outs", [])]
    return all(
        isinstance(listed, list) and all(isinstance(entry, dict) and "path" in entry for entry in listed)
        for listed in entries
    )


def _mend_lock_file(file: Path, whole: str) -> None:
    aside = workspace.scratch() / "dvc.lock.broken"
    aside.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, aside)
    if whole:
        replace(file, whole.encode())
    else:
        file.unlink()


# ------------------------------------------------------------------------------------------- rwlock


def _rwlock() -> Iterator[Fault]:
    file = workspace.root() / ".dvc" / "tmp" / "rwlock"
    if not file.is_file():
        return
    entries = _entries(file)
    if entries is None:
        yield Fault(".dvc/tmp/rwlock is empty or half written: it is written anew", partial(_mend_rwlock, file))
    elif stale := _stale(entries, file.stat().st_mtime):
        numbers = ", ".join(sorted({str(entry["pid"]) for entry in stale}))
        yield Fault(
            f".dvc/tmp/rwlock names process {numbers}, which has ended, and another one has its number: it is released",
            partial(_mend_rwlock, file),
        )


def _entries(file: Path) -> dict[str, dict[str, Any]] | None:
    """The readers and writers of each path; None if DVC cannot read the file."""
    try:
        values = json.loads(file.read_bytes())
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    read, write = values.get("read", {}), values.get("write", {})
    if not isinstance(read, dict) or not isinstance(write, dict):
        return None
    readers = [entry for listed in read.values() for entry in (listed if isinstance(listed, list) else [None])]
    return values if all(map(_is_entry, [*readers, *write.values()])) else None


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("pid"), int) and isinstance(entry.get("cmd"), str)


def _stale(entries: dict[str, dict[str, Any]], written: float) -> list[dict[str, Any]]:
    """The entries whose process number now provably belongs to another process. `written` is the
    time of the file."""
    readers = [entry for listed in entries.get("read", {}).values() for entry in listed]
    all_entries = [*readers, *entries.get("write", {}).values()]
    return [entry for entry in all_entries if _is_another(entry, written)]


def _is_another(entry: dict[str, Any], written: float) -> bool:
    """Whether the process with the entry's number started after the entry was written, or runs
    another command.

    An entry without any such process is dropped by DVC itself.
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
    """Remove broken entries while no DVC command uses the file."""
    import zc.lockfile  # type: ignore[import-untyped]

    with suppress(zc.lockfile.LockError), _guard(file.with_name("rwlock.lock")):
        entries = _entries(file)
        if entries is None:
            file.unlink()
            return
        stale = _stale(entries, file.stat().st_mtime)
        read = {
            path: [entry for entry in listed if entry not in stale] for path, listed in entries.get("read", {}).items()
        }
        write = {path: entry for path, entry in entries.get("write", {}).items() if entry not in stale}
        remaining = {"read": {path: listed for path, listed in read.items() if listed}, "write": write}
        replace(file, json.dumps(remaining).encode())


@contextmanager
def _guard(file: Path) -> Iterator[None]:
    """The lock that DVC holds while it uses its rwlock."""
    import zc.lockfile

    guard = zc.lockfile.LockFile(str(file))
    try:
        yield
    finally:
        guard.close()


# -------------------------------------------------------------------------------------------- cache


def _cache() -> Iterator[Fault]:
    """Cached files of zero bytes, and half-written lists of folders, that dvc.lock or data.dvc
    name; restored if the workspace has their content."""
    cache = cache_folder()
    for path, digest in _pinned():
        file = place(cache, digest)
        if _is_emptied(file, digest) or (digest.endswith(".dir") and file.is_file() and not _is_list(file)):
            yield _emptied(file, digest, path)
        for name, member in members(cache, digest):
            inner = place(cache, member)
            if _is_emptied(inner, member):
                yield _emptied(inner, member, f"{path}/{name}")


def cache_folder() -> Path:
    """DVC's cache."""
    config = configparser.ConfigParser()
    config.read([workspace.root() / ".dvc" / name for name in ("config", "config.local")])
    return workspace.root() / ".dvc" / config.get("cache", "dir", fallback="cache")


def _pinned() -> Iterator[tuple[str, str]]:
    """Path and hash of every output in dvc.lock and data.dvc."""
    for name in ("dvc.lock", "data.dvc"):
        with suppress(OSError, YAMLError, ValueError, AttributeError):
            values = YAML(typ="safe").load(workspace.root() / name)
            for stage in values.get("stages", {"": values}).values():
                yield from ((out["path"], out["md5"]) for out in stage.get("outs", []) if out.get("md5"))


def place(cache: Path, digest: str) -> Path:
    """Where an object lies in it."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def _is_emptied(file: Path, digest: str) -> bool:
    """Whether a cached file is empty although its content was not."""
    try:
        return digest != EMPTY and file.stat().st_size == 0
    except OSError:
        return False


def _is_list(file: Path) -> bool:
    """Whether a cached list of a folder can be read: of what was half written no JSON is left."""
    try:
        return isinstance(json.loads(file.read_bytes()), list)
    except (OSError, ValueError):
        return False


def members(cache: Path, digest: str) -> list[tuple[str, str]]:
    """Name and hash of each file of a folder in the cache; empty if the cache lacks its list."""
    if not digest.endswith(".dir"):
        return []
    try:
        listed: list[dict[str, str]] = json.loads(place(cache, digest).read_bytes())
    except (OSError, ValueError):
        return []
    return [(member["relpath"], member["md5"]) for member in listed]


def _emptied(file: Path, digest: str, path: str) -> Fault:
    content = _content(path, digest)
    otherwise = "`dvc fetch` restores it if a remote has it, else its phase runs again"
    remedy = "it is copied back from there" if content is not None else otherwise
    return Fault(f"DVC's cache has lost the content of {path}: {remedy}", partial(_refill, file, content))


def _content(path: str, digest: str) -> bytes | Path | None:
    """The content that a cached file must have, if the workspace has it."""
    place = workspace.root() / path
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
