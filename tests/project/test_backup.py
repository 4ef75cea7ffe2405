"""Laws of backups: they restore what only this machine has, and overwrite nothing."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from children import git

from thaw.errors import InputError
from thaw.project import backup

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project inside a larger repository: a version, a record, changes, a server's database."""
    folder = tmp_path / "larger" / "tiles"
    (folder / "data").mkdir(parents=True)
    git(folder.parent, "init", "-q", "-b", "trunk")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--subdir"], cwd=folder, check=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / "dvc.lock").write_text("stages: {unfreeze: {outs: [{path: artifacts/unfreeze/model, md5: a1}]}}")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start")
    git(folder, "remote", "add", "origin", "https://git.example.org/larger.git")
    monkeypatch.chdir(folder)
    git(folder, "tag", "-am", "first", "tiles=classifier@v1.0.0")
    git(folder, "update-ref", "refs/exps/ab/cd/retrain-1", "HEAD")
    (folder / "params.yaml").write_text("seed: 7\n")
    (folder / ".prefect").mkdir()
    (folder / ".prefect" / "runs.jsonl").write_text("a run\n")
    with closing(sqlite3.connect(folder / ".prefect" / "prefect.db")) as database:
        database.execute("create table run (name text)")
        database.execute("insert into run values ('weekly')")
        database.commit()
    return folder


def refs(folder: Path) -> str:
    return git(folder, "for-each-ref", "--format=%(refname) %(objectname)")


def test_a_restored_project_has_versions_records_changes_and_the_server_of_the_one_that_was_lost(
    project: Path, tmp_path: Path
) -> None:
    before, top = refs(project), project.parent
    output = backup.backup(tmp_path / "backup.tar")
    assert any("there is no DVC remote" in sentence for sentence in output)
    assert refs(project) == before
    assert git(project, "status", "--porcelain", "--", "params.yaml").startswith("M")
    shutil.rmtree(top)
    backup.restore(tmp_path / "backup.tar", tmp_path / "again")
    again = tmp_path / "again" / "tiles"
    assert refs(again) == before
    assert (again / "params.yaml").read_text() == "seed: 7\n"
    assert git(again, "branch", "--show-current") == "trunk"
    assert git(again, "remote", "get-url", "origin") == "https://git.example.org/larger.git"
    assert (again / ".prefect" / "runs.jsonl").read_text() == "a run\n"
    with closing(sqlite3.connect(again / ".prefect" / "prefect.db")) as database:
        assert database.execute("select name from run").fetchall() == [("weekly",)]


def test_nothing_is_overwritten_and_what_is_no_backup_leaves_nothing(project: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists and is not overwritten"):
        backup.backup(project / "params.yaml")
    with pytest.raises(InputError, match=r"there is no folder .*away: make it, or mount"):
        backup.backup(tmp_path / "away" / "backup.tar")
    with pytest.raises(InputError, match=r"there is no file .*lost\.tar"):
        backup.restore(tmp_path / "lost.tar", tmp_path / "again")
    with pytest.raises(InputError, match="is not empty: restore into a new folder"):
        backup.restore(tmp_path / "backup.tar", project)
    (tmp_path / "notes.tar").write_text("no tar")
    with pytest.raises(InputError, match="is not a backup that `thaw backup` wrote"):
        backup.restore(tmp_path / "notes.tar", tmp_path / "again")
    assert not (tmp_path / "again").exists()
