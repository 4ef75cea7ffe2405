"""The installed product: a wheel outside the repository, two projects, one server, an upgrade."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import pytest
from children import call, git

ROOT = Path(__file__).resolve().parents[1]
IN_EVERY_PROJECT = runpy.run_path(str(ROOT / "tests/test_pipeline.py"))
draw, QUICK = IN_EVERY_PROJECT["draw"], IN_EVERY_PROJECT["QUICK"]
pytestmark = [pytest.mark.server, pytest.mark.slow]
PHASES = ("prepare", "embed", "head", "unfreeze", "evaluate", "package", "report")


def build(source: Path, out: Path) -> Path:
    """The wheel of a copy of this repository."""
    call(source, sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out))
    return next(out.glob("*.whl"))


def copied(folder: Path) -> Path:
    """What a wheel is built from, in a folder of its own."""
    names = ("thaw", "tasks", "flows", "docs/project.md", "tests/test_pipeline.py", "LICENSE", "NOTICE", "data.dvc")
    files = ("pyproject.toml", "params.yaml", "dvc.yaml", "thaw.yaml", "prefect.yaml", ".gitignore", ".dvcignore")
    for name in (*names, *files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


class Installation:
    """An environment outside the repository with this one's dependencies, and thaw from a wheel."""

    # of all of them; their commands are forked from warm processes too
    folders: ClassVar[list[str]] = []

    def __init__(self, folder: Path) -> None:
        bare = ["--without-pip"] if self.folders else []  # the pip of the first one does for all
        self.folders.append(str(folder))
        self.bin = folder / "bin"
        self.wheels: list[Path] = []
        call(folder.parent, sys.executable, "-m", "venv", *bare, str(folder))
        site = next(folder.glob("lib/python*/site-packages"))
        # Only the packages: thaw itself is here by a .pth file, which Python does not read in this
        # place.
        (site / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT / 'tests/support/site'}\n")
        # A path on which there is no Python, no dvc and no prefect, and thaw only where it is
        # exposed.
        self.path = folder.with_name(f"path of {folder.name}")
        self.path.mkdir()
        (self.path / "git").symlink_to(str(shutil.which("git")))

    def expose(self, script: str) -> None:
        """Put a script of the environment on the path, as `uv tool install` and pipx do."""
        (entry_point,) = entry_points(group="console_scripts", name=script)
        code = f"#!{self.bin}/python\nimport sys\nfrom {entry_point.module} import {entry_point.attr}\n"
        if not (self.bin / script).exists():
            (self.bin / script).write_text(f"{code}sys.exit({entry_point.attr}())\n")
            (self.bin / script).chmod(0o755)
        (self.path / script).symlink_to(self.bin / script)

    def install(self, wheel: Path) -> None:
        self.wheels = [*self.wheels, wheel]
        pip = (f"{self.folders[0]}/bin/python", "-m", "pip", "--python", str(self.bin / "python"))
        flags = ("--no-deps", "--no-index", "--force-reinstall", "--no-compile")
        call(self.bin, *pip, "--disable-pip-version-check", "install", "--quiet", *flags, str(wheel))

    def thaw(self, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command by its place, as somebody whose path has little."""
        return self.run(folder, str(self.bin / "thaw"), *arguments)

    def run(self, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        environment |= {"THAW_WARM_PREFIX": os.pathsep.join(self.folders), "PATH": str(self.path)}
        return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)

    def well(self, folder: Path, *arguments: str) -> str:
        done = self.thaw(folder, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("product")
    installed = Installation(folder / "environment")
    installed.install(build(copied(folder / "source"), folder / "dist"))
    return installed


def small(folder: Path, seed: int) -> None:
    """Drawn pictures and settings that train in seconds."""
    draw(folder / "data", 16)
    text = (folder / "params.yaml").read_text()
    for key, value in (QUICK | {"seed": str(seed)}).items():
        text = re.sub(rf"^( *{key}:) +\S+", rf"\1 {value}", text, count=0 if key == "epochs" else 1, flags=re.MULTILINE)
    text = re.sub(r"^(  name:) \S+(.*\n  weights:) \S+", r"\1 squeezenet1_1\2 random", text, flags=re.MULTILINE)
    (folder / "params.yaml").write_text(text)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory, installation: Installation, server: str) -> list[Path]:
    """Two projects in folders with spaces and umlauts, each run once against the same server."""
    folder = tmp_path_factory.mktemp("two projects")
    made = []
    for number, name in enumerate(("Kacheln für alle", "cells")):
        installation.well(folder, "init", name)
        made.append(folder / name)
        small(made[-1], number)
        git(made[-1], "add", "--all")
        git(made[-1], "commit", "--quiet", "--message", "a project")
        output = installation.well(folder, "-C", name, "run", *(["--record"] if number else []))
        assert ", ".join(PHASES) in output
        git(made[-1], "add", "--all")
        git(made[-1], "commit", "--quiet", "--message", "first results")
    return made


def test_every_file_of_an_installed_project_is_one_of_this_repository(projects: list[Path]) -> None:
    for name in ("dvc.yaml", "tasks/prepare.py", "tasks/report.py", "flows/retrain.py", "tests/test_pipeline.py"):
        assert (projects[0] / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_second_run_finds_nothing_to_do_and_leaves_the_tree_clean(
    installation: Installation, projects: list[Path]
) -> None:
    assert "nothing new: every phase is Cached" in installation.well(projects[0] / "tasks", "run")
    assert git(projects[0], "status", "--short") == ""


def test_dvc_repro_runs_with_what_uv_and_pipx_put_on_the_path(installation: Installation, projects: list[Path]) -> None:
    """`thaw run` needs nothing on the path: all tests here call it by its place."""
    answer = installation.run(
        projects[0],
        str(installation.bin / "python"),
        "-c",
        "import shutil; print(*map(shutil.which, ('thaw', 'dvc', 'python')))",
    )
    assert answer.stdout == "None None None\n"
    for script in ("thaw", "dvc"):
        installation.expose(script)
    done = installation.run(projects[0], str(installation.path / "dvc"), "repro", "--force", "--single-item", "report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "> thaw phase report\n" in done.stdout
    assert git(projects[0], "status", "--short") == "", "the same bytes"


def test_a_project_made_by_the_wheel_and_this_repository_give_the_same_bytes(
    projects: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pipeline, data and settings, run by the code of this repository, unforked too.

    Forks of one process share the seed of Python's hashes and of numpy's global generator; nothing
    may hang on them.
    """
    monkeypatch.delenv("THAW_WARM")
    folder = tmp_path / "same"
    folder.mkdir()
    for name in ("tasks", "data"):
        shutil.copytree(projects[0] / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml", "thaw.yaml", "data.dvc", ".dvcignore"):
        shutil.copy(projects[0] / name, folder)
    call(folder, "dvc", "init", "-q", "--no-scm")
    call(folder, "dvc", "repro", "-q")
    for phase in PHASES:
        for file in sorted((projects[0] / "artifacts" / phase).rglob("*")):
            if file.is_file() and file.name != ".gitignore":
                other = folder / file.relative_to(projects[0])
                assert other.read_bytes() == file.read_bytes(), file


def test_a_phase_is_added_as_the_documents_say(installation: Installation, projects: list[Path]) -> None:
    task, settings, stage = (
        block for block in re.findall(r"```\w+\n(.*?)```", (ROOT / "docs/add-a-phase.md").read_text(), re.DOTALL)
    )
    folder = projects[0]
    (folder / "tasks/duplicates.py").write_text(task)
    stages = (folder / "dvc.yaml").read_text()
    (folder / "dvc.yaml").write_text(stages.replace("\nartifacts:\n", f"\n{stage}artifacts:\n"))
    missing = installation.thaw(folder, "run")
    assert missing.returncode == 2
    assert "'duplicates' is missing; add it" in missing.stderr
    params = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(params + settings.replace("bits: 3", "bits: none"))
    mistyped = installation.thaw(folder, "run")
    assert mistyped.returncode == 2
    assert "'duplicates.bits' is 'none', which is not allowed" in mistyped.stderr
    (folder / "params.yaml").write_text(params + settings)
    refused = installation.thaw(folder, "run")
    assert refused.returncode == 2
    line = re.search(r"add to its params: `- thaw.yaml: \[(.*)\]`", refused.stderr)
    assert line
    lines = "".join(f"          - {key}\n" for key in ["code.duplicates", *line[1].split(", ")])
    listed = (folder / "dvc.yaml").read_text().replace("          - code.duplicates\n", lines)
    (folder / "dvc.yaml").write_text(listed)
    assert "did duplicates\n" in installation.well(folder, "run")
    assert (folder / "artifacts/duplicates/pairs.csv").read_text().startswith("path,looks_like\n")
    assert "nothing new" in installation.well(folder, "run")


def test_after_an_upgrade_exactly_the_phases_run_again_whose_code_changed(
    installation: Installation, projects: list[Path], tmp_path: Path
) -> None:
    source = copied(tmp_path / "source")
    (source / "thaw/__init__.py").write_text('"""thaw."""\n\n__version__ = "9.0"\n')
    page = source / "thaw/report/page.py"
    page.write_text(page.read_text() + "\n# a change\n")
    params = source / "params.yaml"
    params.write_text(
        params.read_text().replace("\nretrain: ", "\nretrain:  # changed").replace("retries: 2", "retries: 3")
    )
    installation.install(build(source, tmp_path / "dist"))
    refused = installation.thaw(projects[1], "run")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: this project was made with thaw 0.1.0, and 9.0 is installed: `thaw upgrade`"
    )
    shown = installation.well(projects[1], "upgrade")
    assert "run again: report\n" in shown
    assert git(projects[1], "status", "--short") == ""
    installation.well(projects[1], "upgrade", "--apply")
    assert "did report\n" in installation.well(projects[1], "run")
    assert "  retries: 2 " in (projects[1] / "params.yaml").read_text()


def test_a_version_from_before_the_upgrade_is_reproduced_to_the_byte(
    installation: Installation, projects: list[Path], tmp_path: Path
) -> None:
    """Runs after the test above; makes the old environment by hand: uv would download it all."""
    assert installation.well(projects[1], "--version") == "thaw 9.0\n"
    refused = installation.thaw(projects[1], "reproduce", "v1.0.0", "--out", str(tmp_path / "refused"))
    assert refused.returncode == 2
    assert "was made with thaw 0.1.0" in refused.stderr
    then = Installation(tmp_path / "then")
    then.install(installation.wheels[0])
    out = tmp_path / "as it was"
    output = installation.well(
        projects[1], "reproduce", "1.0.0", "--out", str(out), "--environment", str(then.bin.parent)
    )
    outputs = [line for line in output.splitlines() if line.startswith(("the same bytes", "other bytes"))]
    assert len(outputs) > 10
    assert output.splitlines()[-1] == f"{len(outputs)} of {len(outputs)} outputs are the same bytes"
    assert (out / ".thaw/made").is_dir()
