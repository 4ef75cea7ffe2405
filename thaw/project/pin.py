"""pin: compare data/ with its pin data.dvc. A difference is pinned only if the user asks for it.

    thaw data --accept      pins data/ as it is

A killed checkout, a full disk and a wrong `rm` all leave fewer pictures, and look like changed
data.
"""

import json
from dataclasses import dataclass

from thaw.errors import InputError
from thaw.project import workspace
from thaw.project.git import dvc
from thaw.project.stage import OnLine, finish

KINDS = {"added": "new", "modified": "changed", "deleted": "missing"}  # in DVC's output: in ours


@dataclass(frozen=True)
class Difference:
    """How data/ differs from data.dvc."""

    # by kind; None if DVC's cache has no list of the pinned files
    files: dict[str, list[str]] | None
    cached: bool  # whether all pinned files are in DVC's cache

    def __str__(self) -> str:
        if self.files is None:
            return "data/ differs from data.dvc, which pins files that DVC's cache does not know"
        counts = (
            f"{len(names):,} {kind}" + (f" ({min(names)})" if names else "") for kind, names in self.files.items()
        )
        return f"data/ differs from data.dvc: {', '.join(counts)}"


class DataDiffers(InputError):
    """data/ differs from data.dvc, and the user has not said which one is right."""

    def __init__(self, difference: Difference) -> None:
        # If the cache lacks files, a forced checkout deletes data/ and restores nothing.
        back = (
            "`dvc checkout --force data.dvc` throws the difference away"
            if difference.cached
            else "with data/ moved away `thaw data` brings what is pinned"
        )
        super().__init__(f"{difference}; `thaw data --accept` pins data/ as it is, {back}")
        self.difference = difference


def difference() -> Difference | None:
    """How data/ differs from data.dvc; None if it does not, or if one of them is missing."""
    if not (workspace.root() / "data.dvc").is_file() or not workspace.has_content(workspace.data()):
        return None
    lines: list[str] = []
    # `dvc status` would only say "not in cache" if the cache lacks a file, even for data that
    # differ.
    finish("data", dvc("data", "status", "--granular", "--json", "data"), lines.append)
    status = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    uncommitted = status.get("uncommitted", {})
    if not uncommitted.keys() - {"unknown"}:
        return None
    files = {
        kind: [name for name in uncommitted.get(kind_of_dvc, []) if name[-1] != "/"]
        for kind_of_dvc, kind in KINDS.items()
    }
    for rename in uncommitted.get("renamed", []):
        files["new"].append(rename["new"])
        files["missing"].append(rename["old"])
    return Difference(None if "unknown" in uncommitted else files, "not_in_cache" not in status)


def check() -> None:
    """Raise `DataDiffers` if data/ exists and differs from data.dvc."""
    if differs := difference():
        raise DataDiffers(differs)


def accept(on_line: OnLine = print) -> None:
    """Pin data/ as it is, and say what that changes. The caller must hold the workspace."""
    data, pin = workspace.data(), workspace.root() / "data.dvc"
    if not any(file.is_file() and not file.name.startswith(".") for file in data.rglob("*")):
        raise InputError("data/ is missing or empty, which cannot be pinned; `thaw data` brings what data.dvc pins")
    pinned, differs = pin.is_file(), difference()
    if pinned and not differs:
        on_line("data.dvc pins data/ as it is already")
        return
    if differs:
        on_line(str(differs))
    write("data")
    on_line("data.dvc pins data/ as it is now: `git commit data.dvc` keeps this state of the data")


def write(stage: str) -> None:
    """Pin data/ as it is, on behalf of `stage`."""
    command = ["commit", "--force", "data.dvc"] if (workspace.root() / "data.dvc").is_file() else ["add", "data"]
    finish(stage, dvc(*command), lambda line: None)
