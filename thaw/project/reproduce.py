"""reproduce: compute a version of a project anew and compare the outputs (`thaw reproduce`).

A folder of its own gets a clone at the version's commit, an environment with the thaw and the
packages of that time (by uv), and the data from the cache or the remote. Then `dvc repro --force`
runs. Nothing but the data comes from a cache, or nothing would be proven.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import thaw
from thaw.errors import InputError
from thaw.project import pipeline, recipe, registry, workspace
from thaw.project.git import dvc, git
from thaw.project.stage import OnLine, finish

DISTRIBUTION = "thaw-vision"


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
    version = _version(name)
    project = _clone(version, folder or workspace.ROOT.parent / f"{workspace.ROOT.name}-{version.name}")
    on_line(f"{project} is the project as it was at {version.name} (commit {version.commit[:7]})")
    thaw_yaml = pipeline.load(project / recipe.NAME)
    if not thaw_yaml.get("thaw"):
        raise InputError(
            f"{version.name} was made before projects had a {recipe.NAME}, which says what they were made with: in "
            f"{project}, follow its README"
        )
    python = _environment(project, thaw_yaml, source, environment, on_line)
    _bring_data(project, python, on_line)
    lock = project / "dvc.lock"
    locked = registry.hashes(lock.read_text(encoding="utf-8"))
    finish("reproduce", [*_thaw_of(python), "-m", "dvc", "--cd", str(project), "repro", "--force"], on_line)
    computed = registry.hashes(lock.read_text(encoding="utf-8"))
    return [Output(path, computed.get(path) == digest) for path, digest in locked.items()]


def _version(name: str) -> registry.Version:
    known = registry.versions()
    wanted = f"v{name.strip().removeprefix('v')}"
    for version in known:
        if version.name == wanted:
            return version
    there = ", ".join(version.name for version in known)
    raise InputError(f"there is no version '{name}'; there are {there}" if known else registry.FIRST)


def _clone(version: registry.Version, folder: Path) -> Path:
    """The project in a clone at the version's commit."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already; name another folder with --out")
    top = Path(git("rev-parse", "--show-toplevel"))
    inside = workspace.ROOT.resolve().relative_to(top.resolve())
    for command in (
        ("git", "clone", "--quiet", "--no-checkout", str(top), str(folder)),
        ("git", "-C", str(folder), "fetch", "--quiet", str(top), version.commit),
        ("git", "-C", str(folder), "checkout", "--quiet", "--detach", version.commit),
    ):
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode:
            raise InputError(f"git cannot make {folder}: {' '.join(done.stderr.split())}")
    return folder.resolve() / inside


def _environment(
    project: Path, thaw_yaml: dict[str, Any], source: str | None, environment: Path | None, on_line: OnLine
) -> Path:
    """A Python with the thaw and the packages of the version's recipe."""
    if environment:
        python = environment.absolute() / "bin" / "python"
        if not python.is_file():
            raise InputError(f"{environment} is no Python environment: there is no {python}")
        return python
    versions: dict[str, str] = thaw_yaml.get("versions") or {}
    own = (project / "thaw" / "__init__.py").is_file()
    if not own and not source and thaw.__version__ == thaw_yaml["thaw"] and not _differ(versions):
        return Path(sys.executable)
    if shutil.which("uv") is None:
        raise InputError(
            f"{project} was made with thaw {thaw_yaml['thaw']} and other packages than are installed, and there is no "
            "uv to install them: install uv, or name an environment that has them with --environment"
        )
    requirement = str(project) if own and not source else source or _installed_from(thaw_yaml["thaw"])
    pins = [f"{package}=={version}" for package, version in versions.items() if version]
    constraints = ["--constraint", str(project / "constraints.txt")] if (project / "constraints.txt").is_file() else []
    target = project / ".venv"
    on_line(f"making {target} with thaw {thaw_yaml['thaw']}, {', '.join(pins)}")
    finish("environment", ["uv", "venv", "--quiet", str(target)], on_line)
    python = target / "bin" / "python"
    command = ["uv", "pip", "install", "--quiet", "--python", str(python), *constraints, requirement, *pins]
    finish("environment", command, on_line)
    return python


def _differ(versions: dict[str, str]) -> bool:
    return any(recipe.installed(package) != version for package, version in versions.items())


def _installed_from(version: str) -> str:
    """Where thaw was installed from, according to PEP 610; raises if that is another version."""
    noted = distribution(DISTRIBUTION).read_text("direct_url.json")
    if thaw.__version__ != version:
        raise InputError(
            f"the version was made with thaw {version}, and {thaw.__version__} is installed: name the wheel of "
            f"{version} with --from"
        )
    if noted is None:
        return f"{DISTRIBUTION}=={version}"
    url = json.loads(noted)["url"]
    return url2pathname(urlparse(url).path) if url.startswith("file:") else str(url)


def _bring_data(project: Path, python: Path, on_line: OnLine) -> None:
    """Get the data of the version: from the cache of this project, else as any clone does."""
    cache = subprocess.run(dvc("cache", "dir"), cwd=workspace.ROOT, text=True, capture_output=True).stdout.strip()
    dvc_there = [*_thaw_of(python), "-m", "dvc", "--cd", str(project)]
    finish("data", [*dvc_there, "remote", "add", "--local", "--force", "here", cache], on_line)
    with_here = subprocess.run(
        [*dvc_there, "pull", "--quiet", "--remote", "here", "data.dvc"], text=True, capture_output=True
    )
    if with_here.returncode:
        finish("data", [*_thaw_of(python), "-m", "thaw", "-C", str(project), "data"], on_line)


def _thaw_of(python: Path) -> list[str]:
    """The start of a command that runs `python`, with its programs first on PATH and without our
    PYTHONPATH."""
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return ["env", "--unset=PYTHONPATH", f"PATH={path}", str(python)]


def lines(outputs: list[Output]) -> Iterator[str]:
    """The outputs as lines of text."""
    for output in outputs:
        yield f"{'the same bytes' if output.same else 'other bytes   '}  {output.path}"
    same = sum(output.same for output in outputs)
    yield f"{same} of {len(outputs)} outputs are the same bytes"
