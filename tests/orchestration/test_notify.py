"""Laws of automations/notify.yaml: which events send a message, by the server's own rules."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

NOTIFY = Path(__file__).parents[2] / "automations" / "notify.yaml"
FAILED, ASKED, UNDONE = "a retraining needs a look", "a version waits for a person", "an answer was not carried out"


@pytest.mark.parametrize(
    ("flow", "state", "message"),
    [
        *(("retrain tiles", state, FAILED) for state in ("Failed", "Crashed", "TimedOut", "Cancelled", "Late")),
        *(("predict tiles", state, FAILED) for state in ("Failed", "Late")),
        ("approve tiles", "Suspended", ASKED),
        ("retrain tiles", "Completed", None),
        ("retrain tiles", "Missed", None),
        *(("approve tiles", state, UNDONE) for state in ("Failed", "Crashed")),
        *(("approve tiles", state, None) for state in ("Completed", "Late", "Cancelled")),
        ("sweep tiles", "Failed", None),
    ],
)
def test_a_message_comes_for_what_needs_a_person_and_for_nothing_else(
    flow: str, state: str, message: str | None
) -> None:
    from prefect.server.events.schemas.automations import EventTrigger, Posture
    from prefect.server.events.schemas.events import ReceivedEvent, RelatedResource, Resource

    role = {"prefect.resource.id": f"prefect.flow.{uuid4()}", "prefect.resource.role": "flow"}
    event = ReceivedEvent(
        occurred=datetime.now(UTC),
        event=f"prefect.flow-run.{state}",
        resource=Resource({"prefect.resource.id": f"prefect.flow-run.{uuid4()}"}),
        related=[RelatedResource(role | {"prefect.resource.name": flow})],
        id=uuid4(),
    )
    automations = yaml.safe_load(NOTIFY.read_text())["automations"]
    triggers = {automation["name"]: EventTrigger.model_validate(automation["trigger"]) for automation in automations}
    reactive = {name: trigger for name, trigger in triggers.items() if trigger.posture == Posture.Reactive}
    assert [name for name, trigger in reactive.items() if trigger.covers(event)] == ([message] if message else [])
