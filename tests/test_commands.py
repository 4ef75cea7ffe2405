"""A command that is forked in tests is that command to whoever calls it."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from children import until

from thaw.project import heal

THAW = str(Path(sys.executable).parent / "thaw")
LATE = """
import os, sys
print("prefect" in sys.modules, sys.argv)
os.environ["PREFECT_HOME"] = os.path.abspath("elsewhere")
from prefect.settings import PREFECT_HOME
import prefect
print(PREFECT_HOME.value(), prefect.__spec__.origin)
sys.exit(3)
"""


@pytest.fixture
def forked(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained toy, once there are processes that fork."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def ready(name: str, command: list[str]) -> bool:
        subprocess.run(command, cwd=trained_toy, capture_output=True)
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(f"{os.environ['THAW_WARM']}/{name}")
            return True
        return False

    until(lambda: ready("dvc", [sys.executable, "-m", "dvc", "--version"]))
    until(lambda: ready("torch", [THAW, "phase", "nonsense"]))
    return trained_toy


@pytest.mark.parametrize(
    "command",
    [
        ["status", "--json"],
        ["config", "core.remote"],
        ["nonsense"],
        ["repro", "--single-item", "head"],
        ["repro", "--single-item", "--force", "head"],
        ["repro", "--single-item", "melt"],
        ["params", "diff"],
    ],
    ids=" ".join,
)
def test_a_forked_dvc_prints_and_ends_as_dvc_does(forked: Path, command: list[str]) -> None:
    _ends_alike(forked, [sys.executable, "-m", "dvc", *command])


@pytest.mark.parametrize("phase", ["head", "nonsense"])
def test_a_forked_phase_prints_and_ends_as_a_phase_does(forked: Path, phase: str) -> None:
    (forked / "tasks").mkdir()
    (forked / "tasks" / "__init__.py").touch()
    (forked / "tasks" / "head.py").write_text("import sys\nprint(sys.argv[1:], sys.path, __name__)\nsys.exit(3)\n")
    _ends_alike(forked, [THAW, "phase", phase])


def test_a_forked_thaw_imports_prefect_when_it_does_so_by_itself_and_prefect_reads_its_settings_then(
    forked: Path,
) -> None:
    folder = forked / "late"
    (folder / "thaw").mkdir(parents=True)
    (folder / "thaw" / "__init__.py").touch()
    (folder / "thaw" / "__main__.py").write_text(LATE)
    _ends_alike(folder, [sys.executable, "-m", "thaw", "run"])


def _ends_alike(folder: Path, command: list[str]) -> None:
    """Run a command as a fork and by itself: it prints the same and ends the same."""
    alone = {name: value for name, value in os.environ.items() if name != "THAW_WARM"}
    seen = []
    for environment in (None, alone):
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
        seen.append((done.returncode, done.stdout, done.stderr))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_forked_dvc_and_its_stage_hold_the_files_of_its_caller_and_end_with_it(
    forked: Path, number: signal.Signals
) -> None:
    lock = forked / "lock"
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        child = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "head"],
            cwd=forked,
            env=os.environ | {"TOY_PACE": "600"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[held.fileno()],
        )
    try:
        assert child.stdout is not None
        assert any("[  0%]" in line for line in child.stdout)
        assert not list(heal.faults())  # the system lists it by its arguments, as DVC's rwlock does
        with open(lock) as ours:
            with pytest.raises(BlockingIOError):
                fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.killpg(child.pid, number)
            fcntl.flock(ours, fcntl.LOCK_EX)
        assert child.wait() == -number
    finally:
        child.kill()
        child.communicate()
