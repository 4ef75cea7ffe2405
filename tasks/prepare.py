"""prepare: checks every picture, splits the data, and keeps the pictures decoded.

thaw phase prepare      data/ -> artifacts/prepare/{manifest.csv,pictures.npy,meta.json}
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from thaw.data import manifest
from thaw.data.parallel import each
from thaw.data.pictures import Shape, channels_of, decode
from thaw.learning.backbones import check_size, preprocessing_of
from thaw.progress import Progress
from thaw.project import phase
from thaw.project.links import check_links
from thaw.project.settings import Settings
from thaw.project.workspace import DATA, PREPARE


def prepare(chosen: Settings) -> None:
    """From the data folder to the manifest and the decoded pictures."""
    check_links(DATA)
    rows = manifest.read_folder(DATA)
    classes = manifest.classes_of(rows, chosen.prepare.positive, chosen.prepare.smallest_class)
    preprocessing = preprocessing_of(chosen.backbone.name, chosen.backbone.weights)
    check_size(chosen.backbone.name, chosen.backbone.weights, chosen.prepare.resolution or preprocessing.size)
    files = [DATA / path for path in rows["path"]]

    with phase.outputs(PREPARE) as folder, ThreadPoolExecutor(chosen.resources.workers) as threads:
        channels = max(each(threads, channels_of, files))
        shape = Shape.of(preprocessing, chosen.prepare.resolution, chosen.prepare.fit, channels)
        pixels = (len(files), shape.size, shape.size, channels)
        kept = np.prod(pixels, dtype=np.int64) <= chosen.prepare.cache_gb * 1e9

        def take(file: Path) -> tuple[NDArray[np.uint8], str]:
            return decode(file, shape), manifest.content_hash(file)

        progress, hashes = Progress(len(files)), []
        with (folder / "pictures.npy").open("wb") if kept else nullcontext() as decoded:
            if decoded:
                write_array_header_1_0(decoded, {"descr": "|u1", "fortran_order": False, "shape": pixels})
            for picture, found in each(threads, take, files):
                if decoded:
                    decoded.write(picture.data)
                hashes.append(found)
                progress.step(1, "pictures checked")
        rows = rows.assign(hash=hashes)
        frozen = (DATA / "splits.csv").is_file()
        how = chosen.prepare
        if how.folds:
            rows["split"] = manifest.assign_folds(rows, how.val, how.fold, how.folds, how.seed)
        else:
            rows["split"] = manifest.assign_splits(rows, how.val, how.test, how.seed, frozen)
        manifest.check_splits(rows, classes)
        rows = manifest.complete(rows, classes)
        manifest.write_table(rows, folder / "manifest.csv")
        counts = pd.crosstab(rows["split"], rows["label"]).reindex(index=manifest.SPLITS, columns=classes)
        print(counts.to_string(), flush=True)
        for warning in manifest.warnings(rows, classes):
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


if __name__ == "__main__":
    phase.start(prepare)
