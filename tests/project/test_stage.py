"""Laws of running one DVC stage, on a toy repository with a real dvc."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from children import alive, slow_phase, until

from thaw.errors import InputError
from thaw.project import lock, stage
from thaw.project.lock import only_retraining
from thaw.project.pin import DataDiffers
from thaw.project.stage import StageError, Verdict, end_group, repro, run


def _quiet(line: str) -> None:
    """Takes a line and does nothing with it."""


def _change_ratio(toy: Path, ratio: int) -> None:
    text = (toy / "params.yaml").read_text()
    lines = [f"  ratio: {ratio}" if line.startswith("  ratio:") else line for line in text.splitlines()]
    (toy / "params.yaml").write_text("\n".join(lines) + "\n")


def test_verdict_says_what_dvc_did(trained_toy: Path) -> None:
    _change_ratio(trained_toy, 30)
    assert repro("head", on_line=_quiet) is Verdict.CACHED  # the ratio is no business of the head
    assert repro("unfreeze", on_line=_quiet) is Verdict.COMPLETED
    _change_ratio(trained_toy, 10)
    assert repro("unfreeze", on_line=_quiet) is Verdict.RESTORED
    assert repro("unfreeze", "--force", on_line=_quiet) is Verdict.COMPLETED


def test_deleted_output_is_restored(trained_toy: Path) -> None:
    weights = trained_toy / "artifacts" / "head" / "model" / "weights.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    assert repro("head", on_line=_quiet) is Verdict.RESTORED
    assert weights.read_bytes() == before


def test_a_lock_that_is_held_when_a_phase_ends_is_waited_for(
    trained_toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_PACE", "1")
    holder = "import zc.lockfile; input(); zc.lockfile.LockFile('.dvc/tmp/lock'); print(1, flush=True); input()"
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, cwd=trained_toy, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:

        def hold(line: str) -> None:
            if "[  0%] unfreeze" in line:
                assert other.stdin
                assert other.stdout
                other.stdin.write(b"\n")
                other.stdin.flush()
                assert other.stdout.readline() == b"1\n"
            if "[100%] unfreeze" in line:
                threading.Timer(6, other.kill).start()  # DVC gives up after 3 seconds

        assert repro("unfreeze", "--force", on_line=hold) is Verdict.COMPLETED
    assert repro("unfreeze", on_line=_quiet) is Verdict.CACHED


def test_data_is_restored_from_the_cache_and_refused_when_changed(trained_toy: Path) -> None:
    before = (trained_toy / "data.dvc").read_bytes()
    assert repro("data.dvc", on_line=_quiet) is Verdict.CACHED
    shutil.rmtree(trained_toy / "data")
    assert repro("data.dvc", on_line=_quiet) is Verdict.RESTORED
    (trained_toy / "data" / "another.txt").write_text("another picture")
    with pytest.raises(DataDiffers, match=r"1 new \(data/another\.txt\), 0 changed, 0 missing"):
        repro("data.dvc", on_line=_quiet)
    assert (trained_toy / "data.dvc").read_bytes() == before


def test_fresh_workspace_brings_data_and_streams_lines(toy: Path) -> None:
    lines: list[str] = []
    assert repro("data.dvc", on_line=lines.append) is Verdict.COMPLETED
    assert repro("prepare", on_line=lines.append) is Verdict.COMPLETED
    assert [line for line in lines if line.startswith("bar")] == ["bar 1", "bar 2", "bar 3"]
    assert any(line.startswith("[ 50%] prepare 50/100") for line in lines)
    assert not any("git add" in line for line in lines)


def test_sentence_of_a_failing_phase_reaches_us(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_FAIL", "prepare")
    with pytest.raises(InputError) as caught:
        repro("prepare", "--force", on_line=_quiet)
    assert str(caught.value) == "the toy has no pictures"
    cause = caught.value.__cause__
    assert isinstance(cause, StageError)
    assert cause.exit_code == 2
    assert "error: the toy has no pictures" in cause.last_lines


def test_unforeseen_failure_carries_exit_code_and_last_lines(
    trained_toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_BREAK", "prepare")
    with pytest.raises(StageError, match=r"^prepare failed with exit code 1: KeyError: 'a mistake of ours'$") as caught:
        repro("prepare", "--force", on_line=_quiet)
    assert any("Traceback" in line for line in caught.value.last_lines)


def test_unknown_stage_is_told_in_dvcs_words(toy: Path) -> None:
    with pytest.raises(StageError, match="'melt'"):
        repro("melt", on_line=_quiet)


def test_slow_listener_does_not_hold_the_child_up(toy: Path) -> None:
    ended = toy / "ended"
    script = f"for i in range(20000): print('x' * 60)\nopen({str(ended)!r}, 'w').write('yes')"

    def slow(line: str) -> None:
        if not seen:
            until(ended.exists)  # the child does not wait for the listener
        seen.append(line)

    seen: list[str] = []
    assert run([sys.executable, "-c", script], slow) == 0
    assert len(seen) == 20000


def test_process_left_behind_does_not_hold_the_caller_up(toy: Path) -> None:
    script = "import subprocess as s; print(s.Popen(['sleep', 'infinity']).pid)"
    lines: list[str] = []
    assert run([sys.executable, "-c", script], lines.append) == 0
    assert not alive(int(lines[0]))


def test_last_lines_that_come_after_the_end_of_a_child_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a busy machine, where the child prints and ends at once
    def late(child: Any, lines: Any) -> None:
        child.wait()
        time.sleep(0.7)
        empty(child, lines)

    empty = stage._empty_pipe
    monkeypatch.setattr(stage, "_empty_pipe", late)
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    assert run(["echo", "all it says"], lines.append) == 0
    assert lines == ["all it says"]


def test_interruption_ends_the_whole_process_tree(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "GRACE", 0.5)
    monkeypatch.setenv("TOY_SLOW", "unfreeze")

    def interrupt() -> None:
        slow_phase(trained_toy)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        repro("unfreeze", "--force", on_line=_quiet)
    assert not any(alive(pid) for pid in slow_phase(trained_toy))
    monkeypatch.delenv("TOY_SLOW")
    # no lock was left
    assert repro("unfreeze", "--force", on_line=_quiet) is Verdict.COMPLETED


def test_group_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf = f"{ignore}; print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        end_group(child.pid, grace=0.3)
        assert not alive(child.pid)


def test_two_retrainings_never_hold_the_workspace_at_once(toy: Path) -> None:
    hold = "with only_retraining('the first'): print(1, flush=True); input()"
    other = f"from thaw.project.lock import only_retraining\n{hold}"
    with subprocess.Popen(
        [sys.executable, "-c", other],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=toy,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with (
            pytest.raises(InputError, match=rf"the first, process {child.pid}"),
            only_retraining("the second"),
        ):
            pass
        child.kill()
    with only_retraining("the third"):  # a killed holder leaves no lock
        pass


def test_who_waits_is_told_once_and_holds_the_workspace_when_it_is_free(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PAUSE", 0.01)
    lines: list[str] = []
    with lock.only_retraining("the first"):
        assert lock.holder() == f"the first, process {os.getpid()}"
        first_try = only_retraining("the second", 0.001, lines.append)
        with pytest.raises(lock.Busy, match=r"waited 0\.001 minutes for it"), first_try:
            pass
        holds, ends = threading.Event(), threading.Event()

        def second() -> None:
            with only_retraining("the second", 5, lines.append):
                holds.set()
                ends.wait(60)

        thread = threading.Thread(target=second)
        thread.start()
        assert not holds.wait(0.2)
    assert holds.wait(60)
    assert lock.holder() == f"the second, process {os.getpid()}"
    ends.set()
    thread.join()
    assert lock.holder() is None
    assert [line.split(" (")[0] for line in lines] == ["Waiting while another retraining holds this workspace"] * 2


def test_training_that_outlives_a_killed_run_holds_the_workspace_to_its_end(toy: Path) -> None:
    lasting = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    caller = f"""
import sys
from thaw.project.stage import run
from thaw.project.lock import only_retraining
with only_retraining("the killed"):
    run([sys.executable, "-c", {lasting!r}], lambda line: print(line, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", caller], stdout=subprocess.PIPE, cwd=toy) as run_to_kill:
        assert run_to_kill.stdout is not None
        left = int(run_to_kill.stdout.readline())
        run_to_kill.kill()
    try:
        sentence = rf"the killed was killed, and what it started lives on: process {left}\):"
        with pytest.raises(InputError, match=sentence), only_retraining("the next"):
            pass
    finally:
        end_group(left, grace=0)
    with only_retraining("the next"):
        pass
