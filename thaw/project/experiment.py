"""Keeps a retraining: as a DVC experiment, and in the DVC remote. Branch and uncommitted work stay as they are."""

import shutil
import subprocess
import sys

from thaw.errors import InputError
from thaw.project import reasons, workspace
from thaw.project.git import dvc, git
from thaw.project.stage import OnLine, finish

# What a run may leave that is in no commit yet; all else that git does not track is the user's own.
OURS = ("dvc.lock", "data.dvc", "params.yaml", "artifacts")


def known() -> str | None:
    """The name of a record of just these results, the newest if there are several."""
    lock = workspace.ROOT / "dvc.lock"
    ours = git("hash-object", str(lock)) if lock.is_file() else ""
    records = git("for-each-ref", "--format=%(refname)", "--sort=-committerdate", "refs/exps/*/*/*").split()
    found = (
        record for record in records if ours and git("rev-parse", "--quiet", "--verify", f"{record}:dvc.lock") == ours
    )
    return next((record.rsplit("/", 1)[-1] for record in found), None)


def save(name: str, message: str, on_line: OnLine = print) -> str:
    """Save the workspace as an experiment, as `dvc exp save` does; its commit."""
    head = git("rev-parse", "--quiet", "--verify", "HEAD")
    if not head:
        raise InputError("a record needs a git commit to stand on: run `git init && git add --all && git commit`")
    if stale := reasons.changed():  # dvc would note them as what the results were made from
        why = "; ".join(dict.fromkeys(reason for each in stale.values() for reason in each))
        raise InputError(f"no record: since the phases ran, {why}; run again to make results of what is there now")
    new = git("ls-files", "--others", "--exclude-standard", "--", *OURS).splitlines()
    command = dvc("exp", "save", "--name", name, "--message", message)
    index = workspace.ROOT / git("rev-parse", "--git-path", "index")
    kept = index.with_name("index.before-record")
    shutil.copy2(index, kept)
    try:
        finish("record", [*command, *(f"--include-untracked={path}" for path in new)], on_line)
    finally:
        kept.replace(index)  # dvc forgets what the user has staged
    return git("rev-parse", "--verify", f"refs/exps/{head[:2]}/{head[2:]}/{name}")


def has_remote() -> bool:
    """Whether there is a DVC remote to push to."""
    command = dvc("config", "core.remote")
    return bool(subprocess.run(command, cwd=workspace.ROOT, text=True, capture_output=True).stdout.strip())


def push(everything: bool, on_line: OnLine = print) -> bool:
    """Send data and outputs to the DVC remote, or everything that a clone restores; whether anything was missing."""
    if everything:
        send(on_line=on_line)
        return True
    sent = finish("push", dvc("push"), on_line)
    return not any("up to date" in line for line in sent)


def send(*stages: str, on_line: OnLine = print) -> None:
    """Send what stages made, all if none is named, to the DVC remote, so that any clone restores it."""
    finish("push", [sys.executable, "-m", "thaw.project.send", *stages], on_line)
