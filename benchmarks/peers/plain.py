"""The two-phase script that every tutorial shows, in plain PyTorch.

Freeze the backbone, Adam 1e-3 on the head through the frozen backbone; unfreeze, Adam 1e-5; the
best epoch is kept.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.peers import pictures
from benchmarks.peers.contest import LAST_BLOCKS, Contest, from_command_line, laps, write_predictions
from thaw.learning.backbones import blocks


def main(contest: Contest) -> None:
    """Both phases and the test; or phase 2 of the last blocks alone."""
    model = pictures.network(contest)
    loaders = {split: pictures.loader(contest, split) for split in ("train", "val", "test")}
    lap = laps(contest)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    if contest.before:
        model.load_state_dict(torch.load(Path(contest.before, "head.pt")))
        unfrozen = [parameter for block in blocks(model.backbone)[-LAST_BLOCKS:] for parameter in block.parameters]
    else:
        fit(model, loaders, torch.optim.Adam(model.head.parameters(), lr=1e-3), contest.head_epochs, lap)
        torch.save(model.state_dict(), Path(contest.out, "head.pt"))
        unfrozen = list(model.backbone.parameters())
    for parameter in unfrozen:
        parameter.requires_grad = True
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fit(model, loaders, torch.optim.Adam(trained, lr=contest.rate * 1e-5), contest.epochs, lap)

    model.eval()
    with torch.no_grad():
        probabilities = torch.cat([model(inputs).softmax(1) for inputs, _ in loaders["test"]])
    write_predictions(contest, loaders["test"].dataset.paths, probabilities.tolist())


def fit(
    model: nn.Module,
    loaders: dict[str, DataLoader],
    optimizer: torch.optim.Optimizer,
    epochs: int,
    lap: Callable[[float], None],
) -> None:
    """Train, validate after each epoch, and load the weights of the best epoch."""
    criterion = nn.CrossEntropyLoss()
    best, best_accuracy = model.state_dict(), 0.0
    for epoch in range(epochs):
        model.train()
        running_loss = 0.0
        for inputs, labels in loaders["train"]:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(inputs)

        model.eval()
        correct = 0
        with torch.no_grad():
            for inputs, labels in loaders["val"]:
                correct += (model(inputs).argmax(1) == labels).sum().item()
        accuracy = correct / len(loaders["val"].dataset)
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(model.state_dict()), accuracy
        print(f"epoch {epoch + 1}/{epochs}: loss {running_loss / len(loaders['train'].dataset):.4f}, {accuracy:.1%}")
        lap(accuracy)
    model.load_state_dict(best)


if __name__ == "__main__":
    main(from_command_line())
