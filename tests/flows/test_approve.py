"""Laws of promote.approve: a version waits for a person's yes, in the UI or at a terminal."""

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from flow_runs import execute
from typer.testing import CliRunner

from thaw.cli import app
from thaw.orchestration import asking
from thaw.project import approvals, registry

pytestmark = pytest.mark.server

ASKED = "promote.approve=person"
ALONE = "yearly"  # no other test that uses this server has a schedule of this name


def _standings() -> dict[str, str]:
    return {version.name: version.standing for version in registry.versions()}


def _thaw(*words: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, list(words))
    return ended.exit_code, ended.output


@pytest.fixture
def suspended(server: str, kept_toy: Any) -> Any:
    """A version that waits, and the run that asks about it, as a schedule makes them."""
    from prefect import get_client

    from flows.approve import approve
    from flows.retrain import retrain

    states = retrain([ASKED], record=True, return_state=True).result()
    assert (states["promote"], states["ask"]) == ("Waiting", "Completed")
    assert registry.in_use(registry.versions()) is None
    flow = approve.with_options(name=asking.flow_name())
    assert not asking.ask("v1.0.0", ALONE, 14)  # nothing is scheduled
    made = flow.to_deployment(ALONE).apply()
    assert asking.ask("v1.0.0", ALONE, 14)
    assert asking.ask("v1.0.0", ALONE, 14)  # once is enough
    with get_client(sync_client=True) as client:
        runs = {run.name: run.id for run in asking._open(client, "v1.0.0")}
        yield flow, client, runs
        asking.end("v1.0.0", "over")
        client.delete_deployment(made)


@pytest.mark.parametrize("yes", [True, False])
def test_the_run_that_asks_is_suspended_and_does_what_the_form_says(suspended: Any, yes: bool) -> None:
    flow, client, runs = suspended
    assert set(runs) == {"approve v1.0.0", "close v1.0.0"}
    assert execute(flow, client, runs["approve v1.0.0"]).name == "Suspended"
    assert _standings() == {"v1.0.0": "waiting"}
    client.resume_flow_run(runs["approve v1.0.0"], run_input={"answer": "yes" if yes else "no", "note": "seen"})
    ended = execute(flow, client, runs["approve v1.0.0"])
    assert (ended.name, ended.message) == ("Completed", "v1.0.0 " + ("is in use" if yes else "was turned down"))
    assert _standings() == {"v1.0.0": "prod" if yes else "rejected"}
    assert asking._open(client, "v1.0.0") == []  # nothing is left to close


def test_what_nobody_answers_is_closed_after_some_days_and_not_before(
    suspended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Scheduled

    flow, client, runs = suspended
    execute(flow, client, runs["approve v1.0.0"])
    assert "waits for a person until" in approvals.close("v1.0.0", 14)
    assert _standings() == {"v1.0.0": "waiting"}
    monkeypatch.setattr(approvals, "timedelta", lambda days: approvals.datetime.resolution * 0)
    # due now
    client.set_flow_run_state(runs["close v1.0.0"], Scheduled(scheduled_time=datetime.now(UTC)), force=True)
    ended = execute(flow, client, runs["close v1.0.0"])
    assert ended.message == "v1.0.0 was not put in use: nobody answered in 14 days"
    assert _standings() == {"v1.0.0": "rejected"}
    assert client.read_flow_run(runs["approve v1.0.0"]).state.name == "Answered"


def test_an_answer_at_a_terminal_ends_the_run_that_asks(suspended: Any) -> None:
    flow, client, runs = suspended
    execute(flow, client, runs["approve v1.0.0"])
    assert _thaw("approve", "v1.0.0")[0] == 0
    state = client.read_flow_run(runs["approve v1.0.0"]).state
    assert (state.name, state.message) == ("Answered", "v1.0.0 is in use")
    assert asking._open(client, "v1.0.0") == []


@pytest.mark.parametrize("form", [{}, {"note": "seen"}, {"answer": "perhaps"}, {"answer": "yes"}])
def test_a_form_that_says_neither_yes_nor_no_is_no_answer(form: dict[str, Any]) -> None:
    from prefect.utilities.schema_tools import ValidationError, validate

    from flows.approve import Answer

    schema = Answer.with_initial_data(description="Is v1.0.0 put in use?").model_json_schema()
    with nullcontext() if form.get("answer") == "yes" else pytest.raises(ValidationError):
        validate(form, schema, raise_on_error=True)
