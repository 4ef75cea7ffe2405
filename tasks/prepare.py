"""prepare: checks every picture, splits the data, and keeps the pictures decoded.

python -m tasks.prepare      data/ -> artifacts/prepare/{manifest.csv,pictures.npy,meta.json}
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

from tasks import phase
from tasks.settings import Settings
from tasks.workspace import DATA, PREPARE
from thaw import manifest
from thaw.backbones import check_size, preprocessing_of
from thaw.errors import InputError
from thaw.pictures import Shape, channels_of, decode
from thaw.progress import Progress

Item = TypeVar("Item")
Found = TypeVar("Found")


def prepare(chosen: Settings) -> None:
    """From the data folder to the manifest and the decoded pictures."""
    rows = manifest.read_folder(DATA)
    classes = manifest.classes_of(rows, chosen.prepare.positive, chosen.prepare.smallest_class)
    preprocessing = preprocessing_of(chosen.backbone.name, chosen.backbone.weights)
    check_size(chosen.backbone.name, chosen.backbone.weights, chosen.prepare.size or preprocessing.size)
    files = [DATA / path for path in rows["path"]]

    with phase.outputs(PREPARE) as folder, ThreadPoolExecutor(chosen.resources.workers) as threads:
        channels = max(of_each(threads, channels_of, files))
        shape = Shape.of(preprocessing, chosen.prepare.size, chosen.prepare.fit, channels)
        pixels = (len(files), shape.size, shape.size, channels)
        kept = np.prod(pixels, dtype=np.int64) <= chosen.prepare.cache_gb * 1e9
        decoded = open_memmap(folder / "pictures.npy", "w+", np.uint8, pixels) if kept else None

        progress = Progress(len(files))

        def take(row: int) -> str:
            picture = decode(files[row], shape)
            if decoded is not None:
                decoded[row] = picture
            progress.step(1, "pictures checked")
            return manifest.content_hash(files[row])

        hashes = of_each(threads, take, range(len(files)))
        rows = rows.assign(hash=hashes)
        frozen = (DATA / "splits.csv").is_file()
        rows["split"] = manifest.assign_splits(rows, chosen.prepare.val, chosen.prepare.test, chosen.seed, frozen)
        manifest.check_splits(rows, classes)
        rows = manifest.complete(rows, classes)
        rows.to_csv(folder / "manifest.csv", index=False, lineterminator="\n")
        counts = pd.crosstab(rows["split"], rows["label"]).reindex(index=manifest.SPLITS, columns=classes)
        print(counts.to_string(), flush=True)
        for warning in manifest.warnings(rows):
            print(f"warning: {warning}", flush=True)
        meta = {
            "classes": classes,
            "slices": manifest.slices_of(rows),
            "data": manifest.fingerprint(rows),
            "preprocessing": preprocessing.to_json(),
            "shape": shape.to_json(),
        }
        phase.write_json(folder / "meta.json", meta)
        print(f"{len(rows)} pictures, {shape.size} x {shape.size}, " + ("decoded" if kept else "not kept decoded"))


def of_each(threads: ThreadPoolExecutor, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """The function's results in order; all items are tried, so that one sentence can tell of all that fail."""
    found, mistakes = [], []
    for job in [threads.submit(function, item) for item in items]:
        try:
            found.append(job.result())
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        more = f" ({len(mistakes) - 1} more pictures cannot be read)" if len(mistakes) > 1 else ""
        raise InputError(mistakes[0] + more)
    return found


if __name__ == "__main__":
    phase.start(prepare)
