"""Laws of records: each can be restored byte for byte, and recording changes no user's file."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thaw.errors import InputError
from thaw.project import experiment, registry
from thaw.project.stage import StageError

RESULTS = ("params.yaml", "artifacts/unfreeze/model/weights.safetensors", "artifacts/evaluate/metrics.json")


def _call(root: Path, *command: str) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _commit(root: Path) -> None:
    _call(root, "git", "add", "--all")
    _call(root, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "start")


def _digests(root: Path) -> dict[str, str]:
    return {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in RESULTS}


def _train(root: Path, ratio: int, before: int = 10) -> dict[str, str]:
    params = root / "params.yaml"
    params.write_text(params.read_text().replace(f"  ratio: {before} ", f"  ratio: {ratio} "))
    _call(root, sys.executable, "-m", "dvc", "repro", "-q")
    return _digests(root)


def test_any_record_comes_back_to_the_byte(trained_toy: Path) -> None:
    _commit(trained_toy)
    made = {"first": _digests(trained_toy)}
    experiment.save("first", "one")
    made["second"] = _train(trained_toy, 20)
    experiment.save("second", "two")
    made["third"] = _train(trained_toy, 30, before=20)
    experiment.save("third", "three")
    assert len({digests[RESULTS[1]] for digests in made.values()}) == 3
    for name in ("second", "first", "third", "first"):
        _call(trained_toy, sys.executable, "-m", "dvc", "exp", "apply", name)
        assert _digests(trained_toy) == made[name]
        assert experiment.known() == name
    assert all(name in _call(trained_toy, sys.executable, "-m", "dvc", "exp", "show", "--csv") for name in made)


def test_a_record_holds_what_no_commit_has_yet(trained_toy: Path) -> None:
    _call(trained_toy, "git", "add", "dvc.yaml", "phases.py", ".gitignore", ".dvc")
    _call(trained_toy, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "bare")
    commit = experiment.save("all", "of it")
    held = _call(trained_toy, "git", "ls-tree", "-r", "--name-only", commit).splitlines()
    assert {"dvc.lock", "data.dvc", "params.yaml", "artifacts/evaluate/metrics.json"} <= set(held)


def test_branch_index_and_uncommitted_work_stay_as_they_are(trained_toy: Path) -> None:
    (trained_toy / "README.md").write_text("done")
    _commit(trained_toy)
    _train(trained_toy, 20)
    (trained_toy / "notes.txt").write_text("mine")
    (trained_toy / "staged.txt").write_text("mine, and staged")
    _call(trained_toy, "git", "add", "staged.txt")
    (trained_toy / "README.md").write_text("half-done")

    def work() -> list[str]:
        commands = (["status", "--porcelain"], ["diff"], ["diff", "--cached"], ["rev-parse", "HEAD"], ["branch"])
        return [_call(trained_toy, "git", *command) for command in commands]

    before = work()
    experiment.save("beside", "the work")
    assert work() == before
    assert (trained_toy / "notes.txt").read_text() == "mine"


def test_only_results_that_are_recorded_are_known(trained_toy: Path) -> None:
    _commit(trained_toy)
    assert experiment.known() is None
    experiment.save("first", "one")
    assert experiment.known() == "first"
    _train(trained_toy, 20)
    assert experiment.known() is None
    _train(trained_toy, 10, before=20)
    assert experiment.known() == "first"


def test_results_of_other_code_than_what_is_there_are_not_recorded(trained_toy: Path) -> None:
    _commit(trained_toy)
    before = (trained_toy / "dvc.lock").read_bytes()
    with (trained_toy / "phases.py").open("a") as file:
        file.write("# changed after the run\n")
    with pytest.raises(InputError, match=r"phases\.py changed"):
        experiment.save("first", "one")
    assert experiment.known() is None
    assert (trained_toy / "dvc.lock").read_bytes() == before


def test_a_record_without_a_commit_is_refused(trained_toy: Path) -> None:
    with pytest.raises(InputError, match="git commit"):
        experiment.save("first", "one")


def _dvc_remote(root: Path, place: Path) -> None:
    _call(root, sys.executable, "-m", "dvc", "remote", "add", "-f", "-d", "storage", str(place))


def test_push_sends_what_a_clone_needs_to_restore_every_phase(trained_toy: Path, tmp_path: Path) -> None:
    assert not experiment.has_remote()
    _dvc_remote(trained_toy, tmp_path / "remote")
    _commit(trained_toy)
    assert experiment.has_remote()
    experiment.save("first", "one")
    assert experiment.push()
    assert not experiment.push()  # all is there
    # the clone has to find every phase in the run cache
    (trained_toy / "dvc.lock").unlink()
    digests = _digests(trained_toy)
    _commit(trained_toy)
    _call(tmp_path, "git", "clone", "-q", str(trained_toy), "clone")
    printed = _call(tmp_path / "clone", sys.executable, "-m", "dvc", "repro", "--pull")
    assert "Running stage" not in printed
    assert _digests(tmp_path / "clone") == digests


def test_a_push_that_failed_sends_all_of_it_the_next_time(trained_toy: Path, tmp_path: Path) -> None:
    place = tmp_path / "remote"
    place.write_text("in the way of the folder")
    _dvc_remote(trained_toy, place)
    _commit(trained_toy)
    experiment.save("first", "one")
    with pytest.raises(StageError):
        experiment.push()
    place.unlink()
    assert experiment.push()  # with nothing new to record
    (trained_toy / "dvc.lock").unlink()
    digests = _digests(trained_toy)
    _commit(trained_toy)
    _call(tmp_path, "git", "clone", "-q", str(trained_toy), "clone")
    assert "Running stage" not in _call(tmp_path / "clone", sys.executable, "-m", "dvc", "repro", "--pull")
    assert _digests(tmp_path / "clone") == digests


def test_records_and_versions_reach_the_git_remote_and_nothing_else_does(trained_toy: Path, tmp_path: Path) -> None:
    _call(tmp_path, "git", "init", "-q", "--bare", "shared")
    _call(trained_toy, "git", "remote", "add", "shared", str(tmp_path / "shared"))
    _commit(trained_toy)
    assert experiment.publish("shared") == 0
    commit = experiment.save(f"{experiment.PREFIX}2026", "one")
    experiment.save("by-hand", "not a retraining's")
    _call(trained_toy, "git", "tag", "mine")
    registry.enter(commit, "the first", registry.STAGE)
    assert experiment.publish("shared") == 3
    assert experiment.publish("shared") == 0
    there = _call(tmp_path / "shared", "git", "for-each-ref", "--format=%(refname:lstrip=-1)").split()
    assert sorted(there) == ["classifier#prod#1", "classifier@v1.0.0", "retrain-2026"]
    _call(tmp_path, "git", "clone", "-q", str(tmp_path / "shared"), "clone")
    assert "artifacts" in _call(tmp_path / "clone", "git", "ls-tree", "--name-only", "classifier@v1.0.0")


def test_a_git_remote_that_is_unknown_or_refuses_is_one_sentence(trained_toy: Path, tmp_path: Path) -> None:
    _commit(trained_toy)
    with pytest.raises(InputError, match=r"retrain\.git_remote is nowhere, but git knows no such remote"):
        experiment.publish("nowhere")
    commit = experiment.save(f"{experiment.PREFIX}2026", "one")
    registry.register(commit, "the first")
    _call(trained_toy, "git", "remote", "add", "gone", str(tmp_path / "gone"))
    with pytest.raises(StageError):  # which is tried again
        experiment.publish("gone")
    _call(tmp_path, "git", "init", "-q", "--bare", "shared")
    _call(trained_toy, "git", "push", "-q", str(tmp_path / "shared"), "HEAD:refs/tags/classifier@v1.0.0")
    _call(trained_toy, "git", "remote", "add", "shared", str(tmp_path / "shared"))
    with pytest.raises(InputError, match=r"the git remote shared did not take refs/tags/classifier@v1\.0\.0: .*exists"):
        experiment.publish("shared")
