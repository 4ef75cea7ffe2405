"""Schedules: `thaw schedule --cron "0 3 * * 1"` stores one on the Prefect server and serves it
here.

A schedule is a Prefect deployment of the flow. The flow carries the project's name, so two projects
on one server stay apart; a tag names the folder, so two clones of one project do too. One process
serves all schedules of its workspace, one run at a time; it needs no work pool. Schedules outlive
it: of the runs that were due while nothing served them, the last one is caught up. A copy of the
schedules in `.prefect/schedules.json` tells what is due when no server runs.
"""

import asyncio
import fcntl
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import zoneinfo
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from thaw.errors import InputError
from thaw.orchestration import server
from thaw.project import pipeline, workspace
from thaw.project.journal import replace
from thaw.project.overrides import settings_with
from thaw.project.runs import PREDICT, RETRAIN, going_on

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.runner import Runner

ASKS = "approve"  # the flow that asks a person, deployed beside each schedule under the same name
NAME, DAILY = "weekly", "daily"
WATCH = "prefect.FlowRunCancellingObserver"  # the logger of Prefect's watch for "Cancel"
BREATH = 0.5  # seconds between two checks whether to stop
CHECK = "import sys; from prefect.schedules import Cron; Cron(sys.argv[1])"


def serve(
    name: str | None,
    cron: str | None,
    timezone: str | None,
    overrides: list[str],
    say: server.Say,
    source: str | None = None,
) -> None:
    """Serve the schedules of this workspace until a signal comes.

    With `cron`, make or change one first: it predicts new pictures of `source`, else it retrains.
    """
    if source and overrides:
        raise InputError("--set is for retraining: leave it out with --predict")
    if cron:
        timezone = timezone or machine_zone()
        settings_with(overrides)
        _check(name or NAME, cron, timezone)
    elif timezone or overrides or source:
        raise InputError(
            "--timezone, --set and --predict belong to a schedule that --cron makes or changes: give --cron too"
        )
    elif name:
        raise InputError("one process serves all schedules of this workspace: leave the name out, or give --cron too")
    with _only_one_serves(), server.server(say=say) as api:
        from prefect import get_client

        def renewed() -> "Runner":
            with get_client(sync_client=True) as client:
                return _runner(client, _served(client), say)

        with get_client(sync_client=True) as client:
            if cron:
                name = name or (DAILY if source else NAME)
                _free(client, name)
                served = _served(client)
                served[name] = _made(served.get(name), name, cron, timezone, overrides, source)
            else:
                served = _served(client)
            if not served:
                raise InputError('this workspace has no schedule: make one, such as thaw schedule --cron "0 3 * * 1"')
            runner = _runner(client, served, say)
            if killed := _tell_of_killed(client):
                say(f"Runs that were killed with what served them, and are Crashed on the server now: {killed}")
            for line in _lines([deployment for deployment in _all(client) if deployment.name in served]):
                say(line)
            note(client)
        say(f"Serving until you press Ctrl-C; the runs are at {server.ui(api)}")
        try:
            _poll(runner, renewed, api, say)
        except KeyboardInterrupt:
            pass
        finally:
            say("Stopped serving; the schedule stays, and `thaw schedule` serves it again")


def _served(client: "SyncPrefectClient") -> dict[str, dict[str, Any]]:
    """The schedules that this workspace serves, and the options of each."""
    return {deployment.name: _kept(deployment) for deployment in _all(client) if _is_ours(deployment)}


def _made(
    kept: dict[str, Any] | None,
    name: str,
    cron: str,
    timezone: str | None,
    overrides: list[str],
    source: str | None,
) -> dict[str, Any]:
    """The options of a new or changed schedule; those not given are kept."""
    from prefect.schedules import Cron

    retraining: dict[str, Any] = {"overrides": overrides or None, "record": True}
    parameters = {"source": source, "model": "prod"} if source else retraining
    changed = {"schedules": [Cron(cron, timezone=timezone)], "parameters": parameters}
    if kept and _flow_of(kept) != _flow_of(changed):
        raise InputError(f"there is a schedule {name!r} already, to {_flow_of(kept)}: choose another name")
    return (kept or {"paused": False}) | changed


def _runner(client: "SyncPrefectClient", served: dict[str, dict[str, Any]], say: server.Say) -> "Runner":
    """A runner for these schedules; of the runs that were missed it takes the last."""
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    # the project's flows, not thaw's
    flows = {name: getattr(import_module(f"flows.{name}"), name) for name in (RETRAIN, PREDICT, ASKS)}
    runner = Runner(name="thaw", limit=1, pause_on_shutdown=False)
    for name, options in served.items():
        flow = _flow_of(options)
        deployment = flows[flow].to_deployment(
            name,
            tags=[flow, f"project:{pipeline.project()}", _here()],
            entrypoint_type=EntrypointType.MODULE_PATH,
            **options,
        )
        added = runner.add_deployment(deployment)
        assert isinstance(added, UUID)
        if flow == RETRAIN:
            asks = flows[ASKS].to_deployment(name, tags=deployment.tags, entrypoint_type=EntrypointType.MODULE_PATH)
            runner.add_deployment(asks)
        if missed := _skip_missed(client, added):
            say(f"{name}: {missed} missed while nothing served it; the last one is caught up now")
    return runner


def _poll(runner: "Runner", renewed: "Callable[[], Runner]", api: str, say: server.Say) -> None:
    """Start the runs that are due until an error or a signal comes; then end the current run and
    its children.

    In a thread, because on the main one the runner's own signal handlers would leave a training
    behind.
    """
    over = threading.Event()

    def serve_on() -> None:
        serving = runner
        while asyncio.run(_serve(serving, api, say, over)):
            serving = renewed()

    with ThreadPoolExecutor(max_workers=1) as pool:
        polling = pool.submit(serve_on)
        try:
            polling.result()
        finally:
            over.set()


async def _serve(runner: "Runner", api: str, say: server.Say, over: threading.Event) -> bool:
    """Start due runs until `over`, then end the current one; returns whether another runner takes
    over."""
    _tell_outages_in_a_line(asyncio.get_running_loop())
    async with runner:
        polling = asyncio.create_task(_start_due(runner, api, say))
        while not polling.done() and not over.is_set():
            await asyncio.wait({polling}, timeout=BREATH)
        if polling.done():
            polling.result()
            return True
        polling.cancel()
        await runner.astop()
        return False


def _tell_outages_in_a_line(loop: asyncio.AbstractEventLoop) -> None:
    """Print no tracebacks when an outage ends Prefect's watch for "Cancel"; a new one begins after
    it."""

    def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), httpx.TransportError | asyncio.CancelledError):
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_error)
    logging.getLogger(WATCH).addFilter(_in_a_line)


def _in_a_line(record: logging.LogRecord) -> bool:
    if record.exc_info:
        record.msg, record.args, record.exc_info = f"{record.getMessage()}: {record.exc_info[1]}", None, None
    return True


async def _start_due(runner: "Runner", api: str, say: server.Say) -> None:
    """Start due runs; return once the server is back after an outage and no run is being started.

    Prefect's own loop gives up after minutes without a server, and ends the current run. A runner
    that was without a server for a while misses "Cancel", so a new one has to replace it.
    """
    away = False
    poller = runner._scheduled_run_poller
    while True:
        try:
            if not await asyncio.to_thread(server.answers, api):
                raise httpx.ConnectError("it does not answer")
            if away and not poller._submitting_flow_run_ids:
                say("The Prefect server answers again")
                return
            await poller._get_and_submit_flow_runs()
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            if not away:
                say(f"The Prefect server at {server.ui(api)} is away, and what is due waits for it: {error}")
            away = True
        await asyncio.sleep(runner.query_seconds)


def show(say: server.Say) -> None:
    """Print each schedule: what it is, who runs it, and when."""
    with _connected(say) as client:
        for line in _lines(_all(client)) or ["There is no schedule."]:
            say(line)


def set_paused(name: str | None, paused: bool, say: server.Say) -> None:
    """Pause a schedule, or let it go on; it stays so until somebody changes it."""
    with _connected(say) as client:
        deployment = _find(client, name)
        client.set_deployment_paused_state(deployment.id, paused)
        for schedule in deployment.schedules:  # the UI can switch these off one by one
            if not paused and not schedule.active:
                client.update_deployment_schedule(deployment.id, schedule.id, active=True)
        for line in _lines([client.read_deployment(deployment.id)]):
            say(line)


def remove(name: str | None, say: server.Say) -> None:
    """Forget a schedule; its past runs stay."""
    from prefect.exceptions import ObjectNotFound

    with _connected(say) as client:
        deployment = _find(client, name)
        client.delete_deployment(deployment.id)
        with suppress(ObjectNotFound):
            asks = client.read_deployment_by_name(f"{ASKS} {pipeline.project()}/{deployment.name}")
            client.delete_deployment(asks.id)
        say(f"Removed {deployment.name}; its past runs stay")


def claim(name: str, flow: str = RETRAIN) -> dict[str, list[str]]:
    """The build step of prefect.yaml: exit if the deployment would replace that of another clone,
    or one of `thaw schedule`; else return its tags."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        for deployment in _all(client):
            if deployment.name == name and (_is_foreign(deployment) or not deployment.work_pool_name):
                print(
                    f"error: '{_flow_name(flow)}/{name}' is taken on this server by {_workspace_of(deployment)}: give "
                    "the deployment another name in prefect.yaml, or the project another one in thaw.yaml",
                    file=sys.stderr,
                )
                raise SystemExit(2)
    return {"tags": [flow, f"project:{pipeline.project()}", _here()]}


def machine_zone() -> str:
    """The name of this machine's time zone, or UTC."""
    named = os.environ.get("TZ", "").removeprefix(":") or os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    return named if named in zoneinfo.available_timezones() else "UTC"


def _check(name: str, cron: str, timezone: str) -> None:
    """Raise `InputError` for mistakes that show without a server."""
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"the name of a schedule is {name!r}: use letters, digits, - and _")
    if timezone not in zoneinfo.available_timezones():
        raise InputError(f"the time zone {timezone!r} is unknown: give a name such as Europe/Berlin or UTC")
    # In a process of its own: prefect reads its settings when it is imported, and they are not
    # known yet.
    if subprocess.run([sys.executable, "-c", CHECK, cron], capture_output=True).returncode:
        raise InputError(f"--cron is {cron!r}: five fields are needed, minute hour day month weekday: '0 3 * * 1'")


@contextmanager
def _connected(say: server.Say) -> "Iterator[SyncPrefectClient]":
    with server.server(say=say):
        from prefect import get_client

        with get_client(sync_client=True) as client:
            yield client
            note(client)


@contextmanager
def _only_one_serves() -> Iterator[None]:
    """Hold the lock of the process that serves this workspace, or refuse."""
    with open(_lock(), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"this workspace is {_served_by()} already: stop that first") from None
        lock.truncate(0)
        lock.write(f"served by process {os.getpid()}")
        lock.flush()
        yield


def _served_by() -> str | None:
    """Who serves this workspace on this machine, if anybody does."""
    with open(_lock(), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            return lock.read().strip()
    return None


def _lock() -> Path:
    folder = workspace.root() / ".prefect"
    folder.mkdir(exist_ok=True)
    return folder / "schedule.lock"


def _flow_name(flow: str = RETRAIN) -> str:
    """The name of this project's flow."""
    return f"{flow} {pipeline.project()}"


def _flow_of(options: dict[str, Any]) -> str:
    """The flow whose schedule has these options."""
    return PREDICT if "source" in options["parameters"] else RETRAIN


def _here() -> str:
    """The tag that says which workspace a schedule belongs to."""
    return f"{socket.gethostname()}:{workspace.root()}"


def _is_ours(deployment: "DeploymentResponse") -> bool:
    """Whether this workspace serves it; on the project's own server there are no others, even
    after a move."""
    return not deployment.work_pool_name and (
        _here() in deployment.tags or server.is_own(os.environ["PREFECT_API_URL"])
    )


def _workspace_of(deployment: "DeploymentResponse") -> str | None:
    """The tag of the workspace that made it, if it has one."""
    return next((tag for tag in deployment.tags if ":/" in tag), None)


def _is_foreign(deployment: "DeploymentResponse") -> bool:
    """Whether another workspace made it."""
    own = (None, _here())
    return _workspace_of(deployment) not in own and not server.is_own(os.environ.get("PREFECT_API_URL", ""))


def _owner(deployment: "DeploymentResponse") -> str:
    if deployment.work_pool_name:
        return f"workers of the pool {deployment.work_pool_name}"
    return _workspace_of(deployment) or "somebody else"


def _all(client: "SyncPrefectClient") -> "list[DeploymentResponse]":
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    names = [_flow_name(flow) for flow in (RETRAIN, PREDICT)]
    deployments = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=names)))
    return sorted(deployments, key=lambda deployment: deployment.name)


def within_reach(client: "SyncPrefectClient") -> "list[DeploymentResponse]":
    """The schedules that this workspace or workers run, not those of another workspace."""
    return [
        deployment
        for deployment in _all(client)
        if _is_ours(deployment) or (deployment.work_pool_name and not _is_foreign(deployment))
    ]


def _find(client: "SyncPrefectClient", name: str | None) -> "DeploymentResponse":
    """The schedule of that name, or the only one; never one of another workspace."""
    known = {deployment.name: deployment for deployment in within_reach(client)}
    names = ", ".join(known) or "none"
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is None:
        raise InputError(f"say which schedule; this workspace has {names}")
    if name not in known:
        raise InputError(f"this workspace has no schedule {name!r}, only {names}")
    return known[name]


def _free(client: "SyncPrefectClient", name: str) -> None:
    """Raise `InputError` if the name is taken by what this process would not serve."""
    for deployment in _all(client):
        if deployment.name == name and not _is_ours(deployment):
            raise InputError(f"{name!r} is taken on this server by {_owner(deployment)}: choose another name")


def _kept(deployment: "DeploymentResponse") -> dict[str, Any]:
    """The options of a schedule; pausing outlasts the process that serves it."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate

    schedules = [
        DeploymentScheduleCreate(schedule=schedule.schedule, active=schedule.active)
        for schedule in deployment.schedules
    ]
    return {"schedules": schedules, "parameters": deployment.parameters, "paused": deployment.paused}


def _skip_missed(client: "SyncPrefectClient", deployment_id: "UUID") -> int:
    """Mark missed runs as Missed, except the last one; returns how many were due."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import State, StateType

    due = filters.FlowRunFilter(
        deployment_id=filters.FlowRunFilterDeploymentId(any_=[deployment_id]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
        next_scheduled_start_time=filters.FlowRunFilterNextScheduledStartTime(
            before_=datetime.now(UTC),  # type: ignore[arg-type]
        ),
    )
    runs = client.read_flow_runs(flow_run_filter=due)
    missed = sorted(runs, key=attrgetter("next_scheduled_start_time"))
    for run in missed[:-1]:
        message = "it did not begin in time, and a later run catches up"
        client.set_flow_run_state(run.id, State(type=StateType.CANCELLED, name="Missed", message=message), force=True)
    return len(missed)


def _tell_of_killed(client: "SyncPrefectClient") -> int:
    """Tell the server which runs of this workspace were killed: it would show them as running for
    ever, and tell nobody. Returns how many."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Crashed

    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    begun = filters.FlowRunFilter(
        tags=filters.FlowRunFilterTags(all_=[_here()]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=types)),
    )
    alive = going_on()
    runs = client.read_flow_runs(flow_run_filter=begun)
    killed = [run for run in runs if not run.work_pool_name and str(run.id) not in alive]  # workers see to theirs
    for run in killed:
        crashed: State[Any] = Crashed(message="it was killed with the process that served its schedule")
        client.set_flow_run_state(run.id, crashed, force=True)
    return len(killed)


def _lines(schedules: "list[DeploymentResponse]") -> list[str]:
    """Two lines for each schedule: what it is and who runs it, and when."""
    lines = []
    for deployment in schedules:
        active = active_rules(deployment)
        state = "active" if active else "paused"
        lines.append(f"{deployment.name}: {described(deployment)}, {state}, {served_by(deployment)}")
        coming = sorted(date for schedule in active for date in dates(schedule.schedule.model_dump(), most=3))[:3]
        if coming:
            lines.append(f"  next: {', '.join(date.astimezone().strftime('%a %Y-%m-%d %H:%M') for date in coming)}")
    return lines


def active_rules(deployment: "DeploymentResponse") -> "list[DeploymentSchedule]":
    """The active rules of a schedule; the UI can switch them off one by one."""
    return [schedule for schedule in deployment.schedules if schedule.active and not deployment.paused]


def described(deployment: "DeploymentResponse") -> str:
    """What a schedule predicts, if it does, and when it is due, as it was given."""
    when = ", ".join(f"{_rule(schedule)} ({_zone(schedule)})" for schedule in deployment.schedules) or "no schedule"
    source = deployment.parameters.get("source")
    return f"predicts {source}, {when}" if source else when


def served_by(deployment: "DeploymentResponse") -> str:
    """Who runs a schedule."""
    return (_served_by() or "not served") if _is_ours(deployment) else _owner(deployment)


def _rule(schedule: "DeploymentSchedule") -> str:
    return getattr(schedule.schedule, "cron", None) or str(schedule.schedule.model_dump(exclude={"timezone"}))


def _zone(schedule: "DeploymentSchedule") -> str:
    return getattr(schedule.schedule, "timezone", None) or "UTC"


def dates(
    rule: dict[str, Any], start: datetime | None = None, end: datetime | None = None, most: int = 1
) -> list[datetime]:
    """When a rule is due, from now on or in between; the server's own arithmetic, daylight saving
    included."""
    from prefect.server.schemas import schedules

    kinds = {"cron": schedules.CronSchedule, "interval": schedules.IntervalSchedule, "rrule": schedules.RRuleSchedule}
    same = next(kind for key, kind in kinds.items() if key in rule)(**rule)
    return list(asyncio.run(same.get_dates(None if end else most, start, end)))


def note(client: "SyncPrefectClient") -> None:
    """Store the server's schedules in this workspace."""
    before, now = noted()["schedules"], datetime.now().astimezone().isoformat()
    kept = {}
    for deployment in within_reach(client):
        active = active_rules(deployment)
        values: dict[str, Any] = {
            "flow": _flow_of({"parameters": deployment.parameters}),
            "rules": [rule.schedule.model_dump(mode="json") for rule in active or deployment.schedules],
            "described": described(deployment),
            "paused": not active,
            "served_by": served_by(deployment),
        }
        old = before.get(deployment.name, {})
        is_same = all(old.get(key) == values[key] for key in ("rules", "paused"))
        kept[deployment.name] = values | {"since": old["since"] if is_same else now}
    replace(_notes(), json.dumps({"heard": now, "schedules": kept}).encode())


def noted() -> dict[str, Any]:
    """The schedules as stored when a server last answered, and when that was."""
    file = _notes()
    if not file.is_file():
        return {"heard": None, "schedules": {}}
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _notes() -> Path:
    return workspace.root() / ".prefect" / "schedules.json"
