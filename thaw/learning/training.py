"""Training: the head on cached features (phase 1) and the unfrozen network on pictures (phase 2).

All random numbers come from the seed and the number of the epoch, so a stopped run resumes with
the same results.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision.ops import StochasticDepth

from thaw.data.pictures import in_batches, rows_of
from thaw.errors import InputError
from thaw.learning import cores, processes, scratch
from thaw.learning.activations import Activations
from thaw.learning.backbones import Classifier
from thaw.learning.batches import Augmentation, Batch, TrainingData, augmented, drawn, order, training_batches
from thaw.learning.convolutions import quicken
from thaw.learning.cut import Joined, after, as_they_are
from thaw.learning.freezing import obey_mode, parameter_groups, stay_in_eval
from thaw.learning.losses import VAL_LOSS, Criterion, LossFn, Objective
from thaw.learning.prediction import predict
from thaw.progress import Progress

EPOCHS, FEWEST_STEPS = 8, 300  # of phase 2 where epochs are auto

Weights = dict[str, Tensor]
Figures = dict[str, float]


@dataclass(frozen=True)
class HeadTraining:
    """The config of phase 1."""

    seed: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int


@dataclass(frozen=True)
class FineTuning:
    """The config of phase 2. The head learns at `learning_rate / head_ratio`, the last block at
    `learning_rate / ratio`, each earlier one at `layer_decay` times the rate of the next."""

    seed: int
    learning_rate: float
    head_ratio: float
    ratio: float
    layer_decay: float
    weight_decay: float
    batch_size: int
    epochs: int
    warmup: float
    views: int
    draws: int | None
    jitter: float
    l2_sp: float
    mixup: float
    cutmix: float
    ema: float
    interpolate: bool
    keep: Literal["best", "last"]

    @property
    def augmentation(self) -> Augmentation:
        """The part of the config that concerns training pictures."""
        return Augmentation(self.views, self.draws, self.jitter, self.mixup, self.cutmix)


@dataclass(frozen=True)
class Trained:
    """The result of a phase: the weights it keeps, the figures of these weights, and the history
    of its epochs.

    `kept` has epoch, val_loss, val_accuracy and the criterion's figure. After interpolation it
    also has share: where the weights lie between epoch 0 (0) and that epoch (1).
    """

    weights: Weights
    kept: Figures
    history: pd.DataFrame
    only_class: int | None  # the only class predicted on validation; None if there are several


@dataclass
class State:
    """The state of a training: its epochs so far, and the weights to keep."""

    history: list[Figures] = field(default_factory=list)
    kept: Figures = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    only_class: int | None = None

    def keep(self, epoch: int, validation: "Validation", weights: Weights) -> None:
        """Keep these weights, which must be a copy, instead of the earlier ones."""
        self.kept, self.weights = {"epoch": epoch, **validation.figures}, weights
        self.only_class = validation.only_class

    def result(self) -> Trained:
        """The result, once all epochs have run."""
        return Trained(self.weights, self.kept, pd.DataFrame(self.history), self.only_class)


@dataclass(frozen=True)
class Validation:
    """The figures of a network on the validation pictures; the epoch with the lowest `score` is
    the best."""

    figures: Figures
    score: float
    only_class: int | None


def validate(logits: Tensor, targets: Tensor, criterion: Criterion) -> Validation:
    """Compute the figures; `val_loss` is the same measure whatever the loss and the criterion
    are."""
    figures = {
        VAL_LOSS.name: VAL_LOSS.measure(logits, targets).item(),
        "val_accuracy": (logits.argmax(1) == targets.argmax(1)).double().mean().item(),
    }
    if criterion.name not in figures:
        figures[criterion.name] = criterion.measure(logits, targets).item()
    classes = logits.argmax(1).unique()
    return Validation(figures, figures[criterion.name], int(classes[0]) if len(classes) == 1 else None)


def one_class_warning(trained: Trained, classes: Sequence[str], targets: Tensor) -> str:
    """One sentence if the network predicts a single class for all validation pictures: the likely
    cause and what to try; else empty. `targets` are those of the training pictures."""
    only = trained.only_class
    if only is None:
        return ""
    share, start = float(targets.mean(0)[only]), trained.history.iloc[0]
    if start["epoch"] == 0 and start["val_accuracy"] > trained.kept["val_accuracy"]:
        cause = "phase 2 overwrote the useful features; raise unfreeze.ratio or use unfreeze.batchnorm frozen"
    elif share * len(classes) > 1.5:
        cause = f"{share:.0%} of the training pictures belong to it; try class_weights balanced"
    else:
        cause = "it has not learnt enough; try more epochs (head.max_epochs, unfreeze.epochs) or a higher learning rate"
    return f"the network calls every validation picture '{classes[only]}', most likely because {cause}"


# ------------------------------------------------------------------------------------------ phase 1


def fit_head(
    head: nn.Linear,
    train: tuple[NDArray[np.float32], Tensor],
    val: tuple[NDArray[np.float32], Tensor],
    config: HeadTraining,
    objective: Objective,
) -> Trained:
    """Train the head until validation stops improving, and keep its best weights (the first of
    equal ones).

    Features are (n, views, features): every epoch sees each picture once, in a random view. With
    `max_epochs` 0 the head keeps its initial weights.
    """
    optimizer = torch.optim.AdamW(
        [
            {"params": [head.weight], "weight_decay": config.weight_decay},
            {"params": [head.bias], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    state = State()
    progress = Progress(max(1, config.max_epochs) * len(train[0]))
    for epoch in range(min(1, config.max_epochs), config.max_epochs + 1):
        loss, rate = float("nan"), float("nan")
        if epoch:
            loss, rate = _train_head(head, train, config, epoch, objective.loss_fn, optimizer), config.learning_rate
        validation = validate(_logits(head, val[0]), val[1], objective.criterion)
        state.history.append({"epoch": epoch, "learning_rate": rate, "train_loss": loss, **validation.figures})
        if not _is_finite(state.history[-1]):
            raise InputError(_diverged(1, state.history[-1], _cause_in_phase_1(config, (train[0], val[0]))))
        if not state.kept or validation.score < state.kept[objective.criterion.name]:
            state.keep(epoch, validation, deepcopy(head.state_dict()))
        progress.step(len(train[0]), f"epoch {epoch}, validation loss {validation.figures['val_loss']:.4f}")
        if epoch - state.kept["epoch"] >= config.patience:
            break
    progress.end(f"epoch {state.history[-1]['epoch']}, validation has stopped improving")
    return state.result()


def _train_head(
    head: nn.Linear,
    train: tuple[NDArray[np.float32], Tensor],
    config: HeadTraining,
    epoch: int,
    loss_fn: LossFn,
    optimizer: torch.optim.Optimizer,
) -> float:
    """One pass over the features; returns the mean loss."""
    features, targets = train
    random = np.random.default_rng([config.seed, epoch])
    rows_in_order = random.permutation(len(features))
    views = random.integers(features.shape[1], size=len(features))
    total = 0.0
    for rows in in_batches(rows_in_order, config.batch_size):
        loss = loss_fn(head(torch.from_numpy(rows_of(features, rows, views[rows]))), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(features)


def _logits(head: nn.Linear, features: NDArray[np.float32]) -> Tensor:
    """Logits of the first view of the features (n, views, features), computed in chunks."""
    parts = []
    with torch.no_grad():
        for rows in in_batches(np.arange(len(features)), 4096):
            parts.append(head(torch.from_numpy(rows_of(features, rows, 0 * rows))))
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------ phase 2


def adapt_batchnorm(model: Classifier, data: TrainingData, config: FineTuning) -> None:
    """Estimate the statistics of every BatchNorm anew, in one pass over the augmented training
    pictures.

    No weight changes, and dropout is off; frozen modules must be frozen again afterwards. Batches
    are shuffled, so that each has several classes, and equally large, because each has the same
    weight.
    """
    rows = data.train.rows
    random = np.random.default_rng([config.seed, 0])
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    batches = np.array_split(random.permutation(len(rows)), -(-len(rows) // config.batch_size))
    views = config.augmentation.views_of(len(rows))
    progress = Progress(len(rows))

    def normalised() -> Iterator[Tensor]:
        read = data.pictures.batches([rows[batch] for batch in batches])
        for batch, pixels in zip(batches, read, strict=True):
            every, numbers = np.arange(len(batch)), drawn(len(batch), views.shape[1], generator)
            shown = torch.from_numpy(views[batch, numbers])
            yield augmented(pixels, shown, every, len(batch), data.normalise, config.augmentation, generator)
            progress.step(len(pixels), "BatchNorm statistics")

    for module in model.modules():
        obey_mode(module)
        if isinstance(module, (nn.Dropout, StochasticDepth)):
            stay_in_eval(module)
    update_bn(normalised(), model)
    for module in model.modules():
        obey_mode(module)
    model.eval()


def enough_epochs(pictures: int, batch_size: int) -> int:
    """The epochs of phase 2 for that many training pictures: 8, or more if 8 have too few steps."""
    return max(EPOCHS, math.ceil(FEWEST_STEPS / len(order(np.arange(pictures), batch_size))))


def fine_tune(
    model: Classifier,
    data: TrainingData,
    config: FineTuning,
    objective: Objective,
    unfreeze: Callable[[int], object] = lambda epoch: None,
    scratch_file: Path | None = None,
) -> Trained:
    """Train the unfrozen weights; epoch 0 of the history is the start.

    Keeps the weights after the last epoch, or the best by the criterion (epoch 0 included, the
    first of equal ones). `unfreeze` is called with the number of each epoch before it starts, and
    may unfreeze more.

    The state after each epoch is written to `scratch_file`, and a later run resumes from it. The
    file's name is a hash of everything that decides the result. A file that is damaged or cannot
    be written only costs time.
    """
    quicken(model)
    start = {name: value.detach().clone() for name, value in model.state_dict().items()} if config.interpolate else {}
    steps = Steps(model, config, len(order(data.train.rows, config.batch_size)))
    state = (scratch_file and _resumed(scratch_file, steps, data, unfreeze)) or State()
    source = Source(data, config)
    left = config.epochs + 1 - len(state.history)
    progress = Progress(left * len(data.val.rows) + min(left, config.epochs) * len(data.train.rows))
    for epoch in range(len(state.history), config.epochs + 1):
        loss = float("nan")  # epoch 0 only validates
        unfreeze(max(1, epoch))
        steps.begin(max(1, epoch))
        if epoch:
            loss = _train_epoch(source, steps, objective.loss_fn, epoch, progress)
        label = f"epoch {epoch}/{config.epochs}, validation"
        logits = source.validation_logits(steps.judged, progress, label)
        validation = validate(logits, data.val.targets, objective.criterion)
        rate = steps.optimizer.param_groups[-1]["lr"] if epoch else float("nan")
        state.history.append({"epoch": epoch, "learning_rate": rate, "train_loss": loss, **validation.figures})
        if not _is_finite(state.history[-1]):
            raise InputError(_diverged(2, state.history[-1], _cause_in_phase_2(config, epoch)))
        if not state.kept or config.keep == "last" or validation.score < state.kept[objective.criterion.name]:
            state.keep(epoch, validation, _copy(steps.judged))
        print(_sentence(state.history[-1], config.epochs), flush=True)
        if scratch_file and processes.first():
            scratch.keep(scratch_file, vars(state) | steps.state_dict())
    if config.interpolate:
        _interpolate(model, state, start, source, objective.criterion)
    return state.result()


class Source:
    """Inputs of the trainable part of a network: pictures, or outputs of its frozen blocks."""

    def __init__(self, data: TrainingData, config: FineTuning) -> None:
        self.frozen, self.data, self.config = data.frozen, data, config
        self.train: Activations | None = None
        self.val: Activations | None = None
        if not self.frozen:
            return
        once, size = np.zeros((len(data.val.rows), 1), np.int64), config.batch_size
        self.val = self.frozen.keep(data.pictures, data.val.rows, data.normalise, once, 2 * size)
        views = config.augmentation.views_of(len(data.train.rows))
        if config.augmentation.leaves_pictures_as_they_are and views.shape[1] < config.epochs:
            self.train = self.frozen.keep(data.pictures, data.train.rows, data.normalise, views, size)

    def network(self, model: Classifier) -> Classifier:
        """The part of a network that takes it."""
        return after(model, self.frozen.number) if self.frozen else model

    def batches(self, seed: tuple[int, int]) -> Iterator[Batch]:
        """The batches of an epoch."""
        before = self.frozen.before if self.frozen else as_they_are
        config = self.config
        return training_batches(self.data, config.batch_size, config.augmentation, seed, before, self.train)

    def validation_logits(self, model: Classifier, progress: Progress | None = None, label: str = "") -> Tensor:
        """What a network, frozen part included, says of the validation pictures."""
        rows, size = self.data.val.rows, 2 * self.config.batch_size
        network = self.network(model).eval()
        if not self.val:
            whole = Joined(self.frozen.before, network) if self.frozen else model
            return predict(whole, self.data.pictures, rows, self.data.normalise, 1, size, progress, label)
        parts = []
        with torch.inference_mode():
            for places in in_batches(np.arange(len(rows)), size):
                parts.append(network(self.val.read(places, 0 * places)).float().cpu())
                if progress:
                    progress.step(len(places), label)
        return torch.cat(parts)


class Steps:
    """Optimizer, learning-rate schedule, L2-SP, and the moving average of the weights."""

    def __init__(self, model: Classifier, config: FineTuning, steps_per_epoch: int) -> None:
        self.model, self.config, self.steps_per_epoch = model, config, steps_per_epoch
        average = get_ema_multi_avg_fn(config.ema) if config.ema else None
        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if average else None
        self.judged: Classifier = self.averaged.module if self.averaged else model  # type: ignore[assignment]
        self.anchors = {weight: weight.detach().clone() for weight in model.backbone.parameters() if config.l2_sp}
        self.optimizer: torch.optim.Optimizer
        self.schedule: torch.optim.lr_scheduler.LambdaLR

    def begin(self, epoch: int) -> None:
        """Make a new optimizer for the weights that are trainable in this epoch; earlier ones keep
        their momentum.

        Groups that are added to a running optimizer would escape its schedule.
        """
        config, previous = self.config, getattr(self, "optimizer", None)
        groups = parameter_groups(
            self.model,
            config.learning_rate / config.head_ratio,
            config.ratio / config.head_ratio,
            config.weight_decay,
            config.layer_decay,
        )
        for group in groups:
            if config.l2_sp and group["name"] == "backbone":
                group["weight_decay"] = 0.0  # L2-SP pulls towards the start instead of zero
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        for parameter in self.model.parameters():
            if previous and parameter.requires_grad and parameter in previous.state:
                self.optimizer.state[parameter] = previous.state[parameter]
        done, total = (epoch - 1) * self.steps_per_epoch, config.epochs * self.steps_per_epoch
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: warmup_and_cosine((done + step) / total, config.warmup)
        )

    def step(self) -> None:
        """Update the weights from their gradients."""
        _pull(self.optimizer, self.anchors, self.config.l2_sp)
        self.optimizer.step()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        averaged = {"averaged": self.averaged.state_dict()} if self.averaged else {}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **averaged}

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state; raise before anything has changed if it does not fit."""
        modules: dict[str, nn.Module] = {"model": self.model} | ({"averaged": self.averaged} if self.averaged else {})
        for name, module in (modules | {"weights": self.judged}).items():
            if _shapes(state[name]) != _shapes(module.state_dict()):
                raise ValueError(f"{name} belongs to another network")
        if not 0 <= state["kept"]["epoch"] < len(state["history"]) <= self.config.epochs + 1:
            raise ValueError("its epochs are not those of this run")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, moments in state["optimizer"]["state"].items():
            if any(value.ndim and value.shape != parameters[number].shape for value in moments.values()):
                raise ValueError("the optimizer belongs to another network")
        self.optimizer.load_state_dict(state["optimizer"])
        for name, module in modules.items():
            module.load_state_dict(state[name])


def _pull(optimizer: torch.optim.Optimizer, anchors: dict[nn.Parameter, Tensor], strength: float) -> None:
    """L2-SP: move each weight towards its anchor by the fraction rate x strength.

    As part of the gradient, the pull would be divided by the size of the gradients, as Adam does
    with L2.
    """
    for group in optimizer.param_groups:
        share = min(1.0, group["lr"] * strength)
        for parameter in group["params"]:
            if parameter in anchors:
                parameter.data.lerp_(anchors[parameter], share)


def warmup_and_cosine(done: float, warmup: float) -> float:
    """Factor of the learning rate after the fraction `done` of all steps: linear warm-up, then
    cosine decay."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + float(np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _resumed(path: Path, steps: Steps, data: TrainingData, unfreeze: Callable[[int], object]) -> State | None:
    """The state of a stopped run; None if there is none that fits."""
    saved = scratch.read(path, data.normalise.device)
    if saved is None:
        return None
    try:
        last = max(1, len(saved["history"]) - 1)
        unfreeze(last)
        steps.begin(last)
        steps.restore(saved)
        state = State(saved["history"], saved["kept"], saved["weights"], saved["only_class"])
    except Exception as error:  # whatever is in the file, the phase must end as if there were none
        scratch.warn(path, f"does not fit ({scratch.first_line(error)})")
        vars(steps).pop("optimizer", None)  # drops its momentum
        return None
    print(f"resuming after epoch {len(state.history) - 1}, where the last run was stopped", flush=True)
    return state


def _train_epoch(source: Source, steps: Steps, loss_fn: LossFn, epoch: int, progress: Progress) -> float:
    """One pass over the training pictures; returns the mean loss.

    Each rank takes a part of every batch, and the gradients are averaged over ranks.
    """
    seed = (source.config.seed, epoch)
    network = processes.data_parallel(source.network(steps.model).train())
    # Dropout draws from the global generator, on each rank for different pictures.
    torch.manual_seed(int(np.random.default_rng([*seed, 1]).integers(2**31)) + processes.rank())
    total, pictures = torch.zeros((), device=source.data.normalise.device), 0
    for batch in source.batches(seed):
        steps.optimizer.zero_grad()
        weight = batch.share * processes.world_size()
        total += cores.backward(network, loss_fn, batch.inputs, batch.targets, weight) * batch.size
        steps.step()
        pictures += batch.size
        progress.step(batch.size, f"epoch {epoch}/{source.config.epochs}")
    return float(processes.mean(total)) / pictures


def _interpolate(model: Classifier, state: State, start: Weights, source: Source, criterion: Criterion) -> None:
    """Interpolate between the start and the kept weights, and keep the best on validation (the
    first of equal ones):
    WiSE-FT, Wortsman et al. 2022."""
    epoch, end = int(state.kept["epoch"]), state.weights
    best, share = None, 0.0
    for tenths in range(11):
        weights = {
            name: torch.lerp(value, end[name].to(value), tenths / 10) if value.is_floating_point() else end[name]
            for name, value in start.items()
        }
        model.load_state_dict(weights)
        validation = validate(source.validation_logits(model), source.data.val.targets, criterion)
        if best is None or validation.score < best.score:
            best, share = validation, tenths / 10
            state.keep(epoch, validation, {name: value.cpu() for name, value in weights.items()})
    assert best is not None
    state.kept = {"epoch": epoch, "share": share, **best.figures}
    print(f"{share:.0%} of the way from the head-only weights, {_worded(state.kept)}", flush=True)


def _copy(model: nn.Module) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _shapes(tensors: Weights) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


# ---------------------------------------------------------------------------------------- sentences


def _is_finite(row: dict[str, float]) -> bool:
    """Whether the figures of an epoch are finite; epoch 0 has no training loss."""
    absent = () if row["epoch"] else ("learning_rate", "train_loss")
    return all(math.isfinite(value) for name, value in row.items() if name not in absent)


def _diverged(phase: int, row: dict[str, float], cause: str) -> str:
    """The sentence about a loss that is not finite."""
    when = f"after epoch {row['epoch']}" if row["epoch"] else "before the first step"
    losses = f"the validation loss is {row['val_loss']:g}"
    if row["epoch"]:
        losses = f"the training loss is {row['train_loss']:g} and {losses}"
    return f"phase {phase} diverged: {when} {losses}; {cause}"


def _cause_in_phase_1(config: HeadTraining, features: Sequence[NDArray[np.float32]]) -> str:
    for part in features:
        if not all(np.isfinite(part[rows]).all() for rows in in_batches(np.arange(len(part)), 4096)):
            return (
                "features of the backbone are not finite, most likely because its weights are damaged: "
                "use other backbone.weights, or resources.precision float32"
            )
    return f"most likely the learning rate is too high: lower head.learning_rate, which is {config.learning_rate:g}"


def _cause_in_phase_2(config: FineTuning, epoch: int) -> str:
    if not epoch:
        return (
            "most likely the initial weights or the adapted BatchNorm statistics are damaged: run head again, with "
            "other backbone.weights or unfreeze.batchnorm frozen"
        )
    return (
        f"most likely the learning rate is too high: raise unfreeze.ratio, which is {config.ratio:g}, or lower "
        f"head.learning_rate, which is {config.learning_rate:g}"
    )


def _sentence(row: Figures, epochs: int) -> str:
    start = f"epoch {row['epoch']}/{epochs}: training loss {row['train_loss']:.4f}" if row["epoch"] else "head only"
    return f"{start}, {_worded(row)}"


def _worded(figures: Figures) -> str:
    weighted = f" (weighted {figures['weighted_val_loss']:.4f})" if "weighted_val_loss" in figures else ""
    return f"validation loss {figures['val_loss']:.4f}{weighted}, accuracy {figures['val_accuracy']:.1%}"
