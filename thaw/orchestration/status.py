"""The content of `thaw status` and of its page in the UI. It asks a running server and starts
none."""

import os
from datetime import datetime, timedelta
from typing import Any

from thaw.orchestration import schedule, server
from thaw.project import runs, settings, status
from thaw.project.doctor import Finding
from thaw.project.status import Schedule, Status

NO_SERVER = "http://127.0.0.1:0/api"
NOBODY = "no server answers"


def gather() -> Status:
    """Everything that is known now, with or without a server."""
    api = server.answering()
    with server.environment(api or NO_SERVER):
        if api:
            from prefect import get_client

            with get_client(sync_client=True) as client:
                schedule.note(client)
        return of_now(server.ui(api) if api else "")


def of_now(address: str) -> Status:
    """The status without asking a server; `address` is empty if none answers."""
    noted = schedule.noted()
    heard = noted["heard"] and datetime.fromisoformat(noted["heard"])
    schedules = [_schedule(name, values, address) for name, values in noted["schedules"].items()]
    return status.gather(settings.read().retrain, schedules, address, heard)


def _schedule(name: str, values: dict[str, Any], address: str) -> Schedule:
    since, now = datetime.fromisoformat(values["since"]), datetime.now().astimezone()
    past: list[datetime] = []
    start = now
    # date by date: cron arithmetic gives up after 1,000
    while len(past) < status.KEPT and start > since:
        start = max(since, now - 4 * (now - start) - timedelta(hours=1))
        past = sorted(date for rule in values["rules"] for date in schedule.dates(rule, start, now))
    coming = sorted(date for rule in values["rules"] for date in schedule.dates(rule, now))
    return Schedule(
        name=name,
        described=values["described"],
        paused=values["paused"],
        since=since,
        served_by=values["served_by"] if address else NOBODY,
        past=past[-status.KEPT :],
        next=None if values["paused"] else next(iter(coming), None),
        flow=values.get("flow", runs.RETRAIN),
    )


def page(address: str) -> str:
    """The same as Markdown, for the UI."""
    return status.page(of_now(address), settings.read().retrain)


def server_and_schedules() -> list[Finding]:
    """Whether the server answers, and whether every schedule is served: what `thaw doctor` asks of
    Prefect."""
    named, api = os.environ.get("PREFECT_API_URL"), server.answering()
    if named and not api:
        return [Finding("server", f"PREFECT_API_URL is {named}, and nothing answers there", "unset PREFECT_API_URL")]
    facts = gather()
    findings = [Finding("server", f"answers at {facts.server}" if api else "none runs; `thaw run` starts one")]
    for planned in facts.schedules:
        idle = not planned.paused and planned.served_by in ("not served", NOBODY)
        text = f"{planned.name} is {planned.served_by if not planned.paused else 'paused'}"
        findings.append(Finding("schedule", text, "thaw schedule" if idle else None))
    return findings
