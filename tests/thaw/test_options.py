"""Laws of the options of phase 2 that are off by default: each does what its name says, and off it does nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from thaw import training
from thaw.backbones import Classifier
from thaw.freezing import unfreeze
from thaw.pictures import Normaliser, Pictures
from thaw.training import FineTuning, HeadTraining, fine_tune, fit_head, loss_of

HOW = FineTuning(0.003, 10, 1.0, 0.0, batch_size=8, epochs=3, warmup=0.1, patience=9, views=1, jitter=0.0)
TRAIN, VAL = np.arange(16), np.arange(16, 24)
Weights = dict[str, torch.Tensor]
Train = Callable[..., tuple[Weights, pd.DataFrame]]


@pytest.fixture
def train(
    network: Callable[..., Classifier], pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> Train:
    def run(scratch: Path | None = None, weight: torch.Tensor | None = None, **options: object) -> tuple:
        model = network()
        unfreeze(model, "all", "frozen")
        split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
        how = replace(HOW, **options)
        return fine_tune(model, pictures, *split, normalise, how, 0, scratch, weight=weight)

    return run


def _distance(one: Weights, other: Weights) -> float:
    names = [name for name, value in one.items() if name.startswith("backbone") and value.is_floating_point()]
    return float(sum(((one[name] - other[name]) ** 2).sum() for name in names) ** 0.5)


def test_l2_sp_keeps_the_backbone_near_where_it_began(train: Train, network: Callable[..., Classifier]) -> None:
    start = {name: value.clone() for name, value in network().state_dict().items()}
    far, near = (_distance(train(l2_sp=strength, patience=99)[0], start) for strength in (0.0, 100.0))
    assert 0 < near < 0.8 * far


def test_smoothed_targets_are_the_targets_mixed_with_all_classes() -> None:
    logits, targets = torch.randn(5, 3), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    assert loss_of(logits, targets, 0.3) == pytest.approx(loss_of(logits, 0.7 * targets + 0.1).item())


def test_class_weights_scale_the_loss_of_each_class() -> None:
    logits, targets = torch.randn(4, 2), torch.eye(2)[torch.tensor([0, 0, 1, 1])]
    weighted = loss_of(logits, targets, weight=torch.tensor([2.0, 0.0]))
    assert weighted == pytest.approx(loss_of(logits[:2], targets[:2]).item())


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_mixed_targets_follow_mixed_pictures(way: str) -> None:
    torch.manual_seed(0)
    classes = torch.arange(8) % 2
    pictures = classes.view(-1, 1, 1, 1).float().expand(8, 3, 16, 16).contiguous()
    seen, targets = training._mixing(replace(HOW, **{way: 1.0}), 2)(pictures, torch.eye(2)[classes])
    assert seen.mean((1, 2, 3)).numpy() == pytest.approx(targets[:, 1].numpy(), abs=1e-5)
    assert ((targets > 0) & (targets < 1)).any()
    same, untouched = training._mixing(HOW, 2)(pictures, targets)
    assert same is pictures
    assert untouched is targets


def test_moving_average_lags_behind_and_is_what_is_judged(train: Train) -> None:
    plain, history = train(patience=99)
    averaged, smooth = train(ema=0.9, patience=99)
    assert history["train_loss"].equals(smooth["train_loss"])
    assert not history["val_loss"].equals(smooth["val_loss"])
    assert not all(torch.equal(plain[name], averaged[name]) for name in plain)
    assert plain.keys() == averaged.keys()


def test_an_interrupted_moving_average_goes_on(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole_history = train(ema=0.9)
    keep = training._keep

    def keep_and_stop(path: Path, *state: object) -> None:
        keep(path, *state)  # type: ignore[arg-type]
        if len(state[2]) == 2:  # type: ignore[arg-type]
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "scratch.pt", ema=0.9)
    monkeypatch.setattr(training, "_keep", keep)
    resumed, resumed_history = train(tmp_path / "scratch.pt", ema=0.9)
    pd.testing.assert_frame_equal(whole_history, resumed_history, check_exact=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_last_epoch_is_kept_where_asked_however_bad_it_is(train: Train) -> None:
    harmful = {"learning_rate": 3.0, "ratio": 1, "patience": 1}
    best, stopped = train(**harmful)
    last, whole = train(**harmful, keep="last")
    assert stopped["val_loss"].idxmin() == 0
    assert len(stopped) < len(whole) == HOW.epochs + 1
    assert not all(torch.equal(best[name], last[name]) for name in best)


def test_interpolation_is_never_worse_on_validation_than_either_end(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    _, history = train(patience=99)
    train(interpolate=True, patience=99)
    said = capsys.readouterr().out.strip().splitlines()[-1]
    loss = float(said.rpartition(" ")[2])
    assert "of the way from the head-only weights" in said
    assert loss <= history["val_loss"].min() + 1e-4


def test_without_phase_1_the_head_stays_as_it_was_drawn() -> None:
    head = torch.nn.Linear(4, 2)
    before = head.weight.detach().clone()
    features, targets = np.zeros((6, 1, 4), np.float32), torch.eye(2)[torch.arange(6) % 2]
    best, history = fit_head(head, (features, targets), (features, targets), HeadTraining(0.1, 0.0, 4, 0, 3), 0)
    assert torch.equal(best["weight"], before)
    assert history["epoch"].tolist() == [0]
