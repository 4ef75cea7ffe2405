"""How fast thaw predict is against embed, and its memory for few and many pictures.

    python -m benchmarks.predict PACKAGE FOLDER [PAIRS]    # CPU time a picture and view, in pairs
    python -m benchmarks.predict --memory 1000 100000      # peak memory, one process a size

Embed and predict see the same pictures of the folder in one view; embed gets them decoded, predict
reads the files. Memory is measured with a tiny network and a few synthetic pictures, linked many
times.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from thaw.data.pictures import Pictures, decode
from thaw.learning.machine import keep_freed_memory
from thaw.learning.prediction import features_of
from thaw.model.model import BATCH, Model, Network
from thaw.model.sources import pictures

ROOT = Path(__file__).resolve().parents[1]
COUNT = 256


def processor_time(work: Callable[[], object]) -> float:
    """The CPU seconds of the work, on all cores."""
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


def memory(counts: list[int]) -> None:
    """The peak memory of `thaw predict` for each number of pictures."""
    sys.path.insert(0, str(ROOT / "tests/support"))
    from packages import make

    with TemporaryDirectory() as scratch:
        package, _, drawn = make(Path(scratch, "made"))
        pictures = sorted(drawn.rglob("*.png"))
        for count in counts:
            folder = Path(scratch, str(count))
            folder.mkdir()
            for number in range(count):
                (folder / f"{number:07}.png").symlink_to(pictures[number % len(pictures)])
            command = [sys.executable, "-m", "thaw", "predict", folder, "--model", package, "--out", f"{folder}.csv"]
            child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            assert status == 0
            with open(f"{folder}.csv") as file:
                rows = sum(1 for _ in file) - 1
            print(f"{rows:,} pictures: {used.ru_maxrss / 1024:,.0f} MB at most", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        memory([int(count) for count in sys.argv[2:]])
    else:
        main(*sys.argv[1:3], *map(int, sys.argv[3:]))
