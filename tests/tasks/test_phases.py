"""Laws of the phases, run as DVC runs them, on tiny pictures and a tiny budget."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from safetensors.numpy import load_file
from tuning import fine_tuning
from warm import environment, python

from tasks import unfreeze
from thaw.data import manifest
from thaw.data.manifest import labels_of, read_manifest
from thaw.data.pictures import Normaliser, Pictures, Shape
from thaw.formats import percent
from thaw.learning import checkpoint, processes
from thaw.learning.backbones import Preprocessing, create
from thaw.learning.prediction import predict
from thaw.learning.training import FineTuning, enough_epochs
from thaw.model.model import Model
from thaw.project import settings
from thaw.project.settings import Settings
from thaw.statistics.metrics import calibration_error
from thaw.statistics.records import joined

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("prepare", "embed", "head", "unfreeze", "evaluate", "package", "report")
SMALL = {
    "name: efficientnet_lite0": "name: shufflenet_v2_x0_5",
    "weights: IMAGENET1K_V1": "weights: random",
    "resolution: 160": "resolution: 32",
    "max_epochs: 100": "max_epochs: 4",
    "  epochs: auto ": "  epochs: 2 ",
    "views: square": "views: flip",
}


def make_workspace(folder: Path, seed: int = 0) -> Path:
    """Class folders with 24 pictures each: stripes and noise."""
    random = np.random.default_rng(seed)
    for label in ("noise", "stripes"):
        (folder / "data" / label).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 150, (40, 48, 3), dtype=np.uint8)
            if label == "stripes":
                pixels[::4] += 100
            Image.fromarray(pixels).save(folder / "data" / label / f"{number}.png")
    text = (ROOT / "params.yaml").read_text()
    for old, new in SMALL.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    return folder


def run(folder: Path, *phases: str) -> subprocess.CompletedProcess[str]:
    """Run phases one after the other in one process, as commands of the workspace."""
    code = "import runpy, sys\nfor phase in sys.argv[1:]: runpy.run_module(f'tasks.{phase}', run_name='__main__')"
    return execute(folder, code, *phases)


def execute(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of the workspace."""
    return python(folder, code, *arguments, path=ROOT)


def files_under(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every phase has run."""
    folder = make_workspace(tmp_path_factory.mktemp("finished"))
    done = run(folder, *PHASES)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / ".dvc/tmp/thaw")  # a phase that runs again has to train again
    return folder


def test_neither_the_start_nor_the_end_of_a_phase_searches_what_was_imported_for_garbage() -> None:
    code = (
        "import atexit, gc, tasks.head\n"
        "print(gc.get_stats()[2]['collections'])\n"  # of old objects
        "atexit._run_exitfuncs()\n"
        "print(len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def figures_of(workspace: Path) -> dict[str, Any]:
    """All figures of evaluate."""
    folder = workspace / "artifacts" / "evaluate"
    return joined(*(json.loads((folder / f"{name}.json").read_text()) for name in ("metrics", "details")))


def test_same_seed_gives_byte_identical_artifacts(finished: Path, tmp_path: Path) -> None:
    again = make_workspace(tmp_path)
    assert run(again, *PHASES).returncode == 0
    first, second = files_under(finished / "artifacts"), files_under(again / "artifacts")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_test_pictures_change_nothing_before_evaluate(finished: Path, copied: Path) -> None:
    rows = pd.read_csv(copied / "artifacts/prepare/manifest.csv")
    pictures = np.load(copied / "artifacts/prepare/pictures.npy")
    pictures[rows["split"] == "test"] = 0
    np.save(copied / "artifacts/prepare/pictures.npy", pictures)
    assert run(copied, "embed", "head", "unfreeze", "evaluate").returncode == 0
    before, after = files_under(finished / "artifacts"), files_under(copied / "artifacts")
    changed = {name for name in before if before[name] != after[name]}
    assert {name.split("/")[0] for name in changed} == {"prepare", "evaluate"}
    assert "evaluate/forgetting.csv" not in changed
    first, second = (
        joined(*(json.loads(files[f"evaluate/{name}.json"]) for name in ("metrics", "details")))
        for files in (before, after)
    )
    for name in ("head", "finetuned"):
        assert first[name]["ece"] != second[name]["ece"]
        assert first[name]["temperature"] == second[name]["temperature"]
        points = [metrics["operating"][name] for metrics in (first, second)]
        assert points[0] == points[1] or points[0]["threshold"] == points[1]["threshold"]


def test_training_starts_from_the_model_in_use_and_not_from_one_that_learned_from_test_pictures(copied: Path) -> None:
    shutil.rmtree(copied / ".dvc")
    shutil.copytree(ROOT / "tasks", copied / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "thaw.yaml", ".gitignore"):
        shutil.copy(ROOT / name, copied)
    provenance = copied / "artifacts/provenance"
    provenance.mkdir(exist_ok=True)
    for name in ("prepare", "package"):
        (provenance / f"{name}.json").touch()
    code = """
import subprocess, sys
from thaw.project import recipe, registry, settings
for command in (
    "git init -q", "dvc init -q", "dvc add -q data", "dvc commit --force prepare package", "git add --all",
    "git -c user.name=a -c user.email=a@b commit -qm first",
):
    program = [sys.executable, "-m"] * command.startswith("dvc") + command.split()
    subprocess.run(program, check=True, stdout=sys.stderr)
registry.register("HEAD", "the first")
registry.promote("v1.0.0", "by hand")
settings.override(["backbone.weights=prod"])
print(recipe.refresh()["weights"][1] == registry.find("v1.0.0").model)
"""
    done = execute(copied, code)
    assert done.stdout == "True\n", done.stderr
    shutil.rmtree(provenance)
    in_use = load_file(copied / "artifacts/package/weights.safetensors")
    done = run(copied, "prepare", "embed", "head", "unfreeze")
    assert done.returncode == 0, done.stderr
    meta = json.loads((copied / "artifacts/head/model/meta.json").read_text())
    started = load_file(copied / "artifacts/head/model/weights.safetensors")
    assert meta["folded"]
    assert started.keys() == in_use.keys()
    backbone = [name for name in started if name.startswith("backbone.")]
    assert all((started[name] == in_use[name]).all() for name in backbone)
    assert any((started[name] != in_use[name]).any() for name in started if name not in backbone)

    settings.override(["unfreeze.batchnorm=adapt"], copied / "params.yaml")
    done = run(copied, "prepare")
    assert done.returncode == 2
    assert "unfreeze.batchnorm cannot be adapt: use frozen" in done.stderr
    settings.override(["unfreeze.batchnorm=frozen", "prepare.seed=1"], copied / "params.yaml")
    done = run(copied, "prepare")
    assert done.returncode == 2
    assert "backbone.weights is prod, which learned from" in done.stderr


def test_metrics_say_what_the_predictions_say(finished: Path) -> None:
    metrics = figures_of(finished)
    predictions = pd.read_csv(finished / "artifacts/evaluate/predictions.csv")
    assert metrics["test_pictures"] == len(predictions)
    for name in ("head", "finetuned"):
        right = predictions[f"{name}_prediction"] == predictions["label"]
        assert metrics[name]["accuracy"] == pytest.approx(right.mean())
        columns = [f"{name}_p_noise", f"{name}_p_stripes"]
        p = predictions[columns].to_numpy()
        assert p.sum(axis=1) == pytest.approx(1)
        labels = (predictions["label"] == "stripes").to_numpy().astype(int)
        uncalibrated = p ** metrics[name]["temperature"]
        uncalibrated /= uncalibrated.sum(axis=1, keepdims=True)
        for key, output in (("ece", p), ("ece_uncalibrated", uncalibrated)):
            assert metrics[name][key] == pytest.approx(calibration_error(output, labels))
        if point := metrics["operating"][name]:
            called = p[:, 1] >= point["threshold"]
            assert point["recall"]["value"] == pytest.approx(called[labels == 1].mean())
    gain = metrics["gain"]
    assert gain["accuracy"] == pytest.approx(metrics["finetuned"]["accuracy"] - metrics["head"]["accuracy"])
    assert gain["low"] <= gain["accuracy"] <= gain["high"]


def test_checkpoints_name_where_they_come_from(finished: Path) -> None:
    head, tuned = (
        json.loads((finished / f"artifacts/{phase}/model/meta.json").read_text()) for phase in ("head", "unfreeze")
    )
    assert head["parent"] is None
    assert len(tuned["parent"]) == 64
    assert head["data"] == tuned["data"]
    assert tuned["classes"] == ["noise", "stripes"]
    assert tuned["params"]["unfreeze"]["ratio"] >= 10


def test_pictures_over_the_budget_are_decoded_on_the_fly_with_the_same_result(finished: Path, copied: Path) -> None:
    text = (copied / "params.yaml").read_text()
    (copied / "params.yaml").write_text(text.replace("cache_gb: 4.0", "cache_gb: 0.0"))
    shutil.rmtree(copied / "artifacts")
    assert run(copied, *PHASES[:4]).returncode == 0
    assert not (copied / "artifacts/prepare/pictures.npy").exists()
    weights = "artifacts/unfreeze/model/weights.safetensors"
    assert (copied / weights).read_bytes() == (finished / weights).read_bytes()


def test_outputs_of_frozen_blocks_change_no_byte_whether_they_are_kept_or_not(copied: Path) -> None:
    settings.override(["unfreeze.blocks=2", "unfreeze.draws=1"], copied / "params.yaml")
    weights = []
    for gigabytes in (4, 0):
        settings.override([f"resources.activations_gb={gigabytes}"], copied / "params.yaml")
        shutil.rmtree(copied / ".dvc/tmp/thaw", ignore_errors=True)
        done = run(copied, "unfreeze")
        assert done.returncode == 0, done.stderr
        assert ("outputs of frozen blocks" in done.stdout) == (gigabytes > 0)
        weights.append((copied / "artifacts/unfreeze/model/weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_two_processes_come_to_the_same_results_and_write_them_once(finished: Path, copied: Path) -> None:
    """embed as torchrun starts it, the other phases as `resources.processes` does."""
    for name in ("embed", "unfreeze", "evaluate"):
        shutil.rmtree(copied / "artifacts" / name)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tasks.embed"]
    subprocess.run(
        [sys.executable, "-m", *torchrun],
        cwd=copied,
        env=os.environ | environment(ROOT),
        check=True,
        capture_output=True,
    )
    change("processes: 1 ", "processes: 2 ")(copied)
    done = run(copied, "unfreeze", "evaluate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2: training loss") == 1
    assert files_under(copied / "artifacts").keys() == files_under(finished / "artifacts").keys()
    for name in ("embed/train.npy", "embed/val.npy"):
        ours, theirs = (np.load(folder / "artifacts" / name) for folder in (finished, copied))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for name in ("unfreeze/history.csv", "evaluate/predictions.csv"):
        ours, theirs = (pd.read_csv(folder / "artifacts" / name) for folder in (finished, copied))
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4)
    ours, theirs = (load_file(f / "artifacts/unfreeze/model/weights.safetensors") for f in (finished, copied))
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-5)


def test_a_carriage_return_in_a_file_name_leaves_every_label_with_its_pixels(copied: Path) -> None:
    rename = copied / "data/noise/3.png"
    rename.rename(rename.with_name("3\r.png"))
    done = run(copied, "prepare", "embed", "head")
    assert done.returncode == 0, done.stderr
    rows = manifest.read_manifest(copied / "artifacts/prepare/manifest.csv")
    assert sorted(rows["path"]) == sorted(name.removeprefix("data/") for name in files_under(copied) if "data/" in name)
    assert (rows["path"].str.split("/").str[0] == rows["label"]).all()


def link_a_class(folder: Path) -> None:
    (folder / "data/noise").rename(folder / "noise")
    (folder / "data/noise").symlink_to(folder / "noise")


def link_a_picture(folder: Path) -> None:
    (folder / "data/noise/3.png").rename(folder / "3.png")
    (folder / "data/noise/3.png").symlink_to(folder / "3.png")


def lose_a_row(folder: Path) -> None:
    table = folder / "artifacts/prepare/manifest.csv"
    table.write_bytes(b"".join(table.read_bytes().splitlines(keepends=True)[:-1]))


def shift_labels(folder: Path) -> None:
    table = folder / "artifacts/prepare/manifest.csv"
    table.write_text(table.read_text().replace("noise,0.0", "stripes,1.0", 1))


def lose_a_picture(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "artifacts" / name
        np.save(file, np.load(file)[:-1])

    return edit


def break_pictures(folder: Path) -> None:
    for number in (1, 2, 3, 4):
        (folder / f"data/noise/{number}.png").write_bytes(b"no picture")


def forget_the_data(folder: Path) -> None:
    shutil.rmtree(folder / "data")


def leave_a_small_class(folder: Path) -> None:
    for number in range(4, 24):
        (folder / f"data/noise/{number}.png").unlink()


def change(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / "params.yaml").read_text()
        assert old in text
        (folder / "params.yaml").write_text(text.replace(old, new))

    return edit


def train_batchnorm_in_two_processes(folder: Path) -> None:
    change("batchnorm: frozen", "batchnorm: train")(folder)
    change("processes: 1 ", "processes: 2 ")(folder)


@pytest.mark.parametrize(
    ("phase", "mistake", "sentence"),
    [
        ("prepare", break_pictures, "cannot be read: noise/1.png (it is no picture of an allowed format"),
        ("prepare", forget_the_data, "there is no folder"),
        ("prepare", leave_a_small_class, "class 'noise' has 4 pictures, too few; add pictures until it has 10"),
        ("prepare", change("name: shufflenet_v2_x0_5", "name: shuflenet"), "unknown backbone 'shuflenet'"),
        ("prepare", change("  ratio:", "  rate:"), "unknown key 'unfreeze.rate'"),
        ("embed", change("weights: random", "weights: IMAGENET9"), "unknown weights 'IMAGENET9'"),
        ("unfreeze", change("blocks: all", "blocks: 99"), "unfreeze.blocks is 99, but the backbone has 18 blocks: use"),
        ("unfreeze", change("blocks: all", "blocks: first 99"), "first 1 to first 18"),
        ("unfreeze", change("blocks: all", "blocks: [conv9]"), "'conv9', which is no block of this backbone; nearest"),
        ("embed", change("processes: 1 ", "processes: 9999 "), "resources.processes is 9999, but this machine has"),
        ("unfreeze", train_batchnorm_in_two_processes, "is train and resources.processes 2, which needs GPUs: use one"),
        ("unfreeze", change("  ratio: 10 ", "  ratio: 0 "), "'unfreeze.ratio' is 0, which is not allowed"),
        ("prepare", link_a_class, "data/noise is a link to the folder"),
        ("prepare", link_a_picture, "data/noise/3.png is a link to"),
        ("embed", lose_a_row, "manifest.csv is not the one that prepare wrote; make it anew with `dvc repro"),
        ("head", shift_labels, "manifest.csv is not the one that prepare wrote"),
        ("unfreeze", lose_a_picture("prepare/pictures.npy"), "manifest.csv has 48 rows for 47 decoded pictures; make"),
        ("evaluate", lose_a_row, "manifest.csv is not the one that prepare wrote"),
        ("head", lose_a_picture("embed/train.npy"), "train.npy has features of 27 pictures for the 28 in train; make"),
        ("head", lose_a_picture("embed/val.npy"), "val.npy has features of 7 pictures for the 8 in val; make"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_two_and_nothing_half_written(
    copied: Path, phase: str, mistake: Callable[[Path], None], sentence: str
) -> None:
    mistake(copied)
    shutil.rmtree(copied / "artifacts" / phase)
    before = files_under(copied / "artifacts")
    done = run(copied, phase)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert files_under(copied / "artifacts") == before


@pytest.mark.parametrize("phase", ["head", "unfreeze"])
def test_a_training_that_diverged_is_one_sentence_exit_code_two_and_nothing_half_written(
    copied: Path, phase: str
) -> None:
    change("  ratio: 10 ", "  ratio: 1e-30 ")(copied)
    features = np.load(copied / "artifacts/embed/train.npy")
    np.save(copied / "artifacts/embed/train.npy", np.full_like(features, np.inf))
    shutil.rmtree(copied / "artifacts" / phase)
    before = files_under(copied / "artifacts")
    done = run(copied, phase)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: phase {1 if phase == 'head' else 2} diverged: after epoch 1 ")
    assert files_under(copied / "artifacts") == before


def test_few_pictures_get_more_epochs_and_a_head_without_phase_1_the_full_rate(copied: Path) -> None:
    changes = {"  epochs: 2 ": "  epochs: auto ", "  batch_size: 32": "  batch_size: 4", "_ratio: 1 ": "_ratio: 10 "}
    for old, new in changes.items():
        change(old, new)(copied)
    done = run(copied, "unfreeze")
    assert done.returncode == 0, done.stderr
    train = (pd.read_csv(copied / "artifacts/prepare/manifest.csv")["split"] == "train").sum()
    epochs = enough_epochs(int(train), 4)
    steps = (train + 2) // 4  # a last batch of one picture is dropped
    assert (epochs - 1) * steps < 300 <= epochs * steps
    assert f"{epochs} epochs, learning rates: head 0.0001, backbone 0.0001" in done.stdout
    assert json.loads((copied / "artifacts/unfreeze/metrics.json").read_text())["epochs"] == epochs
    for old, new in (("  epochs: auto ", "  epochs: 1 "), ("max_epochs: 4", "max_epochs: 0")):
        change(old, new)(copied)
    done = run(copied, "head", "unfreeze")
    assert done.returncode == 0, done.stderr
    assert "1 epoch, learning rates: head 0.001, backbone 0.0001" in done.stdout


def test_a_network_that_says_one_class_is_a_warning(copied: Path) -> None:
    change("  ratio: 10 ", "  ratio: 1e-3 ")(copied)
    done = run(copied, "unfreeze", "evaluate")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warning: the network calls every validation picture '") == 1
    details = json.loads((copied / "artifacts/evaluate/details.json").read_text())
    predictions = pd.read_csv(copied / "artifacts/evaluate/predictions.csv")
    for network in ("head", "finetuned"):
        predicted = predictions[f"{network}_prediction"].unique().tolist()
        assert details[network]["only_class"] == (predicted[0] if len(predicted) == 1 else None)
    assert details["finetuned"]["only_class"] is not None


def test_unfreeze_says_what_it_does_and_warns_of_a_ratio_outside_10_to_100(copied: Path) -> None:
    for old, new in (
        ("blocks: all", "blocks: gradual"),
        ("  ratio: 10 ", "  ratio: 5 "),
        ("layer_decay: 1.0", "layer_decay: 0.8"),
        ("batchnorm: frozen", "batchnorm: adapt"),
    ):
        change(old, new)(copied)
    shutil.rmtree(copied / "artifacts/unfreeze")
    done = run(copied, "unfreeze", "evaluate")
    assert done.returncode == 0, done.stderr
    for line in (
        "18 blocks unfrozen: conv1 to conv5, evenly over the epochs, the last one first",
        "2 epochs, learning rates: head 0.001, backbone 0.0002, 0.8 times as much in each block before the last",
        "warning: unfreeze.ratio is 5, outside 10 to 100: pretrained features may be overwritten",
    ):
        assert line in done.stdout
    assert "BatchNorm statistics" in done.stdout
    meta = json.loads((copied / "artifacts/unfreeze/model/meta.json").read_text())
    assert meta["folded"] is True


def test_prepare_warns_of_labels_that_contradict_their_targets_and_refuses_the_wrong_positive_class(
    copied: Path,
) -> None:
    paths = sorted(path.relative_to(copied / "data").as_posix() for path in (copied / "data").rglob("*.png"))
    targets = {"noise": 0.1, "stripes": 0.9}
    rows = [f"{path},{path.split('/')[0]},{targets[path.split('/')[0]]}" for path in paths]
    rows[0] = rows[0].replace("0.1", "0.75")
    (copied / "data/labels.csv").write_text("\n".join(["path,label,target", *rows]))
    done = run(copied, "prepare")
    assert done.returncode == 0, done.stderr
    assert (
        "warning: label and target contradict each other in 1 of 48 pictures, such as noise/0.png (noise, 0.75)"
        in done.stdout
    )
    change("  positive: ", "  positive: noise ")(copied)
    done = run(copied, "prepare")
    assert done.returncode == 2
    assert "prepare.positive is 'noise', with a mean target of 0.127; that of 'stripes' is 0.9" in done.stderr


def test_another_loss_is_used_as_the_documents_say(copied: Path, finished: Path) -> None:
    """The example of docs/learning.md, put into a project's own tasks/unfreeze.py."""
    section = (ROOT / "docs/learning.md").read_text().split("## Use another loss")[1].split("\n## ")[0]
    (loss,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (arguments,) = re.findall(r" +loss_fn=.*\n +criterion=.*\n", section)
    shutil.rmtree(copied / ".dvc")
    shutil.copytree(ROOT / "tasks", copied / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    file = copied / "tasks/unfreeze.py"
    text, passed = re.subn(r" +loss_fn=.*\n +criterion=.*\n", arguments, file.read_text())
    text = text.replace("import Objective, cross_entropy, lowest_loss", "import Criterion, Objective")
    text = text.replace("\ndef unfreeze(", f"\n{loss}\n\ndef unfreeze(")
    file.write_text(text)
    assert passed == 1
    change("keep: last ", "keep: best ")(copied)
    done = run(copied, "unfreeze")
    assert done.returncode == 0, done.stderr
    ours, theirs = (pd.read_csv(f / "artifacts/unfreeze/history.csv") for f in (copied, finished))
    assert not np.allclose(ours["train_loss"][1:], theirs["train_loss"][1:])
    metrics = json.loads((copied / "artifacts/unfreeze/metrics.json").read_text())
    assert metrics["val_focal_loss"] == ours["val_focal_loss"].min()
    assert ours["val_loss"][0] == theirs["val_loss"][0]  # the figure that all trainings share


STOPPED = """
import runpy, sys
from thaw.learning import scratch
keep = scratch.keep
def keep_and_stop(path, state):
    keep(path, state)
    if len(state["history"]) == 2:
        sys.exit(3)
scratch.keep = keep_and_stop
runpy.run_module("tasks.unfreeze", run_name="__main__")
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_a_stopped_phase_2_goes_on_unless_its_scratch_is_damaged_and_ends_with_the_same_bytes(
    finished: Path, copied: Path, damaged: bool
) -> None:
    scratch = copied / ".dvc/tmp/thaw"
    assert execute(copied, STOPPED).returncode == 3
    (own,) = scratch.iterdir()
    other = scratch / "unfreeze-other.pt"
    other.write_bytes(b"of another run")
    if damaged:
        content = bytearray(own.read_bytes())
        content[len(content) // 2] ^= 1
        own.write_bytes(content)
    shutil.rmtree(copied / "artifacts/unfreeze")
    done = run(copied, "unfreeze")
    assert done.returncode == 0, done.stderr
    assert ("resuming after epoch 1" in done.stdout) != damaged
    assert (f"warning: {own}, the state of a run that was stopped, is damaged" in done.stdout) == damaged
    assert files_under(copied / "artifacts/unfreeze") == files_under(finished / "artifacts/unfreeze")
    assert {file.name for file in scratch.iterdir()} == {own.name, own.with_suffix(".done").name, other.name}


def test_a_package_says_of_the_test_pictures_what_evaluate_said(finished: Path) -> None:
    """Of the files on disk, with nothing but the folder of the package."""
    predictions = manifest.read_predictions(finished / "artifacts/evaluate/predictions.csv")
    model = Model.load(finished / "artifacts/package", "cpu")
    output = model.predict(finished / "data" / path for path in predictions["path"])
    shares = np.array([list((prediction.probabilities or {}).values()) for prediction in output])
    columns = [f"finetuned_p_{label}" for label in model.classes]
    assert shares == pytest.approx(predictions[columns].to_numpy(), abs=1e-6)
    assert [prediction.label for prediction in output] == predictions["finetuned_prediction"].tolist()
    cut = model.about.threshold
    assert cut == figures_of(finished)["operating"]["finetuned"]["threshold"]
    positive = predictions[columns[1]] >= cut
    assert [prediction.decision for prediction in output] == np.where(positive, *reversed(model.classes)).tolist()


def test_thaw_predict_says_of_the_test_files_what_evaluate_said(finished: Path, tmp_path: Path) -> None:
    """From the command line, anywhere, with a table whose columns come along."""
    predictions = manifest.read_predictions(finished / "artifacts/evaluate/predictions.csv")
    table = predictions[["label"]].assign(path=[finished / "data" / path for path in predictions["path"]])
    table.to_csv(tmp_path / "test.csv", index=False)
    words = ("predict", "test.csv", "--model", str(finished / "artifacts/package"), "--out", "said.csv")
    done = execute(tmp_path, "from thaw.cli import app\napp()", *words)
    assert done.returncode == 0, done.stderr
    output = pd.read_csv(tmp_path / "said.csv", keep_default_na=False)
    columns = [name for name in predictions if name.startswith("finetuned_p_")]
    shares = output[[name.removeprefix("finetuned_") for name in columns]].to_numpy()
    assert shares == pytest.approx(predictions[columns].to_numpy(), abs=1e-6)
    assert output["prediction"].tolist() == predictions["finetuned_prediction"].tolist()
    assert output["label"].tolist() == predictions["label"].tolist()
    cut = figures_of(finished)["operating"]["finetuned"]["threshold"]
    assert (output["decision"] == "stripes").tolist() == (predictions[columns[1]] >= cut).tolist()
    assert sum(figures_of(finished)["finetuned"]["decisions_on_val"].values()) == pytest.approx(1)
    assert (output["unsure"] == (shares.max(1) < 0.7)).all()
    assert set(output["unlike"]) <= {True, False}
    assert done.stderr.splitlines()[-1].startswith(f"{len(output)} pictures: ")


def test_the_card_of_a_model_has_its_data_results_operating_point_and_licence(copied: Path) -> None:
    text = (copied / "params.yaml").read_text()
    (copied / "params.yaml").write_text(re.sub("  license: ", "  license: cc-by-4.0 ", text))
    before = json.loads((copied / "artifacts/package/identity.json").read_text())
    assert run(copied, "package").returncode == 0
    assert json.loads((copied / "artifacts/package/identity.json").read_text()) == before
    card = (copied / "artifacts/package/README.md").read_text()
    assert card.startswith("---\nlibrary_name: thaw\n")
    assert "\nlicense: cc-by-4.0\n" in card
    figures = figures_of(copied)
    assert (
        f"| accuracy | {percent(figures['head']['accuracy'])} | {percent(figures['finetuned']['accuracy'])} |" in card
    )
    assert f"from a probability of {figures['operating']['finetuned']['threshold']:.3f} on" in card
    counts = read_manifest(copied / "artifacts/prepare/manifest.csv").groupby(["label", "split"]).size()
    for label in ("noise", "stripes"):
        assert f"| {label} | {' | '.join(str(counts[label, split]) for split in ('train', 'val', 'test'))} |" in card


def test_the_state_of_a_training_stays_until_dvc_has_locked_in_what_it_made(finished: Path, copied: Path) -> None:
    scratch = copied / ".dvc/tmp/thaw"
    assert execute(copied, STOPPED).returncode == 3
    # after the first, DVC failed to write dvc.lock
    for output in ("resuming after epoch 1", "resuming after epoch 2"):
        shutil.rmtree(copied / "artifacts/unfreeze", ignore_errors=True)
        done = run(copied, "unfreeze")
        assert output in done.stdout, done.stdout + done.stderr
        assert files_under(copied / "artifacts/unfreeze") == files_under(finished / "artifacts/unfreeze")
    assert run(copied, "evaluate").returncode == 0
    assert len(list(scratch.iterdir())) == 2
    model = list((copied / "artifacts/unfreeze/model").iterdir())
    entries = [{"md5": hashlib.md5(file.read_bytes()).hexdigest(), "relpath": file.name} for file in sorted(model)]
    digest = hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    outs = [{"path": "artifacts/unfreeze/model", "md5": f"{digest}.dir"}]
    lock = copied / "dvc.lock"
    before = yaml.safe_load(lock.read_text()) if lock.is_file() else {"stages": {}}
    lock.write_text(yaml.safe_dump(before | {"stages": before["stages"] | {"unfreeze": {"outs": outs}}}))
    assert run(copied, "evaluate").returncode == 0
    assert list(scratch.iterdir()) == []


def test_a_stopped_phase_2_goes_on_only_where_all_that_decides_its_bits_is_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = settings.read(ROOT / "params.yaml")
    phase_2 = fine_tuning()
    cpu = torch.device("cpu")
    module = ModuleType("thaw.some")
    module.__file__ = str(tmp_path / "some.py")
    (tmp_path / "some.py").write_text("1")

    def key(config: Settings = config, phase_2: FineTuning = phase_2, data: str = "a", parent: str = "b") -> str:
        return unfreeze.key(config, phase_2, {"data": data}, parent, cpu)

    def where(**changes: object) -> Settings:
        return config.model_copy(update={"resources": config.resources.model_copy(update=changes)})

    assert key() == key(where(workers=9))
    keys = [key(), key(data="c"), key(parent="c"), key(phase_2=replace(phase_2, jitter=0.2))]
    keys += [key(config.model_copy(update={"seed": 9})), key(where(precision="bfloat16")), key(where(compile="always"))]
    for target, name, value in (
        (torch, "__version__", "9"),
        (torchvision, "__version__", "9"),
        (np, "__version__", "9"),
        (torch, "get_num_threads", lambda: 99),
        (processes, "world_size", lambda: 99),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            keys.append(key())
    monkeypatch.setitem(sys.modules, "thaw.some", module)
    keys.append(key())
    (tmp_path / "some.py").write_text("2")
    keys.append(key())
    assert len(set(keys)) == len(keys)


# ----------------------------------------------------------------------------- what settings change


MADE = {  # by a phase, and depends on nothing but its inputs and what it reads of the settings
    "prepare": ("manifest.csv", "pictures.npy"),
    "embed": ("train.npy", "val.npy"),
    "head": ("history.csv", "model/weights.safetensors"),
    "unfreeze": ("history.csv", "model/weights.safetensors"),
}
CHANGED_BY = {
    "seed=1": {"head", "unfreeze"},
    "labels=0.5": {"head", "unfreeze"},
    "class_weights=balanced": {"head", "unfreeze"},
    "backbone.weights=random 1": {"embed", "head"},
    "embed.draws=1": {"embed"},
    "head.max_epochs=0": {"head"},
    "unfreeze.label_smoothing=0.1": {"unfreeze"},
    "unfreeze.l2_sp=0.5": {"unfreeze"},
    "unfreeze.mixup=0.4": {"unfreeze"},
    "unfreeze.cutmix=1": {"unfreeze"},
    "unfreeze.ema=0.9": {"unfreeze"},
    "evaluate.views=none": set(),
}
HARMFUL = "unfreeze.ratio=0.01"  # so that it matters which weights are kept
INTERPOLATE = f"{HARMFUL}, unfreeze.keep=last, unfreeze.interpolate=true"
KEEP = (f"{HARMFUL}, unfreeze.keep=best", f"{HARMFUL}, unfreeze.keep=last", INTERPOLATE)
EACH_CHANGE = """
import contextlib, runpy, shutil, sys
from thaw.project import settings
shutil.move("artifacts", "before")
shutil.copy("params.yaml", "plain.yaml")
for number, change in enumerate(sys.argv[1:]):
    shutil.copytree("before", "artifacts")
    shutil.copy("plain.yaml", "params.yaml")
    settings.override(change.split(", "))
    with open("artifacts/printed", "w") as printed, contextlib.redirect_stdout(printed):
        for phase in ("unfreeze", "head", "embed", "prepare"):
            runpy.run_module(f"tasks.{phase}", run_name="__main__")
    shutil.move("artifacts", str(number))
"""


@pytest.fixture(scope="session")
def lopsided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with twice as many pictures of one class, up to its fine-tuned network."""
    folder = make_workspace(tmp_path_factory.mktemp("lopsided"))
    for number in range(12, 24):
        (folder / f"data/noise/{number}.png").unlink()
    done = run(folder, *PHASES[:4])
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / ".dvc/tmp/thaw")  # a phase that runs again has to train again
    return folder


@pytest.fixture(scope="session")
def changed(lopsided: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each phase's outputs after a changed setting, from the earlier phases' outputs without it.

    The last phase goes first, so that it finds those.
    """
    folder = Path(shutil.copytree(lopsided, tmp_path_factory.mktemp("changed") / "copy"))
    changes = [*CHANGED_BY, *KEEP]
    done = execute(folder, EACH_CHANGE, *changes)
    assert done.returncode == 0, done.stderr
    return {change: folder / str(number) for number, change in enumerate(changes)}


@pytest.mark.parametrize(("change", "phases"), CHANGED_BY.items(), ids=CHANGED_BY)
def test_a_setting_changes_what_the_phases_make_that_read_it_and_nothing_else(
    lopsided: Path, changed: dict[str, Path], change: str, phases: set[str]
) -> None:
    result = {
        phase
        for phase, files in MADE.items()
        for file in files
        if (changed[change] / phase / file).read_bytes() != (lopsided / "artifacts" / phase / file).read_bytes()
    }
    assert result == phases


def test_weights_are_interpolated_where_that_is_asked_for(changed: dict[str, Path]) -> None:
    output = "of the way from the head-only weights"
    assert [change for change, made in changed.items() if output in (made / "printed").read_text()] == [INTERPOLATE]


@pytest.mark.parametrize("phase", ["head", "unfreeze"])
@pytest.mark.parametrize("change", [*KEEP, "unfreeze.ema=0.9", "class_weights=balanced", "head.max_epochs=0"])
def test_figures_of_a_phase_are_those_of_the_weights_that_it_saved(
    changed: dict[str, Path], change: str, phase: str
) -> None:
    """Measured again with the saved network, by plain cross-entropy, so that runs compare."""
    made = changed[change]
    meta = json.loads((made / "prepare/meta.json").read_text())
    rows = read_manifest(made / "prepare/manifest.csv")
    val = np.flatnonzero(rows["split"] == "val")
    pictures = Pictures([], Shape(**meta["shape"]), np.load(made / "prepare/pictures.npy"), 1)
    normalise = Normaliser(Preprocessing.from_json(meta["preprocessing"]), torch.device("cpu"))
    model, _ = checkpoint.load(made / phase / "model")
    logits = predict(model, pictures, val, normalise, 1, 64)
    labels = torch.from_numpy(labels_of(rows.iloc[val], meta["classes"]))
    metrics = json.loads((made / phase / "metrics.json").read_text())
    assert metrics["val_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_a_phase_2_that_was_not_kept_is_told_and_has_no_gain(copied: Path) -> None:
    change("max_epochs: 4 ", "max_epochs: 60 ")(copied)  # a head that is hard to beat
    change("ratio: 10 ", "ratio: 0.1 ")(copied)
    change("learning_rate: 0.001", "learning_rate: 0.03")(copied)
    change("keep: last ", "keep: best ")(copied)
    done = run(copied, *PHASES[2:])
    assert done.returncode == 0, done.stderr
    assert "they are the same, phase 2 was not kept; the report says what to try" in done.stdout
    metrics = figures_of(copied)
    assert metrics["phase_2"] == {"keep": "best", "kept_epoch": 0, "same": True}
    assert set(metrics["gain"].values()) == {None}
    predictions = pd.read_csv(copied / "artifacts/evaluate/predictions.csv")
    for label in ("noise", "stripes"):
        assert (predictions[f"head_p_{label}"] == predictions[f"finetuned_p_{label}"]).all()
    page = (copied / "artifacts/report/report.html").read_text()
    assert page.count("Phase 2 was not kept: no epoch was better on validation than head only") == 1


def test_the_page_on_changing_the_report_adds_the_section_that_it_shows(copied: Path) -> None:
    blocks = re.findall(r"```(python|diff)\n(.*?)```", (ROOT / "docs/report.md").read_text(), re.DOTALL)
    (module,) = (text for kind, text in blocks if kind == "python")
    (copied / "pages").mkdir()
    (copied / "pages/unsure.py").write_text(module)
    shutil.copytree(ROOT / "tasks", copied / "tasks")
    files = [copied / "tasks/report.py", Path(shutil.copy(ROOT / "dvc.yaml", copied / "pages"))]
    for diff in (text for kind, text in blocks if kind == "diff"):
        before, after = (
            "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[0] in signs) for signs in (" ", " +")
        )
        changed = [file for file in files if before in file.read_text()]
        assert len(changed) == 1, diff
        changed[0].write_text(changed[0].read_text().replace(before, after, 1))
    done = run(copied, "report")
    assert done.returncode == 0, done.stderr
    page = (copied / "artifacts/report/report.html").read_text()
    assert '<a href="#unsure">Unsure pictures</a>' in page
    section = page.split('<section id="unsure">')[1].split("</section>")[0]
    assert re.search(r"less than 90.0 % sure of \d+ test pictures", section)
    assert 'src="data:image/png;base64,' in section


def test_phase_2_keeps_its_last_epoch_and_evaluate_says_so(finished: Path) -> None:
    kept = json.loads((finished / "artifacts/unfreeze/metrics.json").read_text())
    assert kept["kept_epoch"] == kept["epochs"] == 2
    metrics = figures_of(finished)
    assert metrics["phase_2"] == {"keep": "last", "kept_epoch": 2, "same": False}


def test_without_phase_1_the_drawn_head_goes_through_all_further_phases(copied: Path) -> None:
    change("max_epochs: 4", "max_epochs: 0")(copied)
    done = run(copied, *PHASES[2:])
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    drawn = create("shufflenet_v2_x0_5", "random", 2, 32).head
    kept = load_file(copied / "artifacts/head/model/weights.safetensors")
    np.testing.assert_array_equal(kept["head.weight"], drawn.weight.detach().numpy())
    np.testing.assert_array_equal(kept["head.bias"], drawn.bias.detach().numpy())
    metrics = figures_of(copied)
    assert metrics["head"] != metrics["finetuned"]
    assert (copied / "artifacts/report/report.html").stat().st_size > 0
