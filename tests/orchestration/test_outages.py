"""Laws of a server that is away: what goes on does so without it. The server is played."""

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
