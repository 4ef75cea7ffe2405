"""reproduce: compute a version of a project anew and compare the outputs (`thaw reproduce`).

A folder of its own gets a clone at the version's commit, an environment with the thaw and the
packages of that time (by uv), and the data from the cache or the remote. Then `dvc repro --force`
runs. Nothing but the data comes from a cache, or nothing would be proven.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thaw.errors import InputError
from thaw.project import environments, models, pipeline, recipe, registry, start, withdraw, workspace
from thaw.project.git import dvc, git
from thaw.project.stage import OnLine, finish


@dataclass(frozen=True)
class Output:
    """An output of a phase: its path, and whether it has the same bytes as in the version."""

    path: str
    same: bool


def reproduce(
    name: str, folder: Path | None, source: str | None, environment: Path | None, on_line: OnLine = print
) -> list[Output]:
    """Compute a version anew in `folder`; returns each output, and whether it is the same.

    `source` is a wheel or a folder to install thaw from; `environment` is an environment that has
    it already.
    """
    version = registry.find(name)
    if not withdraw.is_reproducible(version.name):
        raise InputError(f"{version.name} cannot be reproduced: `thaw remove --purge` took pictures out of its data")
    project = _clone(version, folder or workspace.root().parent / f"{workspace.root().name}-{version.name}")
    on_line(f"{project} is the project as it was at {version.name} (commit {version.commit[:7]})")
    if not pipeline.load(project / recipe.NAME).get("thaw"):
        raise InputError(
            f"{version.name} was made before projects had a {recipe.NAME}, which says what they were made with: in "
            f"{project}, follow its README"
        )
    python = _python_in(environment) if environment else environments.python_for(project, source, on_line)
    there = _environment_of(python)
    _bring_data(project, python, there, on_line)
    _bring_start(version, project)
    lock = project / "dvc.lock"
    locked = registry.hashes(lock.read_text(encoding="utf-8"))
    finish("reproduce", [str(python), "-m", "dvc", "--cd", str(project), "repro", "--force"], on_line, there)
    computed = registry.hashes(lock.read_text(encoding="utf-8"))
    return [Output(path, computed.get(path) == digest) for path, digest in locked.items()]


def _clone(version: registry.Version, folder: Path) -> Path:
    """The project in a clone at the version's commit."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already; name another folder with --out")
    top = Path(git("rev-parse", "--show-toplevel"))
    inside = workspace.root().resolve().relative_to(top.resolve())
    for command in (
        ("git", "clone", "--quiet", "--no-checkout", str(top), str(folder)),
        ("git", "-C", str(folder), "fetch", "--quiet", str(top), version.commit),
        ("git", "-C", str(folder), "checkout", "--quiet", "--detach", version.commit),
    ):
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode:
            raise InputError(f"git cannot make {folder}: {' '.join(done.stderr.split())}")
    return folder.resolve() / inside


def _python_in(environment: Path) -> Path:
    python = environment.absolute() / "bin" / "python"
    if not python.is_file():
        raise InputError(f"{environment} is not a Python environment: there is no {python}")
    return python


def _bring_data(project: Path, python: Path, there: dict[str, str], on_line: OnLine) -> None:
    """Get the data of the version: from the cache of this project, else as any clone does."""
    cache = subprocess.run(dvc("cache", "dir"), cwd=workspace.root(), text=True, capture_output=True).stdout.strip()
    dvc_there = [str(python), "-m", "dvc", "--cd", str(project)]
    finish("data", [*dvc_there, "remote", "add", "--local", "--force", "here", cache], on_line, there)
    pull = [*dvc_there, "pull", "--quiet", "--remote", "here", "data.dvc"]
    with_here = subprocess.run(pull, env=os.environ | there, capture_output=True)
    if with_here.returncode:
        finish("data", [str(python), "-m", "thaw", "-C", str(project), "data"], on_line, there)


def _bring_start(version: registry.Version, project: Path) -> None:
    """Where a version started from a model: have that model there, and in use as it was then."""
    weights = str(pipeline.load(project / "params.yaml").get("backbone", {}).get("weights"))
    if not start.is_model(weights):
        return
    for tag in registry.assigned_after(version.name):
        subprocess.run(["git", "-C", str(project), "tag", "--delete", tag], check=True, capture_output=True)
    parent = registry.version_of(pipeline.load(project / recipe.NAME)["weights"], registry.versions())
    if parent is None:
        raise InputError(f"{version.name} started from a model that has no version here any more")
    models.bring_start(parent.name)
    here = start.folder(parent.model)
    shutil.copytree(here, project / here.relative_to(workspace.root()))


def _environment_of(python: Path) -> dict[str, str]:
    """What a command of that Python gets: its programs first on PATH, and not our PYTHONPATH."""
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "PYTHONPATH": ""}


def lines(outputs: list[Output]) -> Iterator[str]:
    """The outputs as lines of text."""
    for output in outputs:
        yield f"{'the same bytes' if output.same else 'other bytes   '}  {output.path}"
    same = sum(output.same for output in outputs)
    yield f"{same} of {len(outputs)} outputs are the same bytes"
