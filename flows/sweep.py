"""The flows of a sweep: `arm` is one training on a worker, `sweep` runs all of them.

thaw sweep --set unfreeze.ratio=10,30,100 --seeds 3               # on this machine
thaw sweep --set unfreeze.ratio=10,30,100 --seeds 3 --pool gpu    # on the workers of a pool
prefect worker start --pool gpu                                   # such a worker, on any machine
"""

import time
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Failed

from thaw.errors import InputError
from thaw.orchestration import fleet, story
from thaw.orchestration.run import PhaseFailed, Tasks, phase
from thaw.project import grid, pipeline
from thaw.project import overrides as changes
from thaw.project import sweep as sweeps
from thaw.project.stage import Verdict


@flow(name=f"arm {pipeline.project()}", persist_result=False)
def arm(name: str, overrides: list[str], until: str, cache: str | None = None) -> Any:
    """Train one arm of a sweep, or compute the phases that several arms share; returns the state
    of each phase.

    Args:
        name: the name of the experiment.
        overrides: settings to change in params.yaml first, such as `unfreeze.ratio=10`.
        until: the last phase to run; after the last phase of all the arm is saved as an
        experiment.
        cache: the DVC cache that arms on one machine share; without it they share the DVC remote.
    """
    with story.sending():
        return _arm(name, overrides, until, cache)


def _arm(name: str, overrides: list[str], until: str, cache: str | None) -> Any:
    started = time.monotonic()
    names = list(pipeline.phases())
    try:
        changes.write(overrides)
        if cache:
            sweeps.use_cache(cache)
        run = Tasks(changes.settings_with([]))
        for phase_name in names[: names.index(until) + 1]:
            state = run.do(phase_name, phase, phase_name, [fleet.NEW], [] if cache else ["--pull"], why=fleet.NEW)
            if state.name == Verdict.COMPLETED and phase_name != "data" and not cache:
                run.done.pop("push", None)
                run.do("push", fleet.push, phase_name)
        if until == names[-1]:
            run.do("record", fleet.record, name, (time.monotonic() - started) / 60)
    except InputError as error:
        return Failed(message=str(error), data=error)
    except PhaseFailed as failure:
        return Failed(message=str(failure), data=failure.error)
    return {phase_name: state.name for phase_name, state in run.done.items()}


@flow(name=f"sweep {pipeline.project()}", flow_run_name="{name}", persist_result=False)
def sweep(name: str, arms: list[tuple[str, list[str]]], question: str, pool: str, cache: str | None = None) -> Any:
    """Train every arm of a sweep on the workers of a pool, and collect the results.

    Args:
        name: the name of the sweep, which follows from the rest.
        arms: the setting and the overrides of each, such as `unfreeze.ratio=10` and `seed=0`.
        question: the kind of result: sweep, seeds, curve, ablate or options.
        pool: the work pool.
        cache: the DVC cache, if all workers are on this machine.
    """
    try:
        planned = sweeps.sweep([grid.arm(setting, overrides) for setting, overrides in arms], pool=cache is None)
    except InputError as error:
        return Failed(message=str(error), data=error)
    done = sweeps.finished(planned)
    for finished in done:
        story.tell(f"{finished.name}: done before")
    left = [planned_arm for planned_arm in planned.arms if planned_arm not in done]
    try:
        failures = fleet.see_to_the_end(arm, planned, left, pool, cache)
    except InterruptedError as error:
        return Cancelled(message=str(error))
    fleet.show(planned) if question == "sweep" else fleet.answer(planned, question)
    if failures:
        return Failed(message="; ".join(f"{job}: {why}" for job, why in failures.items()))
    return planned.name


def carry_out(
    planned: sweeps.Sweep, question: str, pool: str | None, parallel: int | None, say: fleet.Say
) -> State[Any]:
    """Run the flow `sweep` on a pool, or on this machine with a pool and a worker of its own."""
    with fleet.workers(planned, pool, parallel, say) as (pool, cache):
        arms = [(arm.setting, arm.overrides) for arm in planned.arms]
        state = sweep(planned.name, arms, question, pool, cache, return_state=True)
        assert isinstance(state, State)
        return state
