"""A year of scheduled retrainings in an hour or two, on small drawn pictures.

    python -m benchmarks.year FOLDER                          # 52 weeks of two minutes each
    python -m benchmarks.year FOLDER --weeks 12 --minutes 1   # if a core is free

`thaw schedule` serves the cron, by the real clock. New pictures arrive each week: some broken, some
twice, once of a new class. Settings change, and the server is killed every tenth week. Once the
machine "reboots": everything is killed, and started a week later. Once somebody rolls back. The DVC
remote is away for three weeks, and for four weeks a person has to approve the models.

At the end it prints the table of docs/operation.md, and checks that `thaw status`, which reads a log
of its own, and the Prefect server know the same outcome of every week, that something in the week
explains each that is not Completed, that no picture is lost, and that no file or folder grows
without need.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import shorten
from typing import Any

import psutil  # type: ignore[import-untyped]
from PIL import Image, ImageDraw

CLASSES = ("ring", "stripe")
SIDE = 32
FIRST_PICTURES = 40  # pictures of each class at the beginning
NEW_CLASS_IN, ROLLBACK_IN, REBOOT_IN = 7, 26, 23
REMOTE_AWAY = (30, 31, 32)
# models of these weeks wait for an answer, which comes a week later and is no for every second one
APPROVED = (36, 37, 38, 39)
TINY = {
    "backbone.name": "shufflenet_v2_x0_5",
    "backbone.weights": "random",
    "prepare.resolution": SIDE,
    "unfreeze.epochs": 1,
    "promote.by": "auc",
    "promote.margin": 0.1,
    "promote.class_limit": 1.0,  # AUC alone decides, and with so few test pictures some models are refused
    "head.max_epochs": 3,
    "retrain.retries": 0,  # a remote that is away stays away for weeks
    "retrain.disk_gb": 0.5,
    "retrain.late": 0.5,
    "retrain.oldest": "null",
}


@dataclass
class Delivery:
    """What arrived in a week: contents that must be kept, and the number of files to set aside."""

    kept: set[str] = field(default_factory=set)
    set_aside: int = 0


def draw(path: Path, label: str, number: int) -> str:
    """Draw a picture of a class; the hash of its content."""
    rng = random.Random(f"{label} {number}")
    picture = Image.new("L", (SIDE, SIDE), rng.randrange(40, 120))
    drawing, place = ImageDraw.Draw(picture), rng.randrange(4, 14)
    if label == "ring":
        drawing.ellipse((place, place, place + 12, place + 12), outline=255, width=3)
    elif label == "stripe":
        drawing.line((place, 0, place + 10, SIDE), fill=255, width=4)
    else:
        drawing.rectangle((place, place, place + 10, place + 10), fill=255)
    picture.putpixel((0, 0), number % 251)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def deliver(incoming: Path, week: int) -> Delivery:
    """Put a week's pictures into the folder: new ones, a known one, sometimes a broken one."""
    arrived = Delivery()
    for place in range(4):
        label = CLASSES[place % 2]
        name = incoming / label / f"week{week:02d}-{place}.png"
        arrived.kept.add(draw(name, label, 1000 * (week + 1) + place))
    if week:
        draw(incoming / CLASSES[0] / f"again{week:02d}.png", CLASSES[0], 1000 * week)
    if week % 3 == 1:
        (incoming / CLASSES[1] / f"broken{week:02d}.png").write_bytes(b"half a picture")
        arrived.set_aside += 1
    if week == NEW_CLASS_IN:
        arrived.kept.add(draw(incoming / "block" / "first.png", "block", 1))
        arrived.set_aside += 1
    return arrived


def missing_pictures(root: Path, deliveries: list[Delivery]) -> list[str]:
    """Pictures neither in the data nor set aside, and a wrong number of files set aside."""
    contents = {
        hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in (root / "data", root / "archive" / "set-aside", root / "incoming")
        for file in folder.rglob("*.png")
    }
    missing = set().union(*(delivery.kept for delivery in deliveries)) - contents
    problems = [f"{len(missing)} pictures that arrived are nowhere"] if missing else []
    set_aside = sum(1 for _ in (root / "archive" / "set-aside").glob("*/*/*.png"))
    expected = sum(delivery.set_aside for delivery in deliveries)
    if set_aside != expected:
        problems.append(f"{set_aside} files were set aside, and {expected} should have been")
    return problems


# ------------------------------------------------------------------------------------ the long year


def make_project(root: Path) -> None:
    """A project with a tiny network, its first pictures, a commit and a DVC remote."""
    _thaw(root.parent, "init", str(root))
    for label in CLASSES:
        for number in range(FIRST_PICTURES):
            draw(root / "data" / label / f"{number}.png", label, number)
    _override(root, TINY)
    _call(root, sys.executable, "-m", "dvc", "remote", "add", "-q", "-d", "storage", str(_remote(root)))
    _call(root, sys.executable, "-m", "dvc", "add", "-q", "data")
    _call(root, "git", "add", "--all")
    _call(root, "git", "-c", "user.name=year", "-c", "user.email=year@localhost", "commit", "-qm", "start")


def run_weeks(root: Path, weeks: int, minutes: int) -> list[dict[str, Any]]:
    """Deliver, disturb and measure week by week; a row for each."""
    served = _serve(root, f"*/{minutes} * * * *")
    rows, deliveries = [], []
    try:
        for week, due in enumerate(_due_times(weeks, minutes)):
            events = []
            if week % 10 == 9:
                os.kill(json.loads((root / ".prefect" / "server.json").read_text())["pid"], signal.SIGKILL)
                events.append("the server is killed")
            if week == REBOOT_IN:
                _kill_all(served)
                events.append("everything is killed")
            if week == REBOOT_IN + 1:
                served = _serve(root)
                events.append("started again")
            if week == ROLLBACK_IN:
                with suppress(RuntimeError):  # no earlier version to go back to
                    _thaw(root, "rollback")
                    events.append("rolled back")
            if week % 8 == 5:
                _override(root, {"seed": week})
                events.append("settings changed")
            if week == APPROVED[0]:
                _override(root, {"promote.approve": "person"})
                events.append("a person has to approve")
            if week - 1 in APPROVED:
                events.append(_answer(root, "approve" if week % 2 else "reject"))
            if week == APPROVED[-1] + 1:
                _override(root, {"promote.approve": "nobody"})
            if week in REMOTE_AWAY[:1]:
                _remote(root).rename(root.parent / "away")
                _remote(root).write_text("no folder")
            if week in REMOTE_AWAY:
                events.append("the remote is away")
            if week == REMOTE_AWAY[-1] + 1:
                _remote(root).unlink()
                (root.parent / "away").rename(_remote(root))
            deliveries.append(deliver(root / "incoming", week))
            _sleep_until(due + timedelta(minutes=minutes) - timedelta(seconds=10))
            rows.append({"week": week, "due": due.isoformat(), "events": ", ".join(events)} | _measure(root, served))
            print(json.dumps(rows[-1]), flush=True)
    finally:
        served.terminate()
        served.wait(600)
    status = json.loads(_thaw(root, "status", "--json"))
    runs = {datetime.fromisoformat(run["due"]): run for run in status["runs"] if run["schedule"]}
    mismatches = add_outcomes(rows, runs, root / ".prefect" / "prefect.db")
    for problem in [*mismatches, *missing_pictures(root, deliveries), *_growth(rows), *_too_slow(runs, minutes)]:
        print(f"problem: {problem}")
    return rows


def _answer(root: Path, answer: str) -> str:
    """Answer for the version that waits for a person; returns the outcome."""
    waiting = [row["name"] for row in json.loads(_thaw(root, "models", "--json")) if row["standing"] == "waiting"]
    if not waiting:
        return "nothing waits for an answer"
    try:
        _thaw(root, answer, waiting[0])
    except RuntimeError as error:
        return f"{waiting[0]}: {answer}, {str(error).partition('error: ')[2] or error}"
    return f"{waiting[0]}: {answer}"


def add_outcomes(rows: list[dict[str, Any]], runs: dict[datetime, Any], database: Path) -> list[str]:
    """Add to each week its outcome and the reason by `thaw status`; returns what is not true or
    has no cause."""
    of_server, problems = _of_server(database), []
    for row, following in zip(rows, [*rows[1:], {"events": ""}], strict=True):
        due = datetime.fromisoformat(row["due"])
        run = runs.get(due, {"outcome": "unknown", "message": ""})
        why = shorten(run["message"].replace(f"{database.parents[1]}/", ""), 120)
        row["outcome"], row["why"] = run["outcome"], "" if run["outcome"] == "Completed" else why
        if row["outcome"] != of_server.get(due):
            problems.append(f"week {row['week']} is {row['outcome']}, and {of_server.get(due)} on the server")
        # what happens before a week may still meet the run of the week before
        if row["outcome"] != "Completed" and not row["events"] and not following["events"]:
            problems.append(f"week {row['week']} is {row['outcome']}, and nothing had happened")
    return problems


def _of_server(database: Path) -> dict[datetime, str]:
    """How the Prefect server knows each scheduled run, in the words of `thaw status`."""
    words = {"Crashed": "Killed", "Missed": "Did not run"}
    query = "select expected_start_time, state_name from flow_run where auto_scheduled"
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(query).fetchall()
    return {datetime.fromisoformat(due).replace(tzinfo=UTC): words.get(state, state) for due, state in rows}


def _growth(rows: list[dict[str, Any]]) -> list[str]:
    """What grew from the first quarter to the last."""
    problems = []
    quarter = max(1, len(rows) // 4)
    for key, tolerated in {"processes": 1, "open files": 5, "server MB": 150}.items():
        early, late = (sorted(row[key] for row in part)[len(part) // 2] for part in (rows[:quarter], rows[-quarter:]))
        if late > early + tolerated:
            problems.append(f"{key} grew from {early} to {late}")
    return problems


def _too_slow(runs: dict[datetime, Any], minutes: int) -> list[str]:
    """Whether runs lasted into the next week, which then waited for them."""
    ends = {due: datetime.fromisoformat(run["ended"]) for due, run in runs.items() if run["ended"]}
    late = [due for due, end in ends.items() if end > due + timedelta(minutes=minutes)]
    if not late:
        return []
    return [f"{len(late)} runs lasted longer than a week, so weeks waited: a quieter machine, or --minutes, is needed"]


def _due_times(weeks: int, minutes: int) -> Iterator[datetime]:
    """When the runs are due."""
    now = (datetime.now().astimezone() + timedelta(seconds=20)).replace(second=0, microsecond=0)
    first = now + timedelta(minutes=minutes - now.minute % minutes)
    yield from (first + timedelta(minutes=minutes * week) for week in range(weeks))


def _sleep_until(when: datetime) -> None:
    time.sleep(max(0.0, (when - datetime.now().astimezone()).total_seconds()))


def _serve(root: Path, cron: str | None = None) -> "subprocess.Popen[bytes]":
    options = ["--cron", cron, "--timezone", "UTC"] if cron else []
    file = root.parent / "schedule.log"
    with file.open("ab") as log:
        before = file.stat().st_size  # output of an earlier schedule
        command = [sys.executable, "-m", "thaw", "schedule", *options]
        served = subprocess.Popen(command, cwd=root, env=_environment(), stdout=log, stderr=log)
    while b"Serving" not in file.read_bytes()[before:]:
        time.sleep(1)
        if served.poll() is not None:
            raise RuntimeError(f"thaw schedule ended: see {root.parent / 'schedule.log'}")
    return served


def _kill_all(served: "subprocess.Popen[bytes]") -> None:
    """Kill the schedule, its server and their children, as a power cut does."""
    for process in [*psutil.Process(served.pid).children(recursive=True), psutil.Process(served.pid)]:
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            process.kill()
    served.wait()


def _measure(root: Path, served: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Processes, open files, memory, and what is on disk, in MB."""
    processes: list[Any] = []
    if served.poll() is None:
        processes = [psutil.Process(served.pid), *psutil.Process(served.pid).children(recursive=True)]
    server = [process for process in processes if "server" in _command_of(process)]
    folders = {
        "data": "data",
        "cache": ".dvc/cache",
        "scratch": ".dvc/tmp",
        "prefect": ".prefect",
        "archive": "archive",
    }
    return {
        "processes": len(processes),
        "open files": processes[0].num_fds() if processes else 0,
        "server MB": round(sum(process.memory_info().rss for process in server) / 1e6),
        **{f"{name} MB": _megabytes(root / folder) for name, folder in folders.items()},
        "remote MB": _megabytes(_remote(root)),
    }


def _command_of(process: Any) -> list[str]:
    """The command line of a process, empty where it has ended."""
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def _megabytes(folder: Path) -> float:
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # deleted meanwhile by a run or the server
            size += file.lstat().st_size if file.is_file() else 0
    return round(size / 1e6, 1)


def _override(root: Path, values: dict[str, Any]) -> None:
    changes = [f"{key}={value}" for key, value in values.items()]
    code = "import sys; from thaw.project import settings; settings.override(sys.argv[1:])"
    _call(root, sys.executable, "-c", code, *changes)


def _remote(root: Path) -> Path:
    return root.parent / "remote"


def _thaw(folder: Path, *arguments: str) -> str:
    return _call(folder, sys.executable, "-m", "thaw", *arguments)


def _call(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=_environment(), text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    """This Python's programs first, and no server but the project's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--minutes", type=int, default=2)
    options = parser.parse_args()
    root = options.folder.absolute() / "project"
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    make_project(root)
    rows = run_weeks(root, options.weeks, options.minutes)
    columns = [key for key in rows[0] if key != "due"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |")


if __name__ == "__main__":
    main()
