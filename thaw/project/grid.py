"""The arms of a sweep: every combination of the given values, each with several seeds."""

import itertools
import re
from dataclasses import dataclass
from functools import reduce

from thaw.errors import InputError
from thaw.project.overrides import settings_with
from thaw.project.settings import Settings


@dataclass(frozen=True)
class Arm:
    """One training: what it tries, such as `ratio10`, and all changes to params.yaml, the seed
    among them."""

    name: str
    setting: str
    overrides: list[str]
    settings: Settings


def arm(setting: str, overrides: list[str]) -> Arm:
    """One training, with a name that git accepts."""
    settings = settings_with(overrides)
    fold = f"-fold{settings.prepare.fold}" if settings.prepare.folds else ""
    name = re.sub(r"[^\w.-]+|\.(?=\.|$)", "-", f"{setting}{fold}-seed{settings.seed}").strip("-.")
    return Arm(name, setting, overrides, settings)


def arms(grid: list[str], seeds: int | None, most: int) -> list[Arm]:
    """Every combination of the values in `key=a,b,c`, each with `seeds` seeds; all checked.

    Args:
        grid: changes of settings; `[a, b]` is one value.
        seeds: how many seeds per setting, starting with the one in params.yaml.
        most: the largest number of arms allowed.
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
            raise InputError(f"'{change}' is not a setting; write key=a,b,c, such as unfreeze.ratio=10,30,100")
        if key in values:
            raise InputError(f"--set names {key} twice; write all its values in one, such as {key}=a,b,c")
        if not all(values_of_key):
            raise InputError(f"'{change}' has an empty value; write key=a,b,c, such as unfreeze.ratio=10,30,100")
        values[key] = values_of_key
    if "seed" in values and seeds is not None:
        raise InputError("--seeds and --set seed=... both choose the seeds; give one of them")
    first_seed = settings_with([]).seed
    values["seed"] = values.get("seed") or [str(first_seed + number) for number in range(seeds or 1)]
    count = reduce(lambda product, choices: product * len(choices), values.values(), 1)
    if count > most:
        raise InputError(f"this sweep has {count} arms, and {most} are allowed; give fewer values, or --most {count}")
    all_arms = []
    for combination in itertools.product(*values.values()):
        overrides = [f"{key}={value}" for key, value in zip(values, combination, strict=True)]
        parts = [
            _name_part(key, value, values) for key, value in zip(values, combination, strict=True) if key != "seed"
        ]
        setting = "-".join(filter(None, parts)) or "unchanged"
        all_arms.append(arm(setting, overrides))
    for first_arm, second_arm in itertools.combinations(all_arms, 2):
        if first_arm.name == second_arm.name:
            raise InputError(f"--set gives the arm {first_arm.name} twice; give each value once")
    return all_arms


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _name_part(key: str, value: str, values: dict[str, list[str]]) -> str:
    """A setting as part of a name that git accepts; empty for a setting that is the same in all
    arms."""
    if len(values[key]) == 1:
        return ""
    last = key.rsplit(".", 1)[-1]
    alike = [other for other in values if other.rsplit(".", 1)[-1] == last]
    return re.sub(r"[^\w.-]+|\.(?=\.|$)", "-", f"{key if len(alike) > 1 else last}{value}").strip("-.")
