"""Laws of operation on a real server: `thaw schedule` serves one workspace, a worker another.

The phases are toys; cron, cancellation, queues, processes and the death of the server are real.
"""

import http.server
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from children import git, slow_phase, until

from thaw.orchestration import schedule
from thaw.orchestration import server as module

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
PHASES = ["data", "prepare", "embed", "head", "unfreeze", "evaluate", "report"]


# ------------------------------------------------------------------------- workspaces and processes


def _copy(template: Path, root: Path) -> Path:
    """A toy workspace in git, in which every phase has run once."""
    shutil.copytree(template, root)
    git(root, "add", "--all")
    git(root, "commit", "-qm", "start")
    return root


def _start(root: Path, log: Path, *command: str, **environment: str) -> "subprocess.Popen[str]":
    with open(log, "w") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=root,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _serve(root: Path, *options: str) -> "tuple[subprocess.Popen[str], Path]":
    """`thaw schedule` in a workspace, once it serves; and what it prints."""
    log = root / "schedule.log"
    child = _start(root, log, "thaw", "schedule", *options)
    until(lambda: "Serving" in log.read_text() or child.poll() is not None)
    assert child.poll() is None, log.read_text()
    return child, log


def _end(child: "subprocess.Popen[str]") -> int:
    child.terminate()
    return child.wait(300)


@pytest.fixture(scope="module")
def served(server: str, _trained_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace whose schedule `nightly` is served by `thaw schedule`."""
    root = _copy(_trained_template, tmp_path_factory.mktemp("served") / "toy")
    child, _ = _serve(root, "nightly", "--cron", "0 3 * * *", "--timezone", "UTC", "--set", "unfreeze.ratio=20")
    yield root
    assert _end(child) == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def worked(server: str, _trained_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a deployment `weekly` for a worker, made by the commands in prefect.yaml."""
    from prefect import get_client

    commands = re.findall(r"^#  +prefect (.+)$", (ROOT / "prefect.yaml").read_text(), re.MULTILINE)
    *preparing, working = [line.split() for line in commands]
    root = _copy(_trained_template, tmp_path_factory.mktemp("worked") / "toy")
    shutil.copy(ROOT / "prefect.yaml", root)
    shutil.copytree(ROOT / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    # prefect.yaml reads the folder from PWD, as a shell sets it
    there = os.environ | {"PWD": str(root)}
    for command in preparing:
        prefect = [sys.executable, "-m", "prefect", *command]
        done = subprocess.run(prefect, cwd=root, env=there, text=True, capture_output=True)
        assert done.returncode == 0 or "already exists" in done.stdout + done.stderr, done.stdout + done.stderr
    child = _start(root, root / "worker.log", "prefect", *working)
    yield root
    child.kill()  # asked politely, it first waits for a server that was restarted
    child.wait()
    # other tests have schedules of these names on this server
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            if deployment.work_pool_name:
                client.delete_deployment(deployment.id)


def _members(session: int) -> list[int]:
    """The living processes of a session."""
    results = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == session and state != "Z":
            results.append(int(stat.parent.name))
    return results


def _slow(root: Path) -> int:
    """Wait for the slow phase and its deaf child; returns dvc's session, the phase, the child."""
    return os.getsid(slow_phase(root)[0])


# --------------------------------------------------------------------------------------- the server


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    from prefect import get_client

    with get_client(sync_client=True) as result:
        yield result


def _deployment(client: Any, name: str) -> Any:
    """That of the retraining: the flow that asks a person has one of the same name."""
    named = [deployment for deployment in client.read_deployments() if deployment.name == name]
    (deployment,) = (deployment for deployment in named if "retrain" in (deployment.entrypoint or ""))
    return deployment


def _runs(client: Any, name: str, *states: str) -> list[Any]:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    of_deployment = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    runs = client.read_flow_runs(deployment_filter=of_deployment)
    return [run for run in runs if run.state_name in states]


def _task_runs(client: Any, flow_run_id: UUID) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    return sorted(client.read_task_runs(flow_run_filter=this_run), key=lambda run: run.start_time)


def _ended(client: Any, flow_run_id: UUID) -> Any:
    """The flow run once it has ended and the server knows the end of each of its tasks."""
    run = until(lambda: run if (run := client.read_flow_run(flow_run_id)).state.is_final() else None)
    until(lambda: all(task.state.is_final() for task in _task_runs(client, flow_run_id)))
    return run


def test_cron_gives_scheduled_runs_and_one_fires_through_serve_and_through_a_worker(
    served: Path, worked: Path, client: Any
) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    deployment = _deployment(client, "weekly")
    assert deployment.global_concurrency_limit is None, "after a restart of the server nobody would free its slot"
    assert deployment.parameters["record"] is True
    for name in ("nightly", "weekly"):
        assert until(lambda name=name: len(_runs(client, name, "Scheduled")) >= 3)
        result = _deployment(client, name)
        soon = CronSchedule(cron="* * * * * */15")  # the sixth field counts seconds
        client.update_deployment_schedule(result.id, result.schedules[0].id, schedule=soon)
    fired = {}
    for name in ("nightly", "weekly"):
        runs = until(lambda name=name: _runs(client, name, "Running", "Completed"))
        # later ones find nothing to do
        fired[name] = min(runs, key=lambda run: run.expected_start_time)
        client.pause_deployment(_deployment(client, name).id)
    for name, run in fired.items():
        # another one may be due too
        until(lambda name=name: not _runs(client, name, "Pending", "Running"))
        assert run.auto_scheduled
        assert _ended(client, run.id).state_name == "Completed"
        states = {task.name: task.state_name for task in _task_runs(client, run.id)}
        assert [name for name in states if name in PHASES] == PHASES
        # --set reaches the run
        assert states["unfreeze"] == ("Completed" if name == "nightly" else "Cached")
        assert states["record"] == "Completed"
    # --set changes this run alone
    assert git(served, "status", "--porcelain", "params.yaml") == ""


def test_second_start_waits_its_turn_and_cancelling_ends_every_process_before_the_next_run(
    served: Path, worked: Path, client: Any
) -> None:
    ids = {served: _deployment(client, "nightly").id, worked: _deployment(client, "weekly").id}

    def started(root: Path, overrides: list[str]) -> UUID:
        return client.create_flow_run_from_deployment(ids[root], parameters={"overrides": overrides}).id

    for root in ids:
        (root / ".dvc" / "tmp" / "slow").write_text("head")
    first = {root: started(root, ["head.patience=7"]) for root in ids}
    sessions = {root: _slow(root) for root in ids}

    second = {root: started(root, []) for root in ids}
    for root in ids:
        (root / ".dvc" / "tmp" / "slow").unlink()
        other = _start(root, root / "other.log", "thaw", "run", "--set", "retrain.wait=0")
        assert other.wait(300) == 2
        assert "error: another retraining holds this workspace (" in (root / "other.log").read_text()
    assert until(lambda: client.read_flow_run(second[worked]).state.is_running())
    assert client.read_flow_run(second[served]).state.is_scheduled()

    from prefect.states import Cancelling

    for root in ids:
        noted = (root / ".dvc" / "tmp" / "pids").read_text().split()
        # dvc, the phase, its deaf child
        assert {sessions[root], *map(int, noted)} <= set(_members(sessions[root]))
        client.set_flow_run_state(first[root], Cancelling())
    until(lambda: not any(_members(session) for session in sessions.values()))
    assert {_ended(client, run).state_name for run in first.values()} == {"Cancelled"}
    for root in ids:
        assert _ended(client, second[root]).state_name == "Completed"
        times = [
            (run.start_time, run.end_time) for ids_of in (first, second) for run in _task_runs(client, ids_of[root])
        ]
        for before, after in itertools.pairwise(sorted(times)):
            assert before[1] <= after[0]


def test_schedule_outlasts_its_process_stays_paused_and_catches_up_once(
    server: str, trained_toy: Path, client: Any
) -> None:
    from prefect.states import Scheduled

    git(trained_toy, "add", "--all")
    git(trained_toy, "commit", "-qm", "start")
    lines: list[str] = []
    child, log = _serve(trained_toy, "monthly", "--cron", "30 2 1 * *", "--timezone", "Europe/Berlin")
    assert f"monthly: 30 2 1 * * (Europe/Berlin), active, served by process {child.pid}" in log.read_text()
    assert "  next: " in log.read_text()
    schedule.set_paused("monthly", True, lines.append)
    (trained_toy / ".dvc" / "tmp" / "slow").write_text("unfreeze")
    deployment = _deployment(client, "monthly")
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"overrides": ["unfreeze.ratio=30"]})
    session = _slow(trained_toy)
    assert _end(child) == 128 + signal.SIGTERM
    until(lambda: not _members(session))
    assert _ended(client, run.id).state_name == "Cancelled"
    (trained_toy / ".dvc" / "tmp" / "slow").unlink()

    past = deployment.created
    missed = [
        client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=past)).id for _ in range(3)
    ]
    child, log = _serve(trained_toy)
    assert "monthly: 3 missed while nothing served it" in log.read_text()
    assert "monthly: 30 2 1 * * (Europe/Berlin), paused, served by process" in log.read_text()
    states = [_ended(client, run_id).state_name for run_id in missed]
    assert sorted(states) == ["Completed", "Missed", "Missed"]
    assert _end(child) == 128 + signal.SIGTERM

    lines.clear()
    schedule.set_paused("monthly", False, lines.append)
    assert lines[-2] == "monthly: 30 2 1 * * (Europe/Berlin), active, not served"
    schedule.remove("monthly", lines.append)
    schedule.show(lines.append)
    assert not any(line.startswith("monthly") for line in lines[-4:])


def test_automations_tell_a_web_hook_which_run_failed_and_that_none_went_well(
    server: str, client: Any, toy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    messages: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{hook.server_port}/key"
        head = (ROOT / "automations" / "notify.yaml").read_text()
        commands = re.findall(r"^#  +(\S+) (\S+) (.+)$", head, re.MULTILINE)
        assert [command[:2] for command in commands] == [("python", "automations/notify.py"), ("prefect", "automation")]
        printed = subprocess.run(
            [sys.executable, "automations/notify.py", address], cwd=ROOT, capture_output=True, text=True, check=True
        )
        (tmp_path / "notify.yaml").write_text(printed.stdout.replace("within: 691200", "within: 10"))
        create = [sys.executable, "-m", "prefect", *commands[1][1:2], *commands[1][2].split()]
        subprocess.run(create, cwd=tmp_path, check=True, capture_output=True)
        try:
            from flows.retrain import retrain

            monkeypatch.setenv("TOY_FAIL", "prepare")
            run = client.read_flow_run(retrain(return_state=True).state_details.flow_run_id)
            (failed,) = until(lambda: [text for text in messages if text.startswith(run.name)])
            assert failed.startswith(f"{run.name}: Failed\nprepare: the toy has no pictures\nhttp://")
            assert str(run.id) in failed
            assert until(
                lambda: [text for text in messages if text.startswith("no retraining went well\nNo retraining was")]
            )
        finally:
            for made in yaml.safe_load(head)["automations"]:
                for automation in client.read_automations_by_name(made["name"]):
                    client.delete_automation(automation.id)
            hook.shutdown()


def test_server_that_dies_in_mid_run_is_back_and_has_lost_nothing(server: str, client: Any, trained_toy: Path) -> None:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    home = Path(os.environ["PREFECT_HOME"])
    record = json.loads((home / "server.json").read_text())
    log = trained_toy / "run.log"
    run = _start(trained_toy, log, "thaw", "run", "--set", "unfreeze.ratio=30", TOY_PACE="2")
    until(lambda: "unfreeze: [ 50%]" in log.read_text())
    module.end_group(record["pid"], grace=0)
    until(lambda: module.answers(server))  # the fixture uses it and starts it again, as thaw does
    assert run.wait(300) == 0, log.read_text()

    flow_run_id = UUID(re.search(r"flow-run/([0-9a-f-]{36})", log.read_text())[1])  # type: ignore[index]
    assert _ended(client, flow_run_id).state_name == "Completed"
    tasks = _task_runs(client, flow_run_id)
    assert [task.name for task in tasks if task.name in PHASES] == PHASES
    assert next(task.state_name for task in tasks if task.name == "unfreeze") == "Completed"
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    keys = {artifact.key for artifact in client.read_artifacts(artifact_filter=of_run)}
    assert keys >= {"progress-unfreeze", "learning-curves-unfreeze", "metrics", "summary"}
