"""head, phase 1: train a new head on the features of the frozen backbone.

thaw phase head      artifacts/embed -> artifacts/head/{model/,history.csv,metrics.json}
"""

import numpy as np
import torch

from thaw.learning.losses import Objective, cross_entropy, lowest_loss
from thaw.learning.training import HeadTraining, fit_head, one_class_warning
from thaw.project import networks, phase
from thaw.project.settings import Settings


def head(config: Settings) -> None:
    """From features to a network with a trained head."""
    networks.use_resources(config)
    torch.set_num_threads(1)  # the steps are so small that sharing them costs more than it saves
    data = networks.dataset(config, "train", "val")
    model = networks.new_network(config, data)
    labelled = data.labelled(config.labels, config.seed)
    features, val_features = (networks.features(data, split) for split in ("train", "val"))
    if config.labels < 1:
        features = features[np.isin(data.split("train"), labelled)]
    class_weights = data.class_weights(config.class_weights, labelled)
    trained = fit_head(
        model.head,
        (features, data.targets[labelled]),
        (val_features, data.targets[data.split("val")]),
        HeadTraining(seed=config.seed, **config.head.model_dump()),
        Objective(
            loss_fn=cross_entropy(class_weights=class_weights),
            criterion=lowest_loss(class_weights),
        ),
    )
    if sentence := one_class_warning(trained, data.classes, data.targets[labelled]):
        print(f"warning: {sentence}", flush=True)
    model.head.load_state_dict(trained.weights)
    meta = networks.meta_of(config, data, folded=networks.starts_folded(config), parent=None)
    networks.write_network("head", model.state_dict(), trained.kept, trained.history, meta)


if __name__ == "__main__":
    phase.start(head)
