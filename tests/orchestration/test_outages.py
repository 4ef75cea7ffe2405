"""Laws of a server that is away: what goes on does so without it. The server is played."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.states import Completed


class Server:
    """Plays the API: it is away at every second call."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled: list[object] = []

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_run(self, _: object) -> Any:
        self.calls += 1
        if self.calls % 2:
            raise httpx.ConnectError("away")
        return SimpleNamespace(state=None)


def test_a_server_that_is_away_for_a_moment_cancels_no_arm_and_neither_does_one_that_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from thaw.orchestration import fleet
    from thaw.project.plan import Job

    api, looks = Server(), iter([[], ["a"], ["b"]])
    ended = lambda name: SimpleNamespace(name=name, id=name, state=Completed())  # noqa: E731
    monkeypatch.setattr(fleet, "get_client", lambda **_: api)
    monkeypatch.setattr(fleet.plan, "plan", lambda arms: [Job("a", [], "report", None), Job("b", [], "report", "a")])
    monkeypatch.setattr(fleet, "_deploy", lambda *_: None)
    monkeypatch.setattr(fleet, "_left_over", lambda *_: [])
    monkeypatch.setattr(fleet, "_hand_out", lambda sweep, job, *_: job.name)
    monkeypatch.setattr(fleet, "_read", lambda *_: [ended(name) for name in next(looks)])
    monkeypatch.setattr(fleet, "_cancel", lambda client, ids: api.cancelled.append(ids))
    monkeypatch.setattr(fleet.SignsOfLife, "look_for", lambda *_: None)
    monkeypatch.setattr(fleet.story, "tell", lambda line: None)
    monkeypatch.setattr(fleet, "PAUSE", 0)
    monkeypatch.setattr(fleet.story, "PAUSE", 0)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "00000000-0000-0000-0000-000000000000")
    see: Any = fleet.see_to_the_end
    assert see(None, None, [], "pool", None) == {}
    assert api.calls == 6

    monkeypatch.setattr(fleet.story, "OUTAGE", 0)
    with pytest.raises(httpx.ConnectError):
        see(None, None, [], "pool", None)
    assert not api.cancelled


def test_an_outage_prints_no_traceback_and_another_error_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect._internal import observers

    from thaw.orchestration import schedule

    async def fail(*errors: BaseException) -> None:
        loop = asyncio.get_running_loop()
        schedule._tell_outages_in_a_line(loop)
        for error in errors:
            loop.call_exception_handler({"message": "it failed", "exception": error})

    assert observers.FlowRunCancellingObserver.__name__ == schedule.WATCH.partition(".")[2]
    asyncio.run(fail(httpx.ReadError("away"), asyncio.CancelledError()))
    assert not caplog.records
    watch = logging.getLogger(schedule.WATCH)
    # whether Prefect has set its logging up or not, the line comes once
    monkeypatch.setattr(watch, "handlers", [caplog.handler])
    monkeypatch.setattr(watch, "propagate", False)
    try:
        raise OSError("the server hung up")
    except OSError:
        watch.warning("Consumer task %s", "ended", exc_info=True)
    asyncio.run(fail(KeyError("a mistake of ours")))
    line, trace = caplog.records
    assert (line.getMessage(), line.exc_info) == ("Consumer task ended: the server hung up", None)
    assert trace.exc_info
