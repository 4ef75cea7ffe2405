"""clean: free what phases make again from the rest, of every data version but today's.

Decoded pictures and features are stored for each version of the data. Nobody reads them once another data version is
there, and `prepare` and `embed` make them again. What cannot be made again stays: pictures, networks, packages,
metrics, predictions, and the manifests, which say what a version learned from.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thaw.errors import InputError
from thaw.project import registry, workspace
from thaw.project.git import contents, git
from thaw.project.heal import cache_folder, place
from thaw.project.lock import only_retraining

REBUILT = {"artifacts/prepare": ("pictures.npy",), "artifacts/embed": ("",)}  # how names in an output begin


@dataclass
class Leftovers:
    """Objects of DVC's cache that are not needed: bytes by object, and objects by output."""

    bytes: dict[Path, int] = field(default_factory=dict)
    outputs: dict[str, set[Path]] = field(default_factory=dict)
    data_versions: int = 0

    def __str__(self) -> str:
        if not self.bytes:
            return "nothing to free: DVC's cache holds decoded pictures and features of today's data only"
        parts = [
            f"{output} {sum(self.bytes[file] for file in files) / 1e6:,.0f} MB"
            for output, files in self.outputs.items()
        ]
        return (
            f"{sum(self.bytes.values()) / 1e6:,.0f} MB of {self.data_versions} earlier states, which phases make again "
            f"when they are asked for: {', '.join(parts)}"
        )


def leftovers() -> Leftovers:
    """What could be freed; raises where other projects may use the cache."""
    cache = cache_folder()
    if not cache.resolve().is_relative_to(workspace.ROOT.resolve()):
        raise InputError(
            f"DVC's cache is {cache}, which others may use too, so nothing of it is freed: `dvc gc` knows what a "
            "shared cache may lose"
        )
    found, needed = Leftovers(), set(_needed(cache))
    for lock in states():
        news = False
        for output, names in REBUILT.items():
            for name, file in _files(cache, output, lock.get(output, "")):
                if any(name.startswith(start) for start in names) and file not in needed and file.is_file():
                    news |= file not in found.bytes
                    found.bytes[file] = file.stat().st_size
                    found.outputs.setdefault(output, set()).add(file)
        found.data_versions += news
    return found


def clean() -> Leftovers:
    """Free it."""
    with only_retraining("clean"):
        found = leftovers()
        for file in found.bytes:
            file.unlink()
    return found


def states() -> list[dict[str, str]]:
    """Outputs, and the data that they come from, with their hashes: of every dvc.lock and .dvc file in git and of the
    workspace."""
    paths = ("dvc.lock", "*.dvc")
    commits = git("log", "--all", "--format=%H", "--", *paths).split()
    names = git("log", "--all", "--relative", "--name-only", "--format=", "--", *paths).splitlines()
    texts = contents([f"{commit}:./{name}" for commit in commits for name in sorted({*names})])
    return [registry.hashes(text, deps=True) for text in dict.fromkeys([*texts, *_here()]) if text]


def _here() -> Iterator[str]:
    for file in (workspace.ROOT / "dvc.lock", *workspace.ROOT.glob("*.dvc")):
        if file.is_file():
            yield file.read_text(encoding="utf-8")


def _needed(cache: Path) -> Iterator[Path]:
    """Objects of the workspace, and all that phases do not make again."""
    for text in _here():
        for output, digest in registry.hashes(text).items():
            yield from (file for _, file in _files(cache, output, digest))
    for known in states():
        for output, digest in known.items():
            rebuilt = REBUILT.get(output, ())
            for name, file in _files(cache, output, digest):
                if not any(name.startswith(start) for start in rebuilt):
                    yield file


def _files(cache: Path, output: str, digest: str) -> Iterator[tuple[str, Path]]:
    """The files of an output by their names in it, and under its own name what lists them."""
    if not digest:
        return
    top = place(cache, digest)
    yield output, top
    if digest.endswith(".dir") and top.is_file():
        for member in json.loads(top.read_text(encoding="utf-8")):
            yield member["relpath"], place(cache, member["md5"])
