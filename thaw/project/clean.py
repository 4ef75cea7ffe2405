"""clean: free decoded pictures and features of earlier data versions from DVC's cache.

They are stored for each version of the data, and `prepare` and `embed` can make them again.
Everything else stays: pictures, networks, packages, metrics, predictions, and the manifests, which
say what a version learned from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thaw.errors import InputError
from thaw.project import registry, workspace
from thaw.project.git import contents, git
from thaw.project.heal import cache_folder, members, place
from thaw.project.lock import only_retraining

# output: prefixes of the names in it
REBUILT = {"artifacts/prepare": ("pictures.npy",), "artifacts/embed": ("",)}


@dataclass
class Leftovers:
    """Unneeded objects of DVC's cache: the size of each, and the objects of each output."""

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
            f"{sum(self.bytes.values()) / 1e6:,.0f} MB of {self.data_versions} earlier states, which phases "
            f"can make again: {', '.join(parts)}"
        )


def leftovers() -> Leftovers:
    """What could be freed; raises if other projects may use the cache."""
    cache = cache_folder()
    if not cache.resolve().is_relative_to(workspace.root().resolve()):
        raise InputError(
            f"DVC's cache is {cache}, which others may use too, so nothing is freed: `dvc gc` can keep what other "
            "projects need"
        )
    known = states()
    result, needed = Leftovers(), set(_needed(cache, known))
    for lock in known:
        has_leftovers = False
        for output, names in REBUILT.items():
            for name, file in _files(cache, output, lock.get(output, "")):
                if any(name.startswith(start) for start in names) and file not in needed and file.is_file():
                    has_leftovers |= file not in result.bytes
                    result.bytes[file] = file.stat().st_size
                    result.outputs.setdefault(output, set()).add(file)
        result.data_versions += has_leftovers
    return result


def clean() -> Leftovers:
    """Delete the leftovers."""
    with only_retraining("clean"):
        freed = leftovers()
        for file in freed.bytes:
            file.unlink()
    return freed


def states() -> list[dict[str, str]]:
    """The hashes of data and outputs in every dvc.lock and .dvc file, of git and of the
    workspace."""
    paths = ("dvc.lock", "*.dvc")
    commits = git("log", "--all", "--format=%H", "--", *paths).split()
    names = git("log", "--all", "--relative", "--name-only", "--format=", "--", *paths).splitlines()
    texts = contents([f"{commit}:./{name}" for commit in commits for name in sorted({*names})])
    return [registry.hashes(text, deps=True) for text in dict.fromkeys([*texts, *_current()]) if text]


def _current() -> Iterator[str]:
    for file in (workspace.root() / "dvc.lock", *workspace.root().glob("*.dvc")):
        if file.is_file():
            yield file.read_text(encoding="utf-8")


def _needed(cache: Path, known: list[dict[str, str]]) -> Iterator[Path]:
    """Objects that the workspace uses, and those that phases cannot make again."""
    for text in _current():
        for output, digest in registry.hashes(text).items():
            yield from (file for _, file in _files(cache, output, digest))
    for state in known:
        for output, digest in state.items():
            rebuilt = REBUILT.get(output, ())
            for name, file in _files(cache, output, digest):
                if not any(name.startswith(start) for start in rebuilt):
                    yield file


def _files(cache: Path, output: str, digest: str) -> Iterator[tuple[str, Path]]:
    """The cached files of an output by name; the list of a folder has the output's own name."""
    if not digest:
        return
    yield output, place(cache, digest)
    yield from ((name, place(cache, member)) for name, member in members(cache, digest))
