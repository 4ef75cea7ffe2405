"""Training: the head on cached features (phase 1) and the unfrozen network on pictures (phase 2).

All randomness comes from a seed and the epoch's number, so that a run that was stopped goes on as if it had not been.
"""

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torchvision.ops import StochasticDepth

from thaw.data.pictures import Normaliser, Pictures, copied, in_batches, in_views, jittered, rows_of
from thaw.errors import InputError
from thaw.learning import cores, processes
from thaw.learning.backbones import Classifier
from thaw.learning.convolutions import quicken
from thaw.learning.freezing import obey_mode, parameter_groups, stay_in_eval
from thaw.learning.prediction import predict
from thaw.progress import Progress

Rows = NDArray[np.int64]

CHECKSUM = 32  # bytes of SHA-256 at the start of a scratch file


@dataclass(frozen=True)
class HeadTraining:
    """How phase 1 goes."""

    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int


@dataclass(frozen=True)
class FineTuning:
    """How phase 2 goes; the backbone learns at `learning_rate / ratio`, less by `layer_decay` in each earlier block."""

    learning_rate: float
    ratio: float
    layer_decay: float
    weight_decay: float
    batch_size: int
    epochs: int
    warmup: float
    views: int
    jitter: float
    label_smoothing: float = 0.0  # these are off in the recipe; see `unfreeze` in params.yaml
    l2_sp: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    interpolate: bool = False
    keep: Literal["best", "last"] = "last"


@dataclass(frozen=True)
class Trained:
    """What a phase trained: the weights it keeps, the figures of these very weights, and the history of its epochs.

    `kept` has epoch, val_loss and val_accuracy; with class weights also weighted_val_loss, by which the epoch was
    chosen; where weights were interpolated also share, how far from epoch 0 (0) to that epoch (1) they are.
    """

    weights: dict[str, Tensor]
    kept: dict[str, float]
    history: pd.DataFrame
    only_class: int | None  # the class that these weights give every validation picture; None: they give several


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


def loss_of(logits: Tensor, targets: Tensor, smoothing: float = 0.0, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy against class probabilities (n, classes); `weight` is how much each class counts."""
    return F.cross_entropy(logits, targets, weight, label_smoothing=smoothing)


def fit_head(
    head: nn.Linear,
    train: tuple[NDArray[np.float32], Tensor],
    val: tuple[NDArray[np.float32], Tensor],
    how: HeadTraining,
    seed: int,
    weight: Tensor | None = None,
) -> Trained:
    """Train the head until validation stops improving; its best weights are kept, of equal ones the first.

    Features are (n, views, features): every epoch sees each picture once, in a view drawn anew. `weight` is how much
    each class counts. Without any epoch the head stays as it was drawn.
    """
    features, targets = train
    optimizer = torch.optim.AdamW(
        [
            {"params": [head.weight], "weight_decay": how.weight_decay},
            {"params": [head.bias], "weight_decay": 0.0},
        ],
        lr=how.learning_rate,
    )
    history: list[dict[str, float]] = []
    kept: dict[str, float] = {}
    weights: dict[str, Tensor] = {}
    only_class: int | None = None
    progress = Progress(how.max_epochs * len(features))
    for epoch in range(1, how.max_epochs + 1):
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(features))
        views = random.integers(features.shape[1], size=len(features))
        total = 0.0
        for rows in in_batches(order, how.batch_size):
            batch = torch.from_numpy(rows_of(features, rows, views[rows]))
            loss = loss_of(head(batch), targets[rows], weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        logits = _logits(head, val[0])
        figures = _figures(logits, val[1], weight)
        history.append(_row(epoch, how.learning_rate, total / len(features), figures))
        if not _is_finite(history[-1]):
            raise InputError(_diverged(1, history[-1], _cause_in_phase_1(how, (features, val[0]))))
        if not kept or _deciding(figures) < _deciding(kept):
            kept, only_class = {"epoch": epoch, **figures}, _only_class(logits)
            weights = {name: value.clone() for name, value in head.state_dict().items()}
        progress.step(len(features), f"epoch {epoch}, validation loss {figures['val_loss']:.4f}")
        if epoch - kept["epoch"] >= how.patience:
            break
    progress.end(f"epoch {len(history)}, validation has stopped improving")
    if not history:
        logits = _logits(head, val[0])
        figures = _figures(logits, val[1], weight)
        history = [_row(0, float("nan"), float("nan"), figures)]
        if not _is_finite(history[-1]):
            raise InputError(_diverged(1, history[-1], _cause_in_phase_1(how, (features, val[0]))))
        kept, weights, only_class = {"epoch": 0, **figures}, head.state_dict(), _only_class(logits)
    return Trained(weights, kept, pd.DataFrame(history), only_class)


def _logits(head: nn.Linear, features: NDArray[np.float32]) -> Tensor:
    """Logits of the features (n, views, features) of the first view, read in parts."""
    parts = []
    with torch.no_grad():
        for rows in in_batches(np.arange(len(features)), 4096):
            parts.append(head(torch.from_numpy(rows_of(features, rows, 0 * rows))))
    return torch.cat(parts)


def adapt_batchnorm(
    model: Classifier, pictures: Pictures, rows: Rows, normalise: Normaliser, how: FineTuning, seed: int
) -> None:
    """Estimate the statistics of every BatchNorm anew, in one pass over the training pictures as phase 2 sees them.

    No weight changes, and dropout is off; what was frozen must be frozen again afterwards. Batches are drawn at random
    (in a batch of one class the others would be missing) and of one size, because each counts the same.
    """
    random = np.random.default_rng([seed, 0])
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    batches = np.array_split(random.permutation(rows), -(-len(rows) // how.batch_size))
    progress = Progress(len(rows))

    def normalised() -> Iterator[Tensor]:
        for pixels in pictures.batches(batches):
            yield _augmented(pixels, np.arange(len(pixels)), len(pixels), normalise, how, generator)
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
    pictures: Pictures,
    train: tuple[Rows, Tensor],
    val: tuple[Rows, Tensor],
    normalise: Normaliser,
    how: FineTuning,
    seed: int,
    scratch: Path | None = None,
    unfreeze: Callable[[int], object] = lambda epoch: None,
    weight: Tensor | None = None,
) -> Trained:
    """Train what is unfrozen; epoch 0 of the history is the start.

    The weights that are kept are those after the last epoch, or the best on validation: the start among them, of equal
    ones the first.

    With `scratch`, a file, the state after each epoch is kept there, and a run that finds it goes on from it. Its name
    says all that decides the bits. What is no such state changes nothing, nor does a file that cannot be written.
    `unfreeze` is called with the number of each epoch before it, and may unfreeze more.
    """
    rows, targets = train
    quicken(model)
    steps = len(_training_batches(rows, how.batch_size))
    start = {name: value.detach().clone() for name, value in model.state_dict().items()} if how.interpolate else {}
    anchors = {parameter: parameter.detach().clone() for parameter in model.backbone.parameters() if how.l2_sp}
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(how.ema), use_buffers=True) if how.ema else None
    judged: nn.Module = averaged.module if averaged else model
    history: list[dict[str, float]] = []
    kept: dict[str, float] = {}
    weights: dict[str, Tensor] = {}
    only_class: int | None = None
    optimizer = None
    if scratch and (state := _read(scratch, normalise.device)) is not None:
        try:
            unfreeze(max(1, len(state["history"]) - 1))
            optimizer, schedule = _optimizer(model, how, 0, steps)
            _restore(state, model, judged, averaged, optimizer, how.epochs)
            history, kept, weights = state["history"], state["kept"], state["weights"]
            only_class = state["only_class"]
            print(f"going on after epoch {len(history) - 1}, where the last run was stopped", flush=True)
        except Exception as error:  # whatever is in the file, the phase ends, and ends as without it
            optimizer = None
            _warn(scratch, f"does not fit ({_first_line(error)})")
        state = None  # it is as large as all that was loaded from it
    if optimizer is None:
        unfreeze(1)
        optimizer, schedule = _optimizer(model, how, 0, steps)
    left = how.epochs + 1 - len(history)
    progress = Progress(left * len(val[0]) + min(left, how.epochs) * len(rows))
    for epoch in range(len(history), how.epochs + 1):
        what = f"epoch {epoch}/{how.epochs}"
        if epoch:
            unfreeze(epoch)
            optimizer, schedule = _optimizer(model, how, (epoch - 1) * steps, steps, optimizer)
            loss = _train_epoch(
                model, pictures, rows, targets, normalise, how, (seed, epoch), optimizer, schedule, progress,
                anchors, averaged, weight,
            )  # fmt: skip
        else:
            loss = float("nan")  # the start is only looked at
        logits = predict(judged, pictures, val[0], normalise, 1, 2 * how.batch_size, progress, f"{what}, validation")
        rate = optimizer.param_groups[-1]["lr"] if epoch else float("nan")
        figures = _figures(logits, val[1], weight)
        history.append(_row(epoch, rate, loss, figures))
        if not _is_finite(history[-1]):
            raise InputError(_diverged(2, history[-1], _cause_in_phase_2(how, epoch)))
        if not kept or how.keep == "last" or _deciding(figures) < _deciding(kept):
            kept = {"epoch": epoch, **figures}
            weights = {name: value.detach().cpu().clone() for name, value in judged.state_dict().items()}
            only_class = _only_class(logits)
        print(_sentence(history[-1], how.epochs), flush=True)
        if scratch and processes.first():
            _keep(scratch, model, optimizer, history, kept, weights, averaged, only_class)
    if how.interpolate:

        def measure() -> tuple[dict[str, float], int | None]:
            logits = predict(model, pictures, val[0], normalise, 1, 2 * how.batch_size)
            return _figures(logits, val[1], weight), _only_class(logits)

        weights, share, (figures, only_class) = _interpolated(model, start, weights, measure)
        kept = {"epoch": kept["epoch"], "share": share, **figures}
        print(f"{share:.0%} of the way from the head-only weights, {_worded(kept)}", flush=True)
    return Trained(weights, kept, pd.DataFrame(history), only_class)


def _interpolated(
    model: nn.Module,
    start: dict[str, Tensor],
    end: dict[str, Tensor],
    measure: Callable[[], tuple[dict[str, float], int | None]],
) -> tuple[dict[str, Tensor], float, tuple[dict[str, float], int | None]]:
    """The weights between start and end that are best on validation (WiSE-FT, Wortsman et al. 2022), of equal ones
    the first; their share of the way; and what `measure` says of them."""
    found = []
    for tenths in range(11):
        weights = {
            name: torch.lerp(value, end[name].to(value), tenths / 10) if value.is_floating_point() else end[name]
            for name, value in start.items()
        }
        model.load_state_dict(weights)
        found.append((weights, tenths / 10, measure()))
    weights, share, measured = min(found, key=lambda each: _deciding(each[2][0]))
    return {name: value.cpu() for name, value in weights.items()}, share, measured


def _optimizer(
    model: Classifier, how: FineTuning, done: int, steps: int, before: torch.optim.Optimizer | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """An optimizer over what is trainable now, and the schedule of its rates, `done` steps behind, `steps` an epoch.

    Made anew for each epoch, because groups added to a running optimizer escape its schedule; what was trained
    `before` keeps its momentum.
    """
    groups = parameter_groups(model, how.learning_rate, how.ratio, how.weight_decay, how.layer_decay)
    for group in groups:
        if how.l2_sp and group["name"] == "backbone":
            group["weight_decay"] = 0.0  # it is pulled to where it began instead of to zero
    optimizer = torch.optim.AdamW(groups, fused=True)
    for parameter in model.parameters():
        if before and parameter.requires_grad and parameter in before.state:
            optimizer.state[parameter] = before.state[parameter]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_and_cosine((done + step) / (how.epochs * steps), how.warmup)
    )
    return optimizer, schedule


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


def _train_epoch(
    model: Classifier,
    pictures: Pictures,
    rows: Rows,
    targets: Tensor,
    normalise: Normaliser,
    how: FineTuning,
    seed: Sequence[int],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    progress: Progress,
    anchors: dict[nn.Parameter, Tensor],
    averaged: AveragedModel | None,
    weight: Tensor | None,
) -> float:
    """One pass over the training pictures; returns the mean loss.

    Of several processes each takes a share of every batch. All draw the same random numbers for the whole of it, but
    for dropout, and the mean of their gradients is that of the whole batch.
    """
    network = processes.joined(model.train())
    order = np.random.default_rng(seed).permutation(len(rows))
    # Dropout draws from the global generator, in each process for other pictures.
    torch.manual_seed(int(np.random.default_rng([*seed, 1]).integers(2**31)) + processes.number())
    generator = torch.Generator().manual_seed(int(np.random.default_rng([*seed, 2]).integers(2**31)))
    batches = _training_batches(order, how.batch_size)
    # Who has no share of a short last batch takes its first picture, and counts it nothing.
    shares = [processes.share(np.arange(len(batch))) for batch in batches]
    taken = [share if len(share) else np.arange(1) for share in shares]
    mixes = how.mixup > 0 or how.cutmix > 0
    if mixes:  # each picture with the one before it in the batch, which may be in the share of another process
        taken = [np.r_[mine[0] - 1, mine] % len(batch) for batch, mine in zip(batches, taken, strict=True)]
    random = np.random.default_rng([*seed, 3])
    read = pictures.batches([rows[batch[mine]] for batch, mine in zip(batches, taken, strict=True)])
    weight = None if weight is None else weight.to(normalise.device)

    def lost(seen: Tensor, wanted: Tensor) -> Tensor:
        return loss_of(network(seen).float(), wanted, how.label_smoothing, weight)

    total = torch.zeros((), device=normalise.device)
    for batch, share, mine, pixels in zip(batches, shares, taken, read, strict=True):
        seen = _augmented(pixels, mine, len(batch), normalise, how, generator)
        wanted = copied(targets[batch[mine]], normalise.device)
        if mixes:
            seen, wanted = _mixed(seen, wanted, how, random)
        optimizer.zero_grad()
        loss = cores.backward(network, lost, seen, wanted, len(share) * processes.count() / len(batch))
        _pull(optimizer, anchors, how.l2_sp)
        optimizer.step()
        schedule.step()
        if averaged:
            averaged.update_parameters(model)
        total += loss * len(batch)
        progress.step(len(batch), f"epoch {seed[-1]}/{how.epochs}")
    return float(processes.mean(total)) / sum(map(len, batches))


def _augmented(
    pixels: Tensor, mine: Rows, size: int, normalise: Normaliser, how: FineTuning, generator: torch.Generator
) -> Tensor:
    """Normalised pictures as training sees them, `mine` of a batch of `size`, for all of which numbers are drawn."""
    pixels = copied(pixels, normalise.device)
    if how.views > 1:
        pixels = in_views(pixels, torch.randint(how.views, (size,), generator=generator)[mine])
    seen = normalise(pixels)
    if how.jitter:
        contrast, brightness = (2 * torch.rand(2, size, generator=generator)[:, mine] - 1) * how.jitter
        seen = jittered(seen, contrast, brightness)
    return seen


def _mixed(pictures: Tensor, targets: Tensor, how: FineTuning, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each picture but the first, and its target, mixed with the one before it: mixup (Zhang et al. 2018), cutmix
    (Yun et al. 2019), or, where both are on, one of them at random. The numbers drawn are those of the whole batch."""
    alpha = (how.mixup, how.cutmix)
    cut = bool(random.integers(2)) if all(alpha) else alpha[1] > 0
    share = random.beta(alpha[cut], alpha[cut])  # of the picture itself
    pictures, others = pictures[1:], pictures[:-1]
    if cut:
        height, width = pictures.shape[-2:]
        centre, side = random.integers([height, width]), (1 - share) ** 0.5
        top, left = (int(max(0, c - side * n / 2)) for c, n in zip(centre, (height, width), strict=True))
        bottom, right = (int(min(n, c + side * n / 2)) for c, n in zip(centre, (height, width), strict=True))
        pictures = pictures.clone()
        pictures[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        pictures = others.lerp(pictures, share)
    return pictures, targets[:-1].lerp(targets[1:], share)


def _training_batches(order: Rows, size: int) -> list[Rows]:
    """Batches without a lone last picture, which a training BatchNorm cannot take."""
    batches = in_batches(order, size)
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def _figures(logits: Tensor, targets: Tensor, weight: Tensor | None) -> dict[str, float]:
    """What logits are worth on validation. `val_loss` is the same measure in every training, whatever it trains on."""
    figures = {
        "val_loss": loss_of(logits, targets).item(),
        "val_accuracy": (logits.argmax(1) == targets.argmax(1)).double().mean().item(),
    }
    if weight is not None:
        figures["weighted_val_loss"] = loss_of(logits, targets, weight=weight).item()
    return figures


def _deciding(figures: dict[str, float]) -> float:
    """The loss that decides which weights are kept: where classes have weights, that with them."""
    return figures.get("weighted_val_loss", figures["val_loss"])


def _only_class(logits: Tensor) -> int | None:
    """The class that every picture gets; None where there are several."""
    classes = logits.argmax(1).unique()
    return int(classes[0]) if len(classes) == 1 else None


def _is_finite(row: dict[str, float]) -> bool:
    """Whether the losses of an epoch are numbers; epoch 0 has no training loss."""
    losses = [value for name, value in row.items() if name.endswith("loss") and (row["epoch"] or name != "train_loss")]
    return all(map(math.isfinite, losses))


def _diverged(phase: int, row: dict[str, float], cause: str) -> str:
    """The sentence about a loss that is not finite."""
    when = f"after epoch {row['epoch']}" if row["epoch"] else "before the first step"
    losses = f"the validation loss is {row['val_loss']:g}"
    if row["epoch"]:
        losses = f"the training loss is {row['train_loss']:g} and {losses}"
    return f"phase {phase} diverged: {when} {losses}; {cause}"


def _cause_in_phase_1(how: HeadTraining, features: Sequence[NDArray[np.float32]]) -> str:
    for part in features:
        if not all(np.isfinite(part[rows]).all() for rows in in_batches(np.arange(len(part)), 4096)):
            return (
                "features of the backbone are not finite, most likely because its weights are damaged: "
                "use other backbone.weights, or resources.precision float32"
            )
    return f"most likely the learning rate is too high: lower head.learning_rate, which is {how.learning_rate:g}"


def _cause_in_phase_2(how: FineTuning, epoch: int) -> str:
    if not epoch:
        return (
            "most likely the weights it starts from are damaged, or BatchNorm's adapted statistics are: run head "
            "again, with other backbone.weights or unfreeze.batchnorm frozen"
        )
    return (
        f"most likely the learning rate is too high: raise unfreeze.ratio, which is {how.ratio:g}, or lower "
        f"head.learning_rate, which is {how.learning_rate:g}"
    )


def _row(epoch: int, rate: float, loss: float, figures: dict[str, float]) -> dict[str, float]:
    """An epoch in the history."""
    return {"epoch": epoch, "learning_rate": rate, "train_loss": loss, **figures}


def _sentence(row: dict[str, float], epochs: int) -> str:
    start = f"epoch {row['epoch']}/{epochs}: training loss {row['train_loss']:.4f}" if row["epoch"] else "head only"
    return f"{start}, {_worded(row)}"


def _worded(figures: dict[str, float]) -> str:
    weighted = f" (weighted {figures['weighted_val_loss']:.4f})" if "weighted_val_loss" in figures else ""
    return f"validation loss {figures['val_loss']:.4f}{weighted}, accuracy {figures['val_accuracy']:.1%}"


def _keep(
    path: Path,
    model: nn.Module,
    optimizer: Any,
    history: list[Any],
    kept: dict[str, float],
    weights: dict[str, Tensor],
    averaged: nn.Module | None,
    only_class: int | None,
) -> None:
    """Keep the state after an epoch; where that fails, training goes on without."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    if averaged:
        state["averaged"] = averaged.state_dict()
    try:
        _write(path, {**state, "history": history, "kept": kept, "weights": weights, "only_class": only_class})
    except (OSError, RuntimeError) as error:  # torch makes a RuntimeError of a full disk
        why = _first_line(error.__context__ or error)
        print(
            f"warning: {path} cannot be written ({why}); phase 2 goes on, but not from here if it is stopped",
            flush=True,
        )


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a state, whole or not at all, behind a checksum of it and of the file's name."""
    partial_file = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file.open("w+b") as file:
            file.write(bytes(CHECKSUM))
            torch.save(state, file)
            checksum = _checksum(path, file)
            file.seek(0)
            file.write(checksum)
            file.flush()
            os.fsync(file.fileno())
        partial_file.replace(path)
    except BaseException:
        with suppress(OSError):
            partial_file.unlink()
        raise


def _read(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state in a file; None, with a warning, unless it is whole and of this name and all processes have it."""
    state, checksum, problem = None, bytes(CHECKSUM), ""
    try:
        with path.open("rb") as file:
            if file.read(CHECKSUM) != _checksum(path, file):
                raise ValueError("its checksum is wrong")
            file.seek(0)
            checksum = file.read(CHECKSUM)
            state = torch.load(file, map_location=device, weights_only=True)
    except FileNotFoundError:
        pass
    except Exception as error:
        problem = f"is damaged or of another run ({_first_line(error)})"
    # Whoever has no state would wait for ever for those who go on from one.
    checksums = processes.gathered(torch.tensor([list(checksum)]))
    if not (checksums == checksums[0]).all():
        state, problem = None, "is not the same for all processes"
    if problem:
        _warn(path, problem)
    return state


def _checksum(path: Path, file: BinaryIO) -> bytes:
    file.seek(CHECKSUM)
    return hashlib.file_digest(file, lambda: hashlib.sha256(path.name.encode())).digest()  # type: ignore[arg-type]


def _restore(
    state: dict[str, Any],
    model: nn.Module,
    judged: nn.Module,
    averaged: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    epochs: int,
) -> None:
    """Load a state into model and optimizer; one that does not fit is an error before anything has changed."""
    modules = {"model": model} | ({"averaged": averaged} if averaged else {})
    for name, module in (modules | {"weights": judged}).items():
        if _shapes(state[name]) != _shapes(module.state_dict()):
            raise ValueError(f"{name} is that of another network")
    if not 0 <= state["kept"]["epoch"] < len(state["history"]) <= epochs + 1:
        raise ValueError("its epochs are not those of this run")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, moments in state["optimizer"]["state"].items():
        if any(value.ndim and value.shape != parameters[number].shape for value in moments.values()):
            raise ValueError("the optimizer is that of another network")
    optimizer.load_state_dict(state["optimizer"])
    for name, module in modules.items():
        module.load_state_dict(state[name])


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


def _warn(path: Path, problem: str) -> None:
    print(f"warning: {path}, the state of a run that was stopped, {problem}; phase 2 starts anew", flush=True)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
