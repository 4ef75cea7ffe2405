"""Laws of the flow, read back from a real Prefect server; toy phases, real dvc."""

import base64
import itertools
import re
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from children import until

from thaw.errors import InputError
from thaw.project import pin, settings
from thaw.project.lock import only_retraining
from thaw.project.pin import DataDiffers

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
PHASES = ["data", "prepare", "embed", "head", "unfreeze", "evaluate", "report"]


def _retrain(overrides: list[str] | None = None, force: bool = False) -> Any:
    from flows.retrain import retrain

    return retrain(overrides, force, return_state=True)


def _task_runs(flow_run_id: UUID) -> dict[str, Any]:
    """The task runs of a flow run in order of their start, once all have ended."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:

        def ended() -> list[Any]:
            this_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            runs = client.read_task_runs(flow_run_filter=this_run)
            return runs if runs and all(run.state and run.state.is_final() for run in runs) else []

        return {run.name: run for run in sorted(until(ended), key=lambda run: run.start_time)}


def _artifacts(flow_run_id: UUID) -> dict[str, Any]:
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=of_run)}


def _log_of(flow_run_id: UUID) -> list[str]:
    from prefect import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return [entry.message for entry in client.read_logs(log_filter=of_run)]


@pytest.mark.quick
def test_states_say_what_dvc_did_and_the_run_is_shown(server: str, toy: Path) -> None:
    first = _retrain()
    flow_run_id = first.state_details.flow_run_id
    assert first.result() == dict.fromkeys(PHASES, "Completed")
    runs = _task_runs(flow_run_id)
    assert {name: run.state_name for name, run in runs.items()} == dict.fromkeys(PHASES, "Completed")
    assert list(runs) == PHASES
    for before, after in itertools.pairwise(PHASES):  # the edges of the graph
        assert [task.id for task in runs[after].task_inputs["wait_for"]] == [runs[before].id]
    assert all("dvc" in run.tags for run in runs.values())

    shown = _artifacts(flow_run_id)
    for phase in ("embed", "head", "unfreeze", "evaluate"):
        assert shown[f"progress-{phase}"].type == "progress"
        assert shown[f"progress-{phase}"].data == 100
        assert shown[f"progress-{phase}"].task_run_id == runs[phase].id
    assert "80.0 %" in shown["metrics"].data
    assert "summary" in shown
    picture = shown["learning-curves-unfreeze"].data.split("base64,")[1].rstrip(")")
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert "learning-curves-head" in shown
    assert until(lambda: any("[ 50%] head 50/100" in line for line in _log_of(flow_run_id)))

    (toy / "artifacts" / "unfreeze" / "model" / "weights.safetensors").unlink()
    again = _retrain().state_details.flow_run_id
    assert {name: run.state_name for name, run in _task_runs(again).items()} == {
        **dict.fromkeys(PHASES, "Cached"),
        "unfreeze": "Restored",
    }
    assert not any(key.startswith("progress") for key in _artifacts(again))  # nothing ran


def test_run_with_nothing_to_do_asks_dvc_once_and_shows_everything_once(
    server: str, trained_toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    import flows.retrain  # noqa: F401  (before Popen is replaced, which type hints name)

    started: list[list[str]] = []
    updated: list[Any] = []
    popen, update = subprocess.Popen, SyncPrefectClient.update_artifact

    def start(command: list[str], *arguments: Any, **named: Any) -> Any:
        started.append(command)
        return popen(command, *arguments, **named)

    def change(client: SyncPrefectClient, *arguments: Any) -> None:
        updated.append(arguments)
        update(client, *arguments)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(SyncPrefectClient, "update_artifact", change)
    run_id = _retrain().state_details.flow_run_id
    assert [command[2:] for command in started if command[0] == sys.executable] == [
        ["dvc", "--wait-for-lock", "status", "--json"]
    ]
    assert not updated
    shown = _artifacts(run_id)
    assert shown.keys() == {"phases", "metrics", "summary", "data", "learning-curves-unfreeze"}
    assert shown["phases"].data.count("| Cached |") == len(PHASES)


def test_run_is_named_after_what_it_trains(server: str, trained_toy: Path) -> None:
    from prefect import get_client

    with only_retraining("somebody else"):  # refused at once: the name is all that matters here
        state = _retrain(["unfreeze.ratio=25", "retrain.wait=0"])
    with get_client(sync_client=True) as client:
        name = client.read_flow_run(state.state_details.flow_run_id).name
    assert name.startswith("efficientnet_lite0 ratio 25 ")


def test_failing_phase_fails_task_and_flow_with_its_sentence(
    server: str, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_FAIL", "prepare")
    state = _retrain(["unfreeze.ratio=20"])
    assert state.type.value == "FAILED"
    assert state.message == "prepare: the toy has no pictures"
    assert isinstance(state.result(raise_on_failure=False), InputError)
    runs = _task_runs(state.state_details.flow_run_id)
    assert list(runs) == ["data", "prepare"]
    assert runs["prepare"].state.message == "the toy has no pictures"
    assert runs["prepare"].state_name == "Failed"


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("promote.costs={good: {god: 10}}", "promote.costs names 'god', which is no class; the classes are good"),
        (
            "promote.by=recall",
            "promote.by is recall, which is that of the positive one of two classes, and there are 1",
        ),
        ("promote.by=auc", ""),
    ],
)
def test_a_rule_of_promotion_that_does_not_fit_the_data_ends_the_run_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, sentence: str
) -> None:
    from flows.retrain import run_phases
    from thaw.project import overrides, reasons

    ran: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reasons, "changed", dict)
    for name in ("params.yaml", "tests/toy/dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "artifacts/prepare").mkdir(parents=True)
    (tmp_path / "artifacts/prepare/meta.json").write_text('{"classes": ["good"]}')
    cached = SimpleNamespace(name="Cached")
    run: Any = SimpleNamespace(
        settings=overrides.settings_with([rule]), do=lambda name, *_, **__: ran.append(name) or cached
    )
    with pytest.raises(InputError, match=re.escape(sentence)) if sentence else nullcontext():
        run_phases(run, force=False)
    assert ran == (["data", "prepare"] if sentence else PHASES)


def test_wrong_override_changes_nothing_and_runs_nothing(server: str, trained_toy: Path) -> None:
    before = (trained_toy / "params.yaml").read_bytes()
    state = _retrain(["unfreeze.ratoi=20"])
    assert state.is_failed()
    assert "unfreeze.ratio" in state.message
    assert (trained_toy / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("record", [False, True])
def test_data_that_differ_from_their_pin_end_the_run_until_they_are_accepted(
    server: str, trained_toy: Path, record: bool
) -> None:
    from flows.retrain import retrain

    if record:
        (trained_toy / "incoming").mkdir()
        (trained_toy / "incoming" / "new.png").write_bytes(b"never opened")
    before = (trained_toy / "data.dvc").read_bytes()
    (trained_toy / "data" / "picture.txt").write_text("half a pic")
    state = retrain(record=record, return_state=True)
    assert state.is_failed()
    assert isinstance(state.result(raise_on_failure=False), DataDiffers)
    task = "incoming" if record else "data"
    assert state.message.startswith(
        f"{task}: data/ differs from data.dvc: 0 new, 1 changed (data/picture.txt), 0 missing; `thaw data --accept`"
    )
    assert list(_task_runs(state.state_details.flow_run_id)) == [task]
    assert (trained_toy / "data.dvc").read_bytes() == before
    pin.accept()
    if not record:
        assert _retrain().result() == {"data": "Cached", "prepare": "Completed"} | dict.fromkeys(PHASES[2:], "Cached")


def test_second_retraining_waits_its_turn_and_not_for_ever(
    server: str, trained_toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.override(["retrain.wait=0.01"], trained_toy / "params.yaml")
    with only_retraining("the first"):
        state = _retrain()
    assert state.is_failed()
    assert state.message.startswith("another retraining holds this workspace (the first, process ")
    assert state.message.endswith("; waited 0.01 minutes for it, as long as retrain.wait allows")

    settings.override(["retrain.wait=5"], trained_toy / "params.yaml")
    with only_retraining("the second"):
        waits = threading.Thread(target=lambda: states.append(_retrain()))
        states: list[Any] = []
        waits.start()
        until(lambda: "Waiting while another retraining holds this workspace (the second" in capsys.readouterr().out)
    waits.join(300)
    assert states[0].is_completed()


def test_progress_never_waits_for_a_server_that_hangs(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    from thaw.orchestration import story

    asked, answers, given_up = threading.Event(), threading.Event(), []

    def hang(*arguments: Any, **named: Any) -> Any:
        asked.set()
        if not answers.wait(30):
            given_up.append("the run waited until the server gave up")

    some_id = "00000000-0000-0000-0000-000000000000"
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", some_id)
    monkeypatch.setenv("PREFECT__RUNTIME__TASK_RUN__ID", some_id)
    monkeypatch.setattr(SyncPrefectClient, "create_artifact", hang)
    monkeypatch.setattr(story, "PATIENCE", 0.2)
    with story.sending():
        with story.progress("head") as follow:
            follow("[  0%] head 1/8")
            assert asked.wait(300)
            for percent in range(100):
                follow(f"[{percent:3d}%] head 1/8")
        assert not given_up
        answers.set()
