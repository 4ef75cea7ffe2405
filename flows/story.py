"""What the Prefect UI shows beside states and logs: progress bars, learning curves, the table of metrics."""

import base64
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run, task_run

from tasks import results
from thaw.progress import LINE

PAUSE = 2.0  # seconds between two calls to the API


@contextmanager
def progress(phase: str) -> Iterator[Callable[[str], None]]:
    """Gives a function that takes every line a phase prints and keeps a progress artifact up to date.

    The function never waits: a thread sends the latest value, at most every two seconds. A server that is
    slow or away costs updates of the bar, nothing else.
    """
    latest: list[tuple[float, str]] = []
    news, over = threading.Event(), threading.Event()
    owner = {"task_run_id": UUID(task_run.id), "flow_run_id": UUID(flow_run.id)}

    def read(line: str) -> None:
        if found := LINE.match(line):
            latest[:] = [(float(found["percent"]), found["text"])]
            news.set()

    def send() -> None:
        artifact: UUID | None = None
        news.wait()
        if not latest:  # nothing to show, as of a phase that did not run
            return
        # Its own client: the one of the run belongs to the run's thread.
        with get_client(sync_client=True, httpx_settings={"timeout": 10}) as client:
            while news.wait() and (latest or not over.is_set()):
                news.clear()
                if latest:
                    percent, text = latest.pop()
                    with suppress(Exception):
                        if artifact:
                            client.update_artifact(artifact, ArtifactUpdate(data=percent, description=text))
                        else:
                            described = {"type": "progress", "key": f"progress-{phase}", "description": text}
                            artifact = client.create_artifact(ArtifactCreate(data=percent, **described, **owner)).id
                if over.is_set():
                    return
                over.wait(PAUSE)

    sender = threading.Thread(target=contextvars.copy_context().run, args=(send,), daemon=True)
    sender.start()
    try:
        yield read
    finally:
        over.set()
        news.set()
        sender.join(timeout=5)


def learning_curves(*phases: str) -> None:
    """Show the learning curves of the phases so far."""
    with _kept_apart("the learning curves"):
        picture = base64.b64encode(results.learning_curves(*phases)).decode()
        create_markdown_artifact(
            f"![learning curves](data:image/png;base64,{picture})",
            key=f"learning-curves-{phases[-1]}",
            description=f"Learning curves after the phase {phases[-1]}",
        )


def outcome() -> None:
    """Show what came out: the metrics as a table, the summary as text."""
    with _kept_apart("the metrics"):
        metrics = results.metrics()
        create_table_artifact(
            [{"network": name, **row} for name, row in metric_rows(metrics).items()],
            key="metrics",
            description=f"Both networks on the same {metrics['test_pictures']} test pictures",
        )
        create_markdown_artifact(results.summary(), key="summary", description="What fine-tuning gained")


def metric_rows(metrics: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Accuracy and AUC of both networks and the gain with its 95 % interval, ready to read."""
    head, finetuned, gain = metrics["head"], metrics["finetuned"], metrics["gain"]
    change = {
        "accuracy": f"{_points(gain['accuracy'])} [{_points(gain['low'])}, {_points(gain['high'])}] points",
        "AUC": f"{_signed(gain['auc'])} [{_signed(gain['auc_low'])}, {_signed(gain['auc_high'])}]",
    }
    return {
        "head only": {"accuracy": _percent(head["accuracy"]), "AUC": _score(head["auc"])},
        "fine-tuned": {"accuracy": _percent(finetuned["accuracy"]), "AUC": _score(finetuned["auc"])},
        "gain, 95 % interval": change,
    }


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f}"


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def _signed(score: float | None) -> str:
    return "–" if score is None else f"{score:+.3f}"


@contextmanager
def _kept_apart(what: str) -> Iterator[None]:
    """A picture that can't be drawn is a warning in the log; the training that it shows stays good."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("could not show %s: %s: %s", what, type(error).__name__, error)


def wait_until_told(flow_run_id: str, patience: float = 10.0) -> None:
    """Wait until the server has the end of every task run; it hears of them as events, a moment late."""
    this_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)]))
    deadline = time.monotonic() + patience
    with suppress(Exception), get_client(sync_client=True, httpx_settings={"timeout": 5}) as client:
        while time.monotonic() < deadline:
            states = [run.state for run in client.read_task_runs(flow_run_filter=this_run)]
            if all(state and state.is_final() for state in states):
                return
            time.sleep(0.2)
    logging.getLogger(__name__).warning("the server does not know the end of every task yet")
