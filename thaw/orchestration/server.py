"""The Prefect server of a run: the configured one, else the project's own, started if needed.

    with server() as api:        # PREFECT_API_URL is set inside; import prefect only in here
        ...

The project's own server listens on loopback and keeps its state in `.prefect/` of the workspace, so
a user's own Prefect profile is neither read nor changed. Each process that uses it holds a shared
lock; the last one stops it. Locks die with their process, so the next run adopts a server that a
killed run left behind, and stops it at its end.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from thaw.errors import InputError
from thaw.project import stage, workspace
from thaw.project.stage import end_group

PORT = 4200
# seconds for the server to answer; its first start on a slow machine takes half a minute
PATIENCE = 120.0
LOOK = 5.0  # seconds between two checks of the server
GONE = 180.0  # seconds after which a run gives up on a server that is gone
EVENTS_LATE = 10.0  # seconds; twice as many as the server gathers events before it writes them
LOG = "server.log"  # in .prefect; what was there before is server.log.1
LOG_BYTES = 10_000_000

Say = Callable[[str], None]


class ServerError(RuntimeError):
    """The server could not be started; `str()` says why, and where its log is."""


@contextmanager
def server(port: int | None = None, say: Say = print) -> Iterator[str]:
    """The address of a Prefect API, while the block lasts."""
    with ExitStack() as stack:
        stack.enter_context(_signals_end_the_block())
        api = os.environ.get("PREFECT_API_URL")
        if api:
            if not answers(api):
                raise InputError(f"PREFECT_API_URL is {api}, and nothing answers there: start that server or unset it")
            say(f"Using the Prefect server at {ui(api)}")
        else:
            api = stack.enter_context(_own_server(port or _preferred_port(), say))
        stack.enter_context(environment(api))
        yield api


def answering() -> str | None:
    """The API that a command would use, if it answers now; nothing is started."""
    home, api = _home(), os.environ.get("PREFECT_API_URL")
    if not api and _lives(home):
        api = json.loads((home / "server.json").read_text())["api"]
    return api if api and answers(api) else None


@contextmanager
def running() -> Iterator[str | None]:
    """The address of the configured or the project's own Prefect API if it answers; no server is
    started for it."""
    api = answering()
    with environment(api) if api else nullcontext():
        yield api


def ui(api: str) -> str:
    """The address of the UI that belongs to an API."""
    return api.rstrip("/").removesuffix("/api")


def address() -> str:
    """The API that this process talks to."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or ""


def is_own(api: str) -> bool:
    """Whether an API is that of the project's own server, whose state belongs to this workspace
    alone."""
    record = _home() / "server.json"
    return record.exists() and json.loads(record.read_text())["api"] == api


def wipe(database: Path, late: float = EVENTS_LATE) -> None:
    """Take deleted pages out of the database of a server for good.

    Prefect's events of a page hold its text, and reach the database `late` seconds after it; SQLite
    keeps what is deleted in free pages.
    """
    time.sleep(late)
    with closing(sqlite3.connect(database, timeout=PATIENCE)) as connection:
        of_pages = "select id from events where event like 'prefect.artifact%'"
        connection.execute(f"delete from event_resources where event_id in ({of_pages})")
        connection.execute(f"delete from events where id in ({of_pages})")
        connection.commit()
        connection.execute("VACUUM")
        deadline = time.monotonic() + PATIENCE
        # until nobody reads the log of changes, in which it is too
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] and time.monotonic() < deadline:
            time.sleep(0.2)


def page(api: str, flow_run_id: str) -> str:
    """The address of a flow run in the UI."""
    if api.rstrip("/").endswith("/api"):
        return f"{ui(api)}/v2/runs/flow-run/{flow_run_id}"
    from prefect.utilities.urls import url_for

    return url_for("flow-run", obj_id=flow_run_id) or ui(api)  # Prefect Cloud has its UI elsewhere


@contextmanager
def _signals_end_the_block() -> Iterator[None]:
    """SIGTERM and a closed terminal unwind the stack like Ctrl-C does, so that everything is
    tidied up."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:  # nohup asked for that
            continue
        with suppress(ValueError):  # only the main thread may; elsewhere the caller decides
            before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def environment(api: str) -> Iterator[None]:
    """What prefect reads when it is imported; afterwards its last logs are sent and the old values
    back."""
    before = dict(os.environ)
    os.environ.update(_settings(_home()), PREFECT_API_URL=api, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="false")
    for name in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        os.environ.pop(name, None)
    if "127.0.0.1" in api:  # a proxy has no business between two processes of one machine
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, [before.get(name), "127.0.0.1"]))
    try:
        with ExitStack() as stack:
            if "prefect" in sys.modules:  # it read its settings already, as in tests
                from prefect.settings import PREFECT_API_URL, temporary_settings

                stack.enter_context(temporary_settings({PREFECT_API_URL: api}))
            try:
                yield
            finally:
                flush()
    finally:
        os.environ.clear()
        os.environ.update(before)


def flush() -> None:
    """Send what prefect still holds back: log lines, and the events that carry the states of task
    runs."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)


def _settings(home: Path) -> dict[str, str]:
    """The state stays in the workspace, and nothing calls home."""
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _only_its_own_pages(port: int) -> dict[str, str]:
    """No other page that the user's browser shows may read from the server, or change anything on
    it.

    `localhost` is one of the two names because people type it: the UI opened there asks 127.0.0.1
    for its data, which is another origin. Only a process of this machine can serve a page there,
    and it could ask without a browser.
    """
    return {
        # Prefect also knows these without API in their names, but the long names win where both
        # are set.
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
    }


def _home() -> Path:
    return workspace.root() / ".prefect"


def database() -> Path:
    """Where the project's own server keeps what it knows."""
    return _home() / "prefect.db"


@contextmanager
def _own_server(port: int, say: Say) -> Iterator[str]:
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with open(home / "server.users", "a") as users:
        with _turn(home, say):
            fcntl.flock(users, fcntl.LOCK_SH)
            running = _running(home, say)
            if running:
                say(f"Using the Prefect server at {ui(running)}")
            api, children = (running, []) if running else _start(home, port, say)
        try:
            with _kept_alive(home, api, children, say):
                yield api
        finally:
            with _turn(home, say):
                if _is_last(users):
                    _stop(home)
                    for child in children:
                        child.wait()


@contextmanager
def _kept_alive(home: Path, api: str, children: "list[subprocess.Popen[bytes]]", say: Say) -> Iterator[None]:
    """Restart the project's server if it dies in the block, at the same address and with its state.

    `children` are the servers that this process has started; those that died leave no zombie.
    """
    over = threading.Event()
    port = int(api.rsplit(":", 1)[1].partition("/")[0])

    def keep() -> None:
        while not over.wait(LOOK):
            for child in children:
                child.poll()
            if _lives(home):
                _shorten(home, say)
                continue
            with _turn(home, say):
                if over.is_set() or _lives(home):  # another run brought it back
                    continue
                say("The Prefect server died and is being restarted")
                try:
                    if started := _try_to_start(home, port, say):
                        children.append(started[1])
                except ServerError as error:
                    say(f"warning: {error}")
                    return

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def ended_without(api: str) -> Iterator[None]:
    """End this process if its server stays away: Prefect would retry for nine minutes, then print
    a traceback.

    A running phase finishes first. At any other point a run can be cut off: the next one recovers.
    """
    over = threading.Event()

    def watch() -> None:
        since = time.monotonic()
        while not over.wait(LOOK):
            if stage.at_work() or answers(api):
                since = time.monotonic()
            elif time.monotonic() - since > GONE:
                _leave(
                    f"error: the Prefect server at {ui(api)} has not answered for {GONE / 60:g} minutes, so this run "
                    "ends here: finished phases are kept, and the same command continues from there"
                )

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _leave(sentence: str) -> None:
    """End the process at once, from any thread."""
    if sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)  # a progress bar hides the cursor
    print(sentence, file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def _turn(home: Path, say: Say) -> Iterator[None]:
    """Hold the lock for starting and stopping: two runs must not start two servers, nor stop each
    other's."""
    with open(home / "server.turn", "a") as turn:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run that is just starting or stopping the Prefect server")
            fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def _is_last(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _running(home: Path, say: Say) -> str | None:
    """The address of the project's own server if it runs; one that never answers is stopped."""
    if not _lives(home):
        return None
    record = json.loads((home / "server.json").read_text())
    api: str = record["api"]
    if not answers(api):
        say(f"Waiting for the Prefect server at {ui(api)}")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and _lives(home):
        if answers(api):
            return api
        time.sleep(0.3)
    _stop(home)
    return None


def _lives(home: Path) -> bool:
    """Whether the recorded server process lives: it holds this lock from birth to death."""
    if not (home / "server.json").exists():
        return False
    with open(home / "server.life", "a") as life:
        try:
            fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start(home: Path, port: int, say: Say) -> "tuple[str, list[subprocess.Popen[bytes]]]":
    for _ in range(3):
        if not _is_free(port):
            taken, port = port, _free_port()
            say(f"Port {taken} is taken, so the Prefect server gets port {port}")
        if started := _try_to_start(home, port, say):
            return started[0], [started[1]]
    raise ServerError(f"the Prefect server found no free port: see {home / LOG}")


def _try_to_start(home: Path, port: int, say: Say) -> "tuple[str, subprocess.Popen[bytes]] | None":
    """Start the server and wait until it answers; None if somebody took the port in between."""
    api = f"http://127.0.0.1:{port}/api"
    say(f"Starting the Prefect server at {ui(api)}, which takes up to half a minute")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_PROFILE")}
    # The UI asks the port in the settings for its data, not the one on the command line; messages
    # link to the UI.
    environment |= _settings(home) | _only_its_own_pages(port)
    environment |= {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_UI_URL": ui(api)}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = home / LOG
    if log.exists():  # it may say why the last server died
        log.replace(home / f"{LOG}.1")
    with open(home / "server.life", "a") as life, open(log, "a") as output:
        fcntl.flock(life, fcntl.LOCK_EX)  # who looks whether a server lives holds it for a moment
        child = subprocess.Popen(
            command,
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C lets the run send its last logs
            pass_fds=[life.fileno()],
        )
        try:
            (home / "server.json").write_text(json.dumps({"pid": child.pid, "port": port, "api": api}))
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                if child.poll() is not None:
                    printed = log.read_text()
                    if "already in use" in printed:
                        return None
                    last = (printed.strip().splitlines() or ["it said nothing"])[-1]
                    raise ServerError(f"the Prefect server ended at once: {last.strip()} (see {log})")
                if answers(api):
                    return api, child
                time.sleep(0.2)
            raise ServerError(f"the Prefect server did not answer within {PATIENCE:.0f} seconds: see {log}")
        except BaseException:
            end_group(child.pid, grace=10)
            raise


def _shorten(home: Path, say: Say) -> None:
    """Move what a server has printed to a second file once it is long; the server writes on."""
    log = home / LOG
    if not (log.exists() and log.stat().st_size > LOG_BYTES):
        return
    with _turn(home, say):
        if log.stat().st_size > LOG_BYTES:  # no other run was quicker
            shutil.copy(log, home / f"{LOG}.1")
            os.truncate(log, 0)


def _stop(home: Path) -> None:
    """End the project's own server, whoever started it."""
    if _lives(home):
        end_group(json.loads((home / "server.json").read_text())["pid"], grace=10)
    (home / "server.json").unlink(missing_ok=True)


def answers(api: str) -> bool:
    """Whether something answers there; a refusal is an answer."""
    proxies = urllib.request.ProxyHandler({} if "127.0.0.1" in api else None)
    try:
        with urllib.request.build_opener(proxies).open(f"{api.rstrip('/')}/health", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _preferred_port() -> int:
    return int(os.environ.get("PREFECT_SERVER_API_PORT", PORT))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
