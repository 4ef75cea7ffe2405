"""How retraining goes, in words: for a terminal, and as Markdown for the UI."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from thaw.formats import escaped

Facts = Sequence[tuple[str, str]]
# when it was due, its schedule, its outcome, its message
Runs = Sequence[tuple[str, str, str, str]]


def lines(facts: Facts, runs: Runs) -> list[str]:
    """For a terminal."""
    wide = max(len(name) for name, _ in facts)
    shown = [f"{name:<{wide}}  {text}" for name, text in facts]
    if runs:
        widths = [max(len(run[column]) for run in runs) for column in range(3)]
        shown += ["", "the last runs:"]
        shown += [
            "  ".join([f"{cell:<{width}}" for cell, width in zip(run, [*widths, 0], strict=True)]) for run in runs
        ]
    return [line.rstrip() for line in shown]


def markdown(facts: Facts, runs: Runs, picture: str, problems: Sequence[str]) -> str:
    """For the UI; `picture` is one in Markdown, or empty."""
    page = [f"**{escaped(problem)}**\n" for problem in problems]
    page += ["| | |", "|---|---|", *(f"| {name} | {escaped(text)} |" for name, text in facts), ""]
    if runs:
        page += ["| due | schedule | outcome | |", "|---|---|---|---|"]
        page += [f"| {' | '.join(escaped(' '.join(cell.split())) for cell in run)} |" for run in runs]
    return "\n".join([*page, "", picture])


def age(span: timedelta) -> str:
    """How long something has been so, in the largest unit that fits."""
    for unit, seconds in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if span.total_seconds() >= seconds:
            number = int(span.total_seconds() // seconds)
            return f"{number} {unit}{'s' * (number > 1)}"
    return "less than a minute"


def moment(when: datetime) -> str:
    """A date and a time as this machine's clock has it."""
    return f"{when.astimezone():%Y-%m-%d %H:%M}"
