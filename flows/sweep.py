"""The flows of a sweep: `arm` is one training on a worker, `sweep` hands out all of them and gathers what came out.

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
from thaw.orchestration import fleet
from thaw.orchestration.run import PhaseFailed, Tasks, phase
from thaw.project import grid, pipeline
from thaw.project import overrides as changes
from thaw.project import sweep as sweeps
from thaw.project.stage import Verdict


@flow(name=f"arm {pipeline.project()}", persist_result=False)
def arm(name: str, overrides: list[str], until: str, cache: str | None = None) -> Any:
    """Train one arm of a sweep, or compute the phases that several arms share; gives the state of each phase.

    Args:
        name: of the experiment.
        overrides: settings to change in params.yaml first, such as `unfreeze.ratio=10`.
        until: the last phase to run; after the last of all the arm is saved as an experiment.
        cache: the folder of DVC's cache that arms on one machine share; without it they share the DVC remote.
    """
    started = time.monotonic()
    words = list(pipeline.phases())
    try:
        changes.write(overrides)
        if cache:
            sweeps.use_cache(cache)
        run = Tasks(changes.settings_with([]))
        for word in words[: words.index(until) + 1]:
            state = run.do(word, phase, word, [fleet.NEW], [] if cache else ["--pull"], why=fleet.NEW)
            if state.name == Verdict.COMPLETED and word != "data" and not cache:
                run.done.pop("push", None)
                run.do("push", fleet.push, word)
        if until == words[-1]:
            run.do("record", fleet.record, name, (time.monotonic() - started) / 60)
    except InputError as error:
        return Failed(message=str(error), data=error)
    except PhaseFailed as failure:
        return Failed(message=str(failure), data=failure.error)
    return {word: state.name for word, state in run.done.items()}


@flow(name=f"sweep {pipeline.project()}", flow_run_name="{name}", persist_result=False)
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
        wanted = sweeps.sweep([grid.arm(*each) for each in arms], pool=cache is None)
    except InputError as error:
        return Failed(message=str(error), data=error)
    done = sweeps.finished(wanted)
    for each in done:
        fleet.tell(f"{each.name}: done before")
    try:
        troubles = fleet.see_to_the_end(arm, wanted, [each for each in wanted.arms if each not in done], pool, cache)
    except InterruptedError as error:
        return Cancelled(message=str(error))
    fleet.show(wanted) if question == "sweep" else fleet.answer(wanted, question)
    if troubles:
        return Failed(message="; ".join(f"{job}: {why}" for job, why in troubles.items()))
    return wanted.name


def carry_out(
    wanted: sweeps.Sweep, question: str, pool: str | None, parallel: int | None, say: fleet.Say
) -> State[Any]:
    """Run the flow `sweep` on a pool, or on this machine with a pool and a worker of its own."""
    with fleet.workers(wanted, pool, parallel, say) as (pool, cache):
        arms = [(arm.setting, arm.overrides) for arm in wanted.arms]
        state = sweep(wanted.name, arms, question, pool, cache, return_state=True)
        assert isinstance(state, State)
        return state
