"""The ceiling: embed and phase 2 against bare loops over one batch of floats in memory.

All run in this process, in turn, so that what disturbs the machine disturbs both.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.contest import BATCH_SIZE, Contest, emit, from_command_line
from thaw.data.pictures import VIEWS, Normaliser, drawn_views
from thaw.learning import cores
from thaw.learning.batches import Split, TrainingData
from thaw.learning.convolutions import quicken
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import parameter_groups, scale_dropout, unfreeze
from thaw.learning.losses import VAL_LOSS, Objective, cross_entropy
from thaw.learning.prediction import features_of
from thaw.learning.training import FineTuning, fine_tune
from thaw.project import networks, settings

ROUNDS = 5
BATCHES = 10


def main(contest: Contest) -> None:
    """Time each of thaw's loops in turn with its bare loop, on the first training pictures."""
    config = settings.read(Path(contest.workspace, "params.yaml"))
    device = networks.use_resources(config)
    data = networks.dataset(config, "train", "val")
    normalise = Normaliser(networks.preprocessing(data), device)
    model = networks.new_network(config, data)
    unfreeze(model, "all", "frozen")
    fold_batchnorm(model, data.pictures.shape.blank())
    scale_dropout(model, config.unfreeze.drop)

    size = config.embed.batch_size
    rows = data.split("train")[: BATCHES * size]
    views = drawn_views(len(rows), VIEWS[config.embed.views], config.embed.draws)
    features = np.empty((*views.shape, model.head.in_features), np.float32)
    floats = random_pictures(size, contest.size)
    model.eval()

    def forward() -> None:
        with torch.inference_mode():
            model.backbone(floats)

    in_turn("embed", size, forward, views.size, lambda: features_of(
        model, data.pictures, rows, normalise, views, size, features
    ))  # fmt: skip

    rows = data.split("train")[: BATCHES * BATCH_SIZE]
    # fine_tune validates twice; with one picture that costs next to nothing
    val_rows = data.split("val")[:1]
    fine_tuning = FineTuning(
        seed=contest.seed,
        learning_rate=config.head.learning_rate,
        views=VIEWS[config.unfreeze.views],
        **config.unfreeze.model_dump(exclude={"blocks", "batchnorm", "views", "precision", "drop", "label_smoothing"})
        | {"batch_size": BATCH_SIZE, "epochs": 1, "head_ratio": 1},
    )
    groups = parameter_groups(
        model, fine_tuning.learning_rate, fine_tuning.ratio, fine_tuning.weight_decay, fine_tuning.layer_decay
    )
    optimizer = torch.optim.AdamW(groups, fused=True)
    quicken(model)
    floats = random_pictures(BATCH_SIZE, contest.size)
    targets = data.targets[rows[np.arange(BATCH_SIZE) % len(rows)]]

    loss_fn = cross_entropy()
    shown = TrainingData(
        data.pictures, normalise, Split(rows, data.targets[rows]), Split(val_rows, data.targets[val_rows])
    )

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        cores.backward(model, loss_fn, floats, targets)
        optimizer.step()

    in_turn("training", BATCH_SIZE, step, len(rows), lambda: fine_tune(
        model, shown, fine_tuning, Objective(loss_fn, VAL_LOSS)
    ))  # fmt: skip


def in_turn(name: str, batch: int, bare: Callable[[], object], pictures: int, ours: Callable[[], object]) -> None:
    """Print the pictures/s of both, in turn; the first round warms up and does not count."""
    count = math.ceil(pictures / batch)
    for number in range(ROUNDS + 1):
        seconds = seconds_of(lambda: [bare() for _ in range(count)]), seconds_of(ours)
        if number:
            emit(f"bare {name} rate", batch * count / seconds[0])
            emit(f"{name} rate", pictures / seconds[1])


def random_pictures(count: int, size: int) -> torch.Tensor:
    """A batch as the network wants it: normalised floats, channels last."""
    return torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds of doing the work once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main(from_command_line())
