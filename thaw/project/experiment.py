"""Record a retraining as a DVC experiment, and push it. The branch and uncommitted work are not
touched."""

import re
import shutil
import subprocess

from thaw.errors import InputError
from thaw.project import reasons, registry, workspace
from thaw.project.git import dvc, git
from thaw.project.journal import Journal
from thaw.project.stage import OnLine, StageError, ask, finish, run

# Untracked files that a run may leave; all others belong to the user.
OURS = ("dvc.lock", "data.dvc", "params.yaml", "artifacts")

PREFIX = "retrain-"  # how the name of a retraining's record begins
RECORD = re.compile(rf"refs/exps/[0-9a-f]{{2}}/[0-9a-f]+/{PREFIX}.*")
QUICK = "--quick"  # push outputs only, without the run cache
UNSENT = Journal("unsent")


def known() -> str | None:
    """The name of the newest record of exactly these results, if there is one."""
    lock = workspace.root() / "dvc.lock"
    ours = git("hash-object", str(lock)) if lock.is_file() else ""
    records = git("for-each-ref", "--format=%(refname)", "--sort=-committerdate", "refs/exps/*/*/*").split()
    matching = (
        record for record in records if ours and git("rev-parse", "--quiet", "--verify", f"{record}:dvc.lock") == ours
    )
    return next((record.rsplit("/", 1)[-1] for record in matching), None)


def save(name: str, message: str, on_line: OnLine = print) -> str:
    """Save the workspace as an experiment, as `dvc exp save` does; returns its commit."""
    head = git("rev-parse", "--quiet", "--verify", "HEAD")
    if not head:
        raise InputError("a record needs a git commit: run `git init && git add --all && git commit`")
    if stale := reasons.changed():  # DVC would record them as the source of the results
        why = "; ".join(dict.fromkeys(reason for of_phase in stale.values() for reason in of_phase))
        raise InputError(f"no record: since the phases ran, {why}; run again to get results of what is there now")
    UNSENT.begin(record=name)
    new = git("ls-files", "--others", "--exclude-standard", "--", *OURS).splitlines()
    command = dvc("exp", "save", "--name", name, "--message", message)
    index = workspace.root() / git("rev-parse", "--git-path", "index")
    backup = index.with_name("index.before-record")
    shutil.copy2(index, backup)
    try:
        finish("record", [*command, *(f"--include-untracked={path}" for path in new)], on_line)
    finally:
        backup.replace(index)  # DVC unstages what the user has staged
    return git("rev-parse", "--verify", f"refs/exps/{head[:2]}/{head[2:]}/{name}")


def has_remote() -> bool:
    """Whether there is a DVC remote to push to."""
    return bool(remote())


def remote() -> str:
    """The name of the DVC remote to push to; empty where there is none."""
    command = dvc("config", "core.remote")
    return subprocess.run(command, cwd=workspace.root(), text=True, capture_output=True).stdout.strip()


def push(on_line: OnLine = print) -> int:
    """Push data and outputs to the DVC remote, and the run cache too if a record was not pushed
    yet; returns the number of files that were new there."""
    if not UNSENT.read():
        sent: int = ask("push", "thaw.project.send", QUICK, on_line=on_line)
        return sent
    sent = send(on_line=on_line)
    UNSENT.end()
    return sent


def send(*stages: str, on_line: OnLine = print) -> int:
    """Push the outputs and the run cache of `stages` (default: all), so that a clone can restore
    them; returns the number of files."""
    sent: int = ask("push", "thaw.project.send", *stages, on_line=on_line)
    return sent


def publish(remote: str, on_line: OnLine = print) -> int:
    """Push the records of retrainings and the tags of versions to a git remote; returns how many
    were new."""
    if remote not in git("remote").split():
        raise InputError(f"retrain.git_remote is {remote}, but git knows no such remote; see `git remote -v`")
    names = git("for-each-ref", "--format=%(refname)", "refs/exps", "refs/tags").splitlines()
    ours = [name for name in names if RECORD.fullmatch(name) or registry.is_tag(name)]
    if not ours:
        return 0
    lines: list[str] = []
    command = ["git", "push", "--porcelain", remote, *(f"{name}:{name}" for name in ours)]
    code = run(command, lines.append, {"GIT_TERMINAL_PROMPT": "0"})
    flags = [line.split("\t") for line in lines if line[1:2] == "\t"]
    refused = [columns for columns in flags if columns[0] == "!"]
    if refused:
        raise InputError(
            f"the git remote {remote} did not take {refused[0][1].partition(':')[0]}: {refused[0][-1]}; see `git push`"
        )
    if code:
        raise StageError("push", code, lines)
    return sum(columns[0] == "*" for columns in flags)
