"""Runs of the flow `approve`, which ask a person about a version: made by a retraining, ended by
the answer.

Each is a run of the deployment `approve PROJECT/NAME` beside the schedule `retrain PROJECT/NAME`.
While it waits it is suspended, so it holds no process and no lock, and survives a reboot. A second
run, due after `promote.wait` days, turns the version down if nobody answered.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from thaw.project import pipeline

KEY = "answer"  # by which Prefect tells the pause of a run


def flow_name() -> str:
    """The name of this project's flow."""
    return f"approve {pipeline.project()}"


def ask(version: str, schedule: str, days: float) -> list[str] | None:
    """Create the runs that ask about a version, where there are none; returns their names, or None
    if the schedule has no deployment for them."""
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{flow_name()}/{schedule}")
        except ObjectNotFound:
            return None
        later = datetime.now(UTC) + timedelta(days=days)
        there = [run.parameters.get("close", False) for run in _open(client, version)]
        made = []
        for state, close in ((None, False), (Scheduled(scheduled_time=later), True)):
            if close not in there:
                name, parameters = f"{'close' if close else 'approve'} {version}", {"version": version, "close": close}
                client.create_flow_run_from_deployment(deployment.id, state=state, parameters=parameters, name=name)
                made.append(name)
    return made


def was_suspended() -> bool:
    """Whether the current run asked before: once it is answered it runs again from the top."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return bool(run and KEY in (run.empirical_policy.pause_keys or ()))


def end(version: str, message: str, but: UUID | None = None) -> None:
    """End the runs that ask about a version, except `but`."""
    with get_client(sync_client=True) as client:
        for run in _open(client, version):
            if run.id == but:
                continue
            if run.state and run.state.type == StateType.PAUSED:
                answered: State[Any] = State(type=StateType.COMPLETED, name="Answered", message=message)
                client.set_flow_run_state(run.id, answered, force=True)
            elif run.state and run.state.type == StateType.SCHEDULED:
                client.delete_flow_run(run.id)


def _open(client: SyncPrefectClient, version: str) -> list[FlowRun]:
    open_ones = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(not_any_=list(TERMINAL_STATES))))
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name()])), flow_run_filter=open_ones
    )
    return [run for run in runs if run.parameters.get("version") == version]
