"""Laws of the comparison with the model in use, on tiny networks in a git and DVC repository."""

import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from children import importing
from PIL import Image
from warm import python

from thaw.data.pictures import Preprocessing
from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.learning.backbones import create, preprocessing_of
from thaw.project import compare, registry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["noise", "stripes", "waves"]
EARLIER = {
    "classes": ["stripes", "noise"],
    "size": 24,
    "about": Preprocessing(24, 24, "bilinear", (0.3,) * 3, (0.2,) * 3),
}
SMALL = {"name: efficientnet_lite0": "name: shufflenet_v2_x0_5", "weights: IMAGENET1K_V1": "weights: random"}
PIPELINE = "stages: {unfreeze: {cmd: 'true', outs: [artifacts/unfreeze/model]}}\n"


def command(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": importing(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True)


def must(folder: Path, *words: str) -> None:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr


def pixels_of(paths: list[Path], size: int, about: Preprocessing) -> torch.Tensor:
    """Pictures as a network wants them."""
    pictures = [Image.open(path).resize((size, size), Image.Resampling.BILINEAR) for path in paths]
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (about.mean, about.std))
    return (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255 - mean) / deviation


def save_network(folder: Path, data: Path, classes: list[str], size: int, about: Preprocessing) -> None:
    """A network that nobody trained, but that says different things of the pictures in `data`."""
    torch.manual_seed(size)
    model = create("shufflenet_v2_x0_5", "random", len(classes)).train()
    pixels = pixels_of(sorted(data.rglob("*.png")), size, about)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.backbone(pixels)  # so that every BatchNorm knows them
        model.head.weight *= 20
        model.head.bias.copy_(-model.head.weight @ model.eval().backbone(pixels).mean(0))
    shape = {"size": size, "resize": size, "interpolation": "bilinear", "fit": "whole", "channels": 3}
    meta = {"backbone": "shufflenet_v2_x0_5", "classes": classes, "folded": False, "kept": {"epoch": 1}}
    meta["params"] = {"unfreeze": {"keep": "last", "batchnorm": "frozen"}}
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.save(folder, model.state_dict(), {**meta, "preprocessing": about.to_json(), "shape": shape})


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a network for 32 x 32 pictures, three classes; a version for 24 x 24."""
    folder = tmp_path_factory.mktemp("compared")
    random = np.random.default_rng(0)
    for label in CLASSES:
        (folder / "data" / label).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(0, 150, (40, 48, 3), dtype=np.uint8)
            pixels[:: CLASSES.index(label) + 3] += 100
            Image.fromarray(pixels).save(folder / "data" / label / f"{number}.png")
    text = (ROOT / "params.yaml").read_text().replace("resolution: 160", "resolution: 32")
    for old, new in SMALL.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text.replace("views: square", "views: flip"))
    (folder / "dvc.yaml").write_text(PIPELINE)
    about = preprocessing_of("shufflenet_v2_x0_5", "random")
    for name in ("head", "unfreeze"):
        save_network(folder / "artifacts" / name / "model", folder / "data", CLASSES, 32, about)
    code = "import runpy\nfor phase in ('prepare', 'evaluate'): runpy.run_module(f'tasks.{phase}', run_name='__main__')"
    done = python(folder, code, path=ROOT)
    assert done.returncode == 0, done.stderr
    (folder / "artifacts/report").mkdir()
    (folder / "artifacts/report/report.html").write_text("<nav></nav><main></main>")
    must(folder, "git", "init", "-q")
    must(folder, sys.executable, "-m", "dvc", "init", "-q")
    challenger = shutil.copytree(folder / "artifacts/unfreeze/model", folder / "kept")
    save_network(folder / "artifacts/unfreeze/model", folder / "data", **EARLIER)
    must(folder, sys.executable, "-m", "dvc", "commit", "-q", "--force")
    must(folder, "git", "add", "dvc.lock", "dvc.yaml")
    must(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "an earlier model")
    shutil.rmtree(folder / "artifacts/unfreeze/model")
    challenger.rename(folder / "artifacts/unfreeze/model")
    must(folder, sys.executable, "-m", "dvc", "commit", "-q", "--force")
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(template, tmp_path / "workspace", symlinks=True))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def champion(root: Path) -> None:
    registry.register("HEAD", "an earlier model")
    registry.promote("v1.0.0", "by hand")


def accuracy(folder: Path, rows: pd.DataFrame, data: Path) -> float:
    """The earlier model's accuracy, the plain way: each picture and its mirror image."""
    model, meta = checkpoint.load(folder)
    pixels = pixels_of([data / path for path in rows["path"]], EARLIER["size"], EARLIER["about"])
    with torch.inference_mode():
        output = (model(pixels) + model(pixels.flip(3))).argmax(1)
    return float(np.mean(np.array(meta["classes"])[output] == rows["label"]))


def test_without_a_model_in_use_the_new_one_is_promoted(root: Path) -> None:
    outcome = compare.run(registry.in_use(registry.versions()))
    assert (outcome.state, outcome.champion, outcome.promoted) == ("first", None, True)
    assert compare.decision() == outcome
    assert "No model was in use" in (root / "artifacts/promotion/report.html").read_text()


def test_the_model_in_use_is_asked_as_it_was_trained_and_only_once(
    root: Path, champion: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    outcome = compare.run(registry.in_use(registry.versions()), lines.append)
    assert (outcome.state, outcome.champion) == ("compared", "v1.0.0")
    assert any(line.startswith("[100%] v1.0.0") for line in lines)
    metrics = json.loads((root / "artifacts/evaluate/metrics.json").read_text())
    manifest = pd.read_csv(root / "artifacts/prepare/manifest.csv")
    test = manifest[manifest["split"] == "test"]
    save_network(root / "earlier", root / "data", **EARLIER)
    assert outcome.gain["test_pictures"] == len(test)
    assert outcome.gain["after"] == pytest.approx(metrics["finetuned"]["accuracy"])
    assert outcome.gain["before"] == pytest.approx(accuracy(root / "earlier", test, root / "data"))
    assert all(0 < row["before"] < 1 for row in outcome.falls[:2]), "the law is empty: it always says the same"
    assert [row["value"] for row in outcome.falls] == CLASSES
    assert outcome.falls[2]["before"] == 0
    verdict = "To be put in use" if outcome.promoted else "v1.0.0 stays in use"
    assert verdict in (root / "artifacts/promotion/report.html").read_text()
    assert list((root / ".dvc/tmp/thaw").iterdir()) == []

    def not_again(*_: Any) -> list[str]:
        raise AssertionError("decided before")

    monkeypatch.setattr(compare, "finish", not_again)
    assert compare.run(registry.in_use(registry.versions()), lines.append) == outcome
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("margin: 0.01", "margin: 0.02"))
    with pytest.raises(AssertionError, match="decided before"):
        compare.run(registry.in_use(registry.versions()))


def test_a_version_that_waited_is_compared_with_the_model_in_use_by_now_and_what_got_worse_is_shown(
    root: Path, champion: None
) -> None:
    must(root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "the model in use by now")
    registry.register("HEAD", "a newer model")
    registry.promote("v2.0.0", "by hand")
    outcome = compare.again(registry.find("v1.0.0"), registry.find("v2.0.0"))
    metrics = json.loads((root / "artifacts/evaluate/metrics.json").read_text())
    manifest = pd.read_csv(root / "artifacts/prepare/manifest.csv")
    test = manifest[manifest["split"] == "test"]
    save_network(root / "earlier", root / "data", **EARLIER)
    assert (outcome.champion, outcome.model) == ("v2.0.0", registry.find("v1.0.0").model)
    assert outcome.gain["before"] == pytest.approx(metrics["finetuned"]["accuracy"])
    assert outcome.gain["after"] == pytest.approx(accuracy(root / "earlier", test, root / "data"))
    assert Image.open(io.BytesIO(compare.changes())).format == "PNG", "waves are always wrong now"
    # the model in the workspace is the one in use
    compare.run(registry.in_use(registry.versions()))
    assert compare.changes() == b""


def test_the_very_same_network_is_as_good_in_every_picture(root: Path) -> None:
    (root / "artifacts/promotion").mkdir()
    must(root, sys.executable, "-m", "thaw.project.compare", "artifacts/unfreeze/model", "v1.0.0")
    outcome = compare.decision()
    assert outcome
    assert [row["change"] for row in outcome.gain["figures"]] == [0] * 3
    assert 2 / 15 < outcome.gain["high"] == -outcome.gain["low"] < 3 / 15
    assert not outcome.promoted, "15 pictures cannot show a margin of one point"
    assert outcome.notes == [
        "whether v1.0.0 learned from today's test pictures is unknown: its manifest.csv is not available"
    ]


def test_a_model_that_learned_from_test_pictures_is_named_by_their_content(root: Path) -> None:
    model = shutil.copytree(root / "artifacts/unfreeze/model", root / "v1.0.0")
    manifest = pd.read_csv(root / "artifacts/prepare/manifest.csv", dtype=str, keep_default_na=False)
    test = manifest.index[manifest["split"] == "test"]
    (root / "artifacts/promotion").mkdir()
    for learned, notes in (
        (0, []),
        (4, [f"v1.0.0 learned from 4 of today's {len(test)} test pictures, which favours it"]),
    ):
        manifest.loc[test[:learned], "split"] = "train"
        manifest["path"] = "renamed/" + manifest["path"]
        manifest.to_csv(root / "v1.0.0.csv", index=False)
        must(root, sys.executable, "-m", "thaw.project.compare", str(model), "v1.0.0")
        outcome = compare.decision()
        assert outcome
        assert outcome.notes == notes


def test_a_new_model_must_be_as_good_as_the_best_that_was_in_use(root: Path) -> None:
    """Better than a model that always says one class; 15 pictures cannot tell it from itself."""
    (root / "artifacts/promotion").mkdir()
    poor = shutil.copytree(root / "artifacts/unfreeze/model", root / "poor")
    model, meta = checkpoint.load(poor)
    model.head.weight.data.zero_()
    model.head.bias.data.copy_(torch.tensor([9.0, 0, 0]))
    shutil.rmtree(poor)
    checkpoint.save(poor, model.state_dict(), meta)
    pairs = [str(poor), "v2.0.0", "artifacts/unfreeze/model", "v1.0.0"]
    must(root, sys.executable, "-m", "thaw.project.compare", *pairs)
    outcome = compare.decision()
    assert outcome
    assert outcome.champion == "v2.0.0"
    assert not outcome.promoted
    assert outcome.anchor
    assert outcome.anchor["name"] == "v1.0.0"


def test_recall_decides_only_between_two_classes_and_the_figure_that_is_named_comes_first(root: Path) -> None:
    (root / "artifacts/promotion").mkdir()
    words = (sys.executable, "-m", "thaw.project.compare", "artifacts/unfreeze/model", "v1.0.0")
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("by: accuracy", "by: recall"))
    done = command(root, *words)
    assert done.returncode == 2
    assert "promote.by is recall, which is that of the positive one of two classes, and there are 3" in done.stderr
    (root / "params.yaml").write_text(text.replace("by: accuracy", "by: macro_f1"))
    must(root, *words)
    outcome = compare.decision()
    assert outcome
    assert outcome.gain["by"] == outcome.gain["figures"][0]["by"] == "macro_f1"
    (root / "params.yaml").write_text(text.replace("costs: {}", "costs: {vase: {nothing: 10}}"))
    done = command(root, *words)
    assert done.returncode == 2
    assert "promote.costs names 'nothing', which is no class; the classes are" in done.stderr


def test_the_anchor_is_the_best_that_was_in_use_by_the_figure_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str, accuracy: float, auc: float) -> registry.Version:
        metrics = {"finetuned": {"accuracy": accuracy, "auc": auc, "recall": 1 - accuracy}, "test_pictures": 660}
        return registry.Version(name, name, "", datetime.now(UTC), False, metrics, "", name, "")

    known = [version("v1", 0.8, 0.9), version("v2", 0.9, 0.85), version("v3", 0.85, 0.88), version("v4", 0.99, 0.99)]
    monkeypatch.setattr(registry, "were_in_use", lambda: ["v1", "v2", "v3"])
    champion = known[2]
    for by, name in (("accuracy", "v2"), ("auc", "v1"), ("recall", "v1"), ("cost", "v2")):
        best = compare.anchor(champion, known, by)
        assert best
        assert best.name == name
    assert compare.anchor(known[1], known, "accuracy") is None
    assert compare.anchor(champion, [champion], "accuracy") is None


def test_test_pictures_that_judged_many_models_are_said_to_be_worn() -> None:
    now, metrics = datetime.now(UTC), {"test_pictures": 60}
    known = [registry.Version(str(number), "", "", now, False, metrics, "", "", "") for number in range(19)]
    assert compare._worn(known[1:], 66) == []
    assert "have judged 20 models" in compare._worn(known, 66)[0]
    assert compare._worn(known, 600) == []


def test_the_version_in_use_is_not_compared_with_itself(root: Path, champion: None) -> None:
    (root / "dvc.lock").write_text(command(root, "git", "show", "HEAD:dvc.lock").stdout)
    outcome = compare.run(registry.in_use(registry.versions()))
    assert (outcome.state, outcome.champion, outcome.promoted) == ("same", "v1.0.0", False)


def test_lost_files_of_the_model_in_use_are_one_sentence(root: Path, champion: None) -> None:
    shutil.rmtree(root / ".dvc/cache")
    with pytest.raises(InputError, match=r"the files of v1\.0\.0 are neither .*`thaw promote VERSION`"):
        compare.run(registry.in_use(registry.versions()))
    assert list((root / ".dvc/tmp/thaw").iterdir()) == []


@pytest.mark.parametrize("content", ["", '{"state": "comp', "\0" * 99])
def test_a_damaged_decision_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare.decision() is None
    (tmp_path / "artifacts/promotion").mkdir(parents=True)
    (tmp_path / "artifacts/promotion/decision.json").write_text(content)
    assert compare.decision() is None
