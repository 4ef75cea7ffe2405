"""A fleet: the arms of a sweep as flow runs on a Prefect work pool.

    thaw sweep --set unfreeze.ratio=10,30,100 --seeds 3               # on this machine
    thaw sweep --set unfreeze.ratio=10,30,100 --seeds 3 --pool gpu    # on the workers of a pool
    prefect worker start --pool gpu                                   # such a worker, on any machine

A worker runs the flow `arm` in a clean clone, which Prefect's step `git_clone` makes in a temporary folder; the code
that runs is the clone's. The flow `sweep` runs in the process of the command: it hands out arms, watches over them
and gathers. What an arm leaves is a DVC experiment in git, and its files in the DVC remote.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect import flow, get_client, get_run_logger, task
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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_WORKER_QUERY_SECONDS, temporary_settings
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Failed, State
from prefect.utilities.callables import parameter_schema

from flows import story
from flows.retrain import PHASES, PhaseFailed, Run, phase
from tasks import experiment, results, study
from tasks import sweep as sweeps
from tasks.stage import StageError, Verdict
from thaw.errors import InputError
from thaw.sweep import readable

PAUSE = 2.0  # seconds between two looks at the arms
BEAT = 30  # seconds between two signs of life of an arm; Prefect allows no less
SILENCE = {StateType.RUNNING: 3.0 * BEAT, StateType.CANCELLING: 3.0 * BEAT, StateType.PENDING: 900.0}
NEW = "a clean clone has no results yet"  # why an arm does a phase, or brings what others made of it
TRIES = 3  # how often an arm is handed out, if the process or the machine that has it dies
MOST_AT_ONCE = 100  # flow runs in the hands of the pool; one answer of the API holds no more than 200

Say = Callable[[str], None]


# ------------------------------------------------------------------------------------------- what a worker runs


@flow(name="arm", persist_result=False)
def arm(name: str, overrides: list[str], until: str, cache: str | None = None) -> Any:
    """Train one arm of a sweep, or compute the phases that several arms share; gives the state of each phase.

    Args:
        name: of the experiment.
        overrides: settings to change in params.yaml first, such as `unfreeze.ratio=10`.
        until: the last phase to run; after the last of all the arm is saved as an experiment.
        cache: the folder of DVC's cache that arms on one machine share; without it they share the DVC remote.
    """
    started = time.monotonic()
    words = list(PHASES)
    try:
        results.apply(overrides)
        if cache:
            sweeps.use_cache(cache)
        run = Run(results.settings_with([]))
        for word in words[: words.index(until) + 1]:
            state = run.do(word, phase, word, [NEW], [] if cache else ["--pull"], why=NEW)
            if state.name == Verdict.COMPLETED and word != "data" and not cache:
                run.done.pop("push", None)
                run.do("push", push, word)
        if until == words[-1]:
            run.do("record", record, name, f"{name} in {(time.monotonic() - started) / 60:.1f} minutes")
    except InputError as error:
        return Failed(message=str(error), data=error)
    except PhaseFailed as failure:
        return Failed(message=str(failure), data=failure.error)
    return {word: state.name for word, state in run.done.items()}


@task(cache_policy=NO_CACHE, persist_result=False)
def push(stage: str) -> State[Any]:
    """Send what a phase made to the DVC remote at once: who takes this arm up after a crash goes on from there."""
    return _said(lambda: experiment.send(stage, on_line=get_run_logger().info), f"{stage} is in the DVC remote")


@task(cache_policy=NO_CACHE, persist_result=False)
def record(name: str, message: str) -> State[Any]:
    """Save the arm as a DVC experiment, and send that to the git repository."""

    def body() -> None:
        experiment.save(name, message, get_run_logger().info)
        sweeps.publish(name)

    return _said(body, f"saved as {name}")


def _said(body: Callable[[], None], message: str) -> State[Any]:
    try:
        body()
    except (InputError, StageError) as error:
        return Failed(message=str(error), data=error)
    return Completed(message=message)


# ------------------------------------------------------------------------------------------ who hands out the arms


@flow(name="sweep", flow_run_name="{name}", persist_result=False)
def sweep(name: str, arms: list[tuple[str, list[str]]], question: str, pool: str, cache: str | None = None) -> Any:
    """Have every arm of a sweep trained by the workers of a pool, and gather what came out.

    Args:
        name: of the sweep; follows from the rest.
        arms: what each tries and its changes of settings, such as `unfreeze.ratio=10` and `seed=0`.
        question: which table to make of them: sweep, seeds, curve, ablate or options.
        pool: the work pool.
        cache: the folder of DVC's cache, if all workers are on this machine.
    """
    try:
        wanted = sweeps.sweep([sweeps.arm(*each) for each in arms], pool=cache is None)
    except InputError as error:
        return Failed(message=str(error), data=error)
    done = sweeps.finished(wanted)
    for each in done:
        _tell(f"{each.name}: done before")
    try:
        troubles = _carry_out(wanted, [each for each in wanted.arms if each not in done], pool, cache)
    except InterruptedError as error:
        return Cancelled(message=str(error))
    _show(wanted) if question == "sweep" else _answer(wanted, question)
    if troubles:
        return Failed(message="; ".join(f"{job}: {why}" for job, why in troubles.items()))
    return wanted.name


def _carry_out(wanted: sweeps.Sweep, arms: list[sweeps.Arm], pool: str, cache: str | None) -> dict[str, str]:
    """See every arm to its end; those that came to none, and why."""
    jobs = sweeps.plan(arms)
    began = time.monotonic()
    ended: dict[str, str] = {}  # job: why it failed, or nothing
    tries: dict[str, int] = {}
    with get_client(sync_client=True) as client:
        deployment = _deploy(client, wanted, pool)
        names = {job.name for job in jobs}
        running = {run.name: run.id for run in _left_over(client, deployment) if run.name in names}
        signs = SignsOfLife(client)
        try:
            while len(ended) < len(jobs):
                for job in jobs:
                    if job.name in ended or job.name in running or len(running) >= MOST_AT_ONCE:
                        continue
                    if job.after and ended.get(job.after):
                        ended[job.name] = f"needs {job.after}, which failed"
                    elif job.after is None or job.after in ended:
                        running[job.name] = _hand_out(wanted, job, deployment, cache)
                        tries[job.name] = tries.get(job.name, 0) + 1
                time.sleep(PAUSE)
                own = client.read_flow_run(UUID(flow_run.id)).state
                if own and (own.is_cancelling() or own.is_cancelled()):
                    raise InterruptedError("the sweep was cancelled, and with it its arms; the same command goes on")
                for run in _read(client, list(running.values())):
                    signs.look_for(run)
                    if not (run.state and run.state.is_final()):
                        continue
                    del running[run.name]
                    if run.state.is_completed():
                        ended[run.name] = ""
                        _tell(f"{run.name}: done{_outlook(run.name, arms, ended, time.monotonic() - began)}")
                    elif run.state.is_crashed() and tries.get(run.name, 1) < TRIES:
                        _tell(f"{run.name}: crashed ({(run.state.message or '').split('. ')[0]})")
                    else:
                        ended[run.name] = run.state.message or run.state.name or "no reason given"
                        _tell(f"{run.name}: {ended[run.name]}")
        except BaseException:
            _cancel(client, list(running.values()))
            raise
    return {job: why for job, why in ended.items() if why}


def _outlook(job: str, arms: list[sweeps.Arm], ended: dict[str, str], seconds: float) -> str:
    """After a training: how many there are by now, and how long the others take at this pace."""
    names = {arm.name for arm in arms}
    done = len(names & ended.keys())
    if job not in names or done == len(names):
        return ""
    minutes = max(1, round(seconds / 60 * (len(names) - done) / done))
    return f" ({done} of {len(names)}; about {minutes} min left)"


def _deploy(client: SyncPrefectClient, wanted: sweeps.Sweep, pool: str) -> UUID:
    """The deployment of `arm` at this sweep's commit."""
    return client.create_deployment(
        flow_id=client.create_flow(arm),
        name=wanted.name,
        description=f"The arms of a sweep from commit {wanted.base.commit[:7]}",
        tags=["sweep"],
        work_pool_name=pool,
        entrypoint="flows/fleet.py:arm",
        pull_steps=[
            {
                "prefect.deployments.steps.git_clone": {
                    "repository": wanted.base.repository,
                    "commit_sha": wanted.base.commit,
                }
            }
        ],
        parameter_openapi_schema=parameter_schema(arm).model_dump(),
        # An arm's workspace is its clone, whatever the worker's own environment says.
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(BEAT), "THAW_ROOT": ""}},
    )


def _hand_out(wanted: sweeps.Sweep, job: sweeps.Job, deployment: UUID, cache: str | None) -> UUID:
    parameters = {"name": f"{wanted.name}-{job.name}", "overrides": job.overrides, "until": job.until, "cache": cache}
    _tell(f"{job.name}: handed out")
    run = run_deployment(
        deployment, parameters=parameters, flow_run_name=job.name, timeout=0, tags=["sweep", wanted.name]
    )
    assert isinstance(run, FlowRun)
    return run.id


def _left_over(client: SyncPrefectClient, deployment: UUID) -> list[FlowRun]:
    """What an earlier command for the same sweep handed out before it was killed, and has not ended."""
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
    """When each run was last heard of, by the clock of this process: those of the workers may differ."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self.client = client
        self.last: dict[UUID, tuple[object, float]] = {}  # run: its last sign, and when it was new

    def look_for(self, run: FlowRun) -> None:
        """Take a run that was silent for too long for dead, and say so to the server."""
        assert run.state
        limit = SILENCE.get(run.state.type)
        if limit is None:
            return
        sign, since = self.last.get(run.id, (None, 0.0))
        if sign is not None and time.monotonic() - since < BEAT / 2:
            return
        newest = self._newest(run)
        if newest != sign:
            self.last[run.id] = newest, time.monotonic()
        elif time.monotonic() - since > limit:
            message = f"no sign of life for {limit:.0f} seconds"
            dead = Cancelled(message=message) if run.state.is_cancelling() else Crashed(message=message)
            self.client.set_flow_run_state(run.id, dead, force=True)

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


def _show(wanted: sweeps.Sweep) -> None:
    """Show table and plot of what is there by now."""
    found = sweeps.outcome(wanted)
    if found is None:
        return
    create_table_artifact(readable(found.table), key=wanted.name, description=f"Best on validation: {found.best}")
    create_markdown_artifact(
        story.picture("accuracy by setting", found.plot),
        key=f"{wanted.name}-plot",
        description=f"Accuracy on the test pictures by setting; best on validation: {found.best}",
    )


def _answer(wanted: sweeps.Sweep, question: str) -> None:
    """Show the tables and pictures of a study with what is there by now."""
    found = study.answer(question, wanted)
    if found is None:
        return
    for number, (title, rows) in enumerate(found.tables.items()):
        create_table_artifact(rows, key=f"{question}-{wanted.name}-{number}", description=title)
    for title, png in found.figures.items():
        create_markdown_artifact(story.picture(title, png), key=f"{question}-{wanted.name}-figure", description=title)


def _tell(line: str) -> None:
    get_run_logger().info(line)
    print(line, flush=True)


# ------------------------------------------------------------------------------------------------------- pools


def check(pool: str, say: Say) -> None:
    """That the pool exists, and whether anybody works for it."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(pool)
        except ObjectNotFound:
            names = ", ".join(each.name for each in client.read_work_pools()) or "none yet"
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
    """A process pool and its only worker, in a thread: it ends with the block, and dies with this process."""
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


def carry_out(wanted: sweeps.Sweep, question: str, pool: str | None, parallel: int | None, say: Say) -> State[Any]:
    """Run the flow `sweep` on a pool, or on this machine with a pool and a worker of its own."""
    with ExitStack() as stack:
        cache = None
        if pool:
            check(pool, say)
            say("Sending data and results of this workspace to the DVC remote")
            experiment.send(on_line=lambda _: None)
        else:
            pool, cache = sweeps.own_pool(), sweeps.cache_folder()
            at_once = parallel or sweeps.at_once(wanted.arms)
            say(f"{len(wanted.arms)} trainings, {at_once} at a time on this machine")
            stack.enter_context(worker(pool, at_once))
        arms = [(arm.setting, arm.overrides) for arm in wanted.arms]
        state: State[Any] = sweep(wanted.name, arms, question, pool, cache, return_state=True)
        return state
