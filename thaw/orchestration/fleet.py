"""A fleet: the arms of a sweep as flow runs on a Prefect work pool.

    thaw sweep --set unfreeze.ratio=10,30,100 --seeds 3               # on this machine
    thaw sweep --set unfreeze.ratio=10,30,100 --seeds 3 --pool gpu    # on the workers of a pool
    prefect worker start --pool gpu                               # such a worker, on any machine

A worker runs the flow `arm` in a clean clone, which Prefect's step `git_clone` makes in a temporary
folder; the code that runs is the clone's. The flow `sweep` runs in the process of the command: it
hands out arms, watches them and collects results. An arm ends as a DVC experiment in git, with its
files in the DVC remote.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from uuid import UUID

from prefect import Flow, get_client, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed
from prefect.utilities.callables import parameter_schema

from thaw.errors import InputError
from thaw.orchestration import story
from thaw.project import experiment, findings, grid, pipeline, plan, study
from thaw.project import sweep as sweeps
from thaw.project.stage import StageError
from thaw.report.sweeps import readable

PAUSE = 2.0  # seconds between two polls of the arms
BEAT = 30  # seconds between two heartbeats of an arm, the least that Prefect allows
SILENCE = {StateType.RUNNING: 3.0 * BEAT, StateType.CANCELLING: 3.0 * BEAT, StateType.PENDING: 900.0}
NEW = "a clean clone has no results yet"  # why an arm runs a phase, or pulls its outputs
TRIES = 3  # how often an arm is handed out if its process or machine dies
MOST_AT_ONCE = 100  # flow runs in the pool; the API returns at most 200

Say = Callable[[str], None]


# --------------------------------------------------------------------------- the worker's side


@task(cache_policy=NO_CACHE, persist_result=False)
def push(stage: str) -> State[Any]:
    """Push the outputs of a phase at once, so that another worker can go on after a crash."""
    return _state_of(lambda: experiment.send(stage, on_line=get_run_logger().info), f"{stage} is in the DVC remote")


@task(cache_policy=NO_CACHE, persist_result=False)
def record(name: str, minutes: float) -> State[Any]:
    """Save the arm as a DVC experiment, with its duration, and push it to the git repository."""

    def body() -> None:
        experiment.save(name, sweeps.message(name, minutes), get_run_logger().info)
        sweeps.publish(name)

    return _state_of(body, f"saved as {name}")


def _state_of(body: Callable[[], object], message: str) -> State[Any]:
    try:
        body()
    except (InputError, StageError) as error:
        return Failed(message=str(error), data=error)
    return Completed(message=message)


# ----------------------------------------------------------------------------- handing out arms


def see_to_the_end(
    arm: Flow[..., Any], sweep: sweeps.Sweep, arms: list[grid.Arm], pool: str, cache: str | None
) -> dict[str, str]:
    """Run every arm to its end; returns the jobs that failed, and why."""
    jobs = plan.plan(arms)
    began = time.monotonic()
    ended: dict[str, str] = {}  # job: why it failed, or an empty string
    tries: dict[str, int] = {}
    with get_client(sync_client=True) as client:
        deployment = _deploy(client, arm, sweep, pool)
        names = {job.name for job in jobs}
        running = {run.name: run.id for run in _left_over(client, deployment) if run.name in names}
        heartbeats = SignsOfLife(client)
        try:
            while len(ended) < len(jobs):
                for job in jobs:
                    if job.name in ended or job.name in running or len(running) >= MOST_AT_ONCE:
                        continue
                    if job.after and ended.get(job.after):
                        ended[job.name] = f"needs {job.after}, which failed"
                    elif job.after is None or job.after in ended:
                        hand_out = partial(_hand_out, sweep, job, deployment, cache)
                        running[job.name] = story.patiently(hand_out)
                        tries[job.name] = tries.get(job.name, 0) + 1
                time.sleep(PAUSE)
                own = story.patiently(lambda: client.read_flow_run(UUID(flow_run.id)).state)
                if own and (own.is_cancelling() or own.is_cancelled()):
                    raise InterruptedError("the sweep and its arms were cancelled; the same command continues it")
                for run in story.patiently(lambda: _read(client, list(running.values()))):
                    story.patiently(partial(heartbeats.look_for, run))
                    if not (run.state and run.state.is_final()):
                        continue
                    del running[run.name]
                    if run.state.is_completed():
                        ended[run.name] = ""
                        story.tell(f"{run.name}: done{_outlook(run.name, arms, ended, time.monotonic() - began)}")
                    elif run.state.is_crashed() and tries.get(run.name, 1) < TRIES:
                        story.tell(f"{run.name}: crashed ({(run.state.message or '').split('. ')[0]})")
                    else:
                        ended[run.name] = run.state.message or run.state.name or "no reason given"
                        story.tell(f"{run.name}: {ended[run.name]}")
        # on any other error the arms go on
        except (InterruptedError, KeyboardInterrupt, SystemExit):
            _cancel(client, list(running.values()))
            raise
    return {job: why for job, why in ended.items() if why}


def _outlook(job: str, arms: list[grid.Arm], ended: dict[str, str], seconds: float) -> str:
    """How many trainings are done, and the time left at this pace; empty after other jobs."""
    names = {arm.name for arm in arms}
    done = len(names & ended.keys())
    if job not in names or done == len(names):
        return ""
    minutes = max(1, round(seconds / 60 * (len(names) - done) / done))
    return f" ({done} of {len(names)}; about {minutes} min left)"


def _deploy(client: SyncPrefectClient, arm: Flow[..., Any], sweep: sweeps.Sweep, pool: str) -> UUID:
    """The deployment of `arm` at this sweep's commit."""
    return client.create_deployment(
        flow_id=client.create_flow(arm),
        name=sweep.name,
        description=f"The arms of a sweep from commit {sweep.base.commit[:7]}",
        tags=["sweep", f"project:{pipeline.project()}"],
        work_pool_name=pool,
        entrypoint="flows/sweep.py:arm",
        pull_steps=[
            {
                "prefect.deployments.steps.git_clone": {
                    "repository": sweep.base.repository,
                    "commit_sha": sweep.base.commit,
                }
            }
        ],
        parameter_openapi_schema=parameter_schema(arm).model_dump(),
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT)}},
    )


def _hand_out(sweep: sweeps.Sweep, job: plan.Job, deployment: UUID, cache: str | None) -> UUID:
    parameters = {"name": f"{sweep.name}-{job.name}", "overrides": job.overrides, "until": job.until, "cache": cache}
    story.tell(f"{job.name}: handed out")
    run = run_deployment(
        deployment, parameters=parameters, flow_run_name=job.name, timeout=0, tags=["sweep", sweep.name]
    )
    assert isinstance(run, FlowRun)
    return run.id


def _left_over(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """Runs that an earlier, killed command of the same sweep handed out and that go on."""
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(
                type=FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING])
            )
        ),
    )


def _read(client: SyncPrefectClient, ids: list[UUID]) -> list[FlowRun]:
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids))) if ids else []


class SignsOfLife:
    """The last heartbeat of each run, by the clock of this process: the workers' clocks may
    differ."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        # run: its last heartbeat, and when it came
        self.last: dict[UUID, tuple[object, float]] = {}

    def look_for(self, run: FlowRun) -> None:
        """Mark a run that was silent for too long as crashed or cancelled."""
        assert run.state
        limit = SILENCE.get(run.state.type)
        if limit is None:
            return
        last, since = self.last.get(run.id, (None, 0.0))
        if last is not None and time.monotonic() - since < BEAT / 2:
            return
        newest = self._newest(run)
        if newest != last:
            self.last[run.id] = newest, time.monotonic()
        elif time.monotonic() - since > limit:
            message = f"no sign of life for {limit:.0f} seconds"
            state: State[Any] = Cancelled(message=message) if run.state.is_cancelling() else Crashed(message=message)
            self.client.set_flow_run_state(run.id, state, force=True)

    def _newest(self, run: FlowRun) -> object:
        beats = self.client.read_events(
            EventFilter(
                event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
                resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
            ),
            limit=1,
        )
        assert run.state
        return run.state.id, [event.id for event in beats.events]


def _cancel(client: SyncPrefectClient, ids: list[UUID], patience: float = 40.0) -> None:
    """Cancel arms, and wait until their workers have ended them."""
    for run in _read(client, ids):
        if run.state and not run.state.is_final():
            client.set_flow_run_state(run.id, Cancelling())
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if all(run.state and run.state.is_final() for run in _read(client, ids)):
            return
        time.sleep(0.5)


def show(sweep: sweeps.Sweep) -> None:
    """Show the table and the plot of the results so far."""
    outcome = findings.outcome(sweep)
    if outcome is None:
        return
    create_table_artifact(readable(outcome.table), key=sweep.name, description=f"Best on validation: {outcome.best}")
    create_markdown_artifact(
        story.picture("accuracy by setting", outcome.plot),
        key=f"{sweep.name}-plot",
        description=f"Accuracy on the test pictures by setting; best on validation: {outcome.best}",
    )


def answer(sweep: sweeps.Sweep, question: str) -> None:
    """Show the tables and plots of a study with the results so far."""
    result = study.answer(question, sweep)
    if result is None:
        return
    for number, (title, rows) in enumerate(result.tables.items()):
        create_table_artifact(rows, key=f"{question}-{sweep.name}-{number}", description=title)
    for title, png in result.figures.items():
        create_markdown_artifact(story.picture(title, png), key=f"{question}-{sweep.name}-figure", description=title)


# ---------------------------------------------------------------------------------------- pools


def check(pool: str, say: Say) -> None:
    """Raise unless the pool exists; say so if it has no worker."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            names = ", ".join(work_pool.name for work_pool in client.read_work_pools()) or "none yet"
            raise InputError(
                f"there is no work pool {pool} (there are: {names}); make it with `prefect work-pool create`"
            ) from None
    if not _is_online(pool):
        say(f"No worker of the pool {pool} is online; the arms wait for `prefect worker start --pool {pool}`")


def _is_online(pool: str) -> bool:
    with get_client(sync_client=True) as client:
        return any(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(pool))


@contextmanager
def worker(pool: str, at_once: int) -> Iterator[None]:
    """A process pool with one worker, which runs in a thread of this process while the block
    lasts."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    loop = asyncio.new_event_loop()
    works = loop.create_task(_work(pool, at_once))
    thread = threading.Thread(target=contextvars.copy_context().run, args=(_run, loop, works), daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(works.cancel)
        thread.join(timeout=15)


async def _work(pool: str, at_once: int) -> None:
    from prefect.workers.process import ProcessWorker

    await ProcessWorker(work_pool_name=pool, limit=at_once).start(printer=lambda _: None)


def _run(loop: asyncio.AbstractEventLoop, works: "asyncio.Task[None]") -> None:
    with temporary_settings({PREFECT_WORKER_QUERY_SECONDS: PAUSE}), suppress(asyncio.CancelledError):
        loop.run_until_complete(works)


@contextmanager
def workers(sweep: sweeps.Sweep, pool: str | None, parallel: int | None, say: Say) -> Iterator[tuple[str, str | None]]:
    """The pool whose workers train, and the folder of DVC's cache if all are on this machine.

    Without `pool` this machine gets a pool and a worker of its own while the block lasts.
    """
    if pool:
        check(pool, say)
        say("Sending data and results of this workspace to the DVC remote")
        experiment.send(on_line=lambda _: None)
        yield pool, None
        return
    at_once = parallel or plan.at_once(sweep.arms)
    say(f"{len(sweep.arms)} trainings, {at_once} at a time on this machine")
    pool, cache = sweeps.own_pool(), sweeps.cache_folder()
    with worker(pool, at_once):
        yield pool, cache
