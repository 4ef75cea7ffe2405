"""The flow that asks a person whether to put a version in use, if `promote.approve` is person.

    thaw approve v3.0.0      # or reject: answers at a terminal instead of in the UI

It shows the comparison and the pictures that only the new model gets wrong, and is suspended until
somebody answers in the form of the UI. Prefect then runs it again from the top.
"""

from typing import Any, Literal
from uuid import UUID

from prefect import flow, suspend_flow_run
from prefect.client.schemas.objects import State
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from thaw.errors import InputError
from thaw.orchestration import asking, story
from thaw.project import approvals, pipeline, registry
from thaw.project import overrides as changes
from thaw.project.registry import WAITING
from thaw.project.stage import StageError


class Answer(RunInput):
    """The form in the UI."""

    answer: Literal["yes", "no"]  # without a default, so that an empty form is no answer
    note: str = ""


@flow(name=f"approve {pipeline.project()}", persist_result=False)
def approve(version: str, close: bool = False) -> Any:
    """Ask about a version, and do what the answer says.

    Args:
        version: such as v3.0.0.
        close: do not ask; turn the version down if nobody answered within `promote.wait` days.
    """
    with story.sending():
        return _approve(version, close)


def _approve(version: str, close: bool) -> State[Any]:
    try:
        settings = changes.settings_with([])
        if close:
            message = approvals.close(version, settings.promote.wait)
        elif registry.find(version).standing != WAITING:
            message = f"{version} {approvals.STANDINGS[registry.find(version).standing]}"
        else:
            story.describe(flow_run.name, [], registry.find(version).data)
            if not asking.was_suspended():
                _show_comparison(version, settings.retrain.wait)
            form = Answer.with_initial_data(description=f"Is {version} put in use?")
            given = suspend_flow_run(wait_for_input=form, key=asking.KEY)
            if given.answer == "yes":
                message = approvals.approve(version, given.note, story.tell, settings.retrain.wait)
            else:
                message = approvals.reject(version, given.note)
        if registry.find(version).standing != WAITING:
            asking.end(version, message, but=UUID(flow_run.id))
        return Completed(message=message)
    except InputError as error:
        return Failed(message=str(error), data=error)


def _show_comparison(version: str, minutes: float) -> None:
    try:
        decision = approvals.comparison(version, story.tell, minutes)
    except (InputError, StageError) as error:  # the question is asked all the same
        story.tell(f"warning: {version} was not compared with the model in use: {error}")
        return
    if decision:
        story.decision(decision.to_json(), "waits")


if __name__ == "__main__":
    approve.serve()
