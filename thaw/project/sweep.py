"""Many trainings at once: the arms of a sweep, the order that computes nothing twice, and what came out of them.

An arm is this commit with some settings changed. It ends as a DVC experiment in a git repository: its settings,
metrics and `dvc.lock` are read from there, wherever it ran. Knows git, DVC and files, and nothing of Prefect.
"""

import configparser
import hashlib
import itertools
import json
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.errors import InputError
from thaw.project import pipeline, workspace
from thaw.project.git import dvc, git
from thaw.project.overrides import settings_with
from thaw.project.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {  # of the table: where the number is in the metrics of an arm
    "val_loss": ("unfreeze", "val_loss"),
    "head_accuracy": ("evaluate", "head", "accuracy"),
    "accuracy": ("evaluate", "finetuned", "accuracy"),
    "auc": ("evaluate", "finetuned", "auc"),
}
SOURCES = {path[0] for path in COLUMNS.values()}
MINUTES = "Minutes"  # the trailer of git that says how long an arm took


@dataclass(frozen=True)
class Arm:
    """One training: what it tries, such as `ratio10`, and all changes to params.yaml, the seed among them."""

    name: str
    setting: str
    overrides: list[str]
    settings: Settings


@dataclass(frozen=True)
class Base:
    """What every arm starts from: a commit, and the git repository that has it and takes the experiments."""

    repository: str
    commit: str


@dataclass(frozen=True)
class Sweep:
    """All arms, and a name that is the same for the same arms of the same commit, so that a sweep can go on."""

    name: str
    base: Base
    arms: list[Arm]


@dataclass(frozen=True)
class Job:
    """What one worker does: the phases up to `until` with the settings of an arm, once the job `after` is done."""

    name: str
    overrides: list[str]
    until: str
    after: str | None


@dataclass(frozen=True)
class Findings:
    """What a sweep found: a row for each setting, the best one and one of its arms, a plot; and where they are kept."""

    table: "pd.DataFrame"
    best: str
    arm: Arm
    plot: bytes
    folder: Path


def sweep(all_arms: list[Arm], pool: bool) -> Sweep:
    """These arms and what they start from, checked, so that every mistake is told before anything starts."""
    start = base(pool)
    return Sweep(f"sweep-{_digest([start.commit, [arm.overrides for arm in all_arms]])[:6]}", start, all_arms)


def arm(setting: str, overrides: list[str]) -> Arm:
    """One training; its name is one that git takes."""
    settings = settings_with(overrides)
    fold = f"-fold{settings.prepare.fold}" if settings.prepare.folds else ""
    name = re.sub(r"[^\w.-]+|\.(?=\.|$)", "-", f"{setting}{fold}-seed{settings.seed}").strip("-.")
    return Arm(name, setting, overrides, settings)


def arms(grid: list[str], seeds: int | None, most: int) -> list[Arm]:
    """Every combination of the values in `key=a,b,c`, each with so many seeds; all checked.

    Args:
        grid: changes of settings; `[a, b]` is one value.
        seeds: how many seeds each setting is trained with, from the one in params.yaml on.
        most: more arms than this are refused.
    """
    if not grid and seeds is None:
        raise InputError("a sweep needs values to try: give --set unfreeze.ratio=10,30,100, or --seeds 3, or both")
    if seeds is not None and seeds < 1:
        raise InputError(f"--seeds {seeds} leaves nothing to train; give 1 or more")
    values: dict[str, list[str]] = {}
    for change in grid:
        key, equals, text = (part.strip() for part in change.partition("="))
        values_of_key = _split(text)
        if not equals or not key:
            raise InputError(f"'{change}' is no setting; write key=a,b,c, such as unfreeze.ratio=10,30,100")
        if key in values:
            raise InputError(f"--set names {key} twice; write all its values in one, such as {key}=a,b,c")
        if not all(values_of_key):
            raise InputError(f"'{change}' has an empty value; write key=a,b,c, such as unfreeze.ratio=10,30,100")
        values[key] = values_of_key
    if "seed" in values and seeds is not None:
        raise InputError("--seeds and --set seed=... both choose the seeds; give one of them")
    first = settings_with([]).seed
    values["seed"] = values.get("seed") or [str(first + number) for number in range(seeds or 1)]
    count = reduce(lambda product, each: product * len(each), values.values(), 1)
    if count > most:
        raise InputError(f"this sweep has {count} arms, and {most} are allowed; give fewer values, or --most {count}")
    found = []
    for combination in itertools.product(*values.values()):
        overrides = [f"{key}={value}" for key, value in zip(values, combination, strict=True)]
        words = [_word(key, value, values) for key, value in zip(values, combination, strict=True) if key != "seed"]
        setting = "-".join(filter(None, words)) or "unchanged"
        found.append(arm(setting, overrides))
    for one, other in itertools.combinations(found, 2):
        if one.name == other.name:
            raise InputError(f"--set gives the arm {one.name} twice; give each value once")
    return found


def _split(text: str) -> list[str]:
    """The values between the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _word(key: str, value: str, values: dict[str, list[str]]) -> str:
    """A setting as a part of a name that git takes; nothing for one that is the same in all arms."""
    if len(values[key]) == 1:
        return ""
    last = key.rsplit(".", 1)[-1]
    alike = [other for other in values if other.rsplit(".", 1)[-1] == last]
    return re.sub(r"[^\w.-]+|\.(?=\.|$)", "-", f"{key if len(alike) > 1 else last}{value}").strip("-.")


def base(pool: bool) -> Base:
    """What the arms start from, or the reason why no worker could: something is not committed or not pushed."""
    commit = git("rev-parse", "--quiet", "--verify", "HEAD")
    if not commit:
        raise InputError("a sweep needs a git commit to start from: run `git init && git add --all && git commit`")
    changed = git("diff", "--name-only", "HEAD", "--", ".", ":!dvc.lock", ":!artifacts").splitlines()
    if changed:
        raise InputError(f"{_listed(changed)} differ from the last commit, which every arm starts from; commit first")
    if not pool:
        return Base(str(workspace.ROOT), commit)
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
    if (workspace.ROOT / url).exists():
        url = str((workspace.ROOT / url).resolve())
    return Base(re.sub(r"(?<=://)[^/@]+@", "", url) if url.startswith("http") else url, commit)


def plan(all_arms: list[Arm]) -> list[Job]:
    """The jobs of a sweep, a job behind the one that it waits for.

    Arms share a phase if all settings that it and the phases before it read are equal. What two or more share
    is a job of its own, which they wait for: so no phase is computed twice, and nobody has to lock anything.
    """
    stages = pipeline.stages()
    words = list(stages)
    keys = {arm.name: _keys(arm, stages) for arm in all_arms}
    jobs: list[Job] = []

    def grow(group: list[Arm], depth: int, after: str | None) -> None:
        if len(group) == 1:
            jobs.append(Job(group[0].name, group[0].overrides, words[-1], after))
            return
        shared = depth
        while shared < len(words) and len({keys[arm.name][shared] for arm in group}) == 1:
            shared += 1
        if shared > depth:
            until = words[shared - 1]
            name = f"until-{until}-{keys[group[0].name][shared - 1][:8]}"
            jobs.append(Job(name, group[0].overrides, until, after))
            after = name
        if shared == len(words):
            for arm in group:
                grow([arm], shared, after)
            return
        for key in dict.fromkeys(keys[arm.name][shared] for arm in group):
            grow([arm for arm in group if keys[arm.name][shared] == key], shared, after)

    grow(all_arms, 0, None)
    return jobs


def _keys(arm: Arm, stages: dict[str, Any]) -> list[str]:
    """For each phase what tells apart its results, and those of the phases before it."""
    values = arm.settings.model_dump()
    read: list[Any] = []
    keys = []
    for stage in stages.values():
        params = stage.get("params", [])
        read.append([reduce(lambda place, part: place[part], key.split("."), values) for key in params])
        keys.append(_digest(read))
    return keys


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def at_once(arms: list[Arm]) -> int:
    """How many of these this machine carries at a time: two that use all cores would only wait for one another."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(arm.settings.resources.threads or cores for arm in arms))


def own_pool() -> str:
    """The name of the work pool for this workspace on this machine."""
    return f"{socket.gethostname()}-{_digest(str(workspace.ROOT))[:6]}"


def cache_folder() -> str:
    """Where this workspace keeps DVC's cache."""
    return _call(*dvc("cache", "dir")).stdout.strip()


def use_cache(folder: str) -> None:
    """Keep DVC's cache in this folder, where others have theirs too."""
    _call(*dvc("config", "--local", "cache.dir", folder))


def message(name: str, minutes: float) -> str:
    """The message of an arm's experiment, from which its row reads the minutes."""
    return f"{name}\n\n{MINUTES}: {minutes:.1f}"


def publish(name: str) -> None:
    """Send an experiment to the git repository that this clone comes from; the sweep finds it there."""
    references = git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    reference = next(reference for reference in references if reference.endswith(f"/{name}"))
    pushed = _call("git", "push", "--quiet", "origin", f"+{reference}:{reference}")
    if pushed.returncode:
        raise InputError(f"the git remote origin did not take the experiment: {_last_line(pushed.stderr)}")


def finished(of: Sweep) -> list[Arm]:
    """The arms that ended as experiments, which are in this repository from now on."""
    begin = reference(of, "")
    if of.base.repository != str(workspace.ROOT):
        _call("git", "fetch", "--quiet", "origin", f"+{begin}*:{begin}*")
    found = git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    return [arm for arm in of.arms if begin + arm.name in found]


def outcome(of: Sweep) -> Findings | None:
    """What came out of the arms that ended, if any did; table and plot of it are kept in its folder."""
    import pandas as pd

    from thaw.report.sweep_plot import sweep_plot
    from thaw.statistics import sweeps

    done = finished(of)
    if not done:
        return None
    arms_done = pd.DataFrame([_row(of, arm) for arm in done])
    table = sweeps.by_setting(arms_done)
    best = sweeps.best(table)
    folder = workspace.ROOT / "artifacts" / "sweeps" / of.name
    folder.mkdir(parents=True, exist_ok=True)
    arms_done.to_csv(folder / "table.csv", index=False, lineterminator="\n")
    picture = sweep_plot(arms_done, table, best)
    (folder / "plot.png").write_bytes(picture)
    return Findings(table, best, next(arm for arm in done if arm.setting == best), picture, folder)


def _row(of: Sweep, arm: Arm) -> dict[str, Any]:
    """What came out of an arm, read from its experiment."""
    from thaw.statistics.records import same_networks

    commit = reference(of, arm.name)
    metrics = {phase: json.loads(git("show", f"{commit}:artifacts/{phase}/metrics.json")) for phase in SOURCES}
    row: dict[str, Any] = {"arm": arm.name, "setting": arm.setting, "seed": arm.settings.seed}
    row |= {column: reduce(lambda place, part: place[part], path, metrics) for column, path in COLUMNS.items()}
    row["gain"] = row["accuracy"] - row["head_accuracy"]  # 0 where phase 2 was not kept, for the mean over seeds
    row["same"] = same_networks(metrics["evaluate"])
    took = git("log", "-1", f"--format=%(trailers:key={MINUTES},valueonly)", commit)
    return row | {"minutes": float(took) if took else None}


def reference(of: Sweep, arm: str) -> str:
    """The experiment of an arm, as git names it."""
    return f"refs/exps/{of.base.commit[:2]}/{of.base.commit[2:]}/{of.name}-{arm}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def _call(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=workspace.ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL)
