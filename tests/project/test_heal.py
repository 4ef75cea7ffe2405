"""Laws of mending DVC's files: only what is broken changes, and nothing valid runs again."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thaw.project import heal, mend, pipeline
from thaw.project.git import dvc
from thaw.project.stage import Verdict, repro

PHASES = ["prepare", "embed", "head", "unfreeze", "evaluate", "report"]
WEIGHTS = "artifacts/unfreeze/model/weights.safetensors"


def _verdicts() -> dict[str, Verdict]:
    return {phase: repro(phase, on_line=lambda line: None) for phase in PHASES}


def _dvc_can_work(root: Path) -> bool:
    return subprocess.run(dvc("repro", "--single-item", "head"), cwd=root, capture_output=True).returncode == 0


def _mended() -> list[str]:
    lines: list[str] = []
    mend.mend_if_idle(lines.append)
    assert list(heal.faults()) == []
    return lines


def test_where_nothing_is_broken_nothing_is_touched(trained_toy: Path) -> None:
    (trained_toy / ".dvc/tmp").mkdir(exist_ok=True)
    (trained_toy / ".dvc/tmp/rwlock").write_text(json.dumps({"read": {"a": [{"pid": os.getpid(), "cmd": "pytest"}]}}))
    before = {path: path.stat().st_mtime_ns for path in trained_toy.rglob("*") if path.is_file()}
    assert _mended() == []
    assert {path: path.stat().st_mtime_ns for path in trained_toy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["empty", "nothing", "half an entry", "half a stage", "garbage"])
def test_a_lock_file_that_was_half_written_keeps_what_is_whole_and_no_phase_runs(
    trained_toy: Path, damage: str
) -> None:
    file = trained_toy / "dvc.lock"
    text, before = file.read_text(), pipeline.read("dvc.lock")
    middle = text.index("  head:")
    broken = {
        "empty": "",
        "nothing": "schema: '2.0'\nstages:\n",
        "half an entry": text[: text.index("path:", middle) + 2],
        "half a stage": text[: text.index("deps:", middle) + 6],
        "garbage": text[:middle] + "\0" * 500,
    }
    file.write_text(broken[damage])
    assert not _dvc_can_work(trained_toy)
    assert _mended()[0].startswith("warning: dvc.lock is empty or half written: ")
    whole = [] if damage in ("empty", "nothing") else re.findall(r"^  (\w+):", text[:middle], re.MULTILINE)
    assert list(pipeline.read("dvc.lock").get("stages", {})) == whole
    assert (trained_toy / ".dvc/tmp/thaw/dvc.lock.broken").read_text() == broken[damage]
    assert set(_verdicts().values()) <= {Verdict.CACHED, Verdict.RESTORED}
    assert pipeline.read("dvc.lock") == before


@pytest.mark.parametrize("text", ["", '{"read": {"a": [{"pid"', "[]", '{"write": {"a": 5}}'])
def test_a_lock_of_paths_that_was_half_written_is_made_anew(trained_toy: Path, text: str) -> None:
    (trained_toy / ".dvc/tmp/rwlock").write_text(text)
    assert not _dvc_can_work(trained_toy)
    assert _mended() == ["warning: .dvc/tmp/rwlock is empty or half written: it is written anew"]
    assert set(_verdicts().values()) == {Verdict.CACHED}


@pytest.mark.parametrize("proof", ["another command", "began later"])
def test_an_entry_whose_number_another_process_has_goes_and_that_of_a_living_one_stays(
    trained_toy: Path, proof: str
) -> None:
    file = trained_toy / ".dvc/tmp/rwlock"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "repro"]) as other:
        ours = {"pid": os.getpid(), "cmd": " ".join(sys.argv)}
        gone = {"pid": other.pid, "cmd": "dvc repro -s head" if proof == "another command" else "dvc repro"}
        write = {str(trained_toy / "artifacts/head/model"): gone, str(trained_toy / "elsewhere"): ours}
        file.write_text(json.dumps({"read": {}, "write": write}))
        if proof == "began later":
            os.utime(file, (time.time() - 3600,) * 2)
            write = {path: entry for path, entry in write.items() if entry is gone}
            file.write_text(json.dumps({"write": write}))
            os.utime(file, (time.time() - 3600,) * 2)
        assert subprocess.run(
            dvc("repro", "--force", "--single-item", "head"), cwd=trained_toy, capture_output=True
        ).returncode
        assert "has ended, and another one has its number" in _mended()[0]
        left = json.loads(file.read_text())["write"]
        assert list(left.values()) == ([ours] if proof == "another command" else [])
        file.unlink()
        other.kill()
    assert set(_verdicts().values()) == {Verdict.CACHED}


def _cached(root: Path, path: str) -> Path:
    digest = heal.provenance.hash_at(root / path)
    assert digest
    return root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]


@pytest.mark.parametrize("path", [WEIGHTS, "artifacts/unfreeze/model", "artifacts/evaluate/predictions.csv", "data"])
def test_a_cached_file_that_lost_its_bytes_gets_them_back_from_the_workspace(trained_toy: Path, path: str) -> None:
    file = _cached(trained_toy, path)
    before, mode = file.read_bytes(), file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(b"")
    file.chmod(0o444)
    assert _mended() == [f"warning: DVC's cache has lost the content of {path}: it is copied back from there"]
    assert (file.read_bytes(), file.stat().st_mode) == (before, mode)
    assert set(_verdicts().values()) == {Verdict.CACHED}


def test_a_list_of_a_folder_that_was_half_written_is_made_anew_from_the_workspace(trained_toy: Path) -> None:
    file = _cached(trained_toy, "artifacts/unfreeze/model")
    before = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(before[: len(before) // 2])
    assert "DVC's cache has lost the content of artifacts/unfreeze/model" in _mended()[0]
    assert file.read_bytes() == before
    assert set(_verdicts().values()) == {Verdict.CACHED}


def test_what_is_lost_in_the_workspace_too_runs_again_and_nothing_else(trained_toy: Path) -> None:
    file, before = _cached(trained_toy, WEIGHTS), (trained_toy / WEIGHTS).read_bytes()
    (trained_toy / WEIGHTS).unlink()
    file.chmod(0o644)
    file.write_bytes(b"")
    file.chmod(0o444)
    assert "`dvc fetch` restores it" in _mended()[0]
    verdicts = _verdicts()
    assert verdicts.pop("unfreeze") is Verdict.COMPLETED
    assert set(verdicts.values()) == {Verdict.CACHED}
    assert (trained_toy / WEIGHTS).read_bytes() == before == file.read_bytes()
