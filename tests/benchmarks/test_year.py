"""Laws of a year of retrainings, on four weeks: true outcomes, and no picture is lost."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from children import git

from benchmarks import year
from thaw.project import incoming, pin, registry, runs, settings, status
from thaw.project.settings import read

pytestmark = pytest.mark.server


@pytest.fixture
def project(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy that has drawn pictures for data, a DVC remote and a commit."""
    monkeypatch.setattr(incoming, "QUIET", 0.0)
    (trained_toy / "data" / "picture.txt").unlink()
    for label in year.CLASSES:
        for number in range(12):
            year.draw(trained_toy / "data" / label / f"{number}.png", label, number)
    pin.accept(lambda line: None)
    remote = ["remote", "add", "-q", "-d", "storage", str(trained_toy.parent / "remote")]
    subprocess.run([sys.executable, "-m", "dvc", *remote], cwd=trained_toy, check=True)
    settings.override(["retrain.retries=0", "retrain.disk_gb=0"], trained_toy / "params.yaml")
    git(trained_toy, "add", "--all")
    git(trained_toy, "commit", "-qm", "start")
    return trained_toy


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_weeks_with_broken_pictures_twins_a_remote_that_is_away_and_a_rollback(server: str, project: Path) -> None:
    from flows.retrain import retrain

    remote, deliveries, opened = project.parent / "remote", [], []
    for week in range(4):
        deliveries.append(year.deliver(project / "incoming", week))
        if week == 2:
            remote.rename(project.parent / "away")
            remote.write_text("no folder")
        if week == 3:
            remote.unlink()
            (project.parent / "away").rename(remote)
            if len(registry.were_in_use()) > 1:
                registry.rollback()
        state: Any = retrain([f"seed={week}"], record=True, return_state=True)
        assert state.is_failed() == (week == 2), state.message
        assert not year.missing_pictures(project, deliveries)
        opened.append(open_files())
    assert [run.outcome for run in runs.read()] == ["Completed", "Completed", "Failed", "Completed"]
    assert runs.read()[2].message.startswith("push ")
    assert not [file for file in (project / "incoming").rglob("*") if file.is_file()]
    assert len(registry.versions()) == 4, "what a week could not push is a version all the same"
    assert opened[-1] <= opened[1] + 2
    known = status.gather(read(project / "params.yaml").retrain, [], "", None)
    assert known.set_aside == 1
    assert [row[2] for row in status.rows(known)].count("Failed") == 1
