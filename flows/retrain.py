"""The flow: one Prefect task per phase, each of which runs exactly one DVC stage.

    thaw run                            # from the terminal, with a server and progress bars
    thaw schedule --cron "0 3 * * 1"    # every week; or `prefect deploy --all`, see prefect.yaml

DVC is the only cache. A task's state says what DVC did: Completed (it ran), Cached (nothing
changed) or Restored (the outputs came from the cache). Prefect persists and caches nothing.

A recorded run first takes in the pictures that arrived. At the end it compares the model with the
one in use, saves it as an experiment and a version, and pushes both.
"""

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from thaw.errors import InputError
from thaw.orchestration import server, story
from thaw.orchestration.run import PhaseFailed, Standing, Tasks, ask, incoming, phase, promote, push, save
from thaw.project import compare, experiment, mend, pipeline, reasons, recipe, registry, results, runs
from thaw.project import overrides as changes
from thaw.project.lock import only_retraining
from thaw.project.stage import Verdict


def name_of_run() -> str:
    """The name of a run: settings, data and date."""
    try:
        return results.name_of(flow_run.parameters.get("overrides") or [])
    except InputError:  # the run itself will report it
        return f"retrain {datetime.now().astimezone():%Y-%m-%d %H:%M}"


def run_phases(run: Tasks, force: bool) -> None:
    """Run the phases in turn, each if it has a reason to; raise `PhaseFailed` at the first that
    fails."""
    why, stale = reasons.changed(), False
    for name in pipeline.phases():
        if stale and name not in why:
            why, stale = reasons.changed(), False
        forced = force and name != "data"
        reason = ["--force was given"] if forced else why.get(name, [])
        state = run.do(name, phase, name, reason, ["--force"] if forced else [], why="; ".join(reason))
        stale |= state.name != Verdict.CACHED
        if name == "prepare":  # before anything is trained for a rule that does not fit the data
            compare.check(run.settings.promote)


def carry_out(force: bool, record: bool) -> Tasks:
    """Run everything with the current params.yaml; raise `PhaseFailed` at the first task that
    fails."""
    settings = changes.settings_with([])
    recipe.refresh()
    story.describe(results.name_of([]), ["recorded"] if record else [])
    run = Tasks(settings)
    if record and settings.retrain.incoming:
        run.do("incoming", incoming, settings.retrain)
        story.describe(results.name_of([]), ["recorded"])  # the data may have changed
    run_phases(run, force)
    story.outcome()
    versions = registry.versions()
    if record or registry.in_use(versions):
        state = run.do("promote", promote, versions, record, settings.promote.approve == "person")
    if record:
        decision = compare.decision() if state.name in list(Standing) else None
        name = f"{experiment.PREFIX}{datetime.now().astimezone():%Y-%m-%d-%H%M%S}"
        run.do("record", save, name, decision, state.name)
        waiting = [version.name for version in registry.versions() if version.standing == registry.WAITING]
        # of this run, or of a killed one that could not ask any more
        if waiting:
            run.do("ask", ask, waiting, settings.promote.wait)
        run.do("push", push, settings.retrain.git_remote)
    run.table.show()
    return run


@flow(
    name=f"retrain {pipeline.project()}",
    flow_run_name=name_of_run,
    on_failure=[story.failed],
    on_crashed=[story.failed],
    persist_result=False,
)
def retrain(overrides: list[str] | None = None, force: bool = False, record: bool = False, stay: bool = False) -> Any:
    """Run every phase in turn; returns the state of each.

    Args:
        overrides: settings of this run, such as `unfreeze.ratio=10`; they are in params.yaml until
        it ends.
        force: run every phase, even if nothing changed.
        record: take in new pictures first; at the end compare the model with the one in use, save
        the run, push it.
        stay: keep the overrides in params.yaml, as `thaw run --set` does.
    """
    about = {"name": flow_run.name, "schedule": deployment.name, "recorded": record}
    with story.sending():
        with runs.noted(flow_run.id, due=flow_run.scheduled_start_time.isoformat(), **about) as ended:
            state = _retrain(overrides or [], force, record, stay)
            ended(state.name or state.type.value, state.message or "")
        if record:
            story.status()
        return state


def _retrain(overrides: list[str], force: bool, record: bool, stay: bool) -> State[Any]:
    try:
        with (
            server.ended_without(server.address()),
            only_retraining(flow_run.name, changes.settings_with(overrides).retrain.wait, story.tell),
        ):
            mend.mend()
            if stay:
                changes.write(overrides)
            with changes.for_this_run([] if stay else overrides):
                run = carry_out(force, record)
        states = {task: state.name for task, state in run.done.items()}
        ran = [task for task, name in states.items() if name != Verdict.CACHED]
        message = f"did {', '.join(ran)}" if ran else "nothing new: every phase is Cached"
        return Completed(message=message, data=states)
    except InputError as error:
        return Failed(message=str(error), data=error)
    except PhaseFailed as failure:
        return Failed(message=str(failure), data=failure.error)


if __name__ == "__main__":
    retrain()
