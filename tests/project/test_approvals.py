"""Laws of versions that wait for a person, on git alone: no server, no DVC, no training."""

import threading
from pathlib import Path

import pytest
from children import git

from thaw.errors import InputError
from thaw.project import approvals, lock, registry
from thaw.project.lock import only_retraining

LOCKED = "stages: {unfreeze: {outs: [{path: artifacts/unfreeze/model, md5: a1}]}}"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that waits, and nothing is in use."""
    git(tmp_path, "init", "-q")
    (tmp_path / "dvc.yaml").write_text("artifacts:\n  classifier: {path: artifacts/unfreeze/model, type: model}\n")
    (tmp_path / "dvc.lock").write_text(LOCKED)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-qm", "start")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lock, "PAUSE", 0.01)
    registry.register("HEAD", "good enough")
    registry.assign("v1.0.0", registry.WAITING, "good enough")


def test_an_answer_waits_while_a_retraining_holds_the_workspace_and_not_for_ever(waits: None) -> None:
    lines: list[str] = []
    with only_retraining("weekly"):
        with pytest.raises(InputError, match=r"another retraining holds this workspace \(weekly, process "):
            approvals.approve("v1.0.0", "", lines.append)
        assert registry.find("v1.0.0").standing == registry.WAITING
    holding, free = threading.Event(), threading.Event()

    def retrain() -> None:
        with only_retraining("weekly"):
            holding.set()
            free.wait(60)

    other = threading.Thread(target=retrain)
    other.start()
    assert holding.wait(60)

    def tell(line: str) -> None:
        lines.append(line)
        free.set()

    assert approvals.approve("v1.0.0", "seen", tell, 5) == "v1.0.0 is in use"
    other.join()
    assert lines[-1].startswith("Waiting while another retraining holds this workspace (weekly, process ")
    assert registry.find("v1.0.0").in_use


def test_only_a_version_that_waits_can_be_answered(waits: None) -> None:
    with pytest.raises(InputError, match=r"v9\.0\.0"):
        approvals.reject("v9.0.0", "")
    assert approvals.reject("v1.0.0", "blurred") == "v1.0.0 was turned down"
    with pytest.raises(InputError, match=r"v1\.0\.0 waits for nobody, it was turned down; no version waits"):
        approvals.approve("v1.0.0", "")
    assert "rejected: blurred" in git(Path.cwd(), "for-each-ref", "--format=%(contents)", "refs/tags")
