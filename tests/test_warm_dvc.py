"""A DVC that is forked in tests is DVC to whoever calls it."""

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


@pytest.fixture
def forked(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained toy, once there is a process that forks."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    def ready() -> bool:
        subprocess.run([sys.executable, "-m", "dvc", "--version"], check=True, capture_output=True)
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(os.environ["THAW_WARM_DVC"])
            return True
        return False

    until(ready)
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
    alone = {name: value for name, value in os.environ.items() if name != "THAW_WARM_DVC"}
    seen = []
    for environment in (None, alone):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *command], env=environment, cwd=forked, capture_output=True, text=True
        )
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
