"""Laws of promote.approve: a version waits for a person's yes, in the UI or at a terminal."""

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from flow_runs import execute
from typer.testing import CliRunner

from thaw.cli import app
from thaw.errors import InputError
from thaw.orchestration import asking, story
from thaw.project import approvals, registry, workspace
from thaw.project.stage import StageError

pytestmark = pytest.mark.server

ASKED = "promote.approve=person"
ALONE = "yearly"  # no other test that uses this server has a schedule of this name


def _standings() -> dict[str, str]:
    return {version.name: version.standing for version in registry.versions()}


def _thaw(*words: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, list(words))
    return ended.exit_code, ended.output


def _shown(client: Any, run_id: Any) -> dict[str, str]:
    """The pages that a run has left in the UI, by their keys."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {artifact.key: artifact.data for artifact in client.read_artifacts(artifact_filter=of_run)}


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
    assert asking.ask("v1.0.0", ALONE, 14) is None  # nothing is scheduled
    made = flow.to_deployment(ALONE).apply()
    assert asking.ask("v1.0.0", ALONE, 14) == ["approve v1.0.0", "close v1.0.0"]
    assert asking.ask("v1.0.0", ALONE, 14) == []  # once is enough
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
    assert _shown(client, runs["approve v1.0.0"]).keys() == {"promotion"}
    story.forget([registry.find("v1.0.0").data])
    assert not _shown(client, runs["approve v1.0.0"]), "its page shows pictures of these data"
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


def test_a_model_that_a_person_turned_down_is_not_asked_about_again(suspended: Any) -> None:
    from flows.retrain import retrain

    assert retrain([ASKED], record=True, return_state=True).result()["promote"] == "Cached"
    assert _thaw("reject", "v1.0.0")[0] == 0
    states = retrain([ASKED], record=True, return_state=True).result()
    assert (states["promote"], states["record"]) == ("Cached", "Cached")
    assert "ask" not in states
    assert _standings() == {"v1.0.0": "rejected"}


def test_what_waits_and_is_not_asked_about_is_asked_about_by_the_next_run(suspended: Any) -> None:
    from prefect.states import Failed

    from flows.retrain import retrain

    _, client, runs = suspended
    client.set_flow_run_state(runs["approve v1.0.0"], Failed(message="the workspace was held"), force=True)
    assert asking.ask("v1.0.0", ALONE, 14) == ["approve v1.0.0"]
    assert {run.name for run in asking._open(client, "v1.0.0")} == {*runs}
    assert "ask" in retrain([ASKED], record=True, return_state=True).result()


def test_a_question_made_later_compares_again_once_if_another_model_was_compared_since(
    suspended: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.retrain import retrain

    flow, client, runs = suspended
    assert retrain(["unfreeze.ratio=30"], record=True, return_state=True).result()["promote"] == "Promoted"
    monkeypatch.setenv("TOY_KEEP", "1")
    assert execute(flow, client, runs["approve v1.0.0"]).name == "Suspended"
    page = _shown(client, runs["approve v1.0.0"])["promotion"]
    assert page.startswith("**Not shown to be good enough beside v2.0.0, and waits for a person to say yes**")
    decision = workspace.artifacts("promotion/decision.json")
    decision.unlink()
    client.resume_flow_run(runs["approve v1.0.0"], run_input={"answer": "no", "note": ""})
    assert execute(flow, client, runs["approve v1.0.0"]).message == "v1.0.0 was turned down"
    assert not decision.exists()


@pytest.mark.parametrize("broken", [InputError("no files"), StageError("promote", 1, ["no memory"])])
def test_a_comparison_that_fails_does_not_keep_the_question_from_being_asked(
    suspended: Any, monkeypatch: pytest.MonkeyPatch, broken: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise broken

    flow, client, runs = suspended
    monkeypatch.setattr(approvals, "comparison", fail)
    assert execute(flow, client, runs["approve v1.0.0"]).name == "Suspended"
    assert not _shown(client, runs["approve v1.0.0"])


@pytest.mark.parametrize("form", [{}, {"note": "seen"}, {"answer": "perhaps"}, {"answer": "yes"}])
def test_a_form_that_says_neither_yes_nor_no_is_no_answer(form: dict[str, Any]) -> None:
    from prefect.utilities.schema_tools import ValidationError, validate

    from flows.approve import Answer

    schema = Answer.with_initial_data(description="Is v1.0.0 put in use?").model_json_schema()
    with nullcontext() if form.get("answer") == "yes" else pytest.raises(ValidationError):
        validate(form, schema, raise_on_error=True)
