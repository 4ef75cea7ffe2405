"""The shared split as a PyTorch tutorial reads it, and the shared network with its first head."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.peers.contest import BATCH_SIZE, WORKERS, Contest
from thaw.data.pixels import open_image
from thaw.learning.backbones import Classifier, create

BACKBONE = ("efficientnet_lite0", "IMAGENET1K_V1")


def classes_of(contest: Contest) -> list[str]:
    """The class names in thaw's order: of two, the positive one is last."""
    classes: list[str] = _meta(contest)["classes"]
    return classes


def statistics(contest: Contest) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the pixels that the weights expect."""
    expected = _meta(contest)["preprocessing"]
    return expected["mean"], expected["std"]


def rows_of(contest: Contest, *splits: str) -> pd.DataFrame:
    """The manifest's rows of the named splits: path relative to data/, label, split."""
    rows = pd.read_csv(Path(contest.workspace, "artifacts/prepare/manifest.csv"), keep_default_na=False)
    return rows[rows["split"].isin(splits)].reset_index(drop=True)


def network(contest: Contest) -> Classifier:
    """The pretrained backbone with a new head; for a given seed the one that thaw starts with."""
    torch.manual_seed(contest.seed)
    return create(*BACKBONE, len(classes_of(contest)))


class Files(Dataset[tuple[Tensor, int]]):
    """Files of a split: decoded, resized and normalised on access; training ones augmented."""

    def __init__(self, contest: Contest, split: str) -> None:
        rows, classes = rows_of(contest, split), classes_of(contest)
        self.paths = rows["path"].tolist()
        self.files = [Path(contest.workspace, "data", path) for path in self.paths]
        self.labels = [classes.index(label) for label in rows["label"]]
        quarter_turn = v2.RandomRotation((90, 90))
        turns = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomApply([quarter_turn])]
        self.transform = v2.Compose(
            [
                v2.Resize((contest.size, contest.size), v2.InterpolationMode.BICUBIC),
                *(turns if split == "train" else []),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(*statistics(contest)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(open_image(self.files[number]).convert("RGB")), self.labels[number]


def loader(contest: Contest, split: str) -> DataLoader[tuple[Tensor, int]]:
    """Batches of a split, read by worker processes that stay; training ones in random order."""
    return DataLoader(
        Files(contest, split), BATCH_SIZE, shuffle=split == "train", num_workers=WORKERS, persistent_workers=True
    )


def _meta(contest: Contest) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(Path(contest.workspace, "artifacts/prepare/meta.json").read_text())
    return meta
