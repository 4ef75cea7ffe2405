"""Whether retraining goes well here: the model in use, the data, what became of each run, what
comes next.

`problems` is what somebody has to see to. All of it is known without a server, except for what was
changed there since `thaw` last spoke to it.
"""

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta

from thaw.formats import percent, score
from thaw.project import incoming, pipeline, registry, results, runs, workspace
from thaw.project.registry import Version
from thaw.project.runs import Run
from thaw.project.settings import Retrain
from thaw.report.status import age, markdown, moment

MOST = 6  # runs that are shown of each schedule, and of those by hand
KEPT = 60  # times at which a schedule was due that are looked at: a year of weeks


@dataclass(frozen=True)
class Schedule:
    """A schedule as the server has it, or had it when it last answered; and when it is due."""

    name: str
    described: str
    paused: bool
    since: datetime  # from when on it has been so
    served_by: str
    past: list[datetime]  # when it was due since then, the last ones
    next: datetime | None
    flow: str = runs.RETRAIN


@dataclass(frozen=True)
class Status:
    """All that `thaw status` shows."""

    now: datetime
    model: Version | None
    versions: list[Version]
    data: str
    files: int | None
    schedules: list[Schedule]
    runs: list[Run]  # the last ones, and for each schedule those that did not begin
    disk_free: float  # in GB
    set_aside: int
    server: str  # where it is; empty where none answers
    heard: datetime | None  # when the schedules were last read from a server


def gather(
    settings: Retrain, schedules: list[Schedule], server: str, heard: datetime | None, now: datetime | None = None
) -> Status:
    """What is known now."""
    now = now or datetime.now().astimezone()
    versions = registry.versions()
    pin = pipeline.read("data.dvc").get("outs", [{}])[0]
    begun = runs.read()
    late = timedelta(minutes=settings.late)
    missed = [run for planned in schedules for run in never_began(planned, begun, now - late)]
    return Status(
        now=now,
        model=registry.in_use(versions),
        versions=versions,
        data=results.data_hash(),
        files=pin.get("nfiles"),
        schedules=schedules,
        runs=sorted([*begun, *missed], key=lambda run: run.due),
        disk_free=shutil.disk_usage(workspace.root()).free / 1e9,
        set_aside=incoming.waiting(workspace.root() / settings.archive),
        server=server,
        heard=heard,
    )


def never_began(schedule: Schedule, begun: list[Run], until: datetime) -> list[Run]:
    """A run for each time at which a schedule was due and nothing began before it was due again.

    What is due while other runs go on waits for those that were due before it.
    """
    if schedule.paused:
        return []
    ends = [(run.due, run.ended or (until if run.outcome == runs.RUNNING else None)) for run in begun]
    ours = [run for run in begun if _is_of(run, schedule)]
    by_hand = [run.began for run in ours if run.began and run.due not in schedule.past]
    missed = []
    for due, after in zip(schedule.past, [*schedule.past[1:], None], strict=True):
        came = any(run.due == due for run in ours) or any(
            due <= began and (after is None or began < after) for began in by_hand
        )
        has_turn_from = max([due, *(end for before, end in ends if end and before < due)])
        if has_turn_from < until and not came:
            missed.append(Run("", schedule.name, True, due, None, None, runs.MISSED, "", schedule.flow))
    return missed


def problems(status: Status, settings: Retrain) -> list[str]:
    """What somebody has to see to, a sentence each."""
    sentences = []
    if not status.schedules:
        known = "" if status.server else ", and no server answers that might know one"
        sentences.append(f"no schedule is known here{known}: `thaw schedule --cron` makes one")
    for schedule in status.schedules:
        if not schedule.paused:
            sentences += _of_last_run(schedule, status.runs)
    if (model := status.model) and settings.oldest is not None:
        days = (status.now - model.when) / timedelta(days=1)
        if days > settings.oldest:
            sentences.append(
                f"the model in use, {model.name}, is {days:.3g} days old; retrain.oldest is {settings.oldest:g}"
            )
    if status.disk_free < settings.disk_gb:
        sentences.append(f"{status.disk_free:.1f} GB of disk are free; retrain.disk_gb asks for {settings.disk_gb:g}")
    return sentences


def _is_of(run: Run, schedule: Schedule) -> bool:
    return (run.schedule, run.flow) == (schedule.name, schedule.flow)


def _of_last_run(schedule: Schedule, known: list[Run]) -> list[str]:
    last = next((run for run in reversed(known) if _is_of(run, schedule)), None)
    if last is None or last.outcome in runs.GOOD:
        return []
    same = [run for run in known if run.recorded and run.flow == schedule.flow]
    if any(run.outcome in runs.GOOD and run.due > last.due for run in same):
        return []  # somebody has run it again by hand
    due = moment(last.due)
    if last.outcome == runs.MISSED:
        return [f"the run of {schedule.name} that was due on {due} did not begin ({schedule.served_by})"]
    why = f": {' '.join(last.message.split())}" if last.message else ""
    return [f"the last run of {schedule.name}, due on {due}, ended as {last.outcome}{why}"]


def facts(status: Status) -> list[tuple[str, str]]:
    """What there is to know, a line each."""
    model = status.model
    networks = model.metrics.get("finetuned", {}) if model else {}
    figures = f"accuracy {percent(networks.get('accuracy'))}, AUC {score(networks.get('auc'))}" if networks else ""
    shown = [
        (
            "model in use",
            f"{model.name}, {age(status.now - model.when)} old ({moment(model.when)}): {figures}"
            if model
            else "none yet",
        ),
        ("data", f"{status.data or 'not pinned'}" + (f", {status.files:,} files" if status.files else "")),
    ]
    for schedule in status.schedules:
        coming = f"next {moment(schedule.next)}" if schedule.next else "paused"
        shown.append((schedule.name, f"{schedule.described}, {schedule.served_by}, {coming}"))
    if not status.schedules:
        shown.append(("schedule", "none is known"))
    for version in status.versions:
        if version.standing == registry.WAITING and version.since:
            answers = f"`thaw approve {version.name}` or `thaw reject {version.name}`"
            shown.append(("waiting", f"{version.name} for a person since {moment(version.since)}: {answers}"))
    if status.set_aside:
        shown.append(("set aside", f"{status.set_aside} of the files that arrived wait for a person"))
    shown.append(("disk", f"{status.disk_free:.1f} GB free"))
    heard = f"; the schedules are as they were on {moment(status.heard)}" if status.heard else ""
    shown.append(("server", status.server or f"none answers{heard}"))
    return shown


def page(status: Status, settings: Retrain) -> str:
    """The same as Markdown, with the figures of all versions as a picture."""
    from thaw.report.drawing import data_uri
    from thaw.report.versions import Point, versions_plot

    points = [
        Point(version.name, version.when, version.metrics, version.in_use) for version in reversed(status.versions)
    ]
    picture = f"![all versions over time]({data_uri(versions_plot(points))})" if points else ""
    return markdown(facts(status), rows(status), picture, problems(status, settings))


def rows(status: Status) -> list[tuple[str, str, str, str]]:
    """The last runs of each schedule: when each was due, its schedule, its outcome, and what it
    said."""
    by_schedule: dict[tuple[str | None, str], list[Run]] = {}
    for run in status.runs:
        by_schedule.setdefault((run.schedule, run.flow), []).append(run)
    last = sorted((run for runs_of_one in by_schedule.values() for run in runs_of_one[-MOST:]), key=lambda run: run.due)
    return [
        (moment(run.due), run.schedule or "by hand", run.outcome, " ".join(run.message.split())[:100]) for run in last
    ]
