"""Artifacts in the Prefect UI: which phases ran and why, their progress, and the results.

A server that is slow or down costs the run a few seconds a phase at most, and gets everything once
it is back. What cannot be shown is a warning in the log.
"""

import contextvars
import json
import logging
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import Flow, get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.exceptions import MissingContextError, PrefectHTTPStatusError
from prefect.runtime import flow_run, task_run

from thaw.formats import change, escaped, percent, score
from thaw.progress import LINE
from thaw.project import compare, pipeline, results
from thaw.project.stage import Verdict
from thaw.report.drawing import data_uri
from thaw.statistics.records import same_networks

PAUSE = 2.0  # seconds between two updates of a bar
PATIENCE = 5.0  # seconds that a run waits for an artifact to be sent
OUTAGE = 300.0  # seconds for which the server may be down and still get everything
LAST_LINES = 20
WITH_PICTURES = ("summary", "promotion")  # the artifacts that show pictures of the data
WIDTH = 70  # characters of a code line that fit beside the details

Answer = TypeVar("Answer")


class Sender:
    """Sends what a run shows, with one client, because each new one reads certificates and asks for
    a token. The client of the flow run itself belongs to its thread."""

    def __init__(self) -> None:
        self._turn, self._opening = threading.Lock(), threading.Lock()
        self._client: SyncPrefectClient | None = None
        self._threads: list[threading.Thread] = []

    def start(self, body: Callable[[], None]) -> threading.Thread:
        """Start a thread that may send."""
        thread = threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def call(self, body: Callable[[SyncPrefectClient], Any]) -> None:
        """Call the API; retry while the server is down."""
        patiently(lambda: body(self._opened()))

    def send(self, subject: str, body: Callable[[SyncPrefectClient], Any]) -> None:
        """Call the API in a thread, and wait for it for at most PATIENCE seconds.

        Calls take turns. If one is still in progress, the next is queued without waiting.
        """
        problem = ["the server has not answered yet"]

        def send() -> None:
            try:
                with self._turn:
                    self.call(body)
                problem.clear()
            except Exception as error:
                problem[:] = [f"{type(error).__name__}: {error}"]

        patience = 0 if self._turn.locked() else PATIENCE
        self.start(send).join(patience)
        for sentence in problem:
            _warn(f"could not show {subject}: {sentence}")

    def finish(self) -> None:
        """Wait for what is still to be sent, for at most OUTAGE seconds, and close the client."""
        deadline = time.monotonic() + OUTAGE
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))
        with self._opening:
            if self._client:
                self._client.__exit__()
                self._client = None

    def _opened(self) -> SyncPrefectClient:
        with self._opening:
            if not self._client:
                self._client = get_client(sync_client=True, httpx_settings={"timeout": 10}).__enter__()
            return self._client


_sender: contextvars.ContextVar[Sender] = contextvars.ContextVar("sender")


@contextmanager
def sending() -> Iterator[None]:
    """What is shown within is sent by one sender, and waited for at the end."""
    sender = Sender()
    token = _sender.set(sender)
    try:
        yield
    finally:
        _sender.reset(token)
        sender.finish()


def _current() -> Sender:
    """The sender of the `sending` block that this is called in."""
    return _sender.get()


class PhaseTable:
    """The table of a run's phases: the state of each, how long it took, and why it ran or not.

    Rows of cached phases are sent with the next row, or by `show`.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, str, str]] = {}

    def row(self, phase: str, state: str, took: str, why: str) -> None:
        """Add the row of a phase, or replace it."""
        self._rows[phase] = (state, took, why)
        if state != Verdict.CACHED:
            self.show()

    def show(self) -> None:
        """Show all rows."""
        _show("markdown", "phases", self, "What ran, how long, and why")

    def __str__(self) -> str:
        lines = ["| phase | state | took | why |", "|---|---|---:|---|"]
        lines += [f"| {' | '.join(map(_cell, (phase, *cells)))} |" for phase, cells in list(self._rows.items())]
        return "\n".join(lines)


def _cell(text: str) -> str:
    """A text escaped for a cell of a Markdown table."""
    return escaped(" ".join(text.split()))


@contextmanager
def progress(phase: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that takes every line of a phase and keeps a progress artifact up to date.

    The function never blocks: a thread sends the latest value, at most every two seconds. A server
    that is slow or down gets the last value when it is back. An exception gets the last lines as
    notes.
    """
    latest: list[dict[str, Any]] = []
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    news, over = threading.Event(), threading.Event()
    owner, current = _owner(), _current()

    def read(line: str) -> None:
        last_lines.append(line)
        if match := LINE.match(line):
            # The time left comes first: the UI cuts off long texts.
            percent = float(match["percent"])
            text = ", ".join(filter(None, (match["left"] if percent < 100 else None, match["what"])))
            latest[:] = [{"data": percent, "description": text}]
            news.set()

    def send() -> None:
        while news.wait() and (latest or not over.is_set()):
            news.clear()
            if latest:
                update = partial(_put, kind="progress", key=f"progress-{phase}", owner=owner, **latest.pop())
                with suppress(Exception):
                    current.call(update)
            if over.is_set() and not latest:
                return
            over.wait(PAUSE)

    sender = current.start(send)
    try:
        yield read
    except BaseException as error:
        for line in last_lines:
            error.add_note(line)
        raise
    finally:
        over.set()
        news.set()
        sender.join(timeout=PATIENCE)


def learning_curves(*phases: str) -> None:
    """Show the learning curves of the phases so far."""
    with _kept_apart("the learning curves"):
        _show_curves(phases[-1], results.learning_curves(*phases))


def _show_curves(phase: str, drawn: bytes) -> None:
    text = picture("learning curves", drawn)
    _show("markdown", f"learning-curves-{phase}", text, f"Learning curves after {phase}")


def outcome() -> None:
    """Show the results: learning curves of both phases, metrics as a table, the data, and a page
    with gain, confusion matrix and worst mistakes."""
    with _kept_apart("the learning curves"):
        _show_curves("unfreeze", results.picture("curves"))
    with _kept_apart("the metrics"):
        metrics = results.metrics()
        rows = [{"network": name, **row} for name, row in metric_rows(metrics).items()]
        _show("table", "metrics", json.dumps(rows), f"Both networks, {metrics['test_pictures']} test pictures")
        page = [results.summary()]
        for title, name in (("Confusion matrix", "confusion"), ("Worst mistakes", "mistakes")):
            with _kept_apart(f"the {title.lower()}"):
                page += [f"### {title}", picture(title, results.picture(name))]
        _show("markdown", "summary", "\n\n".join(page), "Gain, confusion matrix, worst mistakes")
    with _kept_apart("the data"):
        if data := results.data():
            _show("markdown", "data", data, "Pictures by class and split, warnings, what was left out")


def decision(decision: Mapping[str, Any], standing: str = "is") -> None:
    """Show whether the new model "is" promoted, "would be", or "waits" for a person, and why."""
    with _kept_apart("the decision"):
        verdict = "promoted" if decision.get("promoted") else "kept out"
        described = "The new model waits for a person" if standing == "waits" else f"The new model {standing} {verdict}"
        page = [results.promotion(decision, standing)]
        if drawn := compare.changes():
            page += ["### Right until now, and wrong with the new model", picture("pictures that got worse", drawn)]
        _show("markdown", "promotion", "\n\n".join(page), described)


def status() -> None:
    """Show the model in use, the schedules, the last runs, and all versions over time."""
    from thaw.orchestration import server
    from thaw.orchestration import status as orchestration

    with _kept_apart("the status"):
        page = orchestration.page(server.ui(server.address()))
        _show("markdown", "status", page, "The model in use, the schedules, the last runs")


def predictions(predicted: Mapping[str, Any]) -> None:
    """Show predictions of new pictures beside what validation lets one expect."""
    with _kept_apart("the predictions"):
        _show("markdown", "predictions", results.predictions(predicted), "New pictures against validation")


def failed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook for a run that failed or crashed: show the phase, the reason, the last lines, and how
    to go on."""
    result = None
    with suppress(Exception):  # after a crash there is only a state
        result = state.result(raise_on_failure=False)
    error = result if isinstance(result, BaseException) else None
    message = str(state.message or error or "no reason is known").strip()
    owner = {"flow_run_id": flow_run.id}

    def put(client: SyncPrefectClient) -> None:
        phase = getattr(error, "phase", None) or _unfinished(client, flow_run.id)
        text = _failure(phase, message, _last_lines(error), isinstance(error, TimeoutError))
        _put(client, "markdown", "failure", text, f"{phase or 'the run'} failed", owner)

    with sending():
        _current().send("the failure", put)


def _unfinished(client: SyncPrefectClient, run_id: UUID) -> str:
    """The task of a run that began last, if the server says that it did not complete; else
    empty."""
    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
    started = [
        (run.start_time, run.name, run.state.is_completed())
        for run in client.read_task_runs(flow_run_filter=this_run)
        if run.state and run.start_time
    ]
    _, name, completed = max(started, default=(None, "", True))
    return "" if completed else name


def _failure(phase: str, message: str, lines: list[str], timed_out: bool) -> str:
    page = [f"### {phase or 'The run'} failed", "", f"**{_cell(message)}**", ""]
    if lines:  # indented as code; the UI does not wrap it
        narrow = [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
        page += ["Its last lines:", "", *(f"    {line}" for line in narrow), ""]
    if timed_out and phase:
        page += [f"To give it more time, raise `timeouts.{phase}` in params.yaml; `null` sets no limit.", ""]
    return "\n".join([*page, "`thaw run` goes on where this run ended: phases that are done are not run again."])


def _last_lines(error: BaseException | None) -> list[str]:
    """The last lines that a phase printed, from its error or the cause of that."""
    while error:
        if lines := getattr(error, "last_lines", None) or getattr(error, "__notes__", None):
            return list(lines)[-LAST_LINES:]
        error = error.__cause__ or error.__context__
    return []


def describe(name: str, tags: list[str], data: str | None = None) -> None:
    """Name the run, and tag it with `tags`, the project, the git commit and the data, by default
    those of now; `forget` finds it by these."""
    with _kept_apart("name and tags"):
        commit, data = results.commit(), data or results.data_hash()
        origin = [
            f"project:{pipeline.project()}",
            *([f"commit:{commit}"] if commit else []),
            *([f"data:{data}"] if data else []),
        ]
        tagged = sorted({*flow_run.tags, *tags, *origin})
        run_id = UUID(flow_run.id)
        _current().send("name and tags", lambda client: client.update_flow_run(run_id, name=name, tags=tagged))


def metric_rows(metrics: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Accuracy and AUC of both networks, and the gain with its 95 % interval, formatted."""
    head, finetuned, gain = metrics["head"], metrics["finetuned"], metrics["gain"]
    accuracy = [change(gain[key], "percent") for key in ("accuracy", "low", "high")]
    auc = [change(gain[key], "score") for key in ("auc", "auc_low", "auc_high")]
    gained = {
        "accuracy": ("{} points, no interval" if gain["low"] is None else "{} [{}, {}] points").format(*accuracy),
        "AUC": ("{}, no interval" if gain["auc_low"] is None else "{} [{}, {}]").format(*auc),
    }
    if same_networks(metrics):
        gained = {"accuracy": "phase 2 not kept", "AUC": "–"}
    return {
        "head only": {"accuracy": percent(head["accuracy"]), "AUC": score(head["auc"])},
        "fine-tuned": {"accuracy": percent(finetuned["accuracy"]), "AUC": score(finetuned["auc"])},
        "gain, 95 % interval": gained,
    }


@contextmanager
def _kept_apart(subject: str) -> Iterator[None]:
    """Turn an error into a warning in the log: a plot that fails must not fail the run."""
    try:
        yield
    except Exception as error:
        _warn(f"could not show {subject}: {type(error).__name__}: {error}")


def _warn(sentence: str) -> None:
    try:
        get_run_logger().warning("%s", sentence)
    except MissingContextError:  # a hook, after the run
        logging.getLogger(__name__).warning("%s", sentence)


def tell(line: str) -> None:
    """Print a line, and log it with the run."""
    get_run_logger().info("%s", line)
    print(line, flush=True)


def picture(title: str, png: bytes) -> str:
    """A picture as Markdown, with its data inside."""
    return f"![{title}]({data_uri(png)})"


def _owner() -> dict[str, UUID]:
    """The IDs of the current flow run and, in a task, of the task run."""
    task = {"task_run_id": UUID(task_run.id)} if task_run.id else {}
    return {"flow_run_id": UUID(flow_run.id), **task}


def _show(kind: str, key: str, data: object, description: str) -> None:
    """Create or replace the artifact of this run under the key; `str(data)` is taken when it is
    sent."""
    owner = _owner()
    _current().send(f"'{key}'", lambda client: _put(client, kind, key, str(data), description, owner))


def _put(client: SyncPrefectClient, kind: str, key: str, data: Any, description: str, owner: dict[str, UUID]) -> None:
    """Create an artifact, or update the one that the flow run has under this key."""
    if artifact := _find(client, key, owner["flow_run_id"]):
        client.update_artifact(artifact.id, ArtifactUpdate(data=data, description=description))
    else:
        shown = {"type": kind, "key": key, "data": data, "description": description, **owner}
        client.create_artifact(ArtifactCreate.model_validate(shown))


def _find(client: SyncPrefectClient, key: str, run_id: UUID) -> Artifact | None:
    of_run, of_key = ArtifactFilterFlowRunId(any_=[run_id]), ArtifactFilterKey(any_=[key])
    artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=of_run, key=of_key))
    return artifacts[0] if artifacts else None


def patiently(body: Callable[[], Answer]) -> Answer:
    """Call the API; retry while the server is down, for at most OUTAGE seconds."""
    deadline = time.monotonic() + OUTAGE
    while True:
        try:
            return body()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            refused = isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500
            if refused or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE)


def forget(data_hashes: list[str]) -> int:
    """Delete artifacts that show pictures, of all runs on these data versions; returns how many."""
    deleted = 0
    with get_client(sync_client=True) as client:
        for data in data_hashes:
            tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"data:{data}", f"project:{pipeline.project()}"]))
            shown = ArtifactFilter(key=ArtifactFilterKey(any_=list(WITH_PICTURES)))
            while artifacts := client.read_artifacts(artifact_filter=shown, flow_run_filter=tagged):
                for artifact in artifacts:
                    client.delete_artifact(artifact.id)
                deleted += len(artifacts)
    return deleted


def wait_until_told(flow_run_id: str, patience: float = 10.0) -> None:
    """Wait until the server knows the end of every task run; events reach it a moment late."""
    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
    deadline = time.monotonic() + patience
    with suppress(Exception), get_client(sync_client=True, httpx_settings={"timeout": 5}) as client:
        while time.monotonic() < deadline:
            states = [run.state for run in client.read_task_runs(flow_run_filter=this_run)]
            if all(state and state.is_final() for state in states):
                return
            time.sleep(0.2)
    logging.getLogger(__name__).warning("the server does not know the end of every task yet")
