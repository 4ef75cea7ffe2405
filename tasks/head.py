"""head, phase 1: trains a new head on the features of the frozen backbone until validation stops improving.

thaw phase head      artifacts/embed -> artifacts/head/{model/,history.csv,metrics.json}
"""

import numpy as np
import torch

from thaw.learning.losses import cross_entropy, lowest_loss
from thaw.learning.training import HeadTraining, fit_head, one_class_warning
from thaw.project import networks, phase
from thaw.project.settings import Settings
from thaw.project.workspace import HEAD


def head(chosen: Settings) -> None:
    """From features to a network with a trained head."""
    networks.use_resources(chosen)
    torch.set_num_threads(1)  # the steps are too small to share: waiting for each other would cost more
    data = networks.dataset(chosen, "train", "val")
    model = networks.new_network(chosen, data)
    labelled = data.labelled(chosen.labels, chosen.seed)
    features, val_features = (networks.features(data, split) for split in ("train", "val"))
    if chosen.labels < 1:
        features = features[np.isin(data.split("train"), labelled)]
    class_weights = data.class_weights(chosen.class_weights, labelled)
    trained = fit_head(
        model.head,
        (features, data.targets[labelled]),
        (val_features, data.targets[data.split("val")]),
        HeadTraining(seed=chosen.seed, **chosen.head.model_dump()),
        loss_fn=cross_entropy(class_weights=class_weights),
        criterion=lowest_loss(class_weights),
    )
    if sentence := one_class_warning(trained, data.classes, data.targets[labelled]):
        print(f"warning: {sentence}", flush=True)
    model.head.load_state_dict(trained.weights)
    meta = networks.meta_of(chosen, data, folded=False, parent=None)
    networks.write_network(HEAD, model.state_dict(), trained.kept, trained.history, meta)


if __name__ == "__main__":
    phase.start(head)
