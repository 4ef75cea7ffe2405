"""unfreeze, phase 2: unfreeze blocks of the backbone and train on at a much lower rate.

thaw phase unfreeze      artifacts/head -> artifacts/unfreeze/{model/,history.csv,metrics.json}
"""

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from thaw.data.pictures import VIEWS, Normaliser
from thaw.errors import InputError
from thaw.learning import checkpoint, processes
from thaw.learning.activations import Frozen
from thaw.learning.backbones import Classifier, blocks
from thaw.learning.batches import Split, TrainingData
from thaw.learning.convolutions import quicken
from thaw.learning.cut import cut
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import scale_dropout
from thaw.learning.freezing import unfreeze as unfreeze_blocks
from thaw.learning.losses import Objective, cross_entropy, lowest_loss
from thaw.learning.machine import compiling_pays, cpu_has_bfloat16, use_bfloat16
from thaw.learning.training import FineTuning, adapt_batchnorm, enough_epochs, fine_tune, one_class_warning
from thaw.project import networks, phase, workspace
from thaw.project.scratch import finished
from thaw.project.settings import Settings
from thaw.project.workspace import artifacts


def unfreeze(config: Settings) -> None:
    """From the network with a trained head to the fine-tuned one."""
    device = networks.use_resources(config)
    data = networks.dataset(config, "train", "val")
    train, val = data.labelled(config.labels, config.seed), data.split("val")
    for name, pictures in (("train", len(train)), ("val", len(val)), ("a batch", config.unfreeze.batch_size)):
        processes.check(name, pictures)
    normalise = Normaliser(networks.preprocessing(data), device)
    model, parent_meta = checkpoint.load(artifacts("head/model"))
    section = config.unfreeze
    auto = section.epochs == "auto"
    changes = {"epochs": enough_epochs(len(train), section.batch_size)} if auto else {}
    if not parent_meta["kept"]["epoch"]:  # no phase 1: the head is random
        changes["head_ratio"] = 1
    fine_tuning = FineTuning(
        seed=config.seed,
        learning_rate=config.head.learning_rate,
        views=VIEWS[section.views],
        **section.model_dump(exclude={"blocks", "batchnorm", "views", "precision", "drop", "label_smoothing"})
        | changes,
    )
    training_data = TrainingData(
        data.pictures, normalise, Split(train, data.targets[train]), Split(val, data.targets[val])
    )
    class_weights = data.class_weights(config.class_weights, train)
    selection, batchnorm = config.unfreeze.blocks, config.unfreeze.batchnorm
    if batchnorm == "train" and processes.world_size() > 1:
        model = _synchronised(model, device)
    unfrozen = unfreeze_blocks(model, selection, batchnorm)
    order = ", evenly over the epochs, the last one first" if selection == "gradual" else ""
    print(f"{len(unfrozen)} blocks unfrozen: {unfrozen[0]} to {unfrozen[-1]}{order}", flush=True)
    ratio, decay = config.unfreeze.ratio, config.unfreeze.layer_decay
    before = f", {decay:g} times as much in each block before the last" if decay < 1 else ""
    rate, epochs = fine_tuning.learning_rate, fine_tuning.epochs
    print(f"{epochs} epoch{'s' * (epochs > 1)}", end=", ")
    print(
        f"learning rates: head {rate / fine_tuning.head_ratio:g}, backbone {rate / ratio:g}{before}",
        flush=True,
    )
    if not 10 <= ratio <= 100:
        why = "pretrained features may be overwritten" if ratio < 10 else "the backbone will hardly learn"
        print(f"warning: unfreeze.ratio is {ratio:g}, outside 10 to 100: {why}", flush=True)
    if batchnorm == "adapt":
        adapt_batchnorm(model.to(device), training_data, fine_tuning)
    folded = batchnorm != "train"
    if folded:
        fold_batchnorm(model.cpu(), data.pictures.shape.blank())
    networks.place(model, device, config)
    if config.unfreeze.precision == "bfloat16":
        _multiply_in_bfloat16(model, device)
    scale_dropout(model, config.unfreeze.drop)
    if selection != "gradual" and compiling_pays(config.resources.compile, device, len(train) * fine_tuning.epochs):
        model.compile()
    elif selection != "gradual" and processes.world_size() == 1:
        blank, room = data.pictures.shape.blank().to(device), config.resources.activations_gb * 1e9
        training_data = training_data._replace(frozen=_frozen(model, blank, room))
    parent = checkpoint.weights_hash(artifacts("head/model"))
    scratch = workspace.scratch() / f"unfreeze-{key(config, fine_tuning, data.meta, parent, device)}.pt"
    trained = fine_tune(
        model,
        training_data,
        fine_tuning,
        Objective(
            loss_fn=cross_entropy(config.unfreeze.label_smoothing, class_weights),
            criterion=lowest_loss(class_weights),
        ),
        unfreeze=partial(unfreeze_blocks, model, selection, batchnorm, epochs=fine_tuning.epochs),
        scratch_file=scratch,
    )
    if sentence := one_class_warning(trained, data.classes, data.targets[train]):
        print(f"warning: {sentence}", flush=True)
    if processes.first():
        meta = networks.meta_of(config, data, folded, parent)
        networks.write_network("unfreeze", trained.weights, trained.kept, trained.history, meta)
        finished(scratch, "artifacts/unfreeze/model")


def _multiply_in_bfloat16(model: Classifier, device: torch.device) -> None:
    """On a CPU only what is quicker that way."""
    if device.type != "cpu":
        use_bfloat16(model, device)
        return
    quicken(model, mixed=True)
    if not cpu_has_bfloat16():
        print(
            "warning: unfreeze.precision is bfloat16, which this processor is slow at: float32 is quicker", flush=True
        )


def _frozen(model: Classifier, example: torch.Tensor, most: float) -> Frozen | None:
    """The blocks before the first that is trained, if the network can be cut there."""
    trained = [any(weight.requires_grad for weight in block.parameters) for block in blocks(model.backbone)]
    parts = cut(model, trained.index(True), example)
    return Frozen(parts, workspace.scratch(), most) if parts else None


def key(config: Settings, fine_tuning: FineTuning, meta: dict[str, Any], parent: str, device: torch.device) -> str:
    """A hash of everything that decides the result of this training; a stopped run resumes only if
    it is the same."""
    settings = (config.seed, config.labels, config.class_weights, config.unfreeze, fine_tuning)
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    machine = (device.type, processor, torch.get_num_threads(), processes.world_size())
    resources = (config.resources.precision, config.resources.compile)
    versions = (torch.__version__, torchvision.__version__, np.__version__)
    return _digest(f"{parent} {meta} {settings} {machine} {resources} {versions} {_code()}".encode())


def _code() -> str:
    """A hash of the source of every loaded module of thaw and tasks, this one included."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in ("thaw", "tasks")]
    files = {__file__, *(module.__file__ for module in modules if module.__file__)}
    return _digest(" ".join(sorted(_digest(Path(file).read_bytes()) for file in files)).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _synchronised(model: Classifier, device: torch.device) -> Classifier:
    """The network with BatchNorms that are synchronised over all processes."""
    if device.type != "cuda":
        raise InputError(
            f"unfreeze.batchnorm is train and resources.processes {processes.world_size()}, which needs GPUs: "
            "use one process, or batchnorm frozen or adapt"
        )
    synchronised: Classifier = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised


if __name__ == "__main__":
    phase.start(unfreeze, shared=True)
