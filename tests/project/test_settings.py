"""Laws of settings: one file with all defaults, one sentence for a mistake."""

import re
import shutil
from pathlib import Path

import pytest

from thaw.errors import InputError
from thaw.project import settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml"))


def test_every_key_of_the_file_is_known_and_every_known_key_is_in_the_file(file: Path) -> None:
    read = settings.read(file).model_dump()
    flat = [f"{name}.{key}" for name, value in read.items() if isinstance(value, dict) for key in value]
    flat += [name for name, value in read.items() if not isinstance(value, dict)]
    assert sorted(flat) == sorted(settings.all_keys())


def test_defaults_are_in_the_file_alone() -> None:
    for section in (settings.Settings, *settings.Section.__subclasses__()):
        assert all(field.is_required() for field in section.model_fields.values()), section


def test_default_ratio_keeps_the_pretrained_features() -> None:
    assert 10 <= settings.read(ROOT / "params.yaml").unfreeze.ratio <= 100


def test_phase_2_keeps_its_last_epoch_unless_asked_for_another() -> None:
    assert settings.read(ROOT / "params.yaml").unfreeze.keep == "last"


def test_settings_cannot_be_changed_after_reading(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.read(file).unfreeze.ratio = 3  # type: ignore[misc]


def test_override_writes_the_value_and_keeps_every_comment(file: Path) -> None:
    before = file.read_text()
    settings.override(
        ["unfreeze.ratio=30", "unfreeze.blocks=[features.8, features.7.0]", "prepare.resolution=null"], file
    )
    read = settings.read(file)
    assert (read.unfreeze.ratio, read.prepare.resolution) == (30, None)
    assert read.unfreeze.blocks == ["features.8", "features.7.0"]
    comments = re.compile(r"#.*")
    assert comments.findall(file.read_text()) == comments.findall(before)


@pytest.mark.parametrize("blocks", ["all", "gradual", 3, "first 3", ["features.8"]])
def test_blocks_are_all_or_gradual_or_the_last_or_the_first_or_named(file: Path, blocks: object) -> None:
    settings.override([f"unfreeze.blocks={blocks}"], file)
    assert settings.read(file).unfreeze.blocks == blocks


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("unfreeze.ratoi=30", "unknown key 'unfreeze.ratoi'; the nearest that exists is 'unfreeze.ratio'"),
        ("prepare.size=96", "--set: 'prepare.size' is called 'prepare.resolution' now; rename it"),
        (
            "unfreeze.patience=4",
            "--set: 'unfreeze.patience' is gone: phase 2 always runs all its epochs; take the line",
        ),
        ("ratio=30", "unknown key 'ratio'; the nearest that exists is 'unfreeze.ratio'"),
        ("unfreeze.precision=half", "input should be 'float32' or 'bfloat16'"),
        ("unfreeze.draws=0", "'unfreeze.draws' is 0, which is not allowed: input should be greater than or equal to 1"),
        ("unfreeze.ratio=high", "'unfreeze.ratio' is 'high', which is not allowed: input should be a valid number"),
        ("unfreeze.ratio=0", "'unfreeze.ratio' is 0, which is not allowed: input should be greater than 0"),
        ("unfreeze.epochs=2.5", "'unfreeze.epochs' is 2.5, which is not allowed"),
        ("unfreeze.ratio=.inf", "'unfreeze.ratio' is inf, which is not allowed: input should be a finite number"),
        ("unfreeze.layer_decay=0", "'unfreeze.layer_decay' is 0, which is not allowed: input should be greater than 0"),
        ("unfreeze.layer_decay=2", "should be less than or equal to 1"),
        ("unfreeze.batchnorm=adapted", "input should be 'frozen', 'adapt' or 'train'"),
        ("unfreeze.blocks=some", "use all, gradual, a number of last blocks, first N, or a list of names"),
        ("unfreeze.blocks=first 0", "'unfreeze.blocks' is 'first 0', which is not allowed: use all, gradual, a number"),
        ("unfreeze.blocks=0", "'unfreeze.blocks' is 0, which is not allowed: use all, gradual, a number of last"),
        ("unfreeze.blocks=[]", "'unfreeze.blocks' is [], which is not allowed: use all, gradual, a number of last"),
        ("unfreeze.blocks=[8, 9]", "'unfreeze.blocks' is [8, 9], which is not allowed: use all, gradual, a number"),
        ("resources.device=gpu", "input should be 'auto', 'cpu', 'cuda' or 'mps'"),
        ("resources.precision=half", "input should be 'auto', 'float32' or 'bfloat16'"),
        ("resources.compile=yes", "input should be 'auto', 'always' or 'never'"),
        ("resources.processes=0", "'resources.processes' is 0, which is not allowed: input should be greater than or"),
        ("prepare.val=0.8", "leave nothing to train on"),
        ("prepare.hold_out=3.10", "looks like something else stands in quotes: --set 'prepare.hold_out=\"TEXT\"'"),
        ("prepare.hold_out=2026-11-30", "looks like something else stands in quotes: --set 'prepare.hold_out="),
        ("seed=007", "'seed' is '007', which is not allowed: input should be a valid integer"),
        ("promote.by=cost", "--set: promote.by is cost and promote.costs names none; write what mistakes cost by the"),
        ("promote.costs={a: {b: -1}}", "'promote.costs' is -1, which is not allowed: input should be greater than or"),
        (
            "promote.costs={a: {a: 1}}",
            "--set: promote.costs has a cost of 'a' for a picture of 'a', which is no mistake",
        ),
        ("promote.costs=10", "'promote.costs' is 10, which is not allowed"),
        ("unfreeze=3", "'unfreeze' is 3, which is not allowed"),
        ("unfreeze.ratio", "is not a setting; write key=value"),
        ("seed=[1", "is not a value for seed"),
    ],
)
def test_a_wrong_override_is_one_sentence_and_writes_nothing(file: Path, change: str, sentence: str) -> None:
    before = file.read_bytes()
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        settings.override(["seed=7", change], file)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("007", "007"), ('"3.10"', "3.10"), ("Oslo", "Oslo")])
def test_a_value_held_out_is_the_one_that_was_written(file: Path, text: str, value: str | int) -> None:
    settings.override(["prepare.split_by=site", f"prepare.hold_out={text}"], file)
    assert settings.read(file).prepare.hold_out == value


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  ratio: 10 ", "  ration: 10 ", "params.yaml: unknown key 'unfreeze.ration'"),
        ("  resolution: ", "  size: ", "params.yaml: 'prepare.size' is called 'prepare.resolution' now; rename it"),
        (
            "  warmup: ",
            "  patience: 4\n  warmup: ",
            "params.yaml: 'unfreeze.patience' is gone: phase 2 always runs all",
        ),
        ("seed: 0 ", "# ", "params.yaml: 'seed' is missing"),
        ("  epochs:", "  epochs: [", "params.yaml is not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence(file: Path, old: str, new: str, sentence: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=re.escape(sentence)) as caught:
        settings.read(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bring it back with `git checkout params\.yaml`"):
        settings.read(tmp_path / "params.yaml")
