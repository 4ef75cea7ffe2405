"""Training: the head on cached features (phase 1) and the unfrozen network on pictures (phase 2).

All randomness comes from a seed and the epoch's number, so that a run that was stopped goes on as if it had not been.
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
from thaw.learning.backbones import Classifier
from thaw.learning.batches import Augmentation, TrainingData, augmented, order, training_batches
from thaw.learning.convolutions import quicken
from thaw.learning.freezing import obey_mode, parameter_groups, stay_in_eval
from thaw.learning.losses import VAL_LOSS, Criterion, LossFn
from thaw.learning.prediction import predict
from thaw.progress import Progress

Weights = dict[str, Tensor]
Figures = dict[str, float]


@dataclass(frozen=True)
class HeadTraining:
    """How phase 1 goes."""

    seed: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int


@dataclass(frozen=True)
class FineTuning:
    """How phase 2 goes; the backbone learns at `learning_rate / ratio`, less by `layer_decay` in each earlier block."""

    seed: int
    learning_rate: float
    ratio: float
    layer_decay: float
    weight_decay: float
    batch_size: int
    epochs: int
    warmup: float
    views: int
    jitter: float
    l2_sp: float
    mixup: float
    cutmix: float
    ema: float
    interpolate: bool
    keep: Literal["best", "last"]

    @property
    def augmentation(self) -> Augmentation:
        """How training pictures differ from epoch to epoch."""
        return Augmentation(self.views, self.jitter, self.mixup, self.cutmix)


@dataclass(frozen=True)
class Trained:
    """What a phase trained: the weights it keeps, the figures of these very weights, and the history of its epochs.

    `kept` has epoch, val_loss, val_accuracy and the figure that epochs are chosen by; where weights were interpolated
    also share, how far from epoch 0 (0) to that epoch (1) they are.
    """

    weights: Weights
    kept: Figures
    history: pd.DataFrame
    only_class: int | None  # the class that these weights give every validation picture; None: they give several


@dataclass
class State:
    """Where a training stands: its epochs so far, and the weights that it would keep."""

    history: list[Figures] = field(default_factory=list)
    kept: Figures = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    only_class: int | None = None

    def keep(self, epoch: int, validation: "Validation", weights: Weights) -> None:
        """Keep these weights instead of those before; they must be a copy."""
        self.kept, self.weights = {"epoch": epoch, **validation.figures}, weights
        self.only_class = validation.only_class

    def result(self) -> Trained:
        """The end of the training."""
        return Trained(self.weights, self.kept, pd.DataFrame(self.history), self.only_class)


@dataclass(frozen=True)
class Validation:
    """What a network is worth on the validation pictures; `score` is what epochs are chosen by, the lowest wins."""

    figures: Figures
    score: float
    only_class: int | None


def validate(logits: Tensor, targets: Tensor, criterion: Criterion) -> Validation:
    """`val_loss` is the same measure in every training, whatever it trains on or chooses by."""
    figures = {
        VAL_LOSS.name: VAL_LOSS.measure(logits, targets).item(),
        "val_accuracy": (logits.argmax(1) == targets.argmax(1)).double().mean().item(),
    }
    if criterion.name not in figures:
        figures[criterion.name] = criterion.measure(logits, targets).item()
    classes = logits.argmax(1).unique()
    return Validation(figures, figures[criterion.name], int(classes[0]) if len(classes) == 1 else None)


def one_class_warning(trained: Trained, classes: Sequence[str], targets: Tensor) -> str:
    """That the network gives every validation picture one class, why that is most likely and what to try, as one
    sentence; empty where it gives several. `targets` are those of the training pictures."""
    number = trained.only_class
    if number is None:
        return ""
    share, start = float(targets.mean(0)[number]), trained.history.iloc[0]
    if start["epoch"] == 0 and start["val_accuracy"] > trained.kept["val_accuracy"]:
        cause = "phase 2 overwrote what told the classes apart; raise unfreeze.ratio or use unfreeze.batchnorm frozen"
    elif share * len(classes) > 1.5:
        cause = f"{share:.0%} of the training pictures are of it; try class_weights balanced"
    else:
        cause = "it has not learnt enough; try more epochs (head.max_epochs, unfreeze.epochs) or a higher learning rate"
    return f"the network calls every validation picture '{classes[number]}', most likely because {cause}"


# ------------------------------------------------------------------------------------------------ phase 1


def fit_head(
    head: nn.Linear,
    train: tuple[NDArray[np.float32], Tensor],
    val: tuple[NDArray[np.float32], Tensor],
    config: HeadTraining,
    loss_fn: LossFn,
    criterion: Criterion,
) -> Trained:
    """Train the head until validation stops improving; its best weights are kept, of equal ones the first.

    Features are (n, views, features): every epoch sees each picture once, in a view drawn anew. Without any epoch the
    head stays as it was drawn.
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
            loss, rate = _train_head(head, train, config, epoch, loss_fn, optimizer), config.learning_rate
        validation = validate(_logits(head, val[0]), val[1], criterion)
        state.history.append({"epoch": epoch, "learning_rate": rate, "train_loss": loss, **validation.figures})
        if not _is_finite(state.history[-1]):
            raise InputError(_diverged(1, state.history[-1], _cause_in_phase_1(config, (train[0], val[0]))))
        if not state.kept or validation.score < state.kept[criterion.name]:
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
    """Logits of the features (n, views, features) of the first view, read in parts."""
    parts = []
    with torch.no_grad():
        for rows in in_batches(np.arange(len(features)), 4096):
            parts.append(head(torch.from_numpy(rows_of(features, rows, 0 * rows))))
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------------ phase 2


def adapt_batchnorm(model: Classifier, data: TrainingData, config: FineTuning) -> None:
    """Estimate the statistics of every BatchNorm anew, in one pass over the training pictures as phase 2 sees them.

    No weight changes, and dropout is off; what was frozen must be frozen again afterwards. Batches are drawn at random
    (in a batch of one class the others would be missing) and of one size, because each counts the same.
    """
    rows = data.train.rows
    random = np.random.default_rng([config.seed, 0])
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    batches = np.array_split(random.permutation(rows), -(-len(rows) // config.batch_size))
    progress = Progress(len(rows))

    def normalised() -> Iterator[Tensor]:
        for pixels in data.pictures.batches(batches):
            every = np.arange(len(pixels))
            yield augmented(pixels, every, len(pixels), data.normalise, config.augmentation, generator)
            progress.step(len(pixels), "BatchNorm statistics")

    for module in model.modules():
        obey_mode(module)
        if isinstance(module, (nn.Dropout, StochasticDepth)):
            stay_in_eval(module)
    update_bn(normalised(), model)
    for module in model.modules():
        obey_mode(module)
    model.eval()


def fine_tune(
    model: Classifier,
    data: TrainingData,
    config: FineTuning,
    loss_fn: LossFn,
    criterion: Criterion,
    unfreeze: Callable[[int], object] = lambda epoch: None,
    scratch_file: Path | None = None,
) -> Trained:
    """Train what is unfrozen; epoch 0 of the history is the start.

    The weights that are kept are those after the last epoch, or the best by `criterion`: the start among them, of
    equal ones the first. `unfreeze` is called with the number of each epoch before it, and may unfreeze more.

    The state after each epoch is written to `scratch_file`, and a run that finds it resumes from it. The file's name
    says all that decides the bits. A file that is damaged or cannot be written changes nothing but the time.
    """
    quicken(model)
    start = {name: value.detach().clone() for name, value in model.state_dict().items()} if config.interpolate else {}
    steps = Steps(model, config, len(order(data.train.rows, config.batch_size)))
    state = (scratch_file and _resumed(scratch_file, steps, data, unfreeze)) or State()
    left = config.epochs + 1 - len(state.history)
    progress = Progress(left * len(data.val.rows) + min(left, config.epochs) * len(data.train.rows))
    for epoch in range(len(state.history), config.epochs + 1):
        loss = float("nan")  # the start is only looked at
        unfreeze(max(1, epoch))
        steps.begin(max(1, epoch))
        if epoch:
            loss = _train_epoch(data, config, loss_fn, epoch, steps, progress)
        label = f"epoch {epoch}/{config.epochs}, validation"
        logits = _validation_logits(steps.judged, data, config, progress, label)
        validation = validate(logits, data.val.targets, criterion)
        rate = steps.optimizer.param_groups[-1]["lr"] if epoch else float("nan")
        state.history.append({"epoch": epoch, "learning_rate": rate, "train_loss": loss, **validation.figures})
        if not _is_finite(state.history[-1]):
            raise InputError(_diverged(2, state.history[-1], _cause_in_phase_2(config, epoch)))
        if not state.kept or config.keep == "last" or validation.score < state.kept[criterion.name]:
            state.keep(epoch, validation, _copy(steps.judged))
        print(_sentence(state.history[-1], config.epochs), flush=True)
        if scratch_file and processes.first():
            scratch.keep(scratch_file, vars(state) | steps.state_dict())
    if config.interpolate:
        _interpolate(model, state, start, data, config, criterion)
    return state.result()


class Steps:
    """The steps of the optimizer: its schedule, the pull of L2-SP, and the moving average of the weights."""

    def __init__(self, model: Classifier, config: FineTuning, an_epoch: int) -> None:
        self.model, self.config, self.an_epoch = model, config, an_epoch
        average = get_ema_multi_avg_fn(config.ema) if config.ema else None
        self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if average else None
        self.judged: nn.Module = self.averaged.module if self.averaged else model
        self.anchors = {weight: weight.detach().clone() for weight in model.backbone.parameters() if config.l2_sp}
        self.optimizer: torch.optim.Optimizer
        self.schedule: torch.optim.lr_scheduler.LambdaLR

    def begin(self, epoch: int) -> None:
        """Make the optimizer of an epoch over what is trainable now; what was trained before keeps its momentum.

        It is made anew each time, because groups added to a running optimizer escape its schedule.
        """
        config, before = self.config, getattr(self, "optimizer", None)
        groups = parameter_groups(
            self.model, config.learning_rate, config.ratio, config.weight_decay, config.layer_decay
        )
        for group in groups:
            if config.l2_sp and group["name"] == "backbone":
                group["weight_decay"] = 0.0  # it is pulled to where it began instead of to zero
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        for parameter in self.model.parameters():
            if before and parameter.requires_grad and parameter in before.state:
                self.optimizer.state[parameter] = before.state[parameter]
        done, total = (epoch - 1) * self.an_epoch, config.epochs * self.an_epoch
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: warmup_and_cosine((done + step) / total, config.warmup)
        )

    def step(self) -> None:
        """Change the weights by their gradients."""
        _pull(self.optimizer, self.anchors, self.config.l2_sp)
        self.optimizer.step()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on."""
        averaged = {"averaged": self.averaged.state_dict()} if self.averaged else {}
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), **averaged}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; one that does not fit is an error before anything has changed."""
        modules: dict[str, nn.Module] = {"model": self.model} | ({"averaged": self.averaged} if self.averaged else {})
        for name, module in (modules | {"weights": self.judged}).items():
            if _shapes(state[name]) != _shapes(module.state_dict()):
                raise ValueError(f"{name} is that of another network")
        if not 0 <= state["kept"]["epoch"] < len(state["history"]) <= self.config.epochs + 1:
            raise ValueError("its epochs are not those of this run")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, moments in state["optimizer"]["state"].items():
            if any(value.ndim and value.shape != parameters[number].shape for value in moments.values()):
                raise ValueError("the optimizer is that of another network")
        self.optimizer.load_state_dict(state["optimizer"])
        for name, module in modules.items():
            module.load_state_dict(state[name])


def _pull(optimizer: torch.optim.Optimizer, anchors: dict[nn.Parameter, Tensor], strength: float) -> None:
    """L2-SP: move each weight towards its anchor by the share rate x strength of the way, beside the gradient.

    Through the gradient Adam would divide the pull by the size of the gradients, as it does with L2.
    """
    for group in optimizer.param_groups:
        share = min(1.0, group["lr"] * strength)
        for parameter in group["params"]:
            if parameter in anchors:
                parameter.data.lerp_(anchors[parameter], share)


def warmup_and_cosine(done: float, warmup: float) -> float:
    """Factor of the learning rate when the share `done` of all steps is behind: up in a line, down in a cosine."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + float(np.cos(np.pi * (done - warmup) / (1 - warmup))))


def _resumed(path: Path, steps: Steps, data: TrainingData, unfreeze: Callable[[int], object]) -> State | None:
    """Where a stopped run stood; None unless there is a state that fits."""
    kept = scratch.read(path, data.normalise.device)
    if kept is None:
        return None
    try:
        last = max(1, len(kept["history"]) - 1)
        unfreeze(last)
        steps.begin(last)
        steps.restore(kept)
        state = State(kept["history"], kept["kept"], kept["weights"], kept["only_class"])
    except Exception as error:  # whatever is in the file, the phase ends, and ends as without it
        scratch.warn(path, f"does not fit ({scratch.first_line(error)})")
        vars(steps).pop("optimizer", None)  # with its momentum
        return None
    print(f"going on after epoch {len(state.history) - 1}, where the last run was stopped", flush=True)
    return state


def _train_epoch(
    data: TrainingData, config: FineTuning, loss_fn: LossFn, epoch: int, steps: Steps, progress: Progress
) -> float:
    """One pass over the training pictures; returns the mean loss.

    Each rank takes a share of every batch; the mean of their gradients is that of the whole batch.
    """
    seed = (config.seed, epoch)
    network = processes.data_parallel(steps.model.train())
    # Dropout draws from the global generator, on each rank for other pictures.
    torch.manual_seed(int(np.random.default_rng([*seed, 1]).integers(2**31)) + processes.rank())
    total, pictures = torch.zeros((), device=data.normalise.device), 0
    for batch in training_batches(data, config.batch_size, config.augmentation, seed):
        steps.optimizer.zero_grad()
        weight = batch.share * processes.world_size()
        total += cores.backward(network, loss_fn, batch.pictures, batch.targets, weight) * batch.size
        steps.step()
        pictures += batch.size
        progress.step(batch.size, f"epoch {epoch}/{config.epochs}")
    return float(processes.mean(total)) / pictures


def _validation_logits(
    model: nn.Module, data: TrainingData, config: FineTuning, progress: Progress | None = None, label: str = ""
) -> Tensor:
    batch_size = 2 * config.batch_size
    return predict(model, data.pictures, data.val.rows, data.normalise, 1, batch_size, progress, label)


def _interpolate(
    model: nn.Module, state: State, start: Weights, data: TrainingData, config: FineTuning, criterion: Criterion
) -> None:
    """Keep the weights between the start and those that are kept that are best on validation, of equal ones the first
    (WiSE-FT, Wortsman et al. 2022)."""
    epoch, end = int(state.kept["epoch"]), state.weights
    best, share = None, 0.0
    for tenths in range(11):
        weights = {
            name: torch.lerp(value, end[name].to(value), tenths / 10) if value.is_floating_point() else end[name]
            for name, value in start.items()
        }
        model.load_state_dict(weights)
        validation = validate(_validation_logits(model, data, config), data.val.targets, criterion)
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


# ------------------------------------------------------------------------------------------------ sentences


def _is_finite(row: dict[str, float]) -> bool:
    """Whether the figures of an epoch are numbers; epoch 0 has no training loss."""
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
            "most likely the weights it starts from are damaged, or BatchNorm's adapted statistics are: run head "
            "again, with other backbone.weights or unfreeze.batchnorm frozen"
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
