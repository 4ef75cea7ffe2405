"""Networks and the data set as the learning phases read and write them."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from thaw.data.manifest import fingerprint, read_manifest, targets_of
from thaw.data.pictures import Pictures, Preprocessing, Shape
from thaw.errors import InputError
from thaw.learning import checkpoint, processes
from thaw.learning.backbones import Classifier, create
from thaw.learning.folding import fold_batchnorm
from thaw.learning.machine import bfloat16_pays, keep_freed_memory, use_bfloat16
from thaw.project import start, workspace
from thaw.project.phase import outputs, read_json, write_json
from thaw.project.settings import Settings

AGAIN = "make it anew with `dvc repro --single-item --force {}`"


class Dataset(NamedTuple):
    """The splits that a phase reads: rows and targets by row number, and the pixels.

    Rows of other splits are left out, and their targets are NaN.
    """

    reads: tuple[str, ...]
    rows: pd.DataFrame
    classes: list[str]
    targets: torch.Tensor
    pictures: Pictures
    meta: dict[str, Any]

    def split(self, name: str) -> NDArray[np.int64]:
        """The row numbers of a split."""
        if name not in self.reads:
            raise InputError(
                f"this phase asks for the rows of {name}, but declares that it reads {' and '.join(self.reads)}: "
                f"add {name} to its call of networks.dataset if it may see them"
            )
        return self.rows.index[self.rows["split"] == name].to_numpy(np.int64, copy=True)

    def labelled(self, share: float, seed: int) -> NDArray[np.int64]:
        """Row numbers of the training pictures whose labels are used, `share` of each class; a
        smaller share is a subset of a larger one."""
        train = self.split("train")
        drawn = pd.Series(np.random.default_rng(seed).permutation(len(train)), index=train)
        labels = self.rows["label"][self.rows["split"] == "train"]
        rank, size = drawn.groupby(labels.to_numpy()).rank(), labels.groupby(labels).transform("size")
        used: NDArray[np.int64] = train[(rank <= np.ceil(share * size)).to_numpy()]
        return used

    def class_weights(self, scheme: str, rows: NDArray[np.int64]) -> torch.Tensor | None:
        """Weights that make all classes count the same, 1 on average; None if `scheme` is none."""
        if scheme == "none":
            return None
        counts = self.targets[torch.from_numpy(rows)].sum(0)
        return counts.sum() / (len(counts) * counts)


def use_resources(config: Settings) -> torch.device:
    """Set up memory, threads and determinism, and join the other ranks; returns the device to
    use."""
    keep_freed_memory()
    per_machine = processes.local_world_size()
    if config.resources.threads or per_machine > 1:
        torch.set_num_threads(config.resources.threads or max(1, torch.get_num_threads() // per_machine))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # no operation here reads what it has not written
    device = _device(config.resources.device, per_machine)
    processes.join(device)
    return device


def _device(name: str, per_machine: int) -> torch.device:
    """The device of that name; raise unless each of the processes on this machine gets one."""
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": per_machine}
    if name == "auto":
        name = next(kind for kind, count in counts.items() if count)
    if not counts[name]:
        available = ", ".join(kind for kind, count in counts.items() if count)
        raise InputError(
            f"resources.device is {name}, which this machine does not have; it has {available} (or use auto)"
        )
    if counts[name] < per_machine:
        raise InputError(
            f"resources.processes is {per_machine}, but this machine has {counts[name]} of the device {name}: "
            f"use at most {counts[name]}, or resources.device cpu"
        )
    if name == "cuda":
        torch.cuda.set_device(processes.local_rank())
    return torch.device(name)


def place(model: Classifier, device: torch.device, config: Settings) -> None:
    """Move the network to the device, with the precision that `resources.precision` asks for."""
    model.to(device)
    if bfloat16_pays(config.resources.precision, device):
        use_bfloat16(model, device)


class _Visible(Pictures):
    """The pictures of some rows; asking for any other one is an error."""

    def __init__(self, pictures: Pictures, rows: NDArray[np.int64]) -> None:
        super().__init__(pictures.files, pictures.shape, pictures.decoded, pictures.workers)
        self.rows = rows

    def batches(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[torch.Tensor]:
        """Batches of pixels of visible rows."""
        for rows in batches:
            assert np.isin(rows, self.rows).all(), "some pictures belong to a split that the phase does not read"
        return super().batches(batches)


def dataset(config: Settings, *reads: str) -> Dataset:
    """Read the splits in `reads` from prepare's outputs: `networks.dataset(config, "train",
    "val")`."""
    prepared = workspace.artifacts("prepare")
    meta = read_json(prepared / "meta.json")
    rows = read_manifest(prepared / "manifest.csv")
    file = prepared / "pictures.npy"
    decoded = np.load(file, mmap_mode="r") if file.is_file() else None
    if fingerprint(rows) != meta["data"]:
        raise InputError(f"{prepared}/manifest.csv is not the one that prepare wrote; {AGAIN.format('prepare')}")
    if decoded is not None and len(decoded) != len(rows):
        counts = f"{len(rows)} rows for {len(decoded)} decoded pictures"
        raise InputError(f"{prepared}/manifest.csv has {counts}; {AGAIN.format('prepare')}")
    files = [workspace.data() / path for path in rows["path"]]
    targets = torch.from_numpy(targets_of(rows, meta["classes"]))
    pictures = Pictures(files, Shape(**meta["shape"]), decoded, config.resources.workers)
    return of_splits(reads, rows, meta["classes"], targets, pictures, meta)


def of_splits(
    reads: tuple[str, ...],
    rows: pd.DataFrame,
    classes: list[str],
    targets: torch.Tensor,
    pictures: Pictures,
    meta: dict[str, Any],
) -> Dataset:
    """A data set that shows only the splits in `reads`."""
    visible = rows["split"].isin(reads).to_numpy()
    targets = targets.masked_fill(torch.from_numpy(~visible)[:, None], torch.nan)
    return Dataset(reads, rows[visible], classes, targets, _Visible(pictures, np.flatnonzero(visible)), meta)


def features(data: Dataset, split: str) -> NDArray[np.float32]:
    """The features of a split that embed wrote, a memory map (pictures, views, features)."""
    file = workspace.artifacts("embed") / f"{split}.npy"
    array: NDArray[np.float32] = np.load(file, mmap_mode="r")
    if len(array) != len(data.split(split)):
        counts = f"features of {len(array)} pictures for the {len(data.split(split))} in {split}"
        raise InputError(f"{file} has {counts}; {AGAIN.format('embed')}")
    return array


def preprocessing(data: Dataset) -> Preprocessing:
    """The preprocessing that the backbone's weights expect, as prepare recorded it."""
    return Preprocessing.from_json(data.meta["preprocessing"])


def new_network(config: Settings, data: Dataset) -> Classifier:
    """The pretrained backbone with a new head; the same weights each time."""
    torch.manual_seed(config.seed)
    blank, classes = data.pictures.shape.blank(), len(data.classes)
    if start.is_model(config.backbone.weights):
        model = create(config.backbone.name, "random", classes, blank.shape[-1])
        if starts_folded(config):
            fold_batchnorm(model, blank)
        model.backbone.load_state_dict(checkpoint.load(start.folder())[0].backbone.state_dict())
    else:
        model = create(config.backbone.name, config.backbone.weights, classes, blank.shape[-1])
    return model.eval().to(memory_format=torch.channels_last)


def starts_folded(config: Settings) -> bool:
    """Whether the BatchNorms of a new network are folded already."""
    return start.is_model(config.backbone.weights) and bool(start.meta(config)["folded"])


def meta_of(config: Settings, data: Dataset, folded: bool, parent: str | None) -> dict[str, Any]:
    """The meta data of a checkpoint: what rebuilds the network, and where it comes from."""
    return {
        "backbone": config.backbone.name,
        "weights": config.backbone.weights,
        "classes": data.classes,
        "preprocessing": data.meta["preprocessing"],
        "shape": data.meta["shape"],
        "folded": folded,
        "data": data.meta["data"],
        "parent": parent,
        "params": config.model_dump(exclude={"resources", "package", "retrain", "promote", "export", "timeouts"}),
    }


def write_network(
    phase: str,
    weights: dict[str, torch.Tensor],
    kept_figures: dict[str, float],
    history: pd.DataFrame,
    meta: dict[str, Any],
) -> None:
    """Write a checkpoint, the figures of its weights, and the history of its epochs."""
    figures = {"epochs": int(history["epoch"].max()), "kept_epoch": kept_figures["epoch"]}
    figures |= {name: value for name, value in kept_figures.items() if name != "epoch"}
    with outputs(phase) as folder:
        history.to_csv(folder / "history.csv", index=False, lineterminator="\n")
        write_json(folder / "metrics.json", figures)
        checkpoint.save(folder / "model", weights, meta | {"kept": kept_figures})
