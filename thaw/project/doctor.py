"""doctor: check everything that a retraining needs, and name the command that mends a fault.

Nothing is changed by looking, and no network is used except to ask the remotes whether they are
there.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import thaw
from thaw.errors import InputError
from thaw.project import experiment, heal, lock, pin, pipeline, provenance, recipe, registry, settings, workspace
from thaw.project.git import git
from thaw.project.settings import Settings
from thaw.project.stage import StageError

PATIENCE = 60  # seconds for a remote to answer
ASK_REMOTE = """
from dvc.repo import Repo
remote = Repo().cloud.get_remote_odb()
print("there" if remote.fs.exists(remote.path) else "not there yet", "at", remote.path)
"""


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was seen, and where it is not good the command that mends it."""

    name: str
    text: str
    mend: str | None = None

    def __str__(self) -> str:
        state = "bad " if self.mend else "good"
        return f"{state}  {self.name:<12}{self.text}" + (f"\n      mend it: {self.mend}" if self.mend else "")


def examine() -> Iterator[Finding]:
    """Look at everything, one after the other."""
    values = settings.read()
    for name, look in LOOKS.items():
        try:
            yield look(values)
        except (InputError, StageError) as error:
            yield Finding(name, str(error), "thaw run")
        except (OSError, subprocess.SubprocessError) as error:
            yield Finding(name, f"{type(error).__name__}: {error}", "thaw doctor")


def _packages(_: Settings) -> Finding:
    wrong = [problem for text in requires("thaw-vision") or [] if (problem := _why_unfit(Requirement(text)))]
    if wrong:
        missing = " ".join(f"'{requirement}'" for requirement, _ in wrong)
        texts = ", ".join(f"{requirement} is needed, and {there} installed" for requirement, there in wrong)
        return Finding("packages", texts, f"{sys.executable} -m pip install {missing}")
    return Finding("packages", f"thaw {thaw.__version__} with all that it needs")


def _why_unfit(requirement: Requirement) -> tuple[str, str] | None:
    """What is asked for and what is there, where that does not fit."""
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        return None
    needed = f"{requirement.name}{requirement.specifier}"
    try:
        there = version(requirement.name)
    except PackageNotFoundError:
        return needed, "nothing is"
    return None if requirement.specifier.contains(there, prereleases=True) else (needed, f"{there} is")


def _results(_: Settings) -> Finding:
    if not recipe.is_kept():
        return Finding("results", "this project keeps no recipe of what its results were made with")
    kept = pipeline.read(recipe.NAME)
    sentences = [recipe.sentence(key, *change) for key, change in recipe.changes().items()]
    if kept.get("thaw") != thaw.__version__:
        sentences.insert(0, f"thaw went from {kept.get('thaw')} to {thaw.__version__}")
    if sentences:
        return Finding("results", "; ".join(sentences), "thaw run" if recipe.in_own_repository() else "thaw upgrade")
    if not (workspace.root() / "dvc.lock").is_file():
        return Finding("results", "there are none yet")
    if misfits := provenance.misfits():
        phase, reasons = next(iter(misfits.items()))
        return Finding("results", f"{phase}: {reasons[0]}", "thaw run")
    return Finding("results", "made with the installed thaw and packages and with today's settings")


def _git(values: Settings) -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "git is not installed, and it keeps versions and records", "apt install git")
    if not git("rev-parse", "--git-dir"):
        return Finding(
            "git", "this folder is not in a git repository", "git init && git add --all && git commit -m start"
        )
    if not git("rev-parse", "--quiet", "--verify", "HEAD"):
        return Finding("git", "nothing is committed, and a record needs a commit", "git add --all && git commit")
    remote = values.retrain.git_remote
    if remote and not _answers(["git", "ls-remote", "--quiet", "--exit-code", remote]):
        verb = "set-url" if git("remote", "get-url", remote) else "add"
        text = f"retrain.git_remote is {remote}, which does not answer; bring it back, or name its address"
        return Finding("git", text, f"git remote {verb} {remote} ADDRESS")
    where = f", records are pushed to {remote}" if remote else ", records stay in this clone"
    return Finding("git", f"at {git('rev-parse', '--short', 'HEAD')}{where}")


def _data(_: Settings) -> Finding:
    data = workspace.data()
    if not (data.is_dir() and any(data.iterdir())):
        pinned = (workspace.root() / "data.dvc").is_file()
        mend = "thaw data" if pinned else "cp -r PICTURES/* data/"
        return Finding("data", "data/ is empty" + ("" if pinned else ", and nothing is pinned"), mend)
    if not (workspace.root() / "data.dvc").is_file():
        return Finding("data", "data/ is not pinned yet; the first run pins it")
    differs = pin.difference()
    return Finding("data", str(differs), "thaw data --accept") if differs else Finding("data", "as data.dvc pins them")


def _remote(_: Settings) -> Finding:
    name = experiment.remote()
    if not name:
        return Finding("DVC remote", "none, so data and models are on this machine alone")
    command = [sys.executable, "-c", ASK_REMOTE]
    done = subprocess.run(command, cwd=workspace.root(), text=True, capture_output=True, timeout=PATIENCE)
    answer = (done.stdout.strip() or done.stderr.strip() or "it says nothing").splitlines()[-1]
    place = Path(answer.rpartition(" at ")[2])  # files/md5 of the remote
    # its mount point is missing
    is_away = place.is_absolute() and not place.parents[2].is_dir()
    if done.returncode or is_away:
        text = f"{name} does not answer: {answer}; bring it back, or name another address"
        return Finding("DVC remote", text, f"dvc remote modify {name} url ADDRESS")
    if answer.startswith("not there yet") and registry.versions():
        text = f"nothing is at {place.parents[1]}, and versions should be; mount it, or fill it again"
        return Finding("DVC remote", text, "dvc push --all-commits")
    return Finding("DVC remote", answer)


def _files(_: Settings) -> Finding:
    faults = list(heal.faults())
    if faults:
        return Finding("DVC's files", faults[0].sentence, "thaw data")
    return Finding("DVC's files", "none came to harm")


def _lock(_: Settings) -> Finding:
    holder = lock.holder()
    if holder and "was killed" in holder:
        return Finding("lock", holder, f"kill {holder.rpartition('process ')[2].replace(',', '')}")
    return Finding("lock", f"held by {holder}" if holder else "nobody holds the workspace")


def _disk(values: Settings) -> Finding:
    free = shutil.disk_usage(workspace.root()).free / 1e9
    if free < values.retrain.disk_gb:
        text = f"{free:.1f} GB are free; retrain.disk_gb asks for {values.retrain.disk_gb:g}"
        return Finding("disk", text, "thaw clean --apply")
    return Finding("disk", f"{free:.1f} GB are free")


def _device(values: Settings) -> Finding:
    import torch

    device, count = values.resources.device, torch.cuda.device_count()
    if device == "cuda" and not count:
        return Finding(
            "device", "resources.device is cuda, but there is no GPU", "thaw run --set resources.device=auto"
        )
    if count and device in ("auto", "cuda"):
        return Finding("device", f"{count} GPU, {torch.cuda.get_device_name(0)}")
    return Finding("device", f"{os.cpu_count()} CPU cores")


def _answers(command: list[str]) -> bool:
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, cwd=workspace.root(), env=environment, capture_output=True, timeout=PATIENCE)
    return done.returncode == 0


LOOKS: dict[str, Callable[[Settings], Finding]] = {
    "packages": _packages,
    "results": _results,
    "git": _git,
    "data": _data,
    "DVC remote": _remote,
    "DVC's files": _files,
    "lock": _lock,
    "disk": _disk,
    "device": _device,
}
