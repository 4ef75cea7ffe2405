"""Laws of status: every outcome is true, a run that never began is noticed, no server is needed."""

import json
import os
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from thaw import cli
from thaw.project import lock, registry, runs, status
from thaw.project.registry import Version
from thaw.project.runs import Run
from thaw.project.settings import override, read
from thaw.project.status import Schedule, Status

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
RETRAIN = read(ROOT / "params.yaml").retrain


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "data.dvc").write_text("outs:\n- md5: abcdefabcdef.dir\n  nfiles: 1234\n  path: data\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(due: datetime, outcome: str = "Completed", schedule: str | None = "weekly", **more: Any) -> Run:
    begun = due + timedelta(minutes=1)
    return Run("a run", schedule, True, due, begun, None, outcome, more.pop("message", ""), **more)


def weekly(weeks: int, paused: bool = False, flow: str = "retrain") -> Schedule:
    past = [NOW - WEEK * number - timedelta(hours=9) for number in reversed(range(weeks))]
    coming = None if paused else NOW + WEEK
    return Schedule("weekly", "0 3 * * 6 (UTC)", paused, past[0], "not served", past, coming, flow)


def of(schedules: list[Schedule], known: list[Run], **more: Any) -> Status:
    version = Version(
        name="v1.0.0",
        commit="c",
        path="p",
        when=NOW - 3 * WEEK,
        in_use=True,
        metrics={"finetuned": {"accuracy": 0.8, "auc": 0.9}},
        data="d",
        model="m",
        message="",
    )
    values: dict[str, Any] = {"model": version, "versions": [version], "disk_free": 100.0, "set_aside": 0}
    return Status(
        **{"now": NOW, "data": "abc", "files": 7, "schedules": schedules, "runs": known, "server": "", "heard": NOW}
        | values
        | more
    )


def test_a_run_is_logged_with_how_it_ended_whatever_ended_it(space: Path) -> None:
    about = {"name": "a run", "schedule": "weekly", "recorded": True, "due": NOW.isoformat()}
    with runs.noted("1", **about) as ends:
        assert [run.outcome for run in runs.read()] == ["Running"]
        ends("Completed", "did head")
    with pytest.raises(OSError, match="the disk is full"), runs.noted("2", **about):
        raise OSError("the disk is full")
    with pytest.raises(SystemExit), runs.noted("3", **about):
        raise SystemExit(143)  # a signal
    if not (child := os.fork()):
        with runs.noted("4", **about):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with (space / ".prefect/runs.jsonl").open("a") as log:
        log.write('{"id": "5", "began": "2026-')  # half a line, of a full disk
    with runs.noted("6", **about) as ends:
        ends("Completed", "nothing new")
    logged = runs.read()
    assert [run.outcome for run in logged] == ["Completed", "Failed", "Cancelled", "Killed", "Completed"]
    assert [run.message for run in logged] == ["did head", "the disk is full", "", "", "nothing new"]
    assert all(run.due == NOW and run.schedule == "weekly" for run in logged)
    with lock.only_retraining("a container"):  # whose processes this machine does not see
        assert runs.read()[-2].outcome == "Running"


def test_the_log_does_not_grow_for_ever(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MOST", 10)
    for number in range(30):
        with runs.noted(str(number), name="", schedule=None, recorded=True) as ends:
            ends("Completed", "")
    assert runs.read()[-1].outcome == "Completed"
    assert len((space / ".prefect/runs.jsonl").read_text().splitlines()) <= 10


def test_each_time_at_which_nothing_began_before_the_next_one_is_a_run_that_did_not_begin() -> None:
    schedule = weekly(6)
    begun = [
        run(schedule.past[0]),
        run(schedule.past[1] + timedelta(hours=30)),  # by hand from the UI, a day late
        run(schedule.past[2], schedule="another"),
        run(schedule.past[3], "Failed"),
    ]
    missed = status.never_began(schedule, begun, NOW)
    assert [run.due for run in missed] == [schedule.past[number] for number in (2, 4, 5)]
    assert [run.due for run in status.never_began(schedule, begun, schedule.past[5])] == [
        schedule.past[2],
        schedule.past[4],
    ], "what is not late yet is not missed"
    assert status.never_began(weekly(6, paused=True), begun, NOW) == []


def test_what_is_due_while_another_run_goes_on_waits_for_it_and_is_not_late() -> None:
    schedule = weekly(4)
    before, busy = run(schedule.past[0]), run(schedule.past[2] - timedelta(hours=1), "Running", schedule="long")
    assert [run.due for run in status.never_began(schedule, [before, busy], NOW)] == [schedule.past[1]]
    ended = replace(busy, outcome="Completed", ended=NOW - timedelta(minutes=50))
    assert [run.due for run in status.never_began(schedule, [before, ended], NOW)] == schedule.past[1:]
    just = [run.due for run in status.never_began(schedule, [before, ended], NOW - timedelta(minutes=60))]
    assert just == [schedule.past[1]], "the others have their turn only now"


def test_predictions_and_retrainings_are_judged_by_their_own_runs() -> None:
    retraining, predicting = weekly(2), weekly(2, flow="predict")
    known = [
        run(retraining.past[1]),
        run(predicting.past[1], "Failed", flow="predict", message="there is no arrived"),
        run(NOW, schedule=None),  # a retraining by hand
    ]
    assert status.never_began(retraining, known, NOW)[0].due == retraining.past[0]
    (sentence,) = status.problems(of([retraining, predicting], known), RETRAIN)
    assert sentence.endswith("ended as Failed: there is no arrived")
    known.append(run(NOW, "Cached", flow="predict"))  # nothing new is as good
    assert status.problems(of([retraining, predicting], known), RETRAIN) == []


def test_the_last_runs_of_a_rare_schedule_are_shown_beside_those_of_a_frequent_one() -> None:
    known = [run(NOW - 2 * WEEK), *(run(NOW - timedelta(hours=hours), schedule="hourly") for hours in range(20, 0, -1))]
    shown = [schedule for _, schedule, _, _ in status.rows(of([], known))]
    assert shown == ["weekly", *["hourly"] * status.MOST]


def test_a_version_that_waits_for_a_person_is_shown_and_is_no_problem() -> None:
    shown = of([weekly(1)], [])
    waits = replace(shown.versions[0], name="v2.0.0", standing="waiting", since=NOW, in_use=False)
    shown = replace(shown, versions=[waits, *shown.versions])
    assert dict(status.facts(shown))["waiting"].startswith("v2.0.0 for a person since 2026-11-28")
    assert status.problems(shown, RETRAIN) == []


@pytest.mark.parametrize("outcome", ["Failed", "Cancelled", "Killed", "Crashed", "Did not run"])
def test_a_last_run_that_did_not_end_well_is_a_sentence_until_one_does(outcome: str) -> None:
    schedule = weekly(3)
    known = [run(schedule.past[0]), run(schedule.past[1], outcome, message="head:\nno pictures")]
    (sentence,) = status.problems(of([schedule], known), RETRAIN)
    assert "2026-11-21 03:00" in sentence
    assert "\n" not in sentence
    assert ("did not begin (not served)" if outcome == "Did not run" else outcome) in sentence
    assert "no pictures" in sentence or outcome == "Did not run"
    for better in (run(schedule.past[2]), run(schedule.past[2], "Running"), run(NOW, schedule=None)):
        assert status.problems(of([schedule], [*known, better]), RETRAIN) == []
    assert status.problems(of([weekly(3, paused=True)], known), RETRAIN) == []


def test_an_old_model_a_short_disk_and_a_workspace_without_a_schedule_are_a_sentence_each() -> None:
    settings = RETRAIN.model_copy(update={"oldest": 20.5, "disk_gb": 5.0})
    assert status.problems(of([], [], disk_free=4.94), settings) == [
        "no schedule is known here, and no server answers that might know one: `thaw schedule --cron` makes one",
        "the model in use, v1.0.0, is 21 days old; retrain.oldest is 20.5",
        "4.9 GB of disk are free; retrain.disk_gb asks for 5",
    ]
    assert status.problems(of([weekly(1)], []), settings.model_copy(update={"oldest": None})) == []
    assert status.problems(of([weekly(1)], [], model=None), settings) == []


def test_the_page_has_the_facts_the_runs_and_a_picture_of_all_versions() -> None:
    schedule = weekly(2)
    shown = of([schedule], [run(schedule.past[0]), run(schedule.past[1], "Failed", message="a | b\nc")], set_aside=3)
    page = status.page(shown, RETRAIN)
    for words in (
        "v1.0.0, 21 days old",
        "80.0 %",
        "a \\| b c",
        "3 of the files that arrived",
        "data:image/png;base64,",
    ):
        assert words in page
    assert page.startswith("**the last run of weekly")


@pytest.mark.parametrize(
    ("cron", "minutes", "number"),
    [("* * * * *", 600_000, 60), ("0 3 * * 1", 720_000, 60), ("* * * * *", 10, 10), ("0 3 * * 1", 0, 0)],
)
def test_the_last_times_at_which_a_schedule_was_due_are_known_however_often_it_is(
    cron: str, minutes: float, number: int
) -> None:
    from thaw.orchestration import status as orchestration

    now = datetime.now().astimezone()
    since = now - timedelta(minutes=minutes)
    rule = {"cron": cron, "timezone": "UTC", "day_or": True}
    values = {"rules": [rule], "described": cron, "paused": False, "served_by": "", "since": since.isoformat()}
    past = orchestration._schedule("a", values, "").past
    assert number <= len(past) <= number + 1
    assert all(due >= since for due in past)
    assert not past or now - past[-1] <= (timedelta(minutes=1) if cron[0] == "*" else timedelta(days=7))


def test_status_needs_no_server_and_its_check_ends_with_a_sentence(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(registry, "versions", list)
    override(["retrain.disk_gb=0"], space / "params.yaml")
    now = datetime.now().astimezone()
    rule = {"cron": "0 3 * * *", "timezone": "UTC", "day_or": True}
    description = {"rules": [rule], "described": "0 3 * * *", "paused": False, "served_by": "served by process 7"}
    noted = {
        "heard": now.isoformat(),
        "schedules": {"nightly": description | {"since": (now - 3 * timedelta(1)).isoformat()}},
    }
    (space / ".prefect").mkdir()
    (space / ".prefect/schedules.json").write_text(json.dumps(noted))

    def thaw(*options: str) -> Any:
        return CliRunner().invoke(cli.app, ["status", *options])

    ended = thaw("--check")
    assert ended.exit_code == 1
    assert ended.output.startswith("error: the run of nightly that was due on ")
    assert ended.output.endswith(" did not begin (no server answers)\n")
    with runs.noted("1", name="by hand", schedule=None, recorded=True) as ends:
        ends("Completed", "")
    assert (thaw("--check").exit_code, thaw("--check").output) == (0, "")
    lines = thaw().output.splitlines()
    assert "abcdefa, 1,234 files" in lines[1]
    assert lines[2].startswith("nightly       0 3 * * *, no server answers, next ")
    assert [line.split()[3:6] for line in lines if "Did not run" in line] == [["Did", "not", "run"]] * 3
    values = json.loads(thaw("--json").output)
    assert [run["outcome"] for run in values["runs"]] == ["Did not run"] * 3 + ["Completed"]
    assert not list(space.glob(".prefect/*.db")), "nothing was started"
