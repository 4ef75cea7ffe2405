"""A tiny model as a package, which nobody trained, and pictures of which it says different
things."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from thaw.data.pictures import Normaliser, Shape, decode
from thaw.learning import checkpoint
from thaw.learning.backbones import create, preprocessing_of
from thaw.model import package, unlike
from thaw.statistics import records

ROOT = Path(__file__).resolve().parents[2]
EARLIER = """\
stages:
  unfreeze: {cmd: 'true', outs: [artifacts/unfreeze/model]}
  evaluate:
    cmd: 'true'
    outs: [artifacts/evaluate/details.json]
    metrics: [artifacts/evaluate/metrics.json: {cache: false}]
"""
PACKAGE = """\
  package:
    cmd: 'true'
    outs:
      - artifacts/package/weights.safetensors
      - artifacts/package/unlike.safetensors
      - artifacts/package/meta.json
      - artifacts/package/README.md
    metrics: [artifacts/package/identity.json: {cache: false}]
artifacts:
  classifier: {path: artifacts/package, type: model}
"""
REST = {"balanced_accuracy": 0.5, "auc": 0.5, "f1": 0.5, "ece": 0.1}
CLASSES = ["noise", "stripes"]
BACKBONE = "shufflenet_v2_x0_5"
SHAPE = Shape(32, 32, "bilinear", "whole", 3)
FIGURES: dict[str, Any] = {
    "test_pictures": 8,
    "head": {"accuracy": 0.5},
    "finetuned": {
        "accuracy": 0.75,
        "temperature": 1.5,
        "decisions_on_val": {"noise": 0.25, "stripes": 0.75},
    },
    "gain": {"accuracy": 0.25, "low": -0.1, "high": 0.5},
    "operating": {
        "promise": "precision",
        "at_least": 0.9,
        "finetuned": {"threshold": 0.4} | {name: {"value": 0.9} for name in ("recall", "precision", "specificity")},
    },
}


class Packaged(NamedTuple):
    """A package, the network in it, and a folder of pictures."""

    folder: Path
    network: Path
    pictures: Path


def draw(folder: Path, count: int = 8, seed: int = 0) -> Path:
    """Pictures of noise and of stripes."""
    random = np.random.default_rng(seed)
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 150, (40, 48, 3), dtype=np.uint8)
            pixels[:: 4 if label == "stripes" else 40] += 100
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def meta_of(network: Path, views: str = "flip", sure: float = 0.7, far: float = 0.3, **figures: Any) -> dict[str, Any]:
    """The meta.json of a package, with other figures from evaluate."""
    known = FIGURES | figures
    meta = package.meta_of(checkpoint.read_meta(network), known, [], [], views=views, sure=sure, versions={})
    return meta | {"unlike": {"threshold": far, "false_alarms": 0.02}}


def make(folder: Path) -> Packaged:
    """Make a package in `folder`, and its sources beside it."""
    pictures, network = draw(folder / "pictures"), folder / "network"
    torch.manual_seed(0)
    model = create(BACKBONE, "random", len(CLASSES)).train()
    about = preprocessing_of(BACKBONE, "random")
    pixels = np.stack([decode(path, SHAPE) for path in sorted(pictures.rglob("*.png"))])
    normalised = Normaliser(about, torch.device("cpu"))(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.backbone(normalised)  # so that every BatchNorm has statistics of them
        features = model.eval().backbone(normalised)
        half = len(features) // 2
        direction = features[half:].mean(0) - features[:half].mean(0)
        scores = features @ direction
        direction, middle, spread = direction / scores.std(), scores.mean(), scores.std()
        model.head.weight.copy_(torch.stack([-direction, direction]))
        model.head.bias.copy_(torch.stack([middle / spread, -middle / spread]))
    meta = {"backbone": BACKBONE, "weights": "random", "classes": CLASSES, "folded": False, "data": "0" * 64}
    meta |= {"preprocessing": about.to_json(), "shape": SHAPE.to_json(), "parent": None, "params": {}, "kept": {}}
    checkpoint.save(network, model.state_dict(), meta)
    neighbours = unlike.fit(features.numpy())
    package.write(folder / "package", network, neighbours, meta_of(network), "# a card\n")
    return Packaged(folder / "package", network, pictures)


def make_project(folder: Path, packaged: Packaged) -> Path:
    """A git and DVC repository with two commits: a network from before there were packages, and a
    package."""
    shutil.copy(ROOT / "params.yaml", folder)
    _git(folder, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(EARLIER)
    shutil.copytree(packaged.network, folder / "artifacts/unfreeze/model")
    figures = {name: FIGURES[name] for name in ("test_pictures", "gain", "operating")} | {"phase_2": {"same": False}}
    figures |= {name: REST | FIGURES[name] for name in ("head", "finetuned")}
    (folder / "artifacts/evaluate").mkdir()
    for name, values in zip(("metrics", "details"), records.split(figures), strict=True):
        (folder / f"artifacts/evaluate/{name}.json").write_text(json.dumps(values))
    _commit(folder)
    (folder / "dvc.yaml").write_text(EARLIER + PACKAGE)
    shutil.copytree(packaged.folder, folder / "artifacts/package")
    _commit(folder)
    return folder


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)


def _commit(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "commit", "-q", "--force"], cwd=folder, check=True)
    _git(folder, "add", "--all")
    _git(folder, "commit", "-qm", "a model")
