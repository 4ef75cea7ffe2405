"""Laws of kept activations: they save time, change nothing else, and leave no file behind."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tuning import fine_tuning, tune

from thaw.data.pictures import Normaliser, Pictures, drawn_views, view
from thaw.learning import training
from thaw.learning.activations import Activations, Frozen
from thaw.learning.backbones import Classifier, blocks, create
from thaw.learning.batches import Augmentation, Split, TrainingData, training_batches
from thaw.learning.convolutions import quicken
from thaw.learning.cut import cut
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import scale_dropout, unfreeze
from thaw.learning.training import FineTuning, Trained

TRAIN, VAL = np.arange(16), np.arange(16, 24)
LAST = 2
BATCHES = 2  # in training; one in validation
CONFIG = fine_tuning(views=8, draws=2, jitter=0.0, ema=0.5)
Learn = Callable[..., tuple[Trained, int]]


@pytest.fixture
def learn(
    network: Callable[..., Classifier], pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, tmp_path: Path
) -> Learn:
    """Phase 2 of the last blocks: the result, and the number of batches that block 1 has seen."""

    def run(config: FineTuning = CONFIG, most: float = 1e9, **more: Any) -> tuple[Trained, int]:
        model, seen = network(), []
        unfreeze(model, LAST, "frozen")
        model.backbone.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        parts = cut(model, len(blocks(model.backbone)) - LAST, torch.zeros(1, 3, 32, 32))
        assert parts
        seen.clear()
        again = partial(unfreeze, model, LAST, "frozen")
        train, val = ((rows, targets[rows]) for rows in (TRAIN, VAL))
        trained = tune(
            model, pictures, train, val, normalise, config, unfreeze=lambda _: again(),
            frozen=Frozen(parts, tmp_path / "scratch", most), **more,
        )  # fmt: skip
        return trained, len(seen)

    return run


def same(one: Trained, other: Trained) -> bool:
    assert one.history.equals(other.history)
    return all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def test_kept_or_computed_each_time_the_same_bytes_come_out_and_kept_ones_are_computed_once(learn: Learn) -> None:
    (kept, few), (live, many) = learn(), learn(most=0)
    assert same(kept, live)
    examples = 2  # whose size says what is kept
    assert few == examples + BATCHES * CONFIG.draws + 1
    assert many == examples + CONFIG.epochs * BATCHES + (CONFIG.epochs + 1)


@pytest.mark.parametrize(
    ("quick", "tolerance"), [("kept", 1e-4), ("bfloat16", 0.04), pytest.param("both", 0.04, marks=pytest.mark.slow)]
)
def test_the_quick_ways_learn_what_the_plain_one_learns_to_their_tolerance(
    quick: str,
    tolerance: float,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    tmp_path: Path,
) -> None:
    splits = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    losses = []
    for way in ("plain", quick):
        torch.manual_seed(0)
        model = create("efficientnet_lite0", "IMAGENET1K_V1", 2).to(memory_format=torch.channels_last)
        again = partial(unfreeze, model, 9, "frozen")
        again()
        fold_batchnorm(model, torch.zeros(1, 3, 32, 32))
        scale_dropout(model, 0.0)
        quicken(model, mixed=way in ("bfloat16", "both"))
        parts = cut(model, len(blocks(model.backbone)) - 9, torch.zeros(1, 3, 32, 32))
        assert parts
        frozen = Frozen(parts, tmp_path, 1e9) if way in ("kept", "both") else None
        trained = tune(
            model, pictures, *splits, normalise, replace(CONFIG, ema=0.0), unfreeze=lambda _, again=again: again(),
            frozen=frozen,
        )  # fmt: skip
        losses.append(torch.tensor(trained.history["val_loss"]))
    plain, other = losses
    assert plain.max() - plain.min() > 10 * tolerance * plain[0]  # it has learnt more than that
    torch.testing.assert_close(other, plain, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"jitter": 0.1},
        *(pytest.param(one, marks=pytest.mark.slow) for one in ({"mixup": 0.2}, {"draws": None}, {"epochs": 2})),
    ],
)
def test_pictures_that_differ_each_time_or_are_seen_too_seldom_are_not_kept(
    learn: Learn, changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, **changes)
    (kept, seen), (live, _) = learn(config), learn(config, most=0)
    assert same(kept, live)
    assert seen == 1 + 1 + config.epochs * BATCHES


def test_what_is_kept_is_gone_when_the_training_ends(learn: Learn, tmp_path: Path) -> None:
    learn()
    assert [*(tmp_path / "scratch").iterdir()] == []


def test_a_full_disk_changes_nothing_but_the_time(
    learn: Learn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, _ = learn()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    live, _ = learn()
    assert same(kept, live)
    assert "cannot hold the outputs of frozen blocks (No space left on device)" in capsys.readouterr().out


def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    learn: Learn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    through, _ = learn()
    plain = training._train_epoch

    def stopped(source: Any, steps: Any, loss_fn: Any, epoch: int, progress: Any) -> float:
        if epoch == 2:
            raise KeyboardInterrupt
        return plain(source, steps, loss_fn, epoch, progress)

    monkeypatch.setattr(training, "_train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        learn(scratch=tmp_path / "state.pt")
    monkeypatch.undo()
    resumed, _ = learn(scratch=tmp_path / "state.pt")
    assert same(through, resumed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 7, 6)])
def test_what_is_read_is_what_was_written(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    views = [torch.randn(shape).to(dtype) for _ in range(2)]
    if len(shape) == 4:
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    kept = Activations(tmp_path, views[0][:1], (3, 2))
    for number, value in enumerate(views):
        kept.write(np.arange(3), number, value)
    for picture in range(3):
        read = kept.read(np.array([picture, 0]), np.array([1, 0]))
        assert torch.equal(read, torch.stack([views[1][picture], views[0][0]]))
        assert read.dtype == dtype
        assert read.stride()[1:] == views[0].stride()[1:]


def test_an_epoch_shows_each_picture_in_one_of_the_views_drawn_for_it(
    pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    data = TrainingData(pictures, normalise, Split(TRAIN, targets[TRAIN]), Split(VAL, targets[VAL]))
    own = drawn_views(len(TRAIN), 8, 2)
    shown: dict[int, set[int]] = {}
    for epoch in range(8):
        for batch in training_batches(data, 16, Augmentation(8, 2, 0.0, 0.0, 0.0), (0, epoch)):
            for picture in batch.inputs:
                place, number = next(
                    result for result in all_views(pictures, normalise) if torch.equal(result[2], picture)
                )[:2]
                shown.setdefault(place, set()).add(number)
    assert {place: {*views.tolist()} for place, views in enumerate(own)} == shown


def all_views(pictures: Pictures, normalise: Normaliser) -> Iterator[tuple[int, int, torch.Tensor]]:
    (pixels,) = pictures.batches([TRAIN])
    for number in range(8):
        for place, picture in enumerate(normalise(view(pixels, number))):
            yield place, number, picture
