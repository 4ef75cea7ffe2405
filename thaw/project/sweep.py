"""Sweeps: the commit from which the arms start, and the experiments in which they end.

An arm is a commit with some settings changed. It ends as a DVC experiment in a git repository,
from which its settings, metrics and `dvc.lock` are read, wherever it ran. This module knows git,
DVC and files, but not Prefect.
"""

import configparser
import re
import socket
import subprocess
from dataclasses import dataclass

from thaw.errors import InputError
from thaw.project import workspace
from thaw.project.git import dvc, git
from thaw.project.grid import Arm
from thaw.project.plan import digest

MINUTES = "Minutes"  # the git trailer with the duration of an arm


@dataclass(frozen=True)
class Base:
    """The start of every arm: a commit, and the git repository that has it and takes the
    experiments."""

    repository: str
    commit: str


@dataclass(frozen=True)
class Sweep:
    """All arms, and a name that depends only on them and the commit, so that a stopped sweep can
    go on."""

    name: str
    base: Base
    arms: list[Arm]


def sweep(all_arms: list[Arm], pool: bool) -> Sweep:
    """A sweep of these arms; raises at a mistake before anything starts."""
    start = base(pool)
    return Sweep(f"sweep-{digest([start.commit, [arm.overrides for arm in all_arms]])[:6]}", start, all_arms)


def base(pool: bool) -> Base:
    """The start of the arms; raises if something is not committed, or not pushed for the workers
    of a pool."""
    commit = git("rev-parse", "--quiet", "--verify", "HEAD")
    if not commit:
        raise InputError("a sweep needs a git commit to start from: run `git init && git add --all && git commit`")
    changed = git("diff", "--name-only", "HEAD", "--", ".", ":!dvc.lock", ":!artifacts").splitlines()
    if changed:
        raise InputError(f"{_listed(changed)} differ from the last commit, which every arm starts from; commit first")
    if not pool:
        return Base(str(workspace.root()), commit)
    url = git("remote", "get-url", "origin")
    if not url:
        raise InputError("workers need a git repository to clone: run `git remote add origin URL` and push to it")
    fetched = _call("git", "fetch", "--quiet", "origin")
    if fetched.returncode:
        raise InputError(f"the git remote origin does not answer: {_last_line(fetched.stderr)}; see `git fetch origin`")
    if not git("branch", "--remotes", "--contains", commit):
        raise InputError(f"the commit {commit[:7]} is not in the git remote origin, where workers get it; push first")
    config = configparser.ConfigParser()
    config.read_string("\n".join(line.strip() for line in git("show", "HEAD:.dvc/config").splitlines()))
    if not config.get("core", "remote", fallback=None):
        raise InputError(
            "workers need a DVC remote: run `dvc remote add -d storage URL`, commit .dvc/config and push it to origin"
        )
    if (workspace.root() / url).exists():
        url = str((workspace.root() / url).resolve())
    return Base(re.sub(r"(?<=://)[^/@]+@", "", url) if url.startswith("http") else url, commit)


def own_pool() -> str:
    """The name of the work pool for this workspace on this machine."""
    return f"{socket.gethostname()}-{digest(str(workspace.root()))[:6]}"


def cache_folder() -> str:
    """The folder of this workspace's DVC cache."""
    return _call(*dvc("cache", "dir")).stdout.strip()


def use_cache(folder: str) -> None:
    """Use this folder as DVC's cache, together with other arms."""
    _call(*dvc("config", "--local", "cache.dir", folder))


def message(name: str, minutes: float) -> str:
    """The commit message of an arm's experiment, with its duration as a trailer."""
    return f"{name}\n\n{MINUTES}: {minutes:.1f}"


def publish(name: str) -> None:
    """Push an experiment to the repository that this clone comes from, where the sweep finds
    it."""
    references = git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    reference = next(reference for reference in references if reference.endswith(f"/{name}"))
    pushed = _call("git", "push", "--quiet", "origin", f"+{reference}:{reference}")
    if pushed.returncode:
        raise InputError(f"the git remote origin did not take the experiment: {_last_line(pushed.stderr)}")


def finished(of: Sweep) -> list[Arm]:
    """The arms with an experiment; fetches the experiments into this repository."""
    begin = reference(of, "")
    if of.base.repository != str(workspace.root()):
        _call("git", "fetch", "--quiet", "origin", f"+{begin}*:{begin}*")
    references = git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    return [arm for arm in of.arms if begin + arm.name in references]


def reference(of: Sweep, arm: str) -> str:
    """The git reference of an arm's experiment."""
    return f"refs/exps/{of.base.commit[:2]}/{of.base.commit[2:]}/{of.name}-{arm}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _call(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=workspace.root(), text=True, capture_output=True, stdin=subprocess.DEVNULL)
