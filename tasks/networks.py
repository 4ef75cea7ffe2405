"""Networks and the data set as the learning phases read and write them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from tasks.phase import outputs, read_json, write_json
from tasks.settings import Settings
from tasks.workspace import DATA, PREPARE
from thaw import checkpoint
from thaw.backbones import Classifier, Preprocessing, create
from thaw.errors import InputError
from thaw.manifest import targets_of
from thaw.pictures import Pictures, Shape


class Dataset(NamedTuple):
    """What prepare left: the manifest's rows, the classes, and the pixels by row number."""

    rows: pd.DataFrame
    classes: list[str]
    targets: torch.Tensor
    pictures: Pictures
    meta: dict[str, Any]

    def split(self, name: str) -> NDArray[np.int64]:
        """The row numbers of a split."""
        return np.flatnonzero(self.rows["split"] == name)


def use_resources(chosen: Settings) -> torch.device:
    """Set the threads, make every operation deterministic, and say which device to use."""
    if chosen.resources.threads:
        torch.set_num_threads(chosen.resources.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    name = chosen.resources.device
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present[name]:
        here = ", ".join(kind for kind in present if present[kind])
        raise InputError(f"resources.device is {name}, which this machine does not have; it has {here} (or use auto)")
    return torch.device(name)


def dataset(chosen: Settings) -> Dataset:
    """Read what prepare wrote."""
    meta = read_json(PREPARE / "meta.json")
    text = {
        "path": str,
        "label": str,
        "split": str,
        "group": str,
        "hash": str,
        **dict.fromkeys(meta["slices"], str),
    }
    rows = pd.read_csv(PREPARE / "manifest.csv", dtype=text, keep_default_na=False, na_values={"target": [""]})
    kept = PREPARE / "pictures.npy"
    decoded = np.load(kept, mmap_mode="r") if kept.is_file() else None
    files = [DATA / path for path in rows["path"]]
    pictures = Pictures(files, Shape(**meta["shape"]), decoded, chosen.resources.workers)
    return Dataset(rows, meta["classes"], torch.from_numpy(targets_of(rows, meta["classes"])), pictures, meta)


def preprocessing(data: Dataset) -> Preprocessing:
    """What the backbone's weights expect, as prepare noted it."""
    return Preprocessing.from_json(data.meta["preprocessing"])


def new_network(chosen: Settings, data: Dataset) -> Classifier:
    """The pretrained backbone with a new head; the same one each time."""
    torch.manual_seed(chosen.seed)
    size = data.pictures.shape.size
    model = create(chosen.backbone.name, chosen.backbone.weights, len(data.classes), size)
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def meta_of(chosen: Settings, data: Dataset, folded: bool, parent: str | None) -> dict[str, Any]:
    """What a checkpoint says of itself: all that rebuilds the network and where it comes from."""
    return {
        "backbone": chosen.backbone.name,
        "weights": chosen.backbone.weights,
        "classes": data.classes,
        "preprocessing": data.meta["preprocessing"],
        "shape": data.meta["shape"],
        "folded": folded,
        "data": data.meta["data"],
        "parent": parent,
        "params": chosen.model_dump(exclude={"resources", "retrain", "promote", "timeouts"}),
    }


def write_network(target: Path, weights: dict[str, torch.Tensor], history: pd.DataFrame, meta: dict[str, Any]) -> None:
    """Write a checkpoint, the history that led to it, and the figures of its best epoch."""
    best = history.loc[history["val_loss"].idxmin()]
    with outputs(target) as folder:
        history.to_csv(folder / "history.csv", index=False, lineterminator="\n")
        figures = {"epochs": int(history["epoch"].max()), "best_epoch": int(best["epoch"])}
        write_json(folder / "metrics.json", {**figures, **best[["val_loss", "val_accuracy"]].to_dict()})
        checkpoint.save(folder / "model", weights, meta)
