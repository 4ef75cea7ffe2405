"""Laws of removal: no copy of a withdrawn picture is left anywhere, and what lost it says so."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from children import git
from typer.testing import CliRunner

from thaw.cli import app, pictures
from thaw.data import manifest
from thaw.errors import InputError
from thaw.project import mend, models, registry, reproduce, withdraw
from thaw.project.withdraw import Holder

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = """\
stages:
  prepare:
    cmd:
      - mkdir -p artifacts/prepare
      - (echo decoded && cat data/images/*) > artifacts/prepare/pictures.npy
      - cp manifest.txt artifacts/prepare/manifest.csv
    deps: [data]
    outs: [artifacts/prepare]
  embed:
    cmd: mkdir -p artifacts/embed && (echo features && cat data/images/*) > artifacts/embed/train.npy
    deps: [artifacts/prepare]
    outs: [artifacts/embed]
  report:
    cmd:
      - mkdir -p artifacts/report
      - cat data/images/* | tee artifacts/report/mistakes.png > artifacts/report/report.html
    deps: [artifacts/embed]
    outs: [artifacts/report/report.html]
    plots: [artifacts/report/mistakes.png]
  package:
    cmd:
      - mkdir -p artifacts/package && cat data/images/* > artifacts/package/unlike.safetensors
      - cd artifacts/package && echo a model > weights.safetensors && echo '{"model":"1"}' > identity.json
    deps: [artifacts/embed]
    outs: [artifacts/package/weights.safetensors, artifacts/package/unlike.safetensors]
    metrics: [artifacts/package/identity.json: {cache: false}]
artifacts:
  classifier: {path: artifacts/package, type: model}
"""
SECRET = b"what patient 17 looks like"


def dvc(folder: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def where_it_is(folder: Path) -> list[str]:
    files = [file for file in folder.rglob("*") if file.is_file() and ".git" not in file.parts]
    return sorted(file.relative_to(folder).as_posix() for file in files if SECRET in file.read_bytes())


def files_of_the_first() -> set[str]:
    with models.files(registry.find("v1.0.0")) as folder:
        return {file.name for file in folder.iterdir()}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A version that learned from a patient's pictures; copies in cache, remote and archive."""
    folder = tmp_path / "project"
    (folder / "data" / "images").mkdir(parents=True)
    rows = []
    for number in range(6):
        content = SECRET if number in (2, 5) else f"picture {number}".encode()
        path = f"images/{number}.png"
        (folder / "data" / path).write_bytes(content)
        rows.append((path, "ab"[number % 2], "17" if number in (2, 3) else "4", "test" if number > 3 else "train"))
    table = pd.DataFrame(rows, columns=["path", "label", "patient", "split"])
    manifest.write_table(table.drop(columns="split"), folder / "data" / "labels.csv")
    manifest.write_table(table[["path", "split"]], folder / "data" / "splits.csv")
    hashes = [manifest.content_hash(folder / "data" / path) for path in table["path"]]
    manifest.write_table(manifest.complete(table.assign(hash=hashes), ["a", "b"]), folder / "manifest.txt")
    (folder / "archive" / "taken").mkdir(parents=True)
    (folder / "archive" / "taken" / "new.png").write_bytes(SECRET)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (folder / "dvc.yaml").write_text(PIPELINE)
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-q", "-d", "storage", str(tmp_path / "remote"))
    monkeypatch.chdir(folder)
    dvc(folder, "add", "-q", "data")
    dvc(folder, "repro", "-q")
    dvc(folder, "push", "-q")
    git(folder, "add", "data.dvc", "dvc.lock", "dvc.yaml", ".dvc/config", "artifacts/package/identity.json")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    registry.register("HEAD", "the first")
    return folder


def test_a_withdrawn_patient_is_found_nowhere_and_its_versions_say_so(project: Path, tmp_path: Path) -> None:
    assert len(where_it_is(tmp_path)) > 8
    pictures = withdraw.select([], "patient=17")
    assert [picture.path for picture in pictures] == ["images/2.png", "images/3.png", "images/5.png"]
    assert withdraw.holders(pictures)[0] == Holder("v1.0.0", 3, 2)
    assert list(withdraw.places(pictures)) == [
        "DVC's cache holds 3 of them",
        "the archive holds 2 of them",
        "the DVC remote holds 3 of them",
    ]
    assert withdraw.is_reproducible("v1.0.0")
    withdraw.withdraw(pictures, purge=True)
    assert where_it_is(tmp_path) == []
    assert list(withdraw.places(pictures)) == []
    left = manifest.read_folder(project / "data")
    assert list(left["path"]) == ["images/0.png", "images/1.png", "images/4.png"]
    dvc(project, "status", "data.dvc")
    assert files_of_the_first() == {"identity.json", "weights.safetensors"}
    with pytest.raises(InputError, match=r"v1\.0\.0 cannot be reproduced"):
        reproduce.reproduce("v1.0.0", tmp_path / "again", None, None)


def test_a_model_that_was_only_tested_on_a_picture_keeps_its_features(project: Path) -> None:
    sentences = withdraw.withdraw(withdraw.select(["images/4.png"], None), purge=True)
    assert not any("unlike" in sentence for sentence in sentences)
    assert "unlike.safetensors" in files_of_the_first()
    sentences = withdraw.withdraw(withdraw.select(["images/1.png"], None), purge=True)
    assert any("went from the packages of v1.0.0" in sentence for sentence in sentences)
    assert not (project / "artifacts/package/unlike.safetensors").exists()


def test_without_purge_earlier_states_stay_whole(project: Path, tmp_path: Path) -> None:
    withdraw.withdraw(withdraw.select(["data/images/3.png"], None), purge=False)
    assert not (project / "data/images/3.png").exists()
    dvc(project, "get", "-q", ".", "data", "--rev", "HEAD", "--out", str(tmp_path / "before"))
    assert (tmp_path / "before/images/3.png").read_bytes() == b"picture 3"
    assert withdraw.is_reproducible("v1.0.0")


@pytest.mark.parametrize("step", ["pin", "remote", "cache"])
def test_a_removal_that_was_killed_is_ended_by_whoever_comes_next(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    ask, delete, deleted = withdraw.ask, withdraw._delete, []

    def kill_at_remote(*arguments: str, on_line: Any) -> Any:
        return ask(*arguments, on_line=on_line) if "--look" in arguments else kill()

    def kill_in_cache(file: Path) -> bool:
        deleted.append(file)
        return kill() if len(deleted) > 4 else delete(file)  # type: ignore[func-returns-value]

    with monkeypatch.context() as patch:
        patch.setattr(
            *{
                "pin": (withdraw.pin, "write", kill),
                "remote": (withdraw, "ask", kill_at_remote),
                "cache": (withdraw, "_delete", kill_in_cache),
            }[step]
        )
        with pytest.raises(Killed):
            withdraw.withdraw(withdraw.select([], "patient=17"), purge=True)
    assert where_it_is(tmp_path)
    mend.mend()
    assert where_it_is(tmp_path) == []
    assert not withdraw.JOURNAL.file.exists()


def test_what_a_model_learned_from_is_known_after_a_removal_too(project: Path) -> None:
    withdraw.withdraw(withdraw.select([], "patient=17"), purge=True)
    assert withdraw.holders(withdraw.select(["images/0.png"], None))[0] == Holder("v1.0.0", 1, 1)


def test_while_the_remote_is_away_nothing_is_purged_and_what_it_holds_is_not_known(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "remote").rename(tmp_path / "away")
    purged = CliRunner().invoke(app, ["remove", "images/3.png", "--purge", "--yes"])
    assert purged.exit_code == 2
    assert "nothing was ever sent there: --purge needs it" in purged.output
    assert (project / "data/images/3.png").exists()
    removed = CliRunner().invoke(app, ["remove", "images/3.png", "--yes"])
    assert removed.exit_code == 0
    assert "or nothing was ever sent there, so what it holds is not known" in removed.output
    assert not (project / "data/images/3.png").exists()


def test_a_clone_whose_cache_lacks_earlier_versions_finds_and_removes_what_the_remote_has_of_them(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_forget", lambda hashes: None)
    (project / "data" / "images" / "1.png").write_bytes(b"another picture")
    dvc(project, "add", "-q", "data")
    dvc(project, "repro", "-q")
    dvc(project, "push", "-q")
    shutil.rmtree(project / ".dvc" / "cache")
    dvc(project, "pull", "-q")
    removed = CliRunner().invoke(app, ["remove", "--where", "patient=17", "--purge", "--yes"])
    assert removed.exit_code == 0
    assert "v1.0.0 holds 3 of them, its model learned from 2" in removed.output
    assert where_it_is(tmp_path) == []


def test_pages_in_the_ui_go_first_so_that_a_removal_that_was_killed_leaves_none(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], bool]] = []
    monkeypatch.setattr(pictures, "_forget", lambda hashes: asked.append((hashes, withdraw.JOURNAL.file.exists())))
    data = registry.find("v1.0.0").data
    assert CliRunner().invoke(app, ["remove", "images/3.png", "--purge", "--yes"]).exit_code == 0
    assert asked == [([data], False)]
    assert CliRunner().invoke(app, ["remove", "images/2.png", "--yes"]).exit_code == 0
    assert len(asked) == 1, "what is not purged is shown on"
    assert not (project / "data/images/2.png").exists()


def test_a_mistake_is_one_sentence(project: Path) -> None:
    for paths, where, sentence in (
        ([], None, "say which pictures"),
        (["images/9.png"], None, "'images/9.png' is no picture of data/"),
        ([], "patient", "write COLUMN=VALUE with one of the columns label, patient, split"),
        ([], "patient=18", "no picture has patient '18'; there are 17, 4"),
        (["images"], None, "nothing would be left to train on"),
    ):
        with pytest.raises(InputError, match=sentence):
            withdraw.select(paths, where)
