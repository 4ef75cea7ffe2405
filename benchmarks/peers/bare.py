"""The ceiling: the work of embed and of phase 2 as bare loops over one batch of floats that lies in memory."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peers import pictures
from benchmarks.peers.contest import BATCH_SIZE, Contest, given, tell
from tasks import settings
from thaw.folding import fold_batchnorm
from thaw.freezing import parameter_groups, scale_dropout, unfreeze
from thaw.machine import keep_freed_memory
from thaw.training import loss_of

SECONDS = 20


def main(contest: Contest) -> None:
    """Both loops, with thaw's settings."""
    keep_freed_memory()
    torch.manual_seed(contest.seed)
    chosen = settings.read(Path(contest.workspace, "params.yaml"))
    model = pictures.network(contest).to(memory_format=torch.channels_last)
    unfreeze(model, "all", "frozen")
    fold_batchnorm(model, torch.zeros(1, 3, contest.size, contest.size))
    scale_dropout(model, chosen.unfreeze.drop)

    batch = random_pictures(chosen.embed.batch_size, contest.size)
    with torch.inference_mode():
        tell("embed rate", len(batch) / seconds_of(lambda: model.backbone(batch)))

    batch = random_pictures(BATCH_SIZE, contest.size)
    targets = torch.eye(model.head.out_features)[torch.arange(BATCH_SIZE) % model.head.out_features]
    how = chosen.unfreeze
    groups = parameter_groups(model, chosen.head.learning_rate, how.ratio, how.weight_decay, how.layer_decay)
    optimizer = torch.optim.AdamW(groups)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(batch), targets).backward()
        optimizer.step()

    tell("training rate", len(batch) / seconds_of(step))


def random_pictures(count: int, size: int) -> torch.Tensor:
    """A batch as the network wants it: normalised floats, channels last."""
    return torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)


def seconds_of(work: Callable[[], object]) -> float:
    """Mean seconds of one piece of work, done again and again for a while."""
    for _ in range(3):
        work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        work()
        done += 1
    return (time.perf_counter() - began) / done


if __name__ == "__main__":
    main(given())
