"""Checkpoints: a folder with `weights.safetensors` and a readable `meta.json` that rebuilds the
network.

model, meta = load(Path("artifacts/unfreeze/model"))
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from thaw.data.pictures import Shape
from thaw.errors import InputError
from thaw.learning.backbones import Classifier, create
from thaw.learning.folding import fold_batchnorm

FORMAT = 1


def save(folder: Path, weights: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write the weights and then `meta.json`, whose presence says that the checkpoint is
    complete."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "weights.safetensors")
    text = json.dumps({"format": FORMAT, **meta}, indent=2) + "\n"
    (folder / "meta.json").write_text(text, encoding="utf-8")


def load(folder: Path) -> tuple[Classifier, dict[str, Any]]:
    """The network, in eval mode and channels last, and its meta data."""
    meta = read_meta(folder)
    model = create(meta["backbone"], "random", len(meta["classes"]), meta["shape"]["size"])
    if meta["folded"]:
        fold_batchnorm(model, Shape(**meta["shape"]).blank())
    try:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{folder}: the weights do not fit meta.json or are damaged ({error}); make them again"
        ) from None
    return model.eval().to(memory_format=torch.channels_last), meta


def read_meta(folder: Path) -> dict[str, Any]:
    """What `meta.json` says; raises if the checkpoint is missing or incomplete."""
    path = folder / "meta.json"
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no complete checkpoint: {path.name} is missing; run the phase again"
        ) from None
    if meta.get("format") != FORMAT:
        raise InputError(f"{path} has format {meta.get('format')}, this version reads {FORMAT}; run the phase again")
    return meta


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights file: what a child names as its parent."""
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
