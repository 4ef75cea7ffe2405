"""A run of the suite that is stopped leaves nothing running."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import alive, until

ROOT = Path(__file__).parents[1]
# Starts what servers, workers and engines are: a session of its own, deaf to SIGTERM; and one
# without a parent.
TESTS = """
import os, subprocess, sys, time
from pathlib import Path

DEAF = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
DEAF += "; sys.stdout.close(); time.sleep(600)"
ORPHAN = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {DEAF!r}], stdout=2).pid)"


def start(name):
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
    orphan = subprocess.check_output([sys.executable, "-c", ORPHAN], text=True, start_new_session=True).strip()
    Path(f"{name}.new").write_text(f"{os.getpid()} {child.pid} {orphan}")
    Path(f"{name}.new").rename(name)


def test_one():
    start("one")
    time.sleep(SECONDS)


def test_two():
    start("two")
    time.sleep(SECONDS)
"""


def _suite(folder: Path, seconds: int, *options: str) -> "subprocess.Popen[bytes]":
    """A run of two tests under our own conftest.py and settings."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "test_two.py").write_text(TESTS.replace("SECONDS", str(seconds)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--dist=load", *options, "test_two.py"]
    (folder / "tmp").mkdir()
    environment["TMPDIR"] = str(folder / "tmp")
    with open(folder / "printed", "w") as printed:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )


def _started(folder: Path, *names: str) -> list[int]:
    """The processes that tests of such a run have noted, once all of them have."""
    files = [folder / name for name in names]
    until(lambda: all(file.exists() for file in files))
    return [int(pid) for file in files for pid in file.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_suite_that_is_stopped_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    with _suite(tmp_path, 600, "-n2") as suite:
        pids = _started(tmp_path, "one", "two")
        assert all(alive(pid) for pid in pids)
        # as Ctrl-C does
        os.killpg(suite.pid, number) if number == signal.SIGINT else suite.send_signal(number)
    until(lambda: not any(alive(pid) for pid in pids))
    until(lambda: not list((tmp_path / "tmp").glob("thaw-tests-*")))


def test_a_suite_that_ends_by_itself_leaves_nothing_running(tmp_path: Path) -> None:
    with _suite(tmp_path, 0, "-n0") as suite:
        pids = _started(tmp_path, "one", "two")
    assert suite.returncode == 0, (tmp_path / "printed").read_text()
    assert not any(alive(pid) for pid in pids if pid != suite.pid)
    assert not list((tmp_path / "tmp").glob("thaw-tests-*"))
