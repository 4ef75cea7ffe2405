"""Laws of the README: every command, setting and path that it names exists."""

import re
import shutil
from pathlib import Path
from typing import Any

import packages
import pytest

from thaw.cli import app
from thaw.project import settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SECTIONS = {key.split(".")[0] for key in settings.all_keys() if "." in key}


def test_every_setting_named_in_the_readme_exists() -> None:
    named = {key for key in re.findall(r"\b([a-z]+\.[a-z_]+)\b", README) if key.split(".")[0] in SECTIONS}
    named = {key for key in named if not key.endswith((".py", ".csv", ".html", ".json", ".md"))}
    assert named >= {"unfreeze.ratio", "prepare.resolution", "backbone.weights"}
    assert named - set(settings.all_keys()) == set()


def test_every_command_of_thaw_named_in_the_readme_exists() -> None:
    commands = {command.callback.__name__ for command in app.registered_commands if command.callback}
    named = set(re.findall(r"(?:`|`\.venv/bin/|^    )thaw ([a-z]+)", README, re.MULTILINE))
    assert {"run", "data"} <= named <= commands


def test_every_make_target_named_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^ +)make ([a-z-]+)", README, re.MULTILINE))
    assert {"run", "test", "ui", "check"} <= named <= targets


def test_every_place_in_the_tree_exists_and_every_top_folder_is_in_it() -> None:
    tree = README.split("## The house")[1].split("## ")[0]
    top = re.findall(r"^    ([\w./]+) {2,}", tree, re.MULTILINE)
    folder = ""
    for line in tree.splitlines():
        if result := re.match(r"^    (\S+) ", line):
            folder = result[1]
            assert folder == "artifacts/" or (ROOT / folder).exists(), folder
        elif result := re.match(r"^      (\S+) ", line):
            assert (ROOT / folder / result[1]).exists(), folder + result[1]
    assert {"thaw/", "tasks/", "flows/", "tests/", "params.yaml", "dvc.yaml", "data.dvc"} <= set(top)


def test_every_setting_is_explained_in_its_file() -> None:
    """Each line with a value has a comment, or is plain by its name."""
    plain = {"batch_size", "learning_rate", "weight_decay"}
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if result := re.match(r"^ +(\w+): \S", line):
            assert "#" in line or result[1] in plain, line


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny model in place of the one in use."""
    packaged = packages.make(tmp_path / "packaged")
    shutil.copytree(packaged.pictures, tmp_path / "photographs")
    shutil.copy(packaged.pictures / "noise" / "0.png", tmp_path / "one.jpg")
    (tmp_path / "photographs" / "broken.png").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace('load("prod")', f"load({str(packaged.folder)!r})"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 18
    assert "broken.png cannot be read: it is no picture" in lines[0]
    assert {"photographs/stripes/0.png is stripes", "photographs/noise/1.png is noise"} & set(lines)
    assert names["vectors"].shape == (1, 1024)
