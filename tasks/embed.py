"""embed: compute the features of the frozen backbone: (pictures, views, features) for each split.

thaw phase embed      artifacts/prepare -> artifacts/embed/{train,val}.npy
"""

from numpy.lib.format import open_memmap

from thaw.data.pictures import VIEWS, Normaliser, drawn_views
from thaw.learning import processes
from thaw.learning.folding import fold_batchnorm
from thaw.learning.prediction import features_of
from thaw.project import networks, phase
from thaw.project.settings import Settings


def embed(config: Settings) -> None:
    """From pictures to the features of the frozen backbone."""
    device = networks.use_resources(config)
    data = networks.dataset(config, "train", "val")
    normalise = Normaliser(networks.preprocessing(data), device)
    model = networks.new_network(config, data)
    fold_batchnorm(model, data.pictures.shape.blank())
    networks.place(model, device, config)
    with phase.outputs("embed") as folder:
        for split, of in (("train", VIEWS[config.embed.views]), ("val", 1)):
            rows = data.split(split)
            views = drawn_views(len(rows), of, config.embed.draws)
            count = views.shape[1]
            print(f"{split}: {len(rows)} pictures, each in {count} view{'s' * (count > 1)}", flush=True)
            processes.check(split, len(rows))
            file = folder / f"{split}.npy"
            if processes.first():
                open_memmap(file, "w+", "float32", (*views.shape, model.head.in_features))
            processes.wait()
            features = open_memmap(file, "r+")
            features_of(model, data.pictures, rows, normalise, views, config.embed.batch_size, features)
        processes.wait()


if __name__ == "__main__":
    phase.start(embed, shared=True)
