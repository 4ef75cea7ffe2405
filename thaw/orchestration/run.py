"""The tasks of a run: each phase is one DVC stage with a time limit, a state and a row in the UI's
table.

A task's state says what DVC did: Completed (it ran), Cached (nothing changed) or Restored (the
outputs came from the cache). Prefect persists and caches nothing.
"""

import time
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import deployment
from prefect.states import Completed, Failed

from thaw.errors import InputError
from thaw.orchestration import asking, story
from thaw.project import compare, experiment, pipeline, registry
from thaw.project import incoming as arrivals
from thaw.project import predict as predicting
from thaw.project.settings import Retrain, Settings
from thaw.project.stage import OnLine, StageError, Verdict, repro

SHOWN_AFTER = {"head": ["head"], "unfreeze": ["head", "unfreeze"]}  # phase: learning curves to show
WORDS = {
    Verdict.COMPLETED: "it ran",
    Verdict.CACHED: "nothing changed",
    Verdict.RESTORED: "taken from the cache",
}
PAUSES = [10.0, 60.0]  # seconds before each retry of the storage; the last one repeats


class Standing(StrEnum):
    """The standing of a new model after a recorded run."""

    PROMOTED = "Promoted"
    KEPT = "Kept"  # the model in use stays
    WAITING = "Waiting"  # for a person to approve it


STAGES: dict[str, str] = {Standing.PROMOTED: registry.STAGE, Standing.WAITING: registry.WAITING}


class PhaseFailed(RuntimeError):
    """A task of the run failed: `str()` says which one and why, `error` is the exception."""

    def __init__(self, name: str, state: State[Any], minutes: float | None) -> None:
        self.error = state.result(raise_on_failure=False)
        self.error.phase = name  # type: ignore[union-attr]  # for hooks, which see only the error
        if state.name == "TimedOut":
            super().__init__(f"{name} was stopped after the {minutes:g} minutes that timeouts.{name} allows")
        else:
            super().__init__(str(self.error) if isinstance(self.error, StageError) else f"{name}: {state.message}")


def storage_failed(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help: not for mistakes of the user, nor after a time limit."""
    return isinstance(state.result(raise_on_failure=False), StageError)


class Tasks:
    """The tasks of one flow run, one after the other, each with a time limit and a row in the UI's
    table."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.done: dict[str, State[Any]] = {}
        self.table = story.PhaseTable()

    def do(self, name: str, body: "Task[..., State[Any]]", *arguments: Any, why: str | None = None) -> State[Any]:
        """Run one task, or raise `PhaseFailed`. An empty `why` means that there is nothing to
        do."""
        minutes = getattr(self.settings.timeouts, name, None)
        needs_storage = name in ("data", "push")
        configured = body.with_options(
            name=name,
            task_run_name=name,
            timeout_seconds=minutes and minutes * 60,
            retries=self.settings.retrain.retries if needs_storage else 0,
            retry_delay_seconds=PAUSES,
            retry_condition_fn=storage_failed,
        )
        started = time.monotonic()
        if why != "":
            self.table.row(name, "Running", "", why or "")
        state = configured(*arguments, wait_for=list(self.done.values())[-1:], return_state=True)
        took = "{}:{:02d}".format(*divmod(round(time.monotonic() - started), 60))
        message = why if why and state.name != Verdict.CACHED else state.message
        self.table.row(name, state.name or state.type.value, took, message or "")
        if not state.is_completed():
            raise PhaseFailed(name, state, minutes)
        self.done[name] = state
        return state


def _carry_out(name: str, body: Callable[[OnLine], tuple[str, str]]) -> State[Any]:
    """Run the body of a task. Its lines go to the log and the progress bar; it returns verdict and
    message."""
    logger = get_run_logger()
    with story.progress(name) as follow:

        def on_line(line: str) -> None:
            follow(line)
            logger.info("%s", line, extra={"phase": name, "line": line})

        try:
            verdict, message = body(on_line)
        except (InputError, StageError) as error:
            return Failed(message=str(error), data=error)
    logger.info("%s: %s", verdict, message, extra={"phase": name, "verdict": verdict})
    return Completed(name=verdict, message=message)


@task(tags=["dvc"], cache_policy=NO_CACHE, persist_result=False)
def phase(name: str, why: list[str], flags: list[str]) -> State[Any]:
    """Run one DVC stage if there is a reason; the state says what DVC did."""

    def body(on_line: OnLine) -> tuple[str, str]:
        if not why:
            return Verdict.CACHED, f"dvc: {WORDS[Verdict.CACHED]}"
        on_line(f"because {'; '.join(why)}")
        verdict = repro(pipeline.phases()[name], *flags, on_line=on_line)
        return verdict, f"dvc: {WORDS[verdict]}"

    state = _carry_out(name, body)
    if state.is_completed() and state.name != Verdict.CACHED and name in SHOWN_AFTER:
        story.learning_curves(*SHOWN_AFTER[name])
    return state


@task(cache_policy=NO_CACHE, persist_result=False)
def incoming(retrain: Retrain) -> State[Any]:
    """Move new pictures into the data."""

    def body(on_line: OnLine) -> tuple[str, str]:
        taken = arrivals.take(retrain, on_line)
        if taken is None:
            return Verdict.CACHED, f"nothing in {retrain.incoming}/"
        return (Verdict.COMPLETED if taken.changed else Verdict.CACHED), str(taken)

    return _carry_out("incoming", body)


@task(cache_policy=NO_CACHE, persist_result=False)
def predict(source: str, model: str) -> State[Any]:
    """Predict the pictures of a source that have no prediction yet, and version the table with
    DVC."""

    def body(on_line: OnLine) -> tuple[str, str]:
        predicted = predicting.run(source, model, on_line)
        if predicted is None:
            return Verdict.CACHED, f"nothing new in {source}"
        story.predictions(asdict(predicted))
        return Verdict.COMPLETED, str(predicted)

    return _carry_out("predict", body)


@task(cache_policy=NO_CACHE, persist_result=False)
def promote(versions: list[registry.Version], acts: bool, asks: bool) -> State[Any]:
    """Compare the new model with the one in use; the name of the state is the model's standing.

    With `acts` a model that is good enough is put in use; with `asks` too, it waits for a person.
    """

    def body(on_line: OnLine) -> tuple[str, str]:
        version, champion = registry.version_of(registry.model_of(None), versions), registry.in_use(versions)
        # a version that waits or was turned down is not asked about again
        if version and (champion or version.standing):
            return Verdict.CACHED, f"{version.name} is this model"
        decision = compare.run(champion, on_line)
        verdict = "would be" if not acts else "waits" if asks and decision.promoted else "is"
        story.decision(decision.to_json(), verdict)
        if not acts:
            return Verdict.COMPLETED, f"not recorded, else {decision.reason}"
        if not decision.promoted:
            return Standing.KEPT, decision.reason
        return (Standing.WAITING if asks else Standing.PROMOTED), decision.reason

    return _carry_out("promote", body)


@task(cache_policy=NO_CACHE, persist_result=False)
def save(name: str, decision: Any, standing: str) -> State[Any]:
    """Save the run as an experiment, and a new model as a version with its standing."""

    def body(on_line: OnLine) -> tuple[str, str]:
        saved = experiment.known()
        if saved and not decision:
            return Verdict.CACHED, f"nothing new since {saved}"
        commit = experiment.save(name, decision.reason if decision else name, on_line)
        if not decision:
            return Verdict.COMPLETED, f"saved as {name}"
        version = registry.enter(commit, decision.reason, STAGES.get(standing))
        return Verdict.COMPLETED, f"saved as {name}, version {version.name}"

    return _carry_out("record", body)


@task(cache_policy=NO_CACHE, persist_result=False)
def ask(versions: list[str], days: float) -> State[Any]:
    """Create the runs that ask a person about versions, where they are missing and a schedule runs
    this one."""

    def body(on_line: OnLine) -> tuple[str, str]:
        verdict, sentences = Verdict.CACHED, []
        for version in versions:
            by_hand = f"`thaw approve {version}` puts it in use, `thaw reject {version}` turns it down"
            made = asking.ask(version, deployment.name, days) if deployment.name else None
            if made != []:
                verdict = Verdict.COMPLETED
            waits = f"{version} waits for {days:g} days" if made is None else f"the run `approve {version}` asks"
            sentences.append(f"{waits}; {by_hand}")
        return verdict, "; ".join(sentences)

    return _carry_out("ask", body)


@task(cache_policy=NO_CACHE, persist_result=False)
def push(git_remote: str | None) -> State[Any]:
    """Push data and outputs to the DVC remote, records and versions to the git remote, if there
    are any."""

    def body(on_line: OnLine) -> tuple[str, str]:
        sent = {}
        if experiment.has_remote():
            sent["the DVC remote"] = experiment.push(on_line)
        if git_remote:
            sent[git_remote] = experiment.publish(git_remote, on_line)
        if not sent:
            return Verdict.CACHED, "there is no DVC remote"
        names = " and ".join(sent)
        if any(sent.values()):
            return Verdict.COMPLETED, f"all that is new was sent to {names}"
        return Verdict.CACHED, f"{names} had everything"

    return _carry_out("push", body)
