"""prepare: checks every picture, splits the data, and keeps the pictures decoded.

python -m tasks.prepare      data/ -> artifacts/prepare/{manifest.csv,pictures.npy,meta.json}
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from tasks import phase
from tasks.settings import Settings
from tasks.workspace import DATA, PREPARE
from thaw import manifest
from thaw.backbones import check_size, preprocessing_of
from thaw.errors import InputError
from thaw.pictures import Shape, channels_of, decode
from thaw.progress import Progress

CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}\Z")  # in DVC's cache
AHEAD = 64  # pictures that are decoded before the first of them is taken
Item = TypeVar("Item")
Found = TypeVar("Found")


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
                    decoded.write(picture)
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


def check_links(root: Path, copied: bool = False) -> None:
    """Raise where a link leads out of the data: DVC pins no linked folder, and no version keeps what is elsewhere.

    Links that DVC made lead into its cache, where a file's name says what is in it. Where files are going to be
    `copied`, links to them do no harm.
    """
    home = root.resolve()
    links = [root] if root.is_symlink() and not copied else []
    for folder, folders, files in os.walk(root):
        links += [path for name in [*folders, *files] if (path := Path(folder, name)).is_symlink()]
    for link in links:
        target = Path(os.path.realpath(link))  # unlike resolve() it does not raise where links go round
        if not target.exists():
            raise InputError(
                f"{link} is a link to {target}, which does not exist; bring the file, where DVC made the link with "
                "`dvc fetch`, or take the link out"
            )
        if target.is_dir():
            raise InputError(
                f"{link} is a link to the folder {target}, and DVC pins no linked folder; copy the folder itself there"
            )
        if not copied and not target.is_relative_to(home) and not CACHED.search(target.as_posix()):
            raise InputError(
                f"{link} is a link to {target}, outside of {root}, where no version of the data keeps it; copy the "
                "file itself there"
            )


def each(threads: ThreadPoolExecutor, function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """The function's results in order, few of them ahead of who takes them, so that nothing piles up.

    All items are tried, so that one sentence at the end can tell of all that fail.
    """
    left, jobs = iter(items), deque[Future[Found]]()
    mistakes, first = 0, ""
    while True:
        jobs.extend(threads.submit(function, item) for item in islice(left, AHEAD - len(jobs)))
        if not jobs:
            break
        try:
            yield jobs.popleft().result()
        except InputError as error:
            mistakes, first = mistakes + 1, first or str(error)
    if mistakes:
        more = f" ({mistakes - 1} more pictures cannot be read)" if mistakes > 1 else ""
        raise InputError(first + more)


def of_each(threads: ThreadPoolExecutor, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """All results of `each` at once."""
    return list(each(threads, function, items))


if __name__ == "__main__":
    phase.start(prepare)
