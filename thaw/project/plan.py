"""The order of a sweep's arms in which no phase is computed twice."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import reduce
from typing import Any

from thaw.project import pipeline
from thaw.project.grid import Arm


@dataclass(frozen=True)
class Job:
    """One worker's job: the phases up to `until` with the settings of an arm, once the job `after`
    is done."""

    name: str
    overrides: list[str]
    until: str
    after: str | None


def plan(all_arms: list[Arm]) -> list[Job]:
    """The jobs of a sweep, each after the one that it waits for.

    Arms share a phase if all settings of it and of the phases before it are equal. Phases that
    several arms share are a job of their own, and these arms wait for it: so no phase is computed
    twice, and no locks are needed.
    """
    stages = pipeline.stages()
    names = list(stages)
    keys = {arm.name: _keys(arm, stages) for arm in all_arms}
    jobs: list[Job] = []

    def grow(group: list[Arm], depth: int, after: str | None) -> None:
        if len(group) == 1:
            jobs.append(Job(group[0].name, group[0].overrides, names[-1], after))
            return
        shared = depth
        while shared < len(names) and len({keys[arm.name][shared] for arm in group}) == 1:
            shared += 1
        if shared > depth:
            until = names[shared - 1]
            name = f"until-{until}-{keys[group[0].name][shared - 1][:8]}"
            jobs.append(Job(name, group[0].overrides, until, after))
            after = name
        if shared == len(names):
            for arm in group:
                grow([arm], shared, after)
            return
        for key in dict.fromkeys(keys[arm.name][shared] for arm in group):
            grow([arm for arm in group if keys[arm.name][shared] == key], shared, after)

    grow(all_arms, 0, None)
    return jobs


def _keys(arm: Arm, stages: dict[str, Any]) -> list[str]:
    """For each phase a key of all settings that it and the phases before it depend on."""
    values = arm.settings.model_dump()
    read: list[Any] = []
    keys = []
    for stage in stages.values():
        params = stage.get("params", [])
        read.append([reduce(lambda place, part: place[part], key.split("."), values) for key in params])
        keys.append(digest(read))
    return keys


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def at_once(arms: list[Arm]) -> int:
    """How many arms run at once on this machine; two that use all cores would only slow each other
    down."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(arm.settings.resources.threads or cores for arm in arms))
