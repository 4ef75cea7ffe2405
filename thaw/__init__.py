"""thaw: fine-tune a pretrained image classifier in two phases.

from thaw import load

model = load("prod")
model.predict(["a.jpg", "photographs/"])
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thaw.model.model import Model

__version__ = "0.1.0"


def load(name: str = "prod", device: str = "auto", workers: int = 2, views: str | None = None) -> "Model":
    """A trained model, ready to use; large imports wait until it is called.

    Args:
        name: prod (the model in use), a version such as v2.0.0, the folder of a package, or an
            exported file.
        device: auto, cpu, cuda or mps.
        workers: threads that decode pictures.
        views: none, flip, flips or square; None: as evaluate took them.
    """
    from thaw.project import models

    return models.load(name, device, workers, views)
