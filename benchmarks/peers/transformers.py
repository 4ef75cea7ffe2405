"""Hugging Face's Trainer, twice: the head on a frozen backbone, then all. Channels last."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments

from benchmarks.peers import pictures
from benchmarks.peers.contest import BATCH_SIZE, WORKERS, Contest, from_command_line, laps, write_predictions


class WithLoss(nn.Module):
    """The Trainer needs a model that returns the loss with the logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def collate(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """A batch under the names that the model takes."""
    return {
        "pixel_values": torch.stack([inputs for inputs, _ in items]),
        "labels": torch.tensor([label for _, label in items]),
    }


def main(contest: Contest) -> None:
    """Both phases and the test."""
    train, val, test = (pictures.Files(contest, split) for split in ("train", "val", "test"))
    network = pictures.network(contest).to(memory_format=torch.channels_last)
    model = WithLoss(network)
    lap = laps(contest)

    class Laps(TrainerCallback):
        def on_evaluate(self, *_: object, metrics: dict[str, float], **__: object) -> None:
            lap(metrics["eval_accuracy"])

    def accuracy(output: EvalPrediction) -> dict[str, float]:
        return {"accuracy": float((output.predictions.argmax(1) == output.label_ids).mean())}

    for trainable, rate, epochs in ((False, 1e-3, contest.head_epochs), (True, contest.rate * 5e-5, contest.epochs)):
        network.backbone.requires_grad_(trainable)
        arguments = TrainingArguments(
            output_dir=contest.out,
            seed=contest.seed,
            num_train_epochs=epochs,
            learning_rate=rate,
            warmup_steps=0.1 if trainable else 0,
            per_device_train_batch_size=BATCH_SIZE,
            per_device_eval_batch_size=BATCH_SIZE,
            dataloader_num_workers=WORKERS,
            dataloader_persistent_workers=True,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(model, arguments, collate, train, val, compute_metrics=accuracy, callbacks=[Laps()])
        trainer.train()
    probabilities = torch.from_numpy(trainer.predict(test).predictions).softmax(1)
    write_predictions(contest, test.paths, probabilities.tolist())


if __name__ == "__main__":
    main(from_command_line())
