"""The flow: one Prefect task per phase, each of which runs exactly one DVC stage.

    thaw run                            # from the terminal, with a server and progress bars
    prefect deploy --all                # on a schedule, see prefect.yaml

DVC is the only cache. A task's state says what DVC did: Completed (it ran), Cached (nothing changed) or
Restored (the outputs came from the cache). Nothing is persisted or cached by Prefect.
"""

from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State

from flows import story
from tasks import results
from tasks.stage import StageError, Verdict, only_retraining, repro
from thaw.errors import InputError

PHASES = {
    "data": "data.dvc",
    "prepare": "prepare",
    "embed": "embed",
    "head": "head",
    "unfreeze": "unfreeze",
    "evaluate": "evaluate",
    "report": "report",
}
SHOWN_AFTER = {"head": ["head"], "unfreeze": ["head", "unfreeze"]}  # phase: whose learning curves
WORDS = {
    Verdict.COMPLETED: "it ran",
    Verdict.CACHED: "nothing changed",
    Verdict.RESTORED: "taken from the cache",
}


@task(tags=["dvc"], cache_policy=NO_CACHE, persist_result=False)
def phase(word: str, force: bool = False) -> State[str]:
    """Run one DVC stage; the state says what DVC did."""
    logger = get_run_logger()
    flags = ["--force"] if force and word != "data" else []
    logger.info("dvc repro --single-item %s", " ".join([*flags, PHASES[word]]), extra={"phase": word})
    with story.progress(word) as follow:

        def on_line(line: str) -> None:
            follow(line)
            logger.info("%s", line, extra={"phase": word, "line": line})

        try:
            verdict = repro(PHASES[word], *flags, on_line=on_line)
        except (InputError, StageError) as error:
            return Failed(message=str(error), data=error)
    if word in SHOWN_AFTER:
        story.learning_curves(*SHOWN_AFTER[word])
    logger.info("%s: %s", verdict, WORDS[verdict], extra={"phase": word, "verdict": verdict})
    return Completed(name=verdict, message=f"dvc: {WORDS[verdict]}", data=str(verdict))


def name_of_run() -> str:
    """Tells one run from another: backbone, learning-rate ratio and date."""
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    try:
        settings = results.settings_with(flow_run.parameters.get("overrides") or [])
    except InputError:  # the run will say so itself
        return f"retrain {date}"
    return f"{settings.backbone.name} ratio {settings.unfreeze.ratio:g} {date}"


@flow(name="retrain", flow_run_name=name_of_run, persist_result=False)
def retrain(overrides: list[str] | None = None, force: bool = False) -> Any:
    """Run every phase in turn; gives the verdict of each.

    Args:
        overrides: settings to change in params.yaml first, such as `unfreeze.ratio=10`.
        force: run every phase, whether or not anything changed.
    """
    try:
        with only_retraining(flow_run.name):
            if overrides:
                results.apply(overrides)
            done: dict[str, State[str]] = {}
            for word in PHASES:
                run = phase.with_options(name=word, task_run_name=word)
                state = run(word, force, wait_for=list(done.values())[-1:], return_state=True)
                if not state.is_completed():
                    error = state.result(raise_on_failure=False)
                    message = str(error) if isinstance(error, StageError) else f"{word}: {state.message}"
                    return Failed(message=message, data=error)
                done[word] = state
    except InputError as error:
        return Failed(message=str(error), data=error)
    story.outcome()
    return {word: state.name for word, state in done.items()}


if __name__ == "__main__":
    retrain()
