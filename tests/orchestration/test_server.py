"""Laws of the project's own server: it is shared, adopted, and ends with its last user."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from children import until

from thaw.errors import InputError
from thaw.orchestration import server as module


def _thaw_ui(root: Path, *options: str) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    return subprocess.Popen(
        [sys.executable, "-m", "thaw", "ui", *options],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _address(child: "subprocess.Popen[str]", lines: list[str]) -> str:
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line.strip())
        if line.startswith("The runs are at "):
            return line.split()[4]
    raise AssertionError(f"no address in {lines}")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def home_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace without a server, in an environment that names none."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in module.workspace.MARKS:
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.server
def test_server_avoids_a_taken_port_outlives_a_killed_owner_and_ends_with_the_last_user(
    home_alone: Path, empty_database: Callable[[Path], None]
) -> None:
    empty_database(home_alone / ".prefect")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        taken = busy.getsockname()[1]
        lines: list[str] = []
        with _thaw_ui(home_alone, "--port", str(taken)) as owner:
            address = _address(owner, lines)
            owner.kill()
        assert address != f"http://127.0.0.1:{taken}"
        assert any(f"Port {taken} is taken" in line for line in lines)
        assert _answers(address), "the server should outlive a killed owner"
        with urllib.request.urlopen(f"{address}/ui-settings", timeout=5) as settings:
            assert f"{address}/api" in settings.read().decode()  # the UI asks its own server

        adopted: list[str] = []
        with _thaw_ui(home_alone) as heir:
            assert _address(heir, adopted) == address
            assert not any("Starting" in line for line in adopted)
            with module.server() as api:
                assert module.ui(api) == address
                heir.send_signal(signal.SIGTERM)
                assert heir.wait(300) == 128 + signal.SIGTERM
                assert _answers(address), "somebody uses it still"
                module.end_group(json.loads((home_alone / ".prefect" / "server.json").read_text())["pid"], grace=0)
                until(lambda: not _answers(address))
                until(lambda: _answers(address))  # who uses it starts it again, where it was
        until(lambda: not _answers(address))
        assert not (home_alone / ".prefect" / "server.json").exists()
        assert not module._lives(home_alone / ".prefect")


@pytest.mark.server
def test_server_takes_writes_only_with_a_token_and_lets_only_its_own_pages_read(server: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(f"{server}/flows/filter", method="POST"), timeout=30)
    ui = module.ui(server)
    for origin in (ui, ui.replace("127.0.0.1", "localhost"), "http://127.0.0.1:1", "https://example.org", "null"):
        request = urllib.request.Request(f"{server}/admin/version", headers={"Origin": origin})
        with urllib.request.urlopen(request, timeout=30) as answer:
            may_read = origin if ui.rsplit(":")[-1] in origin else None
            assert answer.headers["Access-Control-Allow-Origin"] == may_read


@pytest.mark.server
def test_a_deleted_page_is_nowhere_in_the_database_once_it_is_wiped(server: str) -> None:
    """Its events hold its text; they are written seconds later."""
    from prefect import get_client
    from prefect.client.schemas.actions import ArtifactCreate

    home, secret = Path(os.environ["PREFECT_HOME"]), b"what patient 17 looks like" * 1000
    with get_client(sync_client=True) as client:
        made = client.create_artifact(ArtifactCreate(key="secret", type="markdown", data=secret.decode()))
        client.delete_artifact(made.id)

    def is_there() -> bool:
        return any(secret[:52] in file.read_bytes() for file in home.glob("prefect.db*"))

    def is_told() -> bool:
        query = "select count(*) from events where event = 'prefect.artifact-collection.deleted' and payload like ?"
        with closing(sqlite3.connect(home / "prefect.db")) as connection:
            return bool(connection.execute(query, (f"%{secret[:52].decode()}%",)).fetchone()[0])

    until(is_told)
    assert is_there()
    module.wipe(home / "prefect.db", late=0)
    assert not is_there()
    assert _answers(module.ui(server))


def test_configured_server_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with pytest.raises(InputError, match="nothing answers there"), module.server():
        pass


def test_a_run_whose_server_stays_away_ends_with_a_sentence_once_its_phase_is_done(tmp_path: Path) -> None:
    body = """
import time
from thaw.orchestration import server
from thaw.project import stage
server.LOOK, server.GONE = 0.02, 0.2
with server.ended_without("http://127.0.0.1:1/api"):
    stage._at_work.add(1)
    time.sleep(1)
    print("the phase is done", flush=True)
    stage._at_work.clear()
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", body], cwd=tmp_path, text=True, capture_output=True, timeout=50)
    assert (done.returncode, done.stdout) == (1, "the phase is done\n")
    assert done.stderr.startswith("error: the Prefect server at http://127.0.0.1:1 has not answered for")
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_died_is_started_again_and_leaves_no_zombie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["true"])

    started = []
    monkeypatch.setattr(module, "LOOK", 0.01)
    monkeypatch.setattr(module, "_try_to_start", lambda *_: started.append(dead()) or ("", started[-1]))
    children = [dead()]
    with module._kept_alive(tmp_path, "http://127.0.0.1:1/api", children, print):
        until(lambda: len(children) > 3 and all(child.returncode == 0 for child in children[:3]))
    assert started[:2] == children[1:3]
    for child in children:
        child.wait()


def test_the_log_of_a_server_stays_short_and_that_of_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 10)
    log, before = tmp_path / module.LOG, tmp_path / f"{module.LOG}.1"
    with log.open("a") as output:  # as the server has it open
        output.write("short\n")
        output.flush()
        module._shorten(tmp_path, print)
        assert (log.read_text(), before.exists()) == ("short\n", False)
        output.write("and now long\n")
        output.flush()
        module._shorten(tmp_path, print)
        output.write("new\n")
    assert (log.read_text(), before.read_text()) == ("new\n", "short\nand now long\n")
    monkeypatch.setattr(module.sys, "executable", "false")  # a server that ends at once
    with pytest.raises(module.ServerError, match="ended at once"):
        module._try_to_start(tmp_path, 1, print)
    assert (log.read_text(), before.read_text()) == ("", "new\n")


def test_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_PROFILE", "mine")
    monkeypatch.setenv("NO_PROXY", "example.org")
    before = dict(os.environ)
    with module.environment("http://127.0.0.1:1/api"):
        assert "PREFECT_PROFILE" not in os.environ
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1"
    assert dict(os.environ) == before


def test_page_of_a_run_is_where_the_ui_has_it() -> None:
    assert module.page("http://127.0.0.1:4200/api", "an-id") == "http://127.0.0.1:4200/v2/runs/flow-run/an-id"
