"""What each lever of speed saves: work with and without it, in turn, in one process.

    python -m benchmarks.levers [--rounds 5] [--only evaluate]   # writes results/levers.json

The default backbone and size, synthetic pictures, batches of 16: one core's half of a batch of 32.
It measures CPU seconds of one thread, which other processes on the machine hardly disturb. Takes
three minutes.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.commands import machine
from thaw.learning import cores
from thaw.learning.backbones import Classifier, blocks, create
from thaw.learning.convolutions import quicken
from thaw.learning.cut import Pair, cut
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import Selection, parameter_groups, scale_dropout, unfreeze
from thaw.learning.losses import cross_entropy
from thaw.learning.machine import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "levers.json"
SIZE, BATCH = 160, 16
LAST = (4, 9, 12)  # of 18 blocks
SMALLER = (96, 128)  # sides of pictures in early epochs
Work = Callable[[], object]


def main(rounds: int, only: str) -> None:
    """Time every pair in turn, round after round; the first round warms up and does not count."""
    keep_freed_memory()
    torch.set_num_threads(1)
    made: dict[str, Callable[[], tuple[Work, Work]]] = {}
    for last in LAST:
        made |= {
            f"evaluate, last {last} blocks trained: in common once": partial(looks_at_both, last),
            f"step, last {last} blocks: activations kept": pair_of(learns, {"selection": last}, kept=True),
            f"step, last {last} blocks: cut, nothing kept": pair_of(learns, {"selection": last}, is_cut=True),
            f"step, last {last} blocks, kept: bfloat16": pair_of(learns, {"selection": last, "kept": True}, mixed=True),
        }
    made["step, all blocks: bfloat16"] = pair_of(learns, {"selection": "all"}, mixed=True)
    for side in SMALLER:
        made[f"step, all blocks: {side} px"] = pair_of(learns, {"selection": "all"}, side=side)
        made[f"step, all blocks, bfloat16: {side} px"] = pair_of(learns, {"selection": "all", "mixed": True}, side=side)
    made["forward pass: bfloat16"] = pair_of(looks, {}, mixed=True)
    pairs = {name: make() for name, make in made.items() if only in name}
    ratios: dict[str, list[float]] = {name: [] for name in pairs}
    for number in range(rounds + 1):
        for name, (plain, lever) in pairs.items():
            ratio = seconds_of(plain) / seconds_of(lever)
            if number:
                ratios[name].append(ratio)
    print(f"{'so many times as fast':<58}{'median':>8}{'least':>8}{'most':>8}")
    for name, values in ratios.items():
        print(f"{name:<58}{statistics.median(values):8.2f}{min(values):8.2f}{max(values):8.2f}")
    if not only:
        RESULTS.write_text(json.dumps({"machine": machine(), "ratios": ratios}, indent=2) + "\n", encoding="utf-8")


def pair_of(work: Callable[..., Work], arguments: dict[str, Any], **lever: Any) -> Callable[[], tuple[Work, Work]]:
    """The same work without and with a lever."""
    return lambda: (work(**arguments), work(**arguments, **lever))


def looks_at_both(last: int) -> tuple[Work, Work]:
    """Two networks that share their first blocks predict one batch: one by one, and as a pair."""
    before = network()
    after = copy.deepcopy(before)
    with torch.no_grad():
        blocks(after.backbone)[-last].parameters[0].mul_(1.1)
    batch = pictures(BATCH)
    pair = Pair(before, after, batch[:1])

    def run(*networks: nn.Module) -> None:
        with torch.inference_mode():
            for model in networks:
                model(batch)

    return lambda: run(before, after), lambda: run(pair)


def looks(mixed: bool = False) -> Work:
    """A network predicts one batch."""
    model, batch = network(), pictures(BATCH)
    quicken(model, mixed)

    def run() -> None:
        with torch.inference_mode():
            model(batch)

    return run


def learns(
    selection: Selection, kept: bool = False, is_cut: bool = False, mixed: bool = False, side: int = SIZE
) -> Work:
    """A step of phase 2 on one batch: plain on the uncut network, or with a lever."""
    model = network()
    quicken(model, mixed)
    unfrozen = unfreeze(model, selection, "frozen")
    batch, targets, loss_fn = pictures(BATCH, side), torch.eye(2)[torch.arange(BATCH) % 2], cross_entropy()
    parts = cut(model, len(blocks(model.backbone)) - len(unfrozen), batch[:1]) if kept or is_cut else None
    activations = parts.before(batch) if parts else batch
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3, 10, 0.05, 1.0), fused=True)
    learner = (parts.after if parts else model).train()

    def step() -> None:
        optimizer.zero_grad()
        inputs = parts.before(batch) if parts and is_cut else activations
        cores.backward(learner, loss_fn, inputs, targets)
        optimizer.step()

    return step


def network() -> Classifier:
    """A copy of the network."""
    return copy.deepcopy(_network())


@cache
def _network() -> Classifier:
    """The default backbone with its weights, folded, without dropout."""
    model = create("efficientnet_lite0", "IMAGENET1K_V1", 2).eval().to(memory_format=torch.channels_last)
    fold_batchnorm(model, torch.zeros(1, 3, SIZE, SIZE))
    scale_dropout(model, 0.0)
    return model


def pictures(count: int, side: int = SIZE) -> Tensor:
    """A batch as a network wants it: normalised floats, channels last."""
    return torch.randn(count, 3, side, side).contiguous(memory_format=torch.channels_last)


def seconds_of(work: Work) -> float:
    """The CPU seconds of doing the work twice."""
    began = time.process_time()
    work()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--only", default="", help="a part of the names of pairs; nothing is written then")
    main(**vars(arguments.parse_args()))
