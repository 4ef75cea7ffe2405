"""reproduce: makes a project as it was at a version, computes everything anew, and compares, `thaw reproduce`.

In a folder of its own: a clone at the version's commit, an environment with the thaw and the packages of then (by uv),
the data from the cache or the remote, and `dvc repro --force`. Nothing else comes from a cache, or nothing is proven.
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
    """An output of a phase: its path, and whether its bytes are those of the version."""

    path: str
    same: bool


def reproduce(
    name: str, folder: Path | None, source: str | None, environment: Path | None, on_line: OnLine = print
) -> list[Output]:
    """Compute a version anew in `folder`; each output, and whether it is the same.

    `source` is a wheel or a folder to install thaw from; `environment` an environment that has it already.
    """
    version = registry.named(name, registry.versions())
    project = _clone(version, folder or workspace.ROOT.parent / f"{workspace.ROOT.name}-{version.name}")
    on_line(f"{project} is the project as it was at {version.name} (commit {version.commit[:7]})")
    kept = pipeline.load(project / recipe.NAME)
    if not kept.get("thaw"):
        raise InputError(
            f"{version.name} was made before projects had a {recipe.NAME}, which says what they were made with: in "
            f"{project}, follow its README"
        )
    python = _environment(project, kept, source, environment, on_line)
    _bring_data(project, python, on_line)
    lock = project / "dvc.lock"
    locked = registry.hashes(lock.read_text(encoding="utf-8"))
    finish("reproduce", [*_thaw_of(python), "-m", "dvc", "--cd", str(project), "repro", "--force"], on_line)
    made = registry.hashes(lock.read_text(encoding="utf-8"))
    return [Output(path, made.get(path) == digest) for path, digest in locked.items()]


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
    project: Path, kept: dict[str, Any], source: str | None, environment: Path | None, on_line: OnLine
) -> Path:
    """The Python with the thaw and the packages that the recipe of the version names."""
    if environment:
        python = environment.absolute() / "bin" / "python"
        if not python.is_file():
            raise InputError(f"{environment} is no Python environment: there is no {python}")
        return python
    versions: dict[str, str] = kept.get("versions") or {}
    own = (project / "thaw" / "__init__.py").is_file()
    if not own and not source and thaw.__version__ == kept["thaw"] and not _differ(versions):
        return Path(sys.executable)
    if shutil.which("uv") is None:
        raise InputError(
            f"{project} was made with thaw {kept['thaw']} and other packages than are installed, and there is no uv to "
            "install them: install uv, or name an environment that has them with --environment"
        )
    what = str(project) if own and not source else source or _installed_from(kept["thaw"])
    pins = [f"{package}=={version}" for package, version in versions.items() if version]
    constraints = ["--constraint", str(project / "constraints.txt")] if (project / "constraints.txt").is_file() else []
    place = project / ".venv"
    on_line(f"making {place} with thaw {kept['thaw']}, {', '.join(pins)}")
    finish("environment", ["uv", "venv", "--quiet", str(place)], on_line)
    python = place / "bin" / "python"
    command = ["uv", "pip", "install", "--quiet", "--python", str(python), *constraints, what, *pins]
    finish("environment", command, on_line)
    return python


def _differ(versions: dict[str, str]) -> bool:
    return any(recipe.installed(package) != version for package, version in versions.items())


def _installed_from(version: str) -> str:
    """Where thaw was installed from, as pip noted it (PEP 610); raises where that gives another version."""
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
    """The data of the version: from the cache of the project that is here, else as a clone gets them."""
    cache = subprocess.run(dvc("cache", "dir"), cwd=workspace.ROOT, text=True, capture_output=True).stdout.strip()
    here = [*_thaw_of(python), "-m", "dvc", "--cd", str(project)]
    finish("data", [*here, "remote", "add", "--local", "--force", "here", cache], on_line)
    with_here = subprocess.run(
        [*here, "pull", "--quiet", "--remote", "here", "data.dvc"], text=True, capture_output=True
    )
    if with_here.returncode:
        finish("data", [*_thaw_of(python), "-m", "thaw", "-C", str(project), "data"], on_line)


def _thaw_of(python: Path) -> list[str]:
    """How a command runs with a Python whose programs come first, and without what this Python was told."""
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return ["env", "--unset=PYTHONPATH", f"PATH={path}", str(python)]


def lines(outputs: list[Output]) -> Iterator[str]:
    """What to say of the outputs."""
    for output in outputs:
        yield f"{'the same bytes' if output.same else 'other bytes   '}  {output.path}"
    same = sum(output.same for output in outputs)
    yield f"{same} of {len(outputs)} outputs are the same bytes"
