"""Laws of training: it learns, repeats bit for bit, and an interruption leaves no trace."""

import errno
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor
from tuning import fine_tuning, fit, tune

from thaw.data.pictures import Normaliser, Pictures, Preprocessing, drawn_views, in_batches, in_views, view
from thaw.errors import InputError
from thaw.learning import scratch as scratch_files
from thaw.learning import training
from thaw.learning.backbones import Classifier, blocks
from thaw.learning.batches import Split, TrainingData, order
from thaw.learning.convolutions import quicken
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import Selection, select, unfreeze
from thaw.learning.losses import cross_entropy
from thaw.learning.machine import bfloat16_pays, compiling_pays, use_bfloat16
from thaw.learning.prediction import predict
from thaw.learning.training import (
    FineTuning,
    HeadTraining,
    Trained,
    adapt_batchnorm,
    enough_epochs,
    warmup_and_cosine,
)

CONFIG = fine_tuning()
TRAIN, VAL = np.arange(16), np.arange(16, 24)
Make = Callable[..., Classifier]


def train(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    scratch: Path | None = None,
    selection: Selection = 6,
    config: FineTuning = CONFIG,
) -> Trained:
    # dropout and stochastic depth: global random numbers matter
    model = network("efficientnet_lite0")
    before = partial(unfreeze, model, selection, "frozen", epochs=CONFIG.epochs)
    split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    return tune(model, pictures, split[0], split[1], normalise, config, scratch, before)


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Trained]:
    """Results of undisturbed trainings, each made once; they repeat bit for bit."""
    return {}


def test_same_seed_gives_the_same_bits(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    assert_equal(train(network, pictures, targets, normalise), train(network, pictures, targets, normalise))


def assert_equal(one: Trained, other: Trained) -> None:
    """To the bit."""
    pd.testing.assert_frame_equal(one.history, other.history, check_exact=True)
    assert one.kept == other.kept
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("selection", [6, "gradual"])
@pytest.mark.parametrize("stop", [*(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 3)), 4])
def test_an_interrupted_run_equals_the_uninterrupted_one(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Trained],
    selection: Selection,
    stop: int,
) -> None:
    if (whole := undisturbed.get(str(selection))) is None:
        whole = undisturbed[str(selection)] = train(network, pictures, targets, normalise, selection=selection)
    scratch = tmp_path / "scratch.pt"
    keep = scratch_files.keep

    def keep_and_stop(path: Path, state: dict[str, Any]) -> None:
        keep(path, state)
        if len(state["history"]) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(scratch_files, "keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(network, pictures, targets, normalise, scratch, selection)
    monkeypatch.setattr(scratch_files, "keep", keep)
    torch.manual_seed(12345)
    assert_equal(train(network, pictures, targets, normalise, scratch, selection), whole)


# ------------------------------------------------------------------------------------ scratch files

ONE_EPOCH = replace(CONFIG, epochs=1)
Damage = Callable[[Path], object]


@pytest.fixture
def kept_state(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, tmp_path: Path
) -> tuple[Path, Trained]:
    """The scratch file of a training that has done all its epochs, and what it came to."""
    path = tmp_path / "kept" / "unfreeze-1.pt"
    return path, train(network, pictures, targets, normalise, path, config=ONE_EPOCH)


def changed_state(change: Callable[[dict[str, Any]], object]) -> Damage:
    """A file that is whole, with another state in it."""

    def damage(path: Path) -> None:
        state = scratch_files.read(path, torch.device("cpu"))
        assert state is not None
        change(state)
        scratch_files.write(path, state)

    return damage


def in_its_place(make: Damage) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def of_another_run(path: Path) -> None:
    state = scratch_files.read(path, torch.device("cpu"))
    assert state is not None
    state["weights"]["head.bias"] += 1
    scratch_files.write(path.with_name("unfreeze-2.pt"), state)
    path.with_name("unfreeze-2.pt").replace(path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "is damaged"),
        (lambda path: torch.save({"history": []}, path), "is damaged"),
        (of_another_run, "is damaged or of another run"),
        (in_its_place(lambda path: path.mkdir()), "is damaged"),
        (changed_state(lambda state: state.pop("model")), "does not fit"),
        (changed_state(lambda state: state["model"].pop("head.bias")), "does not fit"),
        (changed_state(lambda state: state["model"].update({"head.bias": torch.zeros(3)})), "does not fit"),
        (changed_state(lambda state: state["weights"].update({"head.bias": torch.zeros(3)})), "does not fit"),
        (changed_state(lambda state: state["history"].clear()), "does not fit"),
        (changed_state(lambda state: state["history"].extend([state["history"][0]] * 9)), "does not fit"),
        (changed_state(lambda state: state.update(history=7)), "does not fit"),
        (changed_state(lambda state: state["optimizer"]["param_groups"].pop()), "does not fit"),
        (changed_state(lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3))), "does not fit"),
    ],
)
@pytest.mark.slow
def test_whatever_is_in_the_scratch_file_phase_2_ends_as_without_it(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    kept_state: tuple[Path, Trained],
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    why: str,
) -> None:
    path, whole = kept_state
    damage(path)
    capsys.readouterr()
    assert_equal(train(network, pictures, targets, normalise, path, config=ONE_EPOCH), whole)
    output = capsys.readouterr().out
    assert "resuming" not in output
    warning = next(line for line in output.splitlines() if line.startswith("warning: "))
    assert re.fullmatch(rf"warning: {path}, the state of .*{why}.*; phase 2 starts anew", warning)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_scratch_file_of_which_any_bit_differs_or_that_was_cut_anywhere_is_not_read(
    data: st.DataObject, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "unfreeze-1.pt"
    scratch_files.write(path, {"weights": {"a": torch.arange(12.0)}, "history": [{"epoch": 0}]})
    content = bytearray(path.read_bytes())
    assert scratch_files.read(path, torch.device("cpu")) is not None
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
    else:
        path.write_bytes(content[:position])
    assert scratch_files.read(path, torch.device("cpu")) is None
    assert capsys.readouterr().out.count("warning: ") == 1


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_written(state: object, file: BinaryIO) -> None:
    file.write(b"half of it")
    raise RuntimeError("unexpected pos 768 vs 662")  # as torch puts it


@pytest.mark.parametrize("fault", [no_space, half_written, None], ids=["no space", "half written", "no folder"])
def test_a_scratch_file_that_cannot_be_written_is_a_warning_and_leaves_nothing_behind(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[..., None] | None,
) -> None:
    whole = train(network, pictures, targets, normalise, config=ONE_EPOCH)
    folder = tmp_path / "scratch"
    if fault:
        monkeypatch.setattr(torch, "save", fault)
    else:
        folder.write_text("a file")
    assert_equal(train(network, pictures, targets, normalise, folder / "unfreeze-1.pt", config=ONE_EPOCH), whole)
    # after each epoch
    assert capsys.readouterr().out.count("unfreeze-1.pt cannot be written (") >= 2
    assert folder.read_text() == "a file" if fault is None else not list(folder.iterdir())


def test_a_write_that_fails_leaves_the_state_before_it_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "unfreeze-1.pt"
    scratch_files.write(path, {"history": [1]})
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        scratch_files.write(path, {"history": [1, 2]})
    assert scratch_files.read(path, torch.device("cpu")) == {"history": [1]}
    assert list(tmp_path.iterdir()) == [path]


def test_gradual_neither_moves_nor_decays_nor_remembers_what_is_not_yet_unfrozen(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    start = {name: value.clone() for name, value in model.named_parameters()}
    steps: list[set[str]] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: object) -> object:
        done = original(self, *args)  # type: ignore[arg-type]
        held = [parameter for group in self.param_groups for parameter in group["params"]]
        trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
        assert len(held) == len(set(held))
        assert set(held) == set(trainable.values()) == set(self.state)
        for name, value in model.named_parameters():
            assert name in trainable or torch.equal(value, start[name])
        steps.append(set(trainable))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    before = partial(unfreeze, model, "gradual", "frozen", epochs=CONFIG.epochs)
    tune(model, pictures, split[0], split[1], normalise, CONFIG, None, before)
    assert [len(each) for each in steps] == sorted(len(each) for each in steps)
    assert len({frozenset(each) for each in steps}) == CONFIG.epochs
    assert {name.split(".")[1] for name in steps[0] if name.startswith("backbone")} == {"layer3", "layer4"}
    assert steps[-1] == set(start)


def test_momentum_and_rates_go_on_when_more_is_unfrozen(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    seen: list[tuple[int, float]] = []
    original = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *args: object) -> object:
        done = original(self, *args)  # type: ignore[arg-type]
        seen.append((int(self.state[model.head.weight]["step"]), self.param_groups[-1]["lr"]))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    before = partial(unfreeze, model, "gradual", "frozen", epochs=CONFIG.epochs)
    tune(model, pictures, split[0], split[1], normalise, CONFIG, None, before)
    assert [number for number, _ in seen] == [1, 2, 3, 4, 5, 6]
    expected = [CONFIG.learning_rate * warmup_and_cosine(number / 6, CONFIG.warmup) for number in range(6)]
    assert [rate for _, rate in seen] == expected


def seen_in(pictures: Pictures, rows: Any, normalise: Normaliser) -> TrainingData:
    return TrainingData(pictures, normalise, Split(rows, torch.empty(0)), Split(rows[:0], torch.empty(0)))


def test_adapted_statistics_are_those_of_the_training_pictures_and_nothing_else_changes(
    network: Make, pictures: Pictures, normalise: Normaliser
) -> None:
    model = network("efficientnet_lite0")
    config = replace(CONFIG, batch_size=16, jitter=0.0, views=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    unfreeze(model, 2, "adapt")  # frozen blocks are adapted too
    adapt_batchnorm(model, seen_in(pictures, TRAIN, normalise), config)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.rsplit(".", 1)[1] for name in changed} == {"running_mean", "running_var", "num_batches_tracked"}
    assert len(changed) == 3 * sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert not any(module.training for module in model.modules())
    first = model.backbone.features[0][0]
    seen = first(normalise(torch.from_numpy(pictures.decoded[TRAIN]).permute(0, 3, 1, 2)).expand(-1, 3, -1, -1))
    batchnorm = model.backbone.features[0][1]
    torch.testing.assert_close(batchnorm.running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(batchnorm.running_var, seen.var((0, 2, 3)))
    assert batchnorm.momentum == 0.01


def test_adapting_counts_every_batch_the_same_and_repeats_itself(
    network: Make, pictures: Pictures, normalise: Normaliser
) -> None:
    seen: list[int] = []
    states = []
    for _ in range(2):
        model = network()
        model.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        adapt_batchnorm(model, seen_in(pictures, np.arange(17), normalise), CONFIG)
        states.append(model.state_dict())
    assert seen == [6, 6, 5] * 2
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_adapting_a_network_without_batchnorm_does_nothing(
    network: Make, pictures: Pictures, normalise: Normaliser
) -> None:
    model = network("convnext_tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapt_batchnorm(model, seen_in(pictures, TRAIN, normalise), CONFIG)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_history_starts_with_the_head_only_network_and_the_best_epoch_is_kept_where_asked(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    trained = train(network, pictures, targets, normalise, config=replace(CONFIG, keep="best"))
    history = trained.history
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert np.isnan(history["train_loss"][0])
    assert trained.kept["val_loss"] == history["val_loss"].min()
    assert trained.kept["epoch"] == history["epoch"][history["val_loss"].idxmin()] != 0


def test_of_epochs_with_equal_validation_loss_phase_2_keeps_and_names_the_first(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = network("efficientnet_lite0").state_dict()
    monkeypatch.setattr(training, "predict", lambda *_: torch.zeros(len(VAL), 2))
    trained = train(network, pictures, targets, normalise, config=replace(CONFIG, keep="best"))
    assert trained.history["val_loss"].nunique() == 1
    assert trained.kept["epoch"] == 0
    assert all(torch.equal(value, start[name]) for name, value in trained.weights.items())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_phase_2_runs_all_its_epochs_whatever_validation_says(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    monkeypatch: pytest.MonkeyPatch,
    keep: Literal["best", "last"],
) -> None:
    worse = iter(range(100))
    monkeypatch.setattr(training, "predict", lambda *_: next(worse) * (1 - 2 * targets[VAL]))
    trained = train(network, pictures, targets, normalise, config=replace(CONFIG, epochs=6, keep=keep))
    assert trained.history["val_loss"].is_monotonic_increasing
    assert trained.history["epoch"].tolist() == list(range(7))
    # the cosine has ended
    assert trained.history["learning_rate"].iloc[-1] < 0.01 * CONFIG.learning_rate
    assert trained.kept["epoch"] == (0 if keep == "best" else 6)


def test_of_epochs_with_equal_validation_loss_the_head_keeps_and_names_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features, targets = np.random.default_rng(0).normal(size=(16, 1, 8)).astype(np.float32), torch.eye(2)[[0, 1] * 8]
    monkeypatch.setattr(training, "_logits", lambda *_: torch.zeros(16, 2))

    def fit_for(epochs: int) -> Trained:
        torch.manual_seed(0)
        config = HeadTraining(0, 0.05, 0.0, batch_size=4, max_epochs=epochs, patience=3)
        return fit(torch.nn.Linear(8, 2), (features, targets), (features, targets), config)

    first, all_epochs = fit_for(1), fit_for(9)
    assert (len(all_epochs.history), all_epochs.kept["epoch"]) == (1 + 3, 1)
    assert all(torch.equal(value, first.weights[name]) for name, value in all_epochs.weights.items())


@pytest.mark.parametrize("rate", [1e20, 1e30])
def test_a_head_whose_loss_leaves_all_bounds_is_one_sentence_and_keeps_nothing(rate: float) -> None:
    """However good the epochs before were: the first has a finite loss here."""
    random = np.random.default_rng(0)
    features, targets = random.normal(size=(8, 1, 4)).astype(np.float32), torch.eye(2)[[0, 1] * 4]
    config = HeadTraining(0, rate, 0.01, batch_size=4, max_epochs=50, patience=50)
    sentence = r"\Aphase 1 diverged: after epoch \d+ .* most likely the learning rate is too high: lower head\.learning"
    with pytest.raises(InputError, match=sentence):
        fit(torch.nn.Linear(4, 2), (features, targets), (features, targets), config)


@pytest.mark.parametrize("epochs", [0, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_head_on_features_that_are_not_finite_is_one_sentence_that_names_them(epochs: int, value: float) -> None:
    features, targets = np.full((8, 1, 4), value, np.float32), torch.eye(2)[[0, 1] * 4]
    config = HeadTraining(0, 0.1, 0.0, batch_size=4, max_epochs=epochs, patience=3)
    with pytest.raises(InputError, match=r"\Aphase 1 diverged: .*features of the backbone are not finite"):
        fit(torch.nn.Linear(4, 2), (features, targets), (features, targets), config)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("loss", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_training_loss_that_is_not_finite_ends_phase_2_and_the_last_good_state_stays(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    normalise: Normaliser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keep: Literal["best", "last"],
    loss: float,
) -> None:
    config, scratch = replace(CONFIG, keep=keep), tmp_path / "scratch.pt"
    train_epoch = training._train_epoch

    def diverge(*arguments: Any) -> float:
        trained = train_epoch(*arguments)
        return loss if len(scratch_files.read(scratch, normalise.device)["history"]) == 3 else trained  # type: ignore[index]

    monkeypatch.setattr(training, "_train_epoch", diverge)
    sentence = r"\Aphase 2 diverged: after epoch 3 the training loss is (nan|inf) .*unfreeze\.ratio, which is 10,"
    with pytest.raises(InputError, match=sentence):
        train(network, pictures, targets, normalise, scratch, config=config)
    state = scratch_files.read(scratch, normalise.device)
    assert state is not None
    assert [row["epoch"] for row in state["history"]] == [0, 1, 2]
    assert all(value.isfinite().all() for value in state["model"].values())
    monkeypatch.setattr(training, "_train_epoch", train_epoch)
    resumed = train(network, pictures, targets, normalise, scratch, config=config)
    assert_equal(resumed, train(network, pictures, targets, normalise, config=config))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_rate_that_makes_validation_infinite_ends_phase_2(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, keep: Literal["best", "last"]
) -> None:
    with pytest.raises(InputError, match=r"\Aphase 2 diverged: after epoch 1 .* the validation loss is nan"):
        train(network, pictures, targets, normalise, config=replace(CONFIG, ratio=1e-30, keep=keep))


def test_a_network_that_is_not_finite_before_phase_2_is_not_blamed_on_its_rate(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    model = network()
    model.backbone.conv1.weight.data.fill_(np.inf)
    split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    with pytest.raises(InputError, match=r"\Aphase 2 diverged: before the first step .* the initial weights"):
        tune(model, pictures, split[0], split[1], normalise, CONFIG)


@pytest.mark.parametrize(
    ("targets", "accuracies", "sentence"),
    [
        ([1, 1, 1, 1, 0], [0.8, 0.8], r"calls every validation picture 'b', .* 80% of the training .* class_weights"),
        ([1, 0], [0.9, 0.5], r"calls every validation picture 'b', .* overwrote .* raise unfreeze\.ratio"),
        ([1, 0], [0.5, 0.5], r"calls every validation picture 'b', .* not learnt enough; try more epochs"),
    ],
)
def test_a_network_of_one_class_is_told_with_its_likely_cause(
    targets: list[int], accuracies: list[float], sentence: str
) -> None:
    history = pd.DataFrame({"epoch": [0, 1], "val_accuracy": accuracies})
    trained = Trained({}, {"val_accuracy": accuracies[-1]}, history, only_class=1)
    assert re.search(sentence, training.one_class_warning(trained, ["a", "b"], torch.eye(2)[targets]))
    assert not training.one_class_warning(replace(trained, only_class=None), ["a", "b"], torch.eye(2)[targets])


def test_the_only_class_is_that_of_the_weights_that_are_kept(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = iter([torch.eye(2)[[0] * 8], torch.eye(2)[[1] * 8] * 0.1, *[torch.eye(2)[[0, 1] * 4]] * 2])
    monkeypatch.setattr(training, "predict", lambda *_: next(output))
    assert train(network, pictures, targets, normalise).only_class is None
    worse = iter([torch.eye(2)[[0] * 8], *[torch.eye(2)[[1, 0] * 4] * 9] * 3])
    monkeypatch.setattr(training, "predict", lambda *_: next(worse))
    assert train(network, pictures, targets, normalise, config=replace(CONFIG, keep="best")).only_class == 0


def test_head_learns_what_features_tell_and_stops_when_validation_does_not_improve() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(2, size=200)
    features = random.normal(size=(200, 1, 8)).astype(np.float32)
    features[:, :, 0] += 4 * labels[:, None] - 2
    targets = torch.eye(2)[labels]
    head = torch.nn.Linear(8, 2)
    config = HeadTraining(0, 0.05, 0.0, batch_size=16, max_epochs=200, patience=3)
    trained = fit(head, (features[:150], targets[:150]), (features[150:], targets[150:]), config)
    history = trained.history
    assert history["val_accuracy"].iloc[history["val_loss"].idxmin()] > 0.9
    assert len(history) < 200
    assert len(history) == history["val_loss"].idxmin() + 1 + 3
    head.load_state_dict(trained.weights)
    loss = cross_entropy()(head(torch.from_numpy(features[150:, 0])), targets[150:]).item()
    assert loss == pytest.approx(history["val_loss"].min(), rel=1e-5)
    assert trained.kept["val_loss"] == history["val_loss"].min()
    assert trained.kept["epoch"] == history["val_loss"].idxmin() + 1


def test_head_judged_on_validation_in_parts_is_the_head_judged_on_the_whole() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(9000, 2, 8)).astype(np.float32)
    head = torch.nn.Linear(8, 3)
    with torch.no_grad():
        whole = head(torch.from_numpy(features[:, 0]))
    torch.testing.assert_close(training._logits(head, features), whole)


@given(pictures=st.integers(3, 5000), batch_size=st.integers(2, 256))
def test_few_pictures_get_as_many_epochs_as_make_300_steps_and_many_get_eight(pictures: int, batch_size: int) -> None:
    epochs, steps = enough_epochs(pictures, batch_size), len(order(np.arange(pictures), batch_size))
    assert epochs >= 8
    assert epochs * steps >= 300
    assert epochs == 8 or (epochs - 1) * steps < 300


def test_rate_warms_up_then_falls_and_never_exceeds_the_setting() -> None:
    factors = [warmup_and_cosine(step / 100, 0.1) for step in range(100)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.01


@pytest.mark.parametrize("selection", ["all", 6, "first 4"])
def test_the_fast_path_gives_the_logits_and_gradients_of_the_plain_one(
    network: Make,
    pictures: Pictures,
    targets: torch.Tensor,
    preprocessing: Preprocessing,
    normalise: Normaliser,
    tmp_path: Path,
    selection: Selection,
) -> None:
    """The plain way: PIL opens and turns files, torchvision normalises, BatchNorm stays a layer."""
    numbers = torch.arange(8)
    plain = network("efficientnet_lite0").to(memory_format=torch.contiguous_format)
    unfreeze(plain, selection, "frozen")
    seen = []
    for number in numbers.tolist():
        picture = Image.open(pictures.files[number]).convert("RGB")
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else picture
        picture = picture.rotate((0, 180, 90, 270)[number // 2])
        seen.append(normalize(to_tensor(picture), preprocessing.mean, preprocessing.std))
    expected = plain(torch.stack(seen))
    cross_entropy()(expected, targets[:8]).backward()

    np.save(tmp_path / "pictures.npy", pictures.decoded)
    mapped = Pictures(pictures.files, pictures.shape, np.load(tmp_path / "pictures.npy", mmap_mode="r"), 1)
    fast = network("efficientnet_lite0")
    fold_batchnorm(fast, torch.zeros(1, 3, 32, 32))
    unfreeze(fast, selection, "frozen")
    quicken(fast)
    logits = fast(normalise(in_views(next(mapped.batches([np.arange(8)])), numbers)))
    cross_entropy()(logits, targets[:8]).backward()

    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    modules = dict(plain.named_modules())
    compared = 0
    for name, folded in fast.named_modules():
        if not isinstance(folded, torch.nn.Conv2d | torch.nn.Linear):
            continue
        layer, batchnorm = modules[name], modules.get(f"{name[:-1]}1")
        assert folded.weight.requires_grad == layer.weight.requires_grad
        if not layer.weight.requires_grad:
            assert folded.weight.grad is None
            continue
        if isinstance(batchnorm, torch.nn.BatchNorm2d):
            scale = batchnorm.weight.detach() / (batchnorm.running_var + batchnorm.eps).sqrt()
            pairs = [(folded.weight.grad * scale.view(-1, 1, 1, 1), layer.weight.grad)]
            pairs += [(folded.bias.grad, batchnorm.bias.grad)]
        else:
            pairs = [(folded.weight.grad, layer.weight.grad), (folded.bias.grad, layer.bias.grad)]
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
            compared += 1
    assert compared == 2 * (
        1 + sum(isinstance(part, torch.nn.BatchNorm2d) for part in trained_modules(plain, selection))
    )


def trained_modules(model: Classifier, selection: Selection) -> list[torch.nn.Module]:
    return [
        part for block in select(blocks(model.backbone), selection) for part in block.modules for part in part.modules()
    ]


def test_looking_values_up_normalises_as_the_weights_have_it(normalise: Normaliser) -> None:
    for channels in (1, 3):
        pixels = torch.randint(256, (2, channels, 4, 5), dtype=torch.uint8)
        seen = normalise(pixels)
        expected = normalize(pixels.float().expand(-1, 3, -1, -1) / 255, (0.5,) * 3, (0.25,) * 3)
        torch.testing.assert_close(seen, expected)
        assert seen.is_contiguous(memory_format=torch.channels_last)


def test_views_of_a_batch_are_the_views_of_its_pictures() -> None:
    pictures = torch.randint(256, (16, 3, 5, 5), dtype=torch.uint8)
    numbers = torch.arange(16) % 8
    expected = torch.cat([view(pictures[n : n + 1], number) for n, number in enumerate(numbers.tolist())])
    assert torch.equal(in_views(pictures, numbers), expected)


def test_bfloat16_is_near_float32_and_leaves_the_weights_as_they_are(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    model = network()
    exact = predict(model, pictures, VAL, normalise, 1, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use_bfloat16(model, normalise.device)
    assert model(torch.zeros(1, 3, 32, 32)).dtype == model.backbone(torch.zeros(1, 3, 32, 32)).dtype == torch.bfloat16
    near = predict(model, pictures, VAL, normalise, 1, 8)
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, rtol=0.05, atol=0.05)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == before[name].dtype
    before_training = partial(unfreeze, model, 2, "frozen")
    split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
    history = tune(model, pictures, split[0], split[1], normalise, CONFIG, None, before_training).history
    assert history["val_loss"].iloc[-1] < history["val_loss"][0]


@pytest.mark.slow
def test_a_compiled_network_trains_as_an_uncompiled_one_and_keeps_its_names(
    network: Make, pictures: Pictures, targets: torch.Tensor, normalise: Normaliser
) -> None:
    results = []
    for compiled in (False, True):
        model = network()
        unfreeze(model, 2, "frozen")
        if compiled:
            model.compile(backend="eager")
        split = [(rows, targets[rows]) for rows in (TRAIN, VAL)]
        results.append(tune(model, pictures, split[0], split[1], normalise, replace(CONFIG, epochs=1)))
    plain, compiled_one = results
    pd.testing.assert_frame_equal(plain.history, compiled_one.history)
    assert plain.weights.keys() == compiled_one.weights.keys()
    for name, value in plain.weights.items():
        torch.testing.assert_close(compiled_one.weights[name], value)


def test_half_precision_and_compiling_are_for_gpus_unless_asked_for() -> None:
    cpu = torch.device("cpu")
    assert [bfloat16_pays(setting, cpu) for setting in ("auto", "float32", "bfloat16")] == [False, False, True]
    assert [compiling_pays(setting, cpu, 10**9) for setting in ("auto", "never", "always")] == [False, False, True]
    lengths = [compiling_pays("auto", torch.device("cuda"), pictures) for pictures in (10**4, 10**6)]
    assert lengths == [False, True]


def test_decoding_on_the_fly_gives_the_same_batches_as_decoded_pictures(pictures: Pictures) -> None:
    on_the_fly = Pictures(pictures.files, pictures.shape, None, workers=2)
    batches = in_batches(np.arange(24)[::-1].copy(), 5)
    for kept, decoded in zip(pictures.batches(batches), on_the_fly.batches(batches), strict=True):
        assert torch.equal(kept, decoded)


@pytest.mark.parametrize("views", [1, 2, 4, 8])
@pytest.mark.parametrize("draws", [1, 2, 3, None])
def test_drawn_views_are_different_ones_evenly_from_all(views: int, draws: int | None) -> None:
    result = drawn_views(4000, views, draws)
    assert result.shape == (4000, min(draws or 8, views))
    assert all(len(set(each)) == result.shape[1] for each in result.tolist())
    assert np.bincount(result[:, 0], minlength=views).min() > 0.8 * 4000 / views
    assert np.array_equal(result[:100], drawn_views(100, views, draws))
    assert result.min() >= 0
    assert result.max() < views


def test_the_eight_views_are_the_eight_symmetries_of_the_square() -> None:
    picture = torch.arange(9.0).view(1, 1, 3, 3)
    seen = {tuple(view(picture, number).flatten().tolist()) for number in range(8)}
    assert len(seen) == 8
    assert torch.equal(view(picture, 0), picture)
    assert torch.equal(view(picture, 1), picture.flip(3))
    flips = {tuple(view(picture, number).flatten().tolist()) for number in range(4)}
    expected = [picture, picture.flip(3), picture.flip(2), picture.flip(2, 3)]
    assert flips == {tuple(each.flatten().tolist()) for each in expected}
