"""Laws of phase 2's options: each does what its name says, and does nothing when off."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tuning import fine_tuning, fit, tune

from thaw.data.pictures import Normaliser, Pictures
from thaw.learning import scratch as scratch_files
from thaw.learning import training
from thaw.learning.backbones import Classifier
from thaw.learning.batches import mixed
from thaw.learning.freezing import unfreeze
from thaw.learning.losses import cross_entropy
from thaw.learning.machine import use_bfloat16
from thaw.learning.prediction import predict
from thaw.learning.training import HeadTraining, Trained

CONFIG = fine_tuning(weight_decay=0.0, views=1, jitter=0.0)
TRAIN, VAL = np.arange(16), np.arange(16, 24)
Weights = dict[str, torch.Tensor]
Train = Callable[..., Trained]
loss_of = cross_entropy()


@pytest.fixture
def train(
    network: Callable[..., Classifier], pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> Train:
    def run(scratch: Path | None = None, weight: torch.Tensor | None = None, **options: object) -> Trained:
        model = network()
        unfreeze(model, "all", "frozen")
        split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
        config = replace(CONFIG, **options)
        return tune(model, pictures, *split, normalise, config, scratch, weight=weight)

    return run


def _distance(one: Weights, other: Weights) -> float:
    names = [name for name, value in one.items() if name.startswith("backbone") and value.is_floating_point()]
    return float(sum(((one[name] - other[name]) ** 2).sum() for name in names) ** 0.5)


@pytest.mark.slow
def test_l2_sp_keeps_the_backbone_near_where_it_began(train: Train, network: Callable[..., Classifier]) -> None:
    start = {name: value.clone() for name, value in network().state_dict().items()}
    far, near = (_distance(train(l2_sp=strength).weights, start) for strength in (0.0, 3000.0))
    assert 0 < near < 0.8 * far


def test_l2_sp_pulls_beside_the_moments_of_adam_and_takes_the_place_of_weight_decay_in_the_backbone(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two steps the first begins at the start, so that only the second one is pulled."""
    steps: list[dict[str, Any]] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: object) -> object:
        done = original(self, *args)  # type: ignore[arg-type]
        group = next(group for group in self.param_groups if group["name"] == "backbone")
        weights = [parameter.detach().clone() for parameter in group["params"]]
        moments = [self.state[parameter]["exp_avg"].clone() for parameter in group["params"]]
        decays = {(group["name"], group["weight_decay"]) for group in self.param_groups}
        steps.append({"weights": weights, "moments": moments, "rate": group["lr"], "decays": decays})
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(epochs=1, weight_decay=0.5, l2_sp=0.0)
    plain = steps[:]
    steps.clear()
    train(epochs=1, weight_decay=0.5, l2_sp=100.0)
    assert plain[0]["decays"] == {("head", 0.0), ("head", 0.5), ("backbone", 0.0), ("backbone", 0.5)}
    assert steps[0]["decays"] == {("head", 0.0), ("head", 0.5), ("backbone", 0.0)}
    undecayed = steps[:]
    steps.clear()
    monkeypatch.setattr(training, "_pull", lambda *_: None)
    train(epochs=1, weight_decay=0.5, l2_sp=100.0)
    for pulled, free in zip(undecayed, steps, strict=True):
        assert all(map(torch.equal, pulled["moments"], free["moments"]))
    assert not all(map(torch.equal, undecayed[1]["weights"], steps[1]["weights"]))


def test_a_pull_of_l2_sp_is_the_rate_times_its_strength_of_the_way_and_never_more_than_all() -> None:
    weight, free = torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.AdamW([weight, free], lr=0.1)
    anchors = {weight: torch.tensor([1.0])}
    training._pull(optimizer, anchors, 2.0)
    assert weight.item() == pytest.approx(3 - 0.1 * 2 * (3 - 1))
    training._pull(optimizer, anchors, 50.0)
    assert (weight.item(), free.item()) == (1, 3)


def test_smoothed_targets_are_the_targets_mixed_with_all_classes() -> None:
    logits, targets = torch.randn(5, 3), torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])]
    assert cross_entropy(0.3)(logits, targets) == pytest.approx(loss_of(logits, 0.7 * targets + 0.1).item())


def test_class_weights_scale_the_loss_of_each_class() -> None:
    logits, targets = torch.randn(4, 2), torch.eye(2)[torch.tensor([0, 0, 1, 1])]
    weighted = cross_entropy(class_weights=torch.tensor([2.0, 0.0]))(logits, targets)
    assert weighted == pytest.approx(loss_of(logits[:2], targets[:2]).item())


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_mixed_targets_follow_mixed_pictures(way: str) -> None:
    classes = torch.arange(9) % 2
    pictures = classes.view(-1, 1, 1, 1).float().expand(9, 3, 16, 16).contiguous()
    shares = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        seen, targets = mixed(pictures, torch.eye(2)[classes], replace(CONFIG, **{way: 1.0}).augmentation, random)
        assert len(seen) == len(targets) == 8
        assert seen.mean((1, 2, 3)).numpy() == pytest.approx(targets[:, 1].numpy(), abs=1e-5)
        assert targets.sum(1).numpy() == pytest.approx(1)
        shares.append(float(targets[0, 1]))
    assert 0 <= min(shares) < 0.3
    assert 0.7 < max(shares) <= 1


def test_with_mixup_and_cutmix_either_is_drawn() -> None:
    pictures, targets = torch.eye(2)[[0, 1]].view(2, 2, 1, 1).expand(2, 2, 16, 16), torch.eye(2)
    config, random = replace(CONFIG, mixup=1.0, cutmix=1.0), np.random.default_rng(0)
    drawn = [mixed(pictures, targets, config.augmentation, random)[0] for _ in range(40)]
    assert 10 < sum(not torch.equal(seen, seen.round()) for seen in drawn) < 30


@pytest.mark.slow
def test_moving_average_lags_behind_and_is_what_is_judged(train: Train) -> None:
    plain, averaged = train(), train(ema=0.9)
    assert plain.history["train_loss"].equals(averaged.history["train_loss"])
    assert not plain.history["val_loss"].equals(averaged.history["val_loss"])
    assert not all(torch.equal(plain.weights[name], averaged.weights[name]) for name in plain.weights)
    assert plain.weights.keys() == averaged.weights.keys()


def test_a_moving_average_in_bfloat16_is_itself_what_is_judged(
    network: Callable[..., Classifier], pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    def figures(weights: Weights) -> float:
        model = network()
        model.load_state_dict(weights)
        use_bfloat16(model, normalise.device)
        return loss_of(predict(model, pictures, VAL, normalise, 1, 16), targets[VAL]).item()

    model = network()
    use_bfloat16(model, normalise.device)
    unfreeze(model, "all", "frozen")
    split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    trained = tune(model, pictures, *split, normalise, replace(CONFIG, ema=0.9))
    assert trained.kept["val_loss"] == pytest.approx(figures(trained.weights), rel=1e-3)
    assert trained.kept["val_loss"] != pytest.approx(figures(model.state_dict()), rel=1e-2)


@pytest.mark.slow
def test_an_interrupted_moving_average_goes_on(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(ema=0.9)
    keep = scratch_files.keep

    def keep_and_stop(path: Path, state: dict[str, Any]) -> None:
        keep(path, state)
        if len(state["history"]) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(scratch_files, "keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "scratch.pt", ema=0.9)
    monkeypatch.setattr(scratch_files, "keep", keep)
    resumed = train(tmp_path / "scratch.pt", ema=0.9)
    pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)
    assert whole.kept == resumed.kept
    assert all(torch.equal(whole.weights[name], resumed.weights[name]) for name in whole.weights)


HARMFUL = {"learning_rate": 0.1, "ratio": 1}  # so that it matters which weights are kept


def test_the_last_epoch_is_kept_however_bad_it_is_unless_the_best_is_asked_for(train: Train) -> None:
    best, last = train(**HARMFUL, keep="best"), train(**HARMFUL)
    assert best.history["val_loss"].idxmin() == best.kept["epoch"] == 0
    pd.testing.assert_frame_equal(best.history, last.history, check_exact=True)
    assert last.kept["epoch"] == CONFIG.epochs
    assert not all(torch.equal(best.weights[name], last.weights[name]) for name in best.weights)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": "best"},
        {"keep": "last"},
        {"keep": "last", "ema": 0.5},
        {"keep": "last", "interpolate": True},
        {"keep": "last", "interpolate": True, "ema": 0.5},
        {"keep": "last", "interpolate": True, "weight": torch.tensor([1.9, 0.1])},
        {"keep": "best", "weight": torch.tensor([1.9, 0.1])},
    ],
    ids=str,
)
@pytest.mark.parametrize("rates", [{}, HARMFUL], ids=["good", "harmful"])
@pytest.mark.slow
def test_figures_are_those_of_the_weights_that_are_kept(
    train: Train,
    network: Callable[..., Classifier],
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    rates: dict[str, float],
    options: dict[str, Any],
) -> None:
    trained = train(**rates, **options)
    model = network()
    model.load_state_dict(trained.weights)
    logits = predict(model, pictures, VAL, normalise, 1, 16)
    expected = targets[VAL]
    assert trained.kept["val_loss"] == pytest.approx(loss_of(logits, expected).item(), rel=1e-4)
    assert trained.kept["val_accuracy"] == (logits.argmax(1) == expected.argmax(1)).double().mean().item()
    weight = options.get("weight")
    if weight is not None:
        weighted = cross_entropy(class_weights=weight)(logits, expected).item()
        assert trained.kept["weighted_val_loss"] == pytest.approx(weighted, rel=1e-4)


@pytest.mark.slow
def test_class_weights_choose_the_epoch_and_leave_the_loss_that_is_compared_as_it_is(train: Train) -> None:
    one, other = (train(weight=torch.tensor(weight), keep="best") for weight in ([2.0, 0.0], [0.0, 2.0]))
    for trained in (one, other):
        history = trained.history
        assert trained.kept["epoch"] == history["weighted_val_loss"].idxmin()
    start = [trained.history.loc[0] for trained in (one, other)]
    assert start[0]["val_loss"] == start[1]["val_loss"]
    assert start[0]["weighted_val_loss"] != start[1]["weighted_val_loss"]
    assert "weighted_val_loss" not in train().history


@pytest.mark.slow
def test_interpolation_is_never_worse_on_validation_than_either_end(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    for rates in ({}, {"learning_rate": 0.01, "ratio": 1}, HARMFUL):
        trained = train(**rates, interpolate=True, keep="last")
        ends = trained.history["val_loss"].iloc[[0, -1]]
        output = capsys.readouterr().out.strip().splitlines()[-1]
        assert f"{trained.kept['share']:.0%} of the way from the head-only weights" in output
        assert f"validation loss {trained.kept['val_loss']:.4f}" in output
        assert trained.kept["val_loss"] <= ends.min() + 1e-4
        assert trained.kept["epoch"] == CONFIG.epochs


def test_without_phase_1_the_head_stays_as_it_was_drawn() -> None:
    head = torch.nn.Linear(4, 2)
    before = head.weight.detach().clone()
    features, targets = np.zeros((6, 1, 4), np.float32), torch.eye(2)[torch.arange(6) % 2]
    trained = fit(head, (features, targets), (features, targets), HeadTraining(0, 0.1, 0.0, 4, 0, 3))
    assert torch.equal(trained.weights["weight"], before)
    assert trained.history["epoch"].tolist() == [0]
    assert trained.kept["epoch"] == 0
    assert trained.kept["val_loss"] == trained.history["val_loss"][0]
