"""Laws of changed settings: all or none; those of a run end with it; the user's edits stay."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from children import thaw

from thaw.errors import InputError
from thaw.project import mend, overrides, settings
from thaw.project.lock import only_retraining

ROOT = Path(__file__).resolve().parents[2]
CHANGES = ["unfreeze.epochs=4", "prepare.resolution=96", "class_weights=balanced"]
KILLED = """
import os, signal, sys
from thaw.project import overrides
from thaw.project.lock import only_retraining
with only_retraining("the killed"), overrides.for_this_run(sys.argv[1:]):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a project."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.fixture
def killed(params: Path) -> Path:
    """The same after a run with settings of its own was killed."""
    ended = subprocess.run([sys.executable, "-c", KILLED, *CHANGES], cwd=params.parent)
    assert ended.returncode == -signal.SIGKILL
    assert settings.read(params).unfreeze.epochs == 4
    return params


def test_settings_of_a_run_are_there_while_it_lasts_and_gone_to_the_byte_after_it(params: Path) -> None:
    before = params.read_bytes()
    for error in (None, KeyboardInterrupt, RuntimeError):
        try:
            with overrides.for_this_run(CHANGES):
                read = settings.read(params)
                assert (read.unfreeze.epochs, read.prepare.resolution, read.class_weights) == (4, 96, "balanced")
                assert "# a number, or auto: 8" in params.read_text()
                if error:
                    raise error
        except (KeyboardInterrupt, RuntimeError):
            assert error
        assert params.read_bytes() == before
        assert not overrides.JOURNAL.file.exists()


def test_changes_that_stay_stay(params: Path) -> None:
    overrides.write(CHANGES)
    with overrides.for_this_run(["unfreeze.epochs=2"]):
        assert settings.read(params).unfreeze.epochs == 2
    read = settings.read(params)
    assert (read.unfreeze.epochs, read.prepare.resolution) == (4, 96)


def test_what_the_user_edits_during_a_run_stays(params: Path) -> None:
    with overrides.for_this_run(CHANGES):
        text = params.read_text().replace("  epochs: 4 ", "  epochs: 6 ").replace("  ratio: 10 ", "  ratio: 30 ")
        params.write_text(f"{text}# a note of mine\n")
    read = settings.read(params)
    # both are the user's edits
    assert (read.unfreeze.epochs, read.unfreeze.ratio) == (6, 30)
    assert (read.prepare.resolution, read.class_weights) == (160, "none")  # the run's
    assert params.read_text().endswith("# a note of mine\n")


def test_a_file_that_is_half_edited_waits_for_its_other_half(params: Path) -> None:
    with overrides.for_this_run(CHANGES):
        half = params.read_text().replace("  ratio: 10 ", "  ratio: [30 ")
        params.write_text(half)
    assert params.read_text() == half
    with pytest.raises(InputError, match=r"params\.yaml is not valid YAML"):
        mend.mend_if_idle()
    params.write_text(half.replace("[30", "30"))
    mend.mend_if_idle()
    read = settings.read(params)
    assert (read.unfreeze.ratio, read.unfreeze.epochs, read.prepare.resolution) == (30, "auto", 160)


def test_any_command_takes_back_what_a_killed_run_left(killed: Path) -> None:
    assert thaw(killed.parent, "models").returncode == 0
    assert killed.read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert not overrides.JOURNAL.file.exists()


def test_what_the_user_edits_after_a_kill_stays(killed: Path) -> None:
    killed.write_text(killed.read_text().replace("  ratio: 10 ", "  ratio: 30 "))
    mend.mend_if_idle()
    read = settings.read(killed)
    assert (read.unfreeze.ratio, read.unfreeze.epochs) == (30, "auto")


def test_nobody_takes_the_settings_of_a_run_back_while_it_or_its_training_lives(killed: Path) -> None:
    with only_retraining("the training that outlived it"):
        mend.mend_if_idle()
    assert settings.read(killed).unfreeze.epochs == 4


@pytest.mark.parametrize("point", ["overrides.replace", "pathlib.Path.unlink"])
def test_a_kill_while_settings_are_written_or_taken_back_leaves_nothing_to_take_back(params: Path, point: str) -> None:
    before = params.read_bytes()
    code = f"""
import os, pathlib, signal, sys
from thaw.project import overrides
done = {point}
def kill(*arguments, **named):
    if overrides.JOURNAL.file.is_file():
        os.kill(os.getpid(), signal.SIGKILL)
    return done(*arguments, **named)
{point} = kill
with overrides.for_this_run(sys.argv[1:]):
    pass
"""
    ended = subprocess.run([sys.executable, "-c", code, *CHANGES], cwd=params.parent)
    assert ended.returncode == -signal.SIGKILL
    assert overrides.JOURNAL.file.exists()
    mend.mend_if_idle()
    assert params.read_bytes() == before
    assert not overrides.JOURNAL.file.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["backbone.name=resnet51"], "unknown backbone 'resnet51'; the nearest are "),
        (
            ["backbone.name=resnet50", "backbone.weights=IMAGENET1K_V9"],
            "unknown weights 'IMAGENET1K_V9' for resnet50; allowed are random, IMAGENET1K_V1, IMAGENET1K_V2",
        ),
        (["backbone.weights=nowhere.pt"], "unknown weights 'nowhere.pt' for efficientnet_lite0; allowed are random"),
        (["backbone.weights=notes.txt"], "notes.txt cannot be read as weights"),
        (["backbone.name=vit_b_16", "backbone.weights=random", "prepare.resolution=100"], "vit_b_16 cannot take pict"),
        (["unfreeze.blocks=[features.99]"], "unfreeze.blocks names 'features.99', which is no block of this backbone"),
        (["unfreeze.blocks=99"], "unfreeze.blocks is 99, but the backbone has"),
        (["unfreeze.ratoi=3"], "the nearest that exists is 'unfreeze.ratio'"),
    ],
)
def test_nothing_is_written_unless_all_of_it_is_valid(params: Path, changes: list[str], sentence: str) -> None:
    before = params.read_bytes()
    (params.parent / "notes.txt").write_text("no weights")
    with pytest.raises(InputError, match=re.escape(sentence)):
        overrides.write(["seed=7", *changes])
    with pytest.raises(InputError, match=re.escape(sentence)), overrides.for_this_run(["seed=7", *changes]):
        pass
    assert params.read_bytes() == before
    assert not overrides.JOURNAL.file.exists()


def test_valid_backbones_are_taken_without_their_weights_being_brought(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", os.devnull)
    for name, weights in (("resnet50", "IMAGENET1K_V2"), ("regnet_y_400mf", "random 1"), ("vit_b_16", "DEFAULT")):
        overrides.write([f"backbone.name={name}", f"backbone.weights={weights}", "prepare.resolution=null"])
        assert settings.read(params).backbone.name == name
