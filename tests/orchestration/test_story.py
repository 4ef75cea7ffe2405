"""Laws of what the UI shows: what each phase did and why, and how a failed one failed; once."""

import json
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from children import alive

from thaw.project import results

pytestmark = pytest.mark.server


def _shown(run_id: UUID) -> list[Any]:
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    with get_client(sync_client=True) as client:
        return list(client.read_artifacts(artifact_filter=of_run))


def _text(run_id: UUID, key: str) -> str:
    """What a run shows under a key, without the backslashes that escape Markdown."""
    outcome = [artifact for artifact in _shown(run_id) if artifact.key == key]
    assert len(outcome) == 1, [artifact.key for artifact in _shown(run_id)]
    return str(outcome[0].data).replace("\\", "")


def _retrain(*overrides: str) -> Any:
    from flows.retrain import retrain

    return retrain(list(overrides), return_state=True)


@pytest.fixture
def run_id(server: str, monkeypatch: pytest.MonkeyPatch) -> UUID:
    """The id of a run that this test plays."""
    run_id = uuid4()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(run_id))
    monkeypatch.setenv("PREFECT__RUNTIME__TASK_RUN__ID", "")
    return run_id


def test_table_says_what_each_phase_did_and_why_and_the_summary_has_pictures(server: str, trained_toy: Path) -> None:
    run_id = _retrain("unfreeze.ratio=25").state_details.flow_run_id
    rows = dict(line.strip("| ").split(" | ", 1) for line in _text(run_id, "phases").splitlines()[2:])
    assert list(rows)[:7] == ["data", "prepare", "embed", "head", "unfreeze", "evaluate", "report"]
    assert {phase for phase, row in rows.items() if row.startswith("Cached")} == {"data", "prepare", "embed", "head"}
    assert rows["unfreeze"].startswith("Completed | 0:")
    assert "unfreeze.ratio went from 10 to 25" in rows["unfreeze"]
    summary = _text(run_id, "summary")
    assert summary.startswith("**Phase 2")
    assert summary.count("](data:image/png;base64,") == 2  # confusion matrix, worst mistakes
    assert "| **all pictures** | 1 | 1 |" in _text(run_id, "data")
    keys = [artifact.key for artifact in _shown(run_id)]
    assert len(keys) == len(set(keys))
    from thaw.orchestration import story

    assert story.forget(["0000000"]) == 0
    assert story.forget([results.data_hash()]) >= 1
    assert {artifact.key for artifact in _shown(run_id)} == {*keys} - {"summary"}


def test_a_phase_2_that_was_not_kept_is_a_sentence_and_no_gain(server: str, trained_toy: Path) -> None:
    run_id = _retrain("unfreeze.keep=best").state_details.flow_run_id
    summary = _text(run_id, "summary")
    assert summary.startswith(
        "**Phase 2 was not kept: no epoch was better on validation than head only, so both networks"
    )
    assert "| accuracy | 80.0 % | 80.0 % | – | – |" in summary
    table = next(artifact.data for artifact in _shown(run_id) if artifact.key == "metrics")
    gain = json.loads(table)[-1]
    assert (gain["accuracy"], gain["AUC"]) == ("phase 2 not kept", "–")


@pytest.mark.parametrize(
    ("fault", "setting", "expected"),
    [
        ("TOY_FAIL", [], "the toy has no pictures"),
        ("TOY_BREAK", [], "KeyError: 'a mistake of ours'"),
        ("TOY_SLOW", ["timeouts.head=0.15"], "timeouts.head"),  # and ends it
    ],
)
def test_failure_names_the_phase_with_its_reason_and_its_last_lines(
    server: str, trained_toy: Path, monkeypatch: pytest.MonkeyPatch, fault: str, setting: list[str], expected: str
) -> None:
    monkeypatch.setenv(fault, "head")
    state = _retrain("head.patience=9", *setting)
    run_id = state.state_details.flow_run_id
    page = _text(run_id, "failure")
    assert page.startswith("### head failed")
    assert expected in page
    assert "    bar 3\n" in page.split("Its last lines:")[1]
    assert "`thaw run` goes on" in page
    if fault == "TOY_SLOW":
        assert state.is_failed()
        assert state.message == "head was stopped after the 0.15 minutes that timeouts.head allows"
        assert not any(alive(int(pid)) for pid in (trained_toy / ".dvc" / "tmp" / "pids").read_text().split())


def test_crash_that_a_worker_tells_of_names_the_phase_that_ran(server: str) -> None:
    from prefect import get_client
    from prefect.states import Completed, Crashed, Running

    from flows.retrain import retrain
    from thaw.orchestration import story
    from thaw.orchestration.run import phase

    with get_client(sync_client=True) as client:
        run_id = client.create_flow_run(retrain).id
        for name, states in (("prepare", [Running(), Completed()]), ("embed", [Running()])):
            task_run = client.create_task_run(phase, run_id, dynamic_key=name, name=name)
            for state in states:
                client.set_task_run_state(task_run.id, state, force=True)
    story.failed(retrain, SimpleNamespace(id=run_id), Crashed(message="the process ended with code -9"))
    page = _text(run_id, "failure")
    assert page.startswith("### embed failed")
    assert "code -9" in page


def test_run_that_ends_before_its_first_phase_blames_none(run_id: UUID) -> None:
    from prefect.states import Failed

    from flows.retrain import retrain
    from thaw.orchestration import story

    before = threading.active_count()
    story.failed(retrain, SimpleNamespace(id=run_id), Failed(message="another retraining holds this workspace"))
    assert threading.active_count() <= before, "the client that a hook opened is closed"
    assert _text(run_id, "failure").startswith("### The run failed")


def test_server_that_hangs_costs_a_run_one_short_wait_and_gets_the_last_word_later(
    run_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    from thaw.orchestration import story

    answers, waited, before = threading.Event(), [], threading.active_count()
    read = SyncPrefectClient.read_artifacts

    def hang(client: SyncPrefectClient, **named: Any) -> Any:
        if not answers.wait(30):
            waited.append("the run waited until the server gave up")
        return read(client, **named)

    monkeypatch.setattr(SyncPrefectClient, "read_artifacts", hang)
    monkeypatch.setattr(story, "PATIENCE", 0.2)
    table = story.PhaseTable()
    with story.sending():
        for number in range(20):
            table.row("head", f"State{number}", "0:01", "a | b")
        assert not waited
        answers.set()
    assert threading.active_count() <= before
    assert "| head | State19 | 0:01 | a | b |" in _text(run_id, "phases")


def test_nothing_is_shown_twice_however_often_a_task_is_tried(
    run_id: UUID, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thaw.orchestration import story

    for attempt in ("first", "second"):
        with story.sending(), story.progress("data") as follow:
            story._show("markdown", "summary", f"the {attempt}", "")
            follow(f"[ 50%] the {attempt}, 0:09 left")
    assert {artifact.key: artifact.data for artifact in _shown(run_id)} == {
        "summary": "the second",
        "progress-data": 50,
    }
    assert [artifact.description for artifact in _shown(run_id) if artifact.type == "progress"] == [
        "0:09 left, the second"
    ]


def test_what_cannot_be_shown_fails_no_run(run_id: UUID, toy: Path) -> None:
    from thaw.orchestration import story

    with story.sending():
        story.outcome()  # there are no metrics
        story.learning_curves("head")
    assert not _shown(run_id)


def test_run_is_tagged_and_named_with_commit_and_data_beside_its_own_tags(server: str, trained_toy: Path) -> None:
    from prefect import get_client, tags

    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "add", "params.yaml", "data.dvc"], cwd=trained_toy, check=True)
    subprocess.run([*git, "commit", "-qm", "start"], cwd=trained_toy, check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], cwd=trained_toy, check=True, text=True, capture_output=True)
    with tags("mine"):
        run_id = _retrain("head.patience=9").state_details.flow_run_id
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(run_id)
    data = results.data_hash()
    assert set(run.tags) == {"mine", f"project:{trained_toy.name}", f"commit:{commit.stdout[:7]}+", f"data:{data}"}
    assert run.name.startswith(f"efficientnet_lite0 ratio 10 (head.patience=9) data {data} ")


def test_name_tells_few_settings_and_only_those_that_make_the_result(trained_toy: Path) -> None:
    assert "(" not in results.name_of(["timeouts.head=5", "resources.threads=1"])
    changes = ["seed=1", "head.patience=9", "unfreeze.epochs=3", "unfreeze.drop=0.5"]
    assert "(seed=1, head.patience=9, unfreeze.epochs=3, 1 more)" in results.name_of(changes)
