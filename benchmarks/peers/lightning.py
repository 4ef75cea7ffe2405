"""Lightning's `BackboneFinetuning`, as its documentation shows it. Best setting: channels last.

The callback leaves BatchNorm trainable while the backbone is frozen, so phase 1 pays for gradients
up to the input.
"""

from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor
from torch.nn import functional as F

from benchmarks.peers import pictures
from benchmarks.peers.contest import Contest, from_command_line, laps, write_predictions
from thaw.learning.backbones import Classifier


class TransferLearning(LightningModule):
    """The callback wants a module with a `backbone`."""

    def __init__(self, model: Classifier, rate: float, lap: Callable[[float], None]) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        self.rate, self.lap = rate, lap

    def on_train_epoch_end(self) -> None:  # after validation too
        self.lap(float(self.trainer.callback_metrics["val_accuracy"]))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.backbone(inputs))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        inputs, labels = batch
        logits = self(inputs)
        figures = {
            "val_loss": F.cross_entropy(logits, labels),
            "val_accuracy": (logits.argmax(1) == labels).float().mean(),
        }
        self.log_dict(figures, batch_size=len(labels))

    def predict_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self(batch[0]).softmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=self.rate * 1e-3)


def main(contest: Contest) -> None:
    """Both phases and the test."""
    seed_everything(contest.seed)
    train, val, test = (pictures.loader(contest, split) for split in ("train", "val", "test"))
    model = pictures.network(contest).to(memory_format=torch.channels_last)
    trainer = Trainer(
        max_epochs=contest.head_epochs + contest.epochs,
        callbacks=[BackboneFinetuning(contest.head_epochs, lambda epoch: 1.5)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    module = TransferLearning(model, contest.rate, laps(contest))
    trainer.fit(module, train, val)
    write_predictions(contest, test.dataset.paths, torch.cat(trainer.predict(module, test)).tolist())


if __name__ == "__main__":
    main(from_command_line())
