"""Shared by all tests: a toy workspace with the names of the real phases, and a real server."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOY = Path(__file__).parent / "toy"
SUPPORT = Path(__file__).parent / "support"  # modules that tests share
sys.path.append(str(SUPPORT))
import databases  # noqa: E402
import leftovers  # noqa: E402

# One folder for the run, with one for each process that tests. Only the process that hands tests
# out makes it.
_HANDS_OUT = not (leftovers.MARK in os.environ and "PYTEST_XDIST_WORKER" in os.environ)
_RUN = Path(tempfile.mkdtemp(prefix="thaw-tests-") if _HANDS_OUT else os.environ[leftovers.MARK])
_WATCHER = leftovers.watch(_RUN) if _HANDS_OUT else None
_STATE = _RUN / os.environ.get("PYTEST_XDIST_WORKER", "alone")
_STATE.mkdir(exist_ok=True)
# Every client of prefect reads the certificates of its whole world, 22 ms each time; one is enough
# where all is http.
_CERTIFICATE = _RUN / "certificate.pem"
if _HANDS_OUT:
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    _CERTIFICATE.write_text(first + end)

# Before prefect or dvc is imported by any test: nothing of the user's own is read or changed.
os.environ |= {
    "PREFECT_HOME": str(_STATE / "prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds between two questions for work, else 10
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_API_SSL_CERT_FILE": str(_CERTIFICATE),
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    # tests run in several processes, whose threads would wait for one another
    "OMP_NUM_THREADS": "1",
    "DVC_SITE_CACHE_DIR": str(_STATE / "dvc"),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "TOY_REAL": str(ROOT / "thaw"),
    "THAW_WARM": str(_RUN),
    "THAW_WARM_PREFIX": sys.prefix,
    "PYTHONPATH": os.pathsep.join(filter(None, [str(SUPPORT / "site"), os.environ.get("PYTHONPATH")])),
}
for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
    os.environ.pop(name, None)

# A shell that starts tests in the background lets them ignore Ctrl-C, and whatever they start
# inherits that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# files that take long
LONGEST = (
    "test_product",
    "test_fleet",
    "test_studies",
    "test_operation",
    "test_record",
    "test_end_to_end",
    "test_ui",
    "test_phases",
    "test_families",
    "test_training",
)
# files whose tests call DVC again and again, without the toy of this module
CALL_DVC = (
    "test_create",
    "test_data",
    "test_experiment",
    "test_pin",
    "test_pipeline",
    "test_provenance",
    "test_recipe",
    "test_registry",
    "test_upgrade",
)


def pytest_configure(config: pytest.Config) -> None:
    """Give the longest files to processes first, not those with the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """Freeze imported modules: searching them for garbage again costs more than it frees."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that call DVC are slow. The longest files come first, so that no process waits."""
    for item in items:
        if item.path.stem in CALL_DVC or "_trained_template" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_unconfigure() -> None:
    """Nothing stays behind."""
    if _WATCHER:
        leftovers.end(_RUN, _WATCHER.pid)
        _WATCHER.kill()
        _WATCHER.wait()


@pytest.fixture(scope="session")
def databases_kept(request: pytest.FixtureRequest) -> Path:
    """Where empty databases of Prefect servers stay from one run of the tests to the next."""
    cache = getattr(request.config, "cache", None)  # which -p no:cacheprovider takes away
    return cache.mkdir("prefect") if cache else _RUN


@pytest.fixture(scope="session")
def empty_database(databases_kept: Path) -> Callable[[Path], None]:
    """Fills the home of a Prefect server that is to be started."""
    return lambda home: databases.fill(home, databases_kept)


@pytest.fixture(scope="session")
def server(empty_database: Callable[[Path], None]) -> Iterator[str]:
    """The API address of a real Prefect server, used by in-process flows too; started once."""
    import socket

    import prefect.context

    from thaw.orchestration import server as module

    with socket.socket() as probe, pytest.MonkeyPatch.context() as patch:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        patch.chdir(_STATE)
        empty_database(_STATE / ".prefect")
        with (
            module.server(port) as api,
            # Threads of prefect that were started before know the address too.
            prefect.context._temporary_global_settings_context(prefect.context.get_settings_context()),
        ):
            patch.undo()
            yield api
            patch.chdir(_STATE)


def _dvc(folder: Path, *command: str) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-m", "dvc", *command, "-q"], cwd=folder, check=True, env=environment)


@pytest.fixture(scope="session")
def _trained_template() -> Path:
    """A git and DVC repository whose stages are named like ours and take no time."""
    toy = _STATE / "toy"
    shutil.copytree(TOY, toy)
    shutil.copy(ROOT / "params.yaml", toy)
    (toy / "data").mkdir()
    (toy / "data" / "picture.txt").write_text("a picture")
    subprocess.run(["git", "init", "-q"], cwd=toy, check=True)
    _dvc(toy, "init")
    _dvc(toy, "add", "data")
    _dvc(toy, "repro")
    return toy


@pytest.fixture
def trained_toy(_trained_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy workspace in which every phase has run once, which tasks and flows take for theirs."""

    root = tmp_path / "toy"
    shutil.copytree(_trained_template, root)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def toy(trained_toy: Path) -> Path:
    """The same, fresh from git: no data, no cache, no outputs."""
    for folder in ("data", "artifacts", ".dvc/cache"):
        shutil.rmtree(trained_toy / folder)
    (trained_toy / "dvc.lock").unlink()
    return trained_toy
