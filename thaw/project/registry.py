"""Versions of the model and which of them is in use: git tags, named as gto names them.

`classifier@v2.0.0` marks the commit of a version, `classifier#prod#3` the version in use from then
on. So `gto show` lists them and `dvc artifacts get . classifier --stage prod` brings the model in
use. A tagged experiment commit stays, whatever becomes of the experiment. `classifier#waiting#4`
marks a version that waits for a person, and `classifier#rejected#5` one that was turned down.
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ruamel.yaml import YAML

from thaw.errors import InputError
from thaw.project import workspace
from thaw.project.git import contents, git
from thaw.project.journal import Journal

NAME, STAGE = "classifier", "prod"
# waits for a person to approve it; rejected by a person or by a rule
WAITING, REJECTED = "waiting", "rejected"
IDENTITY = "identity.json"  # in a package, kept in git
UNNAMED = "artifacts/unfreeze/model"  # where the model lies if dvc.yaml does not say
TOLD_BY = (
    "artifacts/evaluate/metrics.json",
    "data.dvc",
    "dvc.yaml",
    "dvc.lock",
)  # what tells of a version, at its commit
BACK = "rolled back from"  # how the message of a rollback begins
ENTERED = Journal("version")
FIRST = "no model has a version yet; `thaw run --record` trains one and gives it a version"


@dataclass(frozen=True)
class Version:
    """A registered model: where it is, what it scored, what it learned from, and why it was
    registered.

    `standing` is what was last decided about it, since `since`: prod, waiting or rejected; empty
    where nothing was. `path` is where the model lies at the commit. `model` tells it from others:
    the identity of a package, else DVC's hash; empty where there is no model.
    """

    name: str
    commit: str
    path: str
    when: datetime
    in_use: bool
    metrics: dict[str, Any]
    data: str
    model: str
    message: str
    standing: str = ""
    since: datetime | None = None


def versions() -> list[Version]:
    """All versions, the newest first."""
    events = _events()
    line = _line(events)
    last = {event["version"]: event for event in events if event["event"] == "assignment"}
    registered = list(reversed(_registered(events).items()))
    commits = [event["commit"] for _, event in registered]
    texts = contents([f"{commit}:./{path}" for commit in commits for path in TOLD_BY])
    paths = [path_in(text) for text in texts[2::4]]
    identities = contents([f"{commit}:./{path}/{IDENTITY}" for commit, path in zip(commits, paths, strict=True)])
    return [
        Version(
            name=name,
            commit=event["commit"],
            path=path,
            when=event["timestamp"],
            in_use=line[-1:] == [name],
            metrics=json.loads(metrics or "{}"),
            data=hashes(pin).get("data", "")[:7],
            model=_model(identity, lock, path),
            message=event["message"],
            standing=last[name]["stage"] if name in last else "",
            since=last[name]["timestamp"] if name in last else None,
        )
        for (name, event), metrics, pin, lock, path, identity in zip(
            registered, texts[::4], texts[1::4], texts[3::4], paths, identities, strict=True
        )
    ]


def in_use(known: list[Version]) -> Version | None:
    """The one of all versions that is in use, if there is one."""
    return next((version for version in known if version.in_use), None)


def version_of(model: str, known: list[Version]) -> Version | None:
    """The version of a model, by what tells it from others, if it has one."""
    return next((version for version in known if version.model == model), None)


def find(name: str) -> Version:
    """The version of that name, with or without its v."""
    return named(name, versions())


def named(name: str, versions: list[Version]) -> Version:
    """The one of these versions that has the name."""
    full = f"v{name.strip().removeprefix('v')}"
    for version in versions:
        if version.name == full:
            return version
    names = ", ".join(version.name for version in reversed(versions))
    raise InputError(f"there is no version '{name}'; there are {names}" if versions else FIRST)


def model_of(commit: str | None) -> str:
    """What tells the model at a commit, or (None) in the workspace, from others; empty where there
    is no model."""

    def text(path: str) -> str:
        if commit:
            return git("show", f"{commit}:./{path}")
        file = workspace.root() / path
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    path = path_in(text("dvc.yaml"))
    return _model(text(f"{path}/{IDENTITY}"), text("dvc.lock"), path)


def path_in(text: str) -> str:
    """Where the model lies, by the text of a dvc.yaml."""
    values = YAML(typ="safe").load(text) or {}
    return str(values.get("artifacts", {}).get(NAME, {}).get("path", UNNAMED))


def _model(identity: str, lock: str, path: str) -> str:
    """The identity of a package, or else DVC's hash of what lies at the path."""
    return str(json.loads(identity)["model"]) if identity else hashes(lock).get(path, "")


def is_tag(reference: str) -> bool:
    """Whether a reference of git is one of this project's tags."""
    return reference.startswith((f"refs/tags/{_tagged()}@", f"refs/tags/{_tagged()}#"))


def artifact() -> str:
    """The model's name for gto and DVC: in a folder of a larger repository with that folder, since
    another project there may have a model of its own."""
    folder = git("rev-parse", "--show-prefix").rstrip("/")
    return f"{folder}:{NAME}" if folder else NAME


def _tagged() -> str:
    """That name in tags, which have no colon."""
    return artifact().replace(":", "=")


def register(commit: str, message: str) -> Version:
    """Give the model at a commit a version; a model that has one keeps it."""
    model = model_of(commit)
    if not model:
        raise InputError(f"commit {commit[:7]} holds no trained model; train and record one with `thaw run --record`")
    known = version_of(model, versions())
    if not known:
        events = _events()
        latest = max((int(version.split(".")[0].removeprefix("v")) for version in _registered(events)), default=0)
        _tag(f"{_tagged()}@v{latest + 1}.0.0", commit, message, events)
        known = version_of(model, versions())
        assert known
    return known


def enter(commit: str, message: str, stage: str | None) -> Version:
    """Give the model at a commit a version, and that version a stage if there is one: both,
    whenever this is killed."""
    ENTERED.begin(commit=commit, message=message, stage=stage)
    version = finish()
    assert version
    return version


def finish() -> Version | None:
    """End what `enter` began, if it began anything. Whoever calls holds the workspace."""
    begun = ENTERED.read()
    if not begun:
        return None
    version = register(begun["commit"], begun["message"])
    if begun.get("stage") not in (None, find(version.name).standing):
        assign(version.name, begun["stage"], begun["message"])
    ENTERED.end()
    return version


def promote(version: str, message: str) -> None:
    """Put a version in use; nothing happens if it is."""
    if were_in_use()[-1:] != [find(version).name]:
        assign(version, STAGE, message)


def assign(version: str, stage: str, message: str) -> None:
    """Decide about a version: prod, waiting or rejected."""
    events = _events()
    numbers = [int(event["ref"].rsplit("#", 1)[1]) for event in events if "#" in event["ref"]]
    commit = find(version).commit
    _tag(f"{_tagged()}#{stage}#{max(numbers, default=0) + 1}", commit, message, events)


def assigned_after(version: str) -> list[str]:
    """The tags by which something was decided about any version after this one was registered."""
    events = _events()
    names = [(event["event"], event["version"]) for event in events]
    later = events[names.index(("registration", version)) + 1 :]
    return [str(event["ref"]).removeprefix("refs/tags/") for event in later if event["event"] != "registration"]


def in_use_when_asked(version: str) -> str | None:
    """The name of the version that was in use when this one began to wait for a person."""
    events = _events()
    began = max(
        place
        for place, event in enumerate(events)
        if event["event"] == "assignment" and (event["version"], event["stage"]) == (version, WAITING)
    )
    return next(iter(_line(events[:began])[-1:]), None)


def rollback() -> Version:
    """Put the version in use that was so before the present one; again, and it goes one further
    back."""
    line = _line(_events())
    if len(line) < 2:
        raise InputError(f"no version was in use before {line[0]}" if line else "no version is in use yet")
    promote(line[-2], f"{BACK} {line[-1]}")
    return next(version for version in versions() if version.name == line[-2])


def were_in_use() -> list[str]:
    """The versions that were in use one after the other, the present one last; what was rolled
    back is off it."""
    return _line(_events())


def _events() -> list[dict[str, Any]]:
    """What gto's tags tell, in the order in which it happened."""
    # without tags or a repository: gto would need half a second to say so
    if not git("tag", "--list", f"{_tagged()}[@#]*"):
        return []
    import gto.api

    top = git("rev-parse", "--show-toplevel")
    return list(gto.api.history(top, artifact(), ascending=True))


def _registered(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {event["version"]: event for event in events if event["event"] == "registration"}


def _line(events: list[dict[str, Any]]) -> list[str]:
    """The versions that were in use one after the other, the present one last; what was rolled
    back is off it."""
    line: list[str] = []
    for event in events:
        if event["event"] == "assignment" and event["stage"] == STAGE:
            if event["message"].startswith(BACK) and line[-2:-1] == [event["version"]]:
                line.pop()
            else:
                line.append(event["version"])
    return line


def _tag(name: str, commit: str, message: str, events: list[dict[str, Any]]) -> None:
    """Make a tag, whether or not git knows the user, at a later second than all before it.

    gto and DVC tell which model is in use from the time of its tag, which has whole seconds.
    """
    latest = max((event["timestamp"].timestamp() for event in events), default=0)
    environment = os.environ | {"GIT_COMMITTER_DATE": f"@{int(max(time.time(), latest + 1))} +0000"}
    if not git("var", "GIT_COMMITTER_IDENT"):
        environment |= {"GIT_COMMITTER_NAME": "thaw", "GIT_COMMITTER_EMAIL": "thaw@localhost"}
    # Unsigned, whatever the user's settings say: nobody is there to give the passphrase.
    command = ["git", "tag", "--annotate", "--no-sign", "--message", message, "--", name, commit]
    result = subprocess.run(command, cwd=workspace.root(), env=environment, text=True, capture_output=True)
    if result.returncode:
        raise InputError(f"git cannot make the tag {name}: {' '.join(result.stderr.split())}")


def hashes(text: str, deps: bool = False) -> dict[str, str]:
    """Path and DVC's hash of each output that a dvc.lock or a .dvc file names; `deps`: also of
    what they depend on."""
    values = YAML(typ="safe").load(text) or {}
    stages = values.get("stages", {"": values}).values()
    parts = [part for stage in stages for kind in ("deps",) * deps + ("outs",) for part in stage.get(kind) or []]
    return {part["path"]: part["md5"] for part in parts if "md5" in part}
