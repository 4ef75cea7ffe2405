"""Run one DVC stage, stream what it prints, and return what DVC did. Knows nothing of Prefect.

`repro("head", on_line=print)` is `dvc repro --single-item head` in its own process group, so that
cancellation, a time limit or Ctrl-C end dvc and the training below it too.
"""

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from thaw.errors import InputError
from thaw.project import lock, provenance, scratch, workspace
from thaw.project.git import dvc

ANSWER = "THAW_ANSWER"  # environment variable with the path of the file for a child's answer
CACHE = "cache"  # the answer of `bring` if the data came from DVC's cache
NOTHING: Mapping[str, str] = {}
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
# seconds of silence after the child has ended until its output counts as complete
SILENCE = 0.5
# Advice that dvc prints after every stage.
ADVICE = (
    "To track the changes with git",
    "\tgit add ",
    "To enable auto staging",
    "\tdvc config core.autostage",
    "Use `dvc push`",
)

OnLine = Callable[[str], None]

_at_work: set[int] = set()


class Verdict(StrEnum):
    """What DVC did about a stage."""

    COMPLETED = "Completed"  # it ran
    CACHED = "Cached"  # nothing changed
    RESTORED = "Restored"  # the outputs came from the cache, without running


class StageError(RuntimeError):
    """A stage failed: the reason in one sentence, the exit code, and the last lines printed."""

    def __init__(self, stage: str, exit_code: int, last_lines: list[str]) -> None:
        # dvc's last line ("ERROR: failed to reproduce ...") gives no reason; the line before it
        # does.
        errors = [line for line in last_lines if line.startswith("ERROR: ")]
        stage_codes = [match[1] for line in errors if (match := re.search(r"exited with (-?\d+)", line))]
        if stage_codes:
            exit_code = int(stage_codes[-1])
            plain = [line for line in last_lines if not line.startswith("ERROR: ")]
            why = plain[-1] if plain else errors[-1]
        else:
            why = (errors or last_lines or ["it printed nothing"])[-1]
        super().__init__(f"{stage} failed with exit code {exit_code}: {why.strip().removeprefix('error: ')}")
        self.stage = stage
        self.exit_code = exit_code
        self.last_lines = last_lines


def repro(stage: str, *flags: str, on_line: OnLine = print) -> Verdict:
    """`dvc repro --single-item STAGE`; every line that it prints goes to `on_line`.

    If DVC restores outputs of other settings or inputs (thaw/project/provenance.py), the stage runs
    again. Raises `InputError` with the phase's own sentence if the user can mend it, else
    `StageError`. For `data.dvc`, missing data are brought first (`python -m thaw.project.bring`).
    Data that differ from the pin raise `DataDiffers` (thaw/project/pin.py), because `dvc repro`
    would pin them as they are.
    """
    command = dvc("repro", "--single-item", *flags, stage)
    if not stage.endswith(".dvc"):
        verdict = _verdict(stage, finish(stage, command, on_line), otherwise=Verdict.COMPLETED)
        scratch.tidy()
        if verdict is Verdict.COMPLETED or not (misfits := provenance.misfits().get(stage)):
            return verdict
        on_line(f"warning: DVC has {stage} as {verdict}, but {'; '.join(misfits)}: it runs again")
        return _verdict(stage, finish(stage, [*command, "--force"], on_line), otherwise=Verdict.COMPLETED)
    folder = workspace.root() / stage.removesuffix(".dvc")
    missing = not workspace.has_content(folder)
    source = ask(stage, "thaw.project.bring", on_line=on_line)
    from thaw.project import pin  # here, because pin imports this module

    pin.check()
    checked = _verdict(stage, finish(stage, command, on_line), otherwise=Verdict.COMPLETED)
    if not missing or checked is not Verdict.CACHED:
        return checked
    return Verdict.RESTORED if source == CACHE else Verdict.COMPLETED


def _verdict(stage: str, lines: list[str], otherwise: Verdict) -> Verdict:
    """The verdict by what dvc printed, or `otherwise` if no line says it."""
    for line in lines:
        if line.startswith((f"Stage '{stage}' didn't change", f"'{stage}' didn't change")):
            return Verdict.CACHED
        if line.startswith((f"Stage '{stage}' is cached", f"'{stage}' is cached")):
            return Verdict.RESTORED
        if line.startswith(f"Running stage '{stage}'"):
            return Verdict.COMPLETED
    return otherwise


def ask(stage: str, module: str, *arguments: str, on_line: OnLine) -> Any:
    """Run a module in a child process; returns what it passed to `answer`, raises if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.json"
        finish(stage, [sys.executable, "-m", module, *arguments], on_line, {ANSWER: str(file)})
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def answer(value: Any) -> None:
    """Return a value to the process that called `ask`; does nothing if a user started this one."""
    if file := os.environ.get(ANSWER):
        Path(file).write_text(json.dumps(value), encoding="utf-8")


def finish(stage: str, command: list[str], on_line: OnLine, environment: Mapping[str, str] = NOTHING) -> list[str]:
    """Run a command; returns the first lines that it printed, raises if it failed."""
    first: list[str] = []
    last: deque[str] = deque(maxlen=40)

    def keep(line: str) -> None:
        if line.startswith(ADVICE):
            return
        if len(first) < 40:
            first.append(line)
        last.append(line)
        on_line(line)

    code = run(command, keep, environment)
    if code == 0:
        return first
    failure = StageError(stage, code, list(last))
    sentences = [line.removeprefix("error: ") for line in last if line.startswith("error: ")]
    if failure.exit_code == 2 and sentences:
        raise InputError(sentences[-1]) from failure
    raise failure


def run(command: list[str], on_line: OnLine, environment: Mapping[str, str] = NOTHING) -> int:
    """Run a command in the workspace, in a session of its own; returns its exit code.

    A thread reads the pipe, so the child never waits for `on_line`. An exception here or in
    `on_line` ends the child's whole process group first.
    """
    environment = (
        os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_DAEMON": "1",  # dvc's daemon would inherit the lock
        }
        | dict(environment)
    )
    child = subprocess.Popen(
        command,
        cwd=workspace.root(),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Universal newlines: a progress bar's carriage return ends a line too.
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        pass_fds=lock.inherited(),
    )
    _at_work.add(child.pid)
    try:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_empty_pipe, args=(child, lines), daemon=True).start()
        has_ended = False
        while True:
            # With a timeout, because Prefect's time limit can only interrupt running Python code.
            try:
                line = lines.get(timeout=SILENCE)
            except queue.Empty:
                if not has_ended:  # its last lines may be on their way still
                    has_ended = child.poll() is not None
                    continue
                end_group(child.pid, GRACE)  # a process it left behind holds the pipe
                assert child.returncode is not None
                return child.returncode
            if line is None:
                break
            on_line(line)
        while child.poll() is None:
            time.sleep(0.02)
        return child.returncode
    except BaseException:
        end_group(child.pid, GRACE)
        child.poll()
        raise
    finally:
        _at_work.discard(child.pid)


def at_work() -> bool:
    """Whether this process is waiting for a command."""
    return bool(_at_work)


def _empty_pipe(child: "subprocess.Popen[str]", lines: "queue.SimpleQueue[str | None]") -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if line := line.rstrip():
                lines.put(line)
    lines.put(None)


def end_group(pid: int, grace: float) -> None:
    """End the process group that `pid` leads: SIGTERM, after the grace period SIGKILL."""
    try:
        if _signal_until_gone(pid, signal.SIGTERM, grace):
            return
    except BaseException:  # a second Ctrl-C: no more grace
        _signal_until_gone(pid, signal.SIGKILL, 2)
        raise
    _signal_until_gone(pid, signal.SIGKILL, 2)


def _signal_until_gone(pid: int, signum: int, patience: float) -> bool:
    """Signal the group and wait; returns whether it is gone. Only a zombie outlasts SIGKILL."""
    deadline = time.monotonic() + patience
    try:
        os.killpg(pid, signum)
        while time.monotonic() < deadline:
            with suppress(ChildProcessError):  # not our child: its parent reaps it
                os.waitpid(pid, os.WNOHANG)
            os.killpg(pid, 0)  # raises once the group is empty
            time.sleep(0.02)
    except (ProcessLookupError, PermissionError):  # macOS raises the latter for a group of zombies
        return True
    return False
