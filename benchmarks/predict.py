"""How fast thaw predict is beside embed: processor time a picture and view, in pairs, in one
process.

python -m benchmarks.predict PACKAGE FOLDER [PAIRS]

Both see the same pictures of the folder in one view. Embed has them decoded; predict reads the
files.
"""

import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

from thaw.data.pictures import Pictures, decode
from thaw.learning.machine import keep_freed_memory
from thaw.learning.prediction import features_of
from thaw.model.model import BATCH, Model, Network
from thaw.model.sources import pictures

COUNT = 256


def processor_time(work: Callable[[], object]) -> float:
    """Seconds of all cores that the work takes."""
    started = time.process_time()
    with redirect_stdout(StringIO()):
        work()
    return time.process_time() - started


def main(package: str, folder: str, pairs: int = 5) -> None:
    keep_freed_memory()
    model = Model.load(Path(package), "cpu", views="none")
    network, sources = model.predictor, list(islice(pictures([folder]), COUNT))
    assert isinstance(network, Network)
    decoded = np.stack([decode(picture.path, model.about.shape) for picture in sources])
    rows, views = np.arange(len(sources)), np.zeros((len(sources), 1), np.int64)
    features = np.empty((len(sources), 1, network.model.head.in_features), np.float32)
    kept = Pictures([picture.path for picture in sources], model.about.shape, decoded, model.workers)

    def embed() -> None:
        features_of(network.model, kept, rows, network.normalise, views, BATCH, features)

    def predict() -> None:
        list(model.stream(sources))

    processor_time(embed)
    processor_time(predict)
    ratios = []
    for _ in range(pairs):
        before, after = processor_time(embed), processor_time(predict)
        ratios.append(after / before)
        print(
            f"embed {1000 * before / len(sources):.1f} ms a picture, predict {1000 * after / len(sources):.1f}",
            flush=True,
        )
    print(f"predict takes {median(ratios):.2f} times as long as embed ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
