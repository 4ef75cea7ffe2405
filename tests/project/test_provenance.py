"""Laws of provenance: DVC's run cache knows every setting, and what a cache restores is checked."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import importing
from ruamel.yaml import YAML

from thaw.project import provenance, reasons, settings
from thaw.project.stage import repro

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def params(stage: str) -> list[str]:
    """The settings that a stage lists; the recipe is another file."""
    return [entry for entry in STAGES[stage]["params"] if isinstance(entry, str)]


def keys_of(stage: str) -> Iterator[str]:
    """Every setting that a stage depends on, such as `unfreeze.ratio`."""
    for key in settings.all_keys():
        if any(f"{key}.".startswith(f"{param}.") for param in params(stage)):
            yield key


@pytest.fixture(scope="module")
def run_cache_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What DVC itself asks its run cache for, by stage, where a setting has some value."""
    from dvc.repo import Repo
    from dvc.stage.cache import _get_stage_hash

    folder = tmp_path_factory.mktemp("repo")
    yaml = YAML(typ="safe")
    stages = {
        name: {"cmd": "true", "deps": ["picture"], "params": params(name), "outs": [f"out-{name}"]}
        for name, stage in STAGES.items()
    }
    yaml.dump({"stages": stages}, folder / "dvc.yaml")
    (folder / "picture").write_text("pixels")
    repo = Repo.init(str(folder), no_scm=True)

    def key(name: str, setting: str, value: Any) -> str:
        values = yaml.load(ROOT / "params.yaml")
        *sections, last = setting.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
        yaml.dump(values, folder / "params.yaml")
        repo._reset()
        stage = repo.stage.load_one(name=name)
        stage.save_deps()
        return str(_get_stage_hash(stage))

    before = Path.cwd()
    os.chdir(folder)
    yield key
    os.chdir(before)
    repo.close()


@pytest.mark.parametrize("stage", STAGES)
def test_dvcs_run_cache_never_answers_for_another_value_of_a_setting(run_cache_key: Any, stage: str) -> None:
    deaf = [key for key in keys_of(stage) if run_cache_key(stage, key, "one") == run_cache_key(stage, key, "other")]
    assert deaf == []


# -------------------------------------------------------------------------- what a cache gives back


RECIPE = """
stages:
  prepare:
    cmd: python phases.py prepare
    deps: [data]
    params: [prepare]
    outs: [artifacts/prepare, artifacts/provenance/prepare.json]
  embed:
    cmd: python phases.py embed
    deps: [artifacts/prepare]
    params: [embed]
    outs: [artifacts/embed, artifacts/provenance/embed.json]
"""
PHASES = """
import sys
from pathlib import Path
from ruamel.yaml import YAML
from thaw.project import phase, settings, workspace

def write(name, *lines):
    with phase.outputs(name) as folder:
        (folder / "text").write_text(" ".join(map(str, lines)))

def prepare(chosen):
    write("prepare", chosen.prepare.resolution, (workspace.root() / "data/picture").read_text())

def embed(chosen):
    write("embed", (workspace.root() / "artifacts/prepare/text").read_text())

phase.start(globals()[sys.argv[1]])
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose phases write text, run by a real DVC: at 160 pixels, then at 64."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data").mkdir()
    (folder / "data/picture").write_text("pixels")
    (folder / "dvc.yaml").write_text(RECIPE)
    (folder / "phases.py").write_text(PHASES)
    shutil.copy(ROOT / "params.yaml", folder)
    dvc(folder, "init", "-q", "--no-scm")
    dvc(folder, "add", "-q", "data")
    for pixels in (160, 64):
        resolution(folder, pixels)
        assert dvc(folder, "repro").returncode == 0
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which tasks take for their workspace."""
    folder = Path(shutil.copytree(trained, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mixed_up(project: Path) -> Path:
    """The same with a faulty cache: it always restores what was made at 160 pixels."""
    yaml = YAML(typ="safe")
    files = [path for path in (project / ".dvc/cache/runs").rglob("*") if path.is_file()]
    entries = {path: yaml.load(path) for path in files}
    at_160 = {entry["cmd"]: entry["outs"] for entry in entries.values() if _is_of(entry, 160, entries)}
    for path, entry in entries.items():
        yaml.dump(entry | {"outs": at_160[entry["cmd"]]}, path)
    return project


def _is_of(entry: dict[str, Any], pixels: int, entries: dict[Path, dict[str, Any]]) -> bool:
    """Whether an entry of the run cache is of prepare at so many pixels, or of embed after it."""
    if "prepare" in entry["cmd"]:
        return bool(entry["params"]["params.yaml"]["prepare"]["resolution"] == pixels)
    made = next(other["outs"] for other in entries.values() if "prepare" in other["cmd"] and _is_of(other, pixels, {}))
    return bool(entry["deps"][0]["md5"] == made[0]["md5"])


def dvc(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = os.environ | {"PATH": path, "PYTHONPATH": importing(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


def resolution(project: Path, pixels: int) -> None:
    settings.override([f"prepare.resolution={pixels}"], project / "params.yaml")


def run_all(monkeypatch: pytest.MonkeyPatch, project: Path) -> list[str]:
    """What DVC did in the end about each phase, as `thaw run` has it."""
    monkeypatch.setenv("PYTHONPATH", importing(ROOT))
    return [str(repro(phase, on_line=lambda line: None)) for phase in ("prepare", "embed")]


def results(project: Path) -> set[str]:
    return {(project / f"artifacts/{phase}/text").read_text() for phase in ("prepare", "embed")}


def test_what_fits_is_cached_and_restored_as_dvc_has_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reasons.changed() == {}
    assert run_all(monkeypatch, project) == ["Cached", "Cached"]
    resolution(project, 160)
    assert run_all(monkeypatch, project) == ["Restored", "Restored"]
    assert results(project) == {"160 pixels"}


def test_what_a_cache_gives_back_is_not_used_if_it_was_made_with_other_settings(
    mixed_up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolution(mixed_up, 160)
    assert run_all(monkeypatch, mixed_up) == ["Restored", "Restored"]
    resolution(mixed_up, 64)
    assert run_all(monkeypatch, mixed_up) == ["Completed", "Completed"]
    assert results(mixed_up) == {"64 pixels"}


def test_what_plain_dvc_restored_is_found_by_the_next_run_and_refused_by_the_next_phase(mixed_up: Path) -> None:
    resolution(mixed_up, 160)
    assert dvc(mixed_up, "repro").returncode == 0
    resolution(mixed_up, 64)
    assert "is cached" in dvc(mixed_up, "repro").stdout
    assert results(mixed_up) == {"160 pixels"}
    assert dvc(mixed_up, "status", "-q").returncode == 0  # DVC has no doubt
    assert reasons.changed() == {"prepare": ["it was made with prepare.resolution 160, and 64 is asked for"]}

    settings.override(["embed.batch_size=3"], mixed_up / "params.yaml")
    refused = dvc(mixed_up, "repro")
    assert refused.returncode != 0
    assert (
        "error: embed cannot use what prepare left: it was made with prepare.resolution 160, and 64 is asked for; "
        "`thaw run` makes it anew, and so does `dvc repro --force --single-item prepare`"
    ) in refused.stdout + refused.stderr
    assert dvc(mixed_up, "repro", "--force", "--single-item", "prepare").returncode == 0
    assert dvc(mixed_up, "repro").returncode == 0
    assert results(mixed_up) == {"64 pixels"}


def test_outputs_made_from_other_inputs_or_without_a_record_do_not_fit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = project / "artifacts/provenance/embed.json"
    record.write_text(record.read_text().replace(".dir", "0.dir"))
    assert dvc(project, "commit", "--force", "embed").returncode == 0
    assert reasons.changed() == {"embed": ["it was made from another artifacts/prepare"]}
    record.write_bytes(b"")  # by a power cut
    assert provenance.misfits()["embed"] == [
        "artifacts/provenance/embed.json, which says what it was made with, is damaged"
    ]
    record.unlink()
    assert provenance.misfits()["embed"] == ["no artifacts/provenance/embed.json says what it was made with"]
    assert run_all(monkeypatch, project) == ["Cached", "Completed"]
    assert provenance.misfits() == {}


def test_a_record_hashes_files_and_folders_as_dvc_does(project: Path) -> None:
    (project / "artifacts/prepare/b").mkdir()
    for name in ("b/1", "b/0", "b0", "a"):
        (project / "artifacts/prepare" / name).write_text(name)
    assert dvc(project, "commit", "--force", "prepare").returncode == 0
    outs = YAML(typ="safe").load(project / "dvc.lock")["stages"]["prepare"]["outs"]
    assert {out["path"]: out["md5"] for out in outs} == {
        path: provenance.hash_of(path) for path in ("artifacts/prepare", "artifacts/provenance/prepare.json")
    }
