"""Back up what only this machine has: `thaw backup FILE` and `thaw restore FILE FOLDER`.

A backup is one tar file: the git repository with branches, records and versions as a bundle,
uncommitted changes, and the database of the project's own Prefect server. Pictures and models are
not in it; their backup is the DVC remote.
"""

import json
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from thaw.errors import InputError
from thaw.project import experiment, pipeline, workspace
from thaw.project.git import git
from thaw.project.lock import only_retraining

BUNDLE, SERVER, META = "repository.bundle", "prefect.db", "backup.json"
STATUS = ("runs.jsonl", "schedules.json")  # what `thaw status` knows without a server
CHANGES = "refs/thaw/workspace"  # a commit of uncommitted changes
KEPT = ("refs/heads", "refs/tags", "refs/exps", "refs/thaw")


def backup(target: Path) -> list[str]:
    """Write the backup; returns sentences on what is in it and what is not."""
    if target.exists():
        raise InputError(f"{target} exists and is not overwritten: give another name")
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.absolute().parent}: make it, or mount the disk that holds it")
    if not git("rev-parse", "--quiet", "--verify", "HEAD"):
        raise InputError("a backup needs a git commit: run `git add --all && git commit` first")
    with only_retraining("backup"), tempfile.TemporaryDirectory(dir=target.absolute().parent) as place:
        folder = Path(place)
        changed = git("stash", "create")
        if changed:
            git("update-ref", CHANGES, changed)
        try:
            _call(workspace.root(), "git", "bundle", "create", "--quiet", str(folder / BUNDLE), "HEAD", "--all")
        finally:
            git("update-ref", "-d", CHANGES)
        has_server = _copy_database(workspace.root() / ".prefect" / SERVER, folder / SERVER)
        for name in STATUS:
            if (workspace.root() / ".prefect" / name).is_file():
                shutil.copy2(workspace.root() / ".prefect" / name, folder)
        remotes = {remote: git("remote", "get-url", remote) for remote in git("remote").split()}
        meta = {
            "project": pipeline.project(),
            "branch": git("branch", "--show-current"),
            "place": git("rev-parse", "--show-prefix"),
        }
        (folder / META).write_text(json.dumps(meta | {"remotes": remotes}, indent=2), encoding="utf-8")
        partial = folder / "backup.tar"
        with tarfile.open(partial, "w") as tar:
            for file in sorted(folder.iterdir()):
                if file != partial:
                    tar.add(file, file.name)
        partial.replace(target)
    sentences = [f"{target}: the git repository with records and versions" + ", and the server's database" * has_server]
    if untracked := git("ls-files", "--others", "--exclude-standard").splitlines():
        sentences.append(f"not in it: {len(untracked)} files that git does not track, such as {untracked[0]}")
    if not experiment.has_remote():
        sentences.append(
            "not in it: pictures and models, and there is no DVC remote that has them; see `dvc remote add`"
        )
    return sentences


def restore(source: Path, folder: Path) -> list[str]:
    """Restore a backup into a new folder; returns sentences on what to do next."""
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty: restore into a new folder")
    if not source.is_file():
        raise InputError(f"there is no file {source}")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as place:
        parts, made = Path(place) / "parts", Path(place) / "made"
        try:
            with tarfile.open(source) as tar:
                tar.extractall(parts, filter="data")
            meta = json.loads((parts / META).read_text(encoding="utf-8"))
        except (OSError, tarfile.TarError, ValueError):
            raise InputError(f"{source} is not a backup that `thaw backup` wrote, or is damaged") from None
        _call(Path(place), "git", "init", "--quiet", str(made))
        refspecs = [f"{refs}/*:{refs}/*" for refs in KEPT]
        _call(made, "git", "fetch", "--quiet", "--update-head-ok", str(parts / BUNDLE), *refspecs, "HEAD")
        if meta["branch"]:
            _call(made, "git", "symbolic-ref", "HEAD", f"refs/heads/{meta['branch']}")
            _call(made, "git", "reset", "--quiet", "--hard")
        else:
            _call(made, "git", "checkout", "--quiet", "--detach", "FETCH_HEAD")
        if _has(made, CHANGES):
            _call(made, "git", "checkout", "--quiet", CHANGES, "--", ".")
            _call(made, "git", "reset", "--quiet")
            _call(made, "git", "update-ref", "-d", CHANGES)
        for remote, url in meta["remotes"].items():
            _call(made, "git", "remote", "add", remote, url)
        home = made / meta["place"] / ".prefect"
        for name in (SERVER, *STATUS):
            if (parts / name).is_file():
                home.mkdir(parents=True, exist_ok=True)
                shutil.move(parts / name, home / name)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    return [
        f"{folder / meta['place']} is the project {meta['project']}, with its records and versions",
        "Next, there: `dvc pull` brings pictures and results, `thaw models` shows the versions, `thaw schedule` serves "
        "the schedules",
    ]


def _copy_database(source: Path, target: Path) -> bool:
    """Copy a consistent snapshot of the server's database; returns whether there is one."""
    if not source.is_file():
        return False
    with closing(sqlite3.connect(source)) as database, closing(sqlite3.connect(target)) as copy:
        database.backup(copy)
    return True


def _has(folder: Path, ref: str) -> bool:
    return not subprocess.run(["git", "show-ref", "--quiet", "--verify", ref], cwd=folder).returncode


def _call(folder: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=folder, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"`git {command[1]}` failed in {folder}: {reason}")
