"""Versions that wait for a person: `thaw approve`, `thaw reject`, and the flow `approve`."""

from datetime import UTC, datetime, timedelta

from thaw.errors import InputError
from thaw.project import compare, registry
from thaw.project.compare import Outcome
from thaw.project.lock import only_retraining
from thaw.project.registry import REJECTED, STAGE, WAITING, Version
from thaw.project.stage import OnLine

STANDINGS = {STAGE: "was put in use", REJECTED: "was turned down", "": "never waited"}


def waiting(name: str) -> Version:
    """The version of that name; raises unless it waits for a person."""
    version = registry.find(name)
    if version.standing != WAITING:
        names = [other.name for other in registry.versions() if other.standing == WAITING]
        others = f"; {', '.join(names)} {'wait' if names[1:] else 'waits'}" if names else "; no version waits"
        raise InputError(
            f"{version.name} waits for nobody, it {STANDINGS[version.standing]}{others} "
            f"(`thaw promote {version.name}` puts it in use anyway)"
        )
    return version


def comparison(name: str, on_line: OnLine = print, minutes: float = 0) -> Outcome | None:
    """The decision about a version that waits; made again if another model was compared since.

    None where no model is in use to compare it with.
    """
    version = waiting(name)
    decision = compare.decision()
    if decision and decision.model == version.model:
        return decision
    champion = registry.in_use(registry.versions())
    if champion is None:
        return None
    with only_retraining(f"compare {version.name}", minutes, on_line):
        return compare.again(version, champion, on_line)


def approve(name: str, note: str, on_line: OnLine = print, minutes: float = 0) -> str:
    """Put a version in use because a person says so; returns the outcome as a sentence.

    If another model has come into use since the comparison, it is compared with that one first.
    Waits up to `minutes` while a retraining holds the workspace.
    """
    with only_retraining(f"approve {name}", minutes, on_line):
        version = waiting(name)
        champion = registry.in_use(registry.versions())
        if champion and champion.name != registry.in_use_when_asked(version.name):
            outcome = compare.again(version, champion, on_line)
            if not outcome.promoted:
                reason = f"meanwhile {champion.name} came into use: {outcome.reason}"
                registry.assign(version.name, REJECTED, reason)
                return f"{version.name} was not put in use, {reason}"
        registry.assign(version.name, STAGE, _message("approved", note))
    return f"{version.name} is in use"


def reject(name: str, note: str) -> str:
    """Turn a version down because a person says so."""
    version = waiting(name)
    registry.assign(version.name, REJECTED, _message("rejected", note))
    return f"{version.name} was turned down"


def close(name: str, days: float) -> str:
    """Turn a version down after `days` without an answer; does nothing if somebody answered."""
    version = registry.find(name)
    if version.standing != WAITING:
        return f"{version.name} {STANDINGS[version.standing]}"
    assert version.since
    if datetime.now(UTC) - version.since < timedelta(days=days):
        return f"{version.name} waits for a person until {version.since + timedelta(days=days):%Y-%m-%d %H:%M} UTC"
    registry.assign(version.name, REJECTED, f"nobody answered in {days:g} days")
    return f"{version.name} was not put in use: nobody answered in {days:g} days"


def _message(verdict: str, note: str) -> str:
    return f"{verdict}: {note}" if note.strip() else f"{verdict} by a person"
