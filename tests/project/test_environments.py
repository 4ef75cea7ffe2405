"""Laws of environments: a project runs with the thaw and the packages that its recipe names."""

import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from thaw import __version__
from thaw.cli import app
from thaw.errors import InputError
from thaw.project import recipe
from thaw.project.environments import python_for

# Stands in for uv: notes its arguments, and makes a folder with a Python in it.
UV = """#!/bin/sh
echo "$@" >>"$UV_CALLS"
if [ "$1" = venv ]; then for folder; do :; done; mkdir -p "$folder/bin" && touch "$folder/bin/python"; fi
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What uv was called with, a line for each call; the project is `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).touch()
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "uv").write_text(UV)
    (programs / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("UV_CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def made_with(project: Path, thaw: str, pillow: str) -> None:
    (project / "thaw.yaml").write_text(f"thaw: {thaw}\nversions:\n  pillow: {pillow}\n  torch:\n")


def test_the_python_that_has_the_versions_of_the_recipe_is_used_as_it_is(calls: Path, tmp_path: Path) -> None:
    made_with(tmp_path, __version__, str(recipe.installed("pillow")))
    assert python_for(tmp_path) == Path(sys.executable)
    assert not calls.exists()


def test_other_versions_get_an_environment_that_is_made_once_and_anew_after_an_upgrade(
    calls: Path, tmp_path: Path
) -> None:
    (tmp_path / "thaw-0.0.1.whl").touch()
    made_with(tmp_path, "0.0.1", "9.0")
    python = python_for(tmp_path, "thaw-0.0.1.whl")
    assert python.is_relative_to(tmp_path)
    venv, install = calls.read_text().splitlines()
    assert venv.startswith("venv ")
    assert install.endswith(f"--python {python} {tmp_path}/thaw-0.0.1.whl pillow==9.0")
    assert python_for(tmp_path, "thaw-0.0.1.whl") == python
    assert len(calls.read_text().splitlines()) == 2
    made_with(tmp_path, "0.0.1", "9.1")
    assert python_for(tmp_path, "thaw-0.0.1.whl") != python


def test_an_environment_whose_installation_failed_is_not_used(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with(tmp_path, "0.0.1", "9.0")
    uv = tmp_path / "programs/uv"
    uv.write_text(UV + '[ "$1" = venv ]\n')
    with pytest.raises(RuntimeError):
        python_for(tmp_path, "thaw-vision")
    uv.write_text(UV)
    python_for(tmp_path, "thaw-vision")
    assert len(calls.read_text().splitlines()) == 4


def test_without_uv_and_without_a_wheel_a_sentence_says_what_is_needed(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with(tmp_path, "0.0.1", "9.0")
    with pytest.raises(InputError, match=r"made with thaw 0\.0\.1, .*name the wheel of 0\.0\.1 with --from"):
        python_for(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"there is no uv to install them: install uv"):
        python_for(tmp_path, "thaw-vision")


def test_a_worker_runs_with_what_its_project_names(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_with(tmp_path, "0.0.1", "9.0")
    executed: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: executed.append(arguments))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    refused = CliRunner().invoke(app, ["worker", "fleet", "--from", "thaw-vision"])
    assert refused.exit_code == 2
    assert "set PREFECT_API_URL" in refused.stderr
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert CliRunner().invoke(app, ["worker", "fleet", "--from", "thaw-vision"]).exit_code == 0
    ((python, *arguments),) = executed
    assert Path(python).is_relative_to(tmp_path)
    assert arguments == ["-m", "prefect", "worker", "start", "--pool", "fleet", "--limit", "1"]
