"""Laws of schedules: a mistake is one sentence before anything starts; others' stay untouched."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from thaw.cli import app
from thaw.errors import InputError
from thaw.orchestration import schedule

CRON = "0 3 * * 1"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "cron", "timezone", "overrides", "sentence"),
    [
        ("weekly", "0 3 * *", None, [], r"--cron is '0 3 \* \*': five fields are needed"),
        ("weekly", "0 25 * * 1", None, [], "--cron is '0 25"),
        ("weekly", CRON, "Europe/Berln", [], "the time zone 'Europe/Berln' is unknown"),
        ("a/b", CRON, None, [], "the name of a schedule is 'a/b'"),
        ("weekly", CRON, None, ["unfreeze.ratoi=3"], r"'unfreeze\.ratio'"),
        (None, None, "UTC", [], "give --cron too"),
        (None, None, None, ["seed=1"], "give --cron too"),
        ("weekly", None, None, [], "leave the name out"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_starts(
    toy: Path,
    name: str | None,
    cron: str | None,
    timezone: str | None,
    overrides: list[str],
    sentence: str,
) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        schedule.serve(name, cron, timezone, overrides, print)
    assert "\n" not in str(error.value)
    assert not (toy / ".prefect").exists()


@pytest.mark.parametrize(
    ("cron", "overrides", "sentence"), [(CRON, ["seed=1"], "--set is for retraining"), (None, [], "give --cron too")]
)
def test_a_schedule_of_predictions_has_a_time_and_no_settings(
    toy: Path, cron: str | None, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        schedule.serve(None, cron, None, overrides, print, "arrived")
    assert not (toy / ".prefect").exists()


@pytest.mark.parametrize(
    "options", [["--list", "--pause"], ["--resume", "--cron", CRON], ["--remove", "--set", "seed=1"]]
)
def test_contradictory_options_are_refused(options: list[str]) -> None:
    ended = CliRunner().invoke(app, ["schedule", *options])
    assert ended.exit_code == 2
    assert ended.output.startswith("error: choose one: ")


def test_time_zone_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert schedule.machine_zone() == "Asia/Tokyo"
    monkeypatch.setenv("TZ", "nonsense")
    assert schedule.machine_zone() == "UTC"


def test_one_process_serves_a_workspace(toy: Path) -> None:
    with (
        schedule._only_one_serves(),
        pytest.raises(InputError, match=r"served by process \d+ already"),
    ):
        schedule.serve(None, None, None, [], print)


class Runner:
    """Stands in for Prefect's runner: its polls end as the test says; the last one stops it."""

    query_seconds = 0.01

    def __init__(self, polls: list[BaseException | None]) -> None:
        self._scheduled_run_poller = self
        self._submitting_flow_run_ids: set[int] = set()
        self.polls = polls
        self.over = threading.Event()
        self.stopped = False

    async def __aenter__(self) -> "Runner":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def _get_and_submit_flow_runs(self) -> None:
        poll = self.polls.pop(0)
        if not self.polls:
            self.over.set()
        if poll:
            raise poll

    async def astop(self) -> None:
        self.stopped = True


def test_while_the_server_is_away_schedules_are_served_on_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "BREATH", 0.001)
    there = chain([True, True, False, False, True], repeat(True))
    monkeypatch.setattr(schedule.server, "answers", lambda api: next(there))
    printed: list[str] = []

    def serve(runner: Any) -> bool:
        return asyncio.run(schedule._serve(runner, "http://there/api", printed.append, runner.over))

    busy = Runner([None, httpx.ReadTimeout("slow"), None, None])
    busy._submitting_flow_run_ids.add(1)  # a run goes on, so nobody else takes over
    assert not serve(busy)
    assert busy.stopped, "when it is over the run that goes on is ended"
    assert printed == ["The Prefect server at http://there is away, and what is due waits for it: slow"]

    there = chain([False, False, True], repeat(True))
    idle = Runner([None])
    assert serve(idle)
    assert [line.split(" at ")[0] for line in printed[1:]] == ["The Prefect server", "The Prefect server answers again"]
    assert len(idle.polls) == 1, "a new runner polls: this one may have lost sight of what is cancelled"


@pytest.fixture
def theirs(server: str, toy: Path) -> Iterator[Any]:
    """A schedule of another workspace on the same server; gives what the server has of it."""
    from prefect import get_client
    from prefect.schedules import Cron

    from flows.retrain import retrain

    clone = retrain.with_options(name=schedule._flow_name())  # of the same project
    made = clone.to_deployment("theirs", schedule=Cron(CRON), tags=["retrain", "elsewhere:/srv/their/thaw"]).apply()
    with get_client(sync_client=True) as client:
        yield lambda: client.read_deployment(made)
        client.delete_deployment(made)


@pytest.mark.server
def test_workspaces_on_one_server_leave_each_others_schedules_alone(theirs: Callable[[], Any]) -> None:
    before = theirs()
    with pytest.raises(InputError, match="'theirs' is taken on this server by elsewhere:/srv/their/thaw"):
        schedule.serve("theirs", "0 4 * * *", "UTC", [], print)
    for change in (lambda: schedule.set_paused("theirs", True, print), lambda: schedule.remove("theirs", print)):
        with pytest.raises(InputError, match="this workspace has no schedule 'theirs'"):
            change()
    assert theirs() == before
    lines: list[str] = []
    schedule.show(lines.append)
    assert f"theirs: {CRON} (UTC), active, elsewhere:/srv/their/thaw" in lines


def test_no_deployment_has_a_slot_on_the_server_that_outlives_its_holder() -> None:
    for deployment in YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]:
        assert "concurrency_limit" not in deployment


def test_prefect_deploy_gives_a_deployment_the_tags_that_it_claims() -> None:
    """Prefect drops unknown placeholders in a list, so the tags are one placeholder."""
    from prefect.utilities.templating import apply_values

    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    claiming = {
        deployment["entrypoint"].split(":")[1]: deployment for deployment in deployments if deployment.get("build")
    }
    assert list(claiming) == ["retrain", "predict"]
    for flow, deployment in claiming.items():
        ((step, options),) = deployment["build"][0].items()
        assert step.endswith(".schedule.claim")
        assert (options["name"], options.get("flow", schedule.RETRAIN)) == (deployment["name"], flow)
        before = apply_values(deployment, os.environ, remove_notset=False)
        assert apply_values(before, {"claim": {"tags": ["a", "b:/c"]}})["tags"] == ["a", "b:/c"]


@pytest.mark.server
def test_a_deployment_of_another_clone_is_neither_overwritten_nor_removed(
    server: str, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows.retrain import retrain

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="clones", type="process"), overwrite=True)
        flow = client.create_flow(retrain.with_options(name=schedule._flow_name()))
        tags = ["retrain", "elsewhere:/srv/their/thaw"]
        theirs = client.create_deployment(flow, "theirs", work_pool_name="clones", tags=tags)
        own_tags = schedule.claim("ours")["tags"]
        ours = client.create_deployment(flow, "ours", work_pool_name="clones", tags=own_tags)
        try:
            with pytest.raises(SystemExit) as ended:
                schedule.claim("theirs")
            assert ended.value.code == 2
            assert "/theirs' is taken on this server by elsewhere:/srv/their/thaw: give" in capsys.readouterr().err
            with pytest.raises(InputError, match="this workspace has no schedule 'theirs'"):
                schedule.remove("theirs", print)
            assert own_tags[-1].endswith(f":{toy}")
            assert schedule.claim("ours")["tags"] == own_tags
            schedule.set_paused("ours", True, print)
            assert client.read_deployment(ours).paused
        finally:
            client.delete_deployment(theirs)
            client.delete_deployment(ours)


@pytest.mark.server
def test_a_schedule_of_another_project_is_out_of_reach_and_its_name_is_free(server: str, toy: Path) -> None:
    from prefect import get_client
    from prefect.schedules import Cron

    from flows.retrain import retrain

    other = retrain.with_options(name="retrain other")
    made = other.to_deployment("fortnightly", schedule=Cron(CRON), tags=["retrain"]).apply()
    with get_client(sync_client=True) as client:
        try:
            before = client.read_deployment(made)
            schedule._free(client, "fortnightly")
            with pytest.raises(InputError, match="this workspace has no schedule 'fortnightly'"):
                schedule.remove("fortnightly", print)
            lines: list[str] = []
            schedule.show(lines.append)
            assert not [line for line in lines if line.startswith("fortnightly")]
            assert client.read_deployment(made) == before
        finally:
            client.delete_deployment(made)


@pytest.mark.server
def test_a_run_that_was_killed_with_what_served_it_is_crashed_on_the_server_and_one_that_lives_is_not(
    server: str, toy: Path
) -> None:
    from prefect import get_client
    from prefect.states import Pending, Running

    from flows.retrain import retrain
    from thaw.project import runs

    made = retrain.to_deployment("quarterly", tags=["retrain", schedule._here()]).apply()
    with get_client(sync_client=True) as client:
        try:
            begun = {}
            for name, state in (
                ("killed", Running),
                ("lives", Running),
                ("not logged", Running),
                ("submitted", Pending),
            ):
                begun[name] = client.create_flow_run_from_deployment(made).id
                client.set_flow_run_state(begun[name], state(), force=True)
            due = client.create_flow_run_from_deployment(made).id
            log = toy / ".prefect" / "runs.jsonl"
            with runs.noted(str(begun["lives"])), runs.noted(str(begun["killed"])):
                lines = log.read_text().splitlines()
                log.write_text("\n".join([lines[0], lines[1].replace(f'"pid": {os.getpid()}', '"pid": 999999999')]))
                assert schedule._tell_of_killed(client) == 3
            states = {name: client.read_flow_run(run).state.type.value for name, run in begun.items()}
            assert states == {"killed": "CRASHED", "lives": "RUNNING", "not logged": "CRASHED", "submitted": "CRASHED"}
            assert client.read_flow_run(due).state.is_scheduled()
        finally:
            client.delete_deployment(made)


@pytest.mark.server
def test_on_its_own_server_a_workspace_keeps_its_schedules_when_it_moves(
    server: str, toy: Path, theirs: Callable[[], Any]
) -> None:
    (toy / ".prefect").mkdir()
    (toy / ".prefect" / "server.json").write_text(f'{{"api": "{server}"}}')
    schedule.set_paused("theirs", True, print)
    assert theirs().paused


@pytest.mark.server
def test_predictions_have_schedules_beside_retrainings(server: str, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import get_client

    monkeypatch.setattr(schedule, "_poll", lambda *_: None)
    schedule.serve(None, CRON, "UTC", [], print)
    schedule.serve(None, "0 5 * * *", "UTC", [], print, "arrived")
    lines: list[str] = []
    schedule.serve(None, None, None, [], lines.append)  # goes on with both
    with get_client(sync_client=True) as client:
        made = {deployment.name: deployment for deployment in schedule._all(client)}
        assert made["daily"].parameters == {"source": "arrived", "model": "prod"}
        assert made["daily"].tags[0] == "predict"
        assert made["weekly"].parameters["record"]
        assert client.read_flow(made["daily"].flow_id).name.startswith("predict ")
    assert {line.split(",")[0] for line in lines} >= {f"weekly: {CRON} (UTC)", "daily: predicts arrived"}
    with pytest.raises(InputError, match="there is a schedule 'daily' already, to predict: choose another name"):
        schedule.serve("daily", CRON, "UTC", [], print)
    noted = schedule.noted()["schedules"]
    assert {name: deployment["flow"] for name, deployment in noted.items()} == {"daily": "predict", "weekly": "retrain"}
    for name in ("daily", "weekly"):
        schedule.remove(name, print)
