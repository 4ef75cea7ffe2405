"""Laws of versions, on a real git and DVC repository with three recorded trainings."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thaw.cli import app
from thaw.errors import InputError
from thaw.project import compare, mend, registry

ROOT = Path(__file__).resolve().parents[2]

PIPELINE = """\
stages:
  unfreeze:
    cmd:
      - mkdir -p artifacts/unfreeze/model artifacts/evaluate
      - cp model.txt artifacts/unfreeze/model/weights
      - cp metrics.txt artifacts/evaluate/metrics.json
    deps: [model.txt, metrics.txt, data]
    outs: [artifacts/unfreeze/model]
    metrics: [artifacts/evaluate/metrics.json: {cache: false}]
artifacts:
  classifier: {path: artifacts/unfreeze/model, type: model}
"""
LISTED = """\
outs: [artifacts/package]
    metrics: [artifacts/evaluate/metrics.json: {cache: false}]"""
OUTS = """\
outs: [artifacts/package/weights, artifacts/package/README.md]
    metrics: [artifacts/package/identity.json: {cache: false}, artifacts/evaluate/metrics.json: {cache: false}]"""


def git(folder: Path, *command: str) -> str:
    return subprocess.run(["git", *command], cwd=folder, check=True, text=True, capture_output=True).stdout.strip()


def dvc(folder: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def train(folder: Path, number: int) -> str:
    """Train model `number` and record it; the experiment's commit."""
    (folder / "model.txt").write_text(f"model {number}")
    (folder / "metrics.txt").write_text(json.dumps({"test_pictures": number}))
    dvc(folder, "repro", "-q")
    new = ("dvc.lock", "artifacts/evaluate/metrics.json")
    dvc(folder, "exp", "save", "-q", "-n", f"run-{number}", *(f"--include-untracked={path}" for path in new))
    return git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/run-{number}")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A repository that knows no user, and the commits of three experiments in it."""
    folder = tmp_path_factory.mktemp("recorded")
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    (folder / "data").mkdir()
    (folder / "data" / "picture.txt").write_text("a picture")
    dvc(folder, "add", "-q", "data")
    (folder / "dvc.yaml").write_text(PIPELINE)
    for name in ("model.txt", "metrics.txt"):
        (folder / name).touch()
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "start")
    return folder, [train(folder, number) for number in (1, 2, 3)]


@pytest.fixture
def repository(
    recorded: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    folder = Path(shutil.copytree(recorded[0], tmp_path / "repository", symlinks=True))
    monkeypatch.chdir(folder)
    return folder, recorded[1]


@pytest.fixture
def commits(repository: tuple[Path, list[str]]) -> list[str]:
    """The three experiments, registered and each put in use in turn."""
    for commit in repository[1]:
        version = registry.register(commit, f"recorded {commit[:7]}")
        registry.promote(version.name, "it is better")
    return repository[1]


def in_use() -> str:
    version = registry.in_use(registry.versions())
    assert version
    return version.name


def test_two_projects_in_one_repository_have_versions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q")
    for name in ("cells", "models/tiles"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        dvc(folder, "init", "-q", "--subdir")
        (folder / "dvc.yaml").write_text(PIPELINE)
        for file in ("model.txt", "metrics.txt", "data"):
            (folder / file).write_text(json.dumps({"of": name}))
        dvc(folder, "repro", "-q")
    git(tmp_path, "add", "--all", "--force", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "two projects")
    commit = git(tmp_path, "rev-parse", "HEAD")
    for name in ("cells", "models/tiles"):
        monkeypatch.chdir(tmp_path / name)
        version = registry.register(commit, f"of {name}")
        registry.promote(version.name, "it is good")
        assert (version.name, in_use()) == ("v1.0.0", "v1.0.0")
        assert [known.message for known in registry.versions()] == [f"of {name}"]
    assert git(tmp_path, "tag").split() == [
        f"{name}=classifier{kind}" for name in ("cells", "models/tiles") for kind in ("#prod#1", "@v1.0.0")
    ]
    dvc(tmp_path, "artifacts", "get", ".", registry.artifact(), "--stage", "prod", "--out", "brought")
    assert "models/tiles" in (tmp_path / "brought/weights").read_text()


def test_a_version_says_what_it_is(commits: list[str]) -> None:
    newest, middle, oldest = registry.versions()
    assert [newest.name, middle.name, oldest.name] == ["v3.0.0", "v2.0.0", "v1.0.0"]
    assert [oldest.commit, middle.commit, newest.commit] == commits
    assert [version.in_use for version in (newest, middle, oldest)] == [True, False, False]
    assert [version.metrics["test_pictures"] for version in (oldest, middle, newest)] == [1, 2, 3]
    assert newest.message == f"recorded {commits[2][:7]}"
    assert len(newest.data) == 7
    assert newest.model == registry.model_of(None) == registry.model_of(commits[2]) != oldest.model


def test_a_version_whose_commit_tells_nothing_of_it_is_one_all_the_same(
    repository: tuple[Path, list[str]], commits: list[str]
) -> None:
    folder = repository[0]
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "tag", "-am", "by hand", "classifier@v4.0.0", "HEAD")
    known = {version.name: version for version in registry.versions()}
    by_hand, newest = known["v4.0.0"], known["v3.0.0"]
    assert (by_hand.metrics, by_hand.model) == ({}, "")
    assert by_hand.data == newest.data
    assert (newest.metrics["test_pictures"], newest.model) == (3, registry.model_of(commits[2]))


def test_a_package_is_told_apart_by_its_identity_and_earlier_versions_stay_what_they_were(
    repository: tuple[Path, list[str]], commits: list[str]
) -> None:
    """From the day on which dvc.yaml names a package, and whatever else is written into it."""
    folder = repository[0]
    packaged = PIPELINE.replace("artifacts/unfreeze/model", "artifacts/package")
    cards = "      - cp metrics.txt artifacts/package/README.md\n      - cp model.txt artifacts/package/identity.json\n"
    packaged = packaged.replace("    deps:", f"{cards}    deps:").replace(LISTED, OUTS)
    (folder / "dvc.yaml").write_text(packaged)
    recorded = {}
    for name, identity, card in (("first", "a", 4), ("reworded", "a", 5), ("other", "b", 5)):
        (folder / "model.txt").write_text(json.dumps({"model": identity}))
        (folder / "metrics.txt").write_text(json.dumps({"test_pictures": card}))
        dvc(folder, "repro", "-q")
        made = ("dvc.lock", "artifacts/evaluate/metrics.json", "artifacts/package/identity.json")
        dvc(folder, "exp", "save", "-q", "-n", name, *(f"--include-untracked={path}" for path in made))
        recorded[name] = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}")
    before = registry.versions()
    first = registry.register(recorded["first"], "a package")
    assert (first.name, first.path, first.model) == ("v4.0.0", "artifacts/package", "a")
    assert registry.register(recorded["reworded"], "the same weights, another card") == first
    other = registry.register(recorded["other"], "other weights")
    assert (other.name, other.model) == ("v5.0.0", "b")
    assert registry.model_of(None) == "b"
    assert registry.versions()[2:] == before
    assert {version.path for version in before} == {"artifacts/unfreeze/model"}
    assert all(version.model for version in before)
    registry.promote("v5.0.0", "by hand")
    dvc(folder, "artifacts", "get", ".", "classifier", "--stage", "prod", "--out", str(folder / "taken"))
    assert json.loads((folder / "taken/identity.json").read_text()) == {"model": "b"}
    assert (folder / "taken/weights").is_file()


def test_a_model_registered_twice_is_one_version(repository: tuple[Path, list[str]]) -> None:
    folder, (first, second, _) = repository
    one = registry.register(first, "once")
    assert registry.register(first, "twice") == one
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "the same again")
    git(folder, "checkout", "-q", first, "--", "dvc.lock")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "the same model, another commit")
    assert registry.register("HEAD", "thrice") == one
    assert registry.register(second, "another").name == "v2.0.0"
    assert git(folder, "tag").splitlines() == ["classifier@v1.0.0", "classifier@v2.0.0"]


def test_a_version_is_not_in_use_before_it_is_promoted(repository: tuple[Path, list[str]]) -> None:
    registry.register(repository[1][0], "recorded")
    assert registry.in_use(registry.versions()) is None
    registry.promote("1.0.0", "by hand")
    assert in_use() == "v1.0.0"


def test_promoting_the_version_in_use_does_nothing(repository: tuple[Path, list[str]], commits: list[str]) -> None:
    before = git(repository[0], "tag")
    registry.promote("v3.0.0", "again")
    assert git(repository[0], "tag") == before


@pytest.mark.parametrize("point", ["_tag", "assign"])
@pytest.mark.parametrize("stage", ["prod", "waiting", None])
def test_a_version_that_was_to_be_in_use_or_to_wait_does_so_although_its_run_was_killed(
    repository: tuple[Path, list[str]], point: str, stage: str | None
) -> None:
    folder, (first, second, _) = repository
    code = f"""
import os, signal, sys
from thaw.project import registry
registry.enter({first!r}, "it is the first", registry.STAGE)
done = registry.{point}
registry.{point} = lambda *arguments: done(*arguments) or os.kill(os.getpid(), signal.SIGKILL)
registry.enter({second!r}, "it is better", {stage!r})
"""
    shutil.copy(ROOT / "params.yaml", folder)
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder)
    assert ended.returncode == (-signal.SIGKILL if stage or point == "_tag" else 0)
    mend.mend_if_idle()
    assert [version.name for version in registry.versions()] == ["v2.0.0", "v1.0.0"]
    assert in_use() == ("v2.0.0" if stage == "prod" else "v1.0.0")
    assert registry.find("v2.0.0").standing == (stage or "")
    registry.rollback() if stage == "prod" else None
    mend.mend()  # once is enough: what a person took back stays so
    assert in_use() == "v1.0.0"


def test_who_signs_commits_and_tags_gets_versions_without_being_asked(repository: tuple[Path, list[str]]) -> None:
    folder, commits = repository
    settings = {
        "commit.gpgSign": "true",
        "tag.gpgSign": "true",
        "tag.forceSignAnnotated": "true",
        "gpg.program": "false",
    }
    for key, value in settings.items():
        git(folder, "config", key, value)
    registry.enter(commits[0], "recorded", registry.STAGE)
    assert in_use() == "v1.0.0"


def thaw(*words: str) -> tuple[int, str]:
    ended = CliRunner().invoke(app, list(words))
    return ended.exit_code, ended.output


def test_a_version_that_waits_is_in_use_once_a_person_says_so_and_compared_again_if_another_one_is_by_then(
    repository: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, commits = repository
    shutil.copy(ROOT / "params.yaml", folder)
    monkeypatch.chdir(folder)
    for commit in commits:
        registry.enter(commit, "it is better", registry.WAITING)
    assert registry.in_use(registry.versions()) is None
    assert thaw("approve", "v1.0.0", "--note", "looks right") == (0, "v1.0.0 is in use\n")
    assert git(folder, "tag", "--list", "--format=%(subject)", "classifier#prod#4") == "approved: looks right"
    code, output = thaw("approve", "v1.0.0")
    assert code == 2
    assert "v1.0.0 waits for nobody, it was put in use; v3.0.0, v2.0.0 wait" in output
    assert thaw("reject", "3.0.0") == (0, "v3.0.0 was turned down\n")

    questions = []

    def again(version: registry.Version, champion: registry.Version, _: object) -> compare.Outcome:
        questions.append((version.name, champion.name))
        return compare.Outcome("compared", champion.name, False, "it loses 3 points", {}, [], {})

    monkeypatch.setattr(compare, "again", again)
    code, output = thaw("approve", "v2.0.0")
    assert (code, questions) == (1, [("v2.0.0", "v1.0.0")])
    assert output == "v2.0.0 was not put in use, meanwhile v1.0.0 came into use: it loses 3 points\n"
    standings = {version.name: version.standing for version in registry.versions()}
    assert standings == {"v1.0.0": "prod", "v2.0.0": "rejected", "v3.0.0": "rejected"}


def test_rolling_back_twice_goes_two_back_and_then_no_further(commits: list[str]) -> None:
    assert registry.rollback().name == in_use() == "v2.0.0"
    assert registry.rollback().name == in_use() == "v1.0.0"
    with pytest.raises(InputError, match=r"^no version was in use before v1\.0\.0$"):
        registry.rollback()
    assert in_use() == "v1.0.0"


def test_rollback_undoes_a_promotion_of_an_older_version(commits: list[str]) -> None:
    registry.promote("v1.0.0", "by hand")
    assert registry.rollback().name == "v3.0.0"
    registry.rollback()
    registry.promote("v1.0.0", "by hand")  # in use so far: v1, v2, v1
    assert registry.were_in_use() == ["v1.0.0", "v2.0.0", "v1.0.0"]
    assert [registry.rollback().name, registry.rollback().name] == ["v2.0.0", "v1.0.0"]
    assert registry.were_in_use() == ["v1.0.0"]


def test_an_unknown_version_is_one_sentence(commits: list[str]) -> None:
    with pytest.raises(InputError, match=r"^there is no version 'v9'; there are v1\.0\.0, v2\.0\.0, v3\.0\.0$"):
        registry.promote("v9", "by hand")
    assert in_use() == "v3.0.0"


@pytest.mark.parametrize("versioned", [True, False])
def test_without_a_version_nothing_is_in_use_and_each_way_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versioned: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if versioned:
        git(tmp_path, "init", "-q")
    assert registry.versions() == []
    assert registry.in_use(registry.versions()) is None
    with pytest.raises(InputError, match="thaw run --record"):
        registry.promote("v1.0.0", "by hand")
    with pytest.raises(InputError, match="no version is in use yet"):
        registry.rollback()
    with pytest.raises(InputError, match="holds no trained model"):
        registry.register("0123456789", "nothing there")


def test_dvc_and_gto_find_the_version_in_use_and_older_ones_offline(
    repository: tuple[Path, list[str]], commits: list[str], tmp_path: Path
) -> None:
    folder = repository[0]
    for name in ("run-1", "run-2", "run-3"):
        dvc(folder, "exp", "remove", "-q", name)
    git(folder, "reflog", "expire", "--expire=now", "--all")
    git(folder, "gc", "-q", "--prune=now")  # the tags alone keep the commits
    registry.rollback()
    dvc(folder, "artifacts", "get", ".", "classifier", "--stage", "prod", "--out", str(tmp_path / "in use"))
    dvc(folder, "artifacts", "get", ".", "classifier", "--rev", "v1.0.0", "--out", str(tmp_path / "older"))
    assert (tmp_path / "in use" / "weights").read_bytes() == b"model 2"
    assert (tmp_path / "older" / "weights").read_bytes() == b"model 1"
    gto = [str(Path(sys.executable).parent / "gto"), "show", "--json"]
    shown = json.loads(subprocess.run(gto, cwd=folder, check=True, capture_output=True, env=os.environ).stdout)
    assert shown["classifier"]["version"] == "v3.0.0"
    assert shown["classifier"]["stage"] == {"prod": "v2.0.0"}


def test_the_commands_show_and_change_what_is_in_use(
    repository: tuple[Path, list[str]], commits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    (repository[0] / "params.yaml").touch()

    def thaw(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, done.output

    code, shown = thaw("models")
    assert code == 0
    for number, commit in enumerate(commits, start=1):
        assert f"v{number}.0.0" in shown
        assert commit[:7] in shown
    assert [version["in_use"] for version in json.loads(thaw("models", "--json")[1])] == [True, False, False]
    brings = "is in use: `dvc artifacts get . classifier --stage prod` brings it\n"
    assert thaw("promote", "v1.0.0") == (0, f"v1.0.0 {brings}")
    assert thaw("rollback") == (0, f"v3.0.0 {brings}")
    code, sentence = thaw("promote", "v4.0.0")
    assert code == 2
    assert sentence.startswith("error: there is no version 'v4.0.0'; there are ")
    for tag in git(repository[0], "tag").splitlines():
        git(repository[0], "tag", "-d", tag)
    assert thaw("models") == (0, f"{registry.FIRST}\n")
