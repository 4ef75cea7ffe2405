"""Laws of recorded runs: each step, from new pictures to the push, is a task with its state."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import git

from thaw.project import add, experiment, incoming, registry, runs
from thaw.project.stage import StageError

pytestmark = pytest.mark.server

PHASES = ["data", "prepare", "embed", "head", "unfreeze", "evaluate", "report"]


def _run(overrides: list[str] | None = None, record: bool = True) -> Any:
    from flows.retrain import retrain

    return retrain(overrides, record=record, return_state=True)


def _page(flow_run_id: Any) -> str:
    """The page `status` that a run has left in the UI."""
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey

    of_run = ArtifactFilterFlowRunId(any_=[flow_run_id])
    with get_client(sync_client=True) as client:
        artifacts = ArtifactFilter(flow_run_id=of_run, key=ArtifactFilterKey(any_=["status"]))
        (artifact,) = client.read_artifacts(artifact_filter=artifacts)
    return str(artifact.data)


def _records(root: Path) -> list[str]:
    return git(root, "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps/*/*/*").split()


def _storage_that_fails_twice(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tries to push; the first two fail."""
    from thaw.orchestration import run

    tries: list[int] = []
    push = experiment.push

    def fail_twice(*arguments: Any) -> int:
        tries.append(len(tries))
        if len(tries) < 3:
            raise StageError("push", 1, ["ERROR: failed to connect"])
        return push(*arguments)

    monkeypatch.setattr(run, "PAUSES", [0.1])
    monkeypatch.setattr(experiment, "push", fail_twice)
    return tries


def test_recorded_runs_keep_every_new_model_and_use_the_better_one(
    server: str, kept_toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nobody can sign here
    for key in ("commit.gpgSign", "tag.gpgSign", "tag.forceSignAnnotated"):
        git(kept_toy, "config", key, "true")
    git(kept_toy, "config", "gpg.program", "false")
    head = git(kept_toy, "rev-parse", "HEAD")
    params = (kept_toy / "params.yaml").read_bytes()
    cached = dict.fromkeys(["incoming", *PHASES], "Cached")

    tries = _storage_that_fails_twice(monkeypatch)
    first = _run().result()
    assert first == {**cached, "promote": "Promoted", "record": "Completed", "push": "Completed"}
    assert len(tries) == 3, "storage that fails for a moment is tried again"
    assert len(_records(kept_toy)) == 1
    assert [version.name for version in registry.versions() if version.in_use] == ["v1.0.0"]
    assert any(path.is_file() for path in (kept_toy.parent / "remote").rglob("*"))

    again = _run()
    assert set(again.result().values()) == {"Cached"}
    assert len(_records(kept_toy)) == 1
    assert len(registry.versions()) == 1

    monkeypatch.setenv("TOY_KEEP", "1")
    worse = _run(["unfreeze.ratio=20"]).result()
    assert (worse["head"], worse["unfreeze"], worse["promote"]) == ("Cached", "Completed", "Kept")
    assert {version.name: version.in_use for version in registry.versions()} == {"v2.0.0": False, "v1.0.0": True}
    monkeypatch.delenv("TOY_KEEP")

    before = _records(kept_toy)
    better = _run(["unfreeze.ratio=30"]).result()
    assert better["promote"] == "Promoted"
    assert registry.in_use(registry.versions()).name == "v3.0.0"  # type: ignore[union-attr]
    (record,) = set(_records(kept_toy)) - set(before)
    assert len(before) == 2
    (commit,) = git(kept_toy, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{record}").split()
    assert "  ratio: 30 " in git(kept_toy, "show", f"{commit}:params.yaml"), "settings of a run are recorded with it"
    assert (kept_toy / "params.yaml").read_bytes() == params, "and gone after it"
    monkeypatch.setenv("TOY_BREAK", "unfreeze")
    assert _run(["unfreeze.epochs=3"]).is_failed()
    assert (kept_toy / "params.yaml").read_bytes() == params, "after one that failed too"
    monkeypatch.delenv("TOY_BREAK")

    registry.rollback()
    again = _run(["unfreeze.ratio=30"])
    assert again.result()["unfreeze"] in ("Cached", "Restored"), "what was computed before the failure stays"
    assert again.result()["promote"] == "Cached", "what a person took back is not promoted again"
    assert registry.in_use(registry.versions()).name == "v1.0.0"  # type: ignore[union-attr]

    message = _run(["unfreeze.ratio=40"], record=False)
    assert message.result()["promote"] == "Completed"  # said, not done
    assert len(registry.versions()) == 3
    assert len(_records(kept_toy)) == 3
    assert git(kept_toy, "rev-parse", "HEAD") == head
    outcomes = ["Completed"] * 4 + ["Failed", "Completed", "Completed"]
    assert [(run.outcome, run.recorded) for run in runs.read()] == [
        (outcome, number < 6) for number, outcome in enumerate(outcomes)
    ]
    page = _page(again.state_details.flow_run_id)
    assert "v1.0.0" in page
    assert "data:image/png;base64," in page


def test_pictures_that_arrived_are_taken_first(server: str, kept_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def take(retrain: Any, on_line: Any) -> incoming.Taken:
        taken.append(retrain.incoming)
        (kept_toy / "data").mkdir(exist_ok=True)
        (kept_toy / "data" / "new.txt").write_text("a new picture")
        subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], cwd=kept_toy, check=True)
        return incoming.Taken(add.Added(1, 0, {"train": 1, "val": 0, "test": 0}), 0, "")

    monkeypatch.setattr(incoming, "take", take)
    states = _run().result()
    assert taken == ["incoming"]
    assert states["incoming"] == "Completed"
    assert states["prepare"] == "Completed"
    assert _run(record=False).result()["data"] == "Cached"
    assert len(taken) == 1  # runs that are not recorded take nothing
