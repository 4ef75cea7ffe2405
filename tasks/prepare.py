"""prepare: check every picture, split the data, and store the pictures decoded.

thaw phase prepare      data/ -> artifacts/prepare/{manifest.csv,pictures.npy,meta.json}

Also writes left_out.csv with the files that are not part of the data set, and quarantine.csv with
the pictures that cannot be read, each with the reason.
"""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from thaw.data import manifest, splits
from thaw.data.parallel import stream
from thaw.data.pictures import Preprocessing, Shape, Unreadable, channels_of, read_picture, rule_warnings
from thaw.data.pixels import squared
from thaw.errors import InputError
from thaw.learning.backbones import check_size, preprocessing_of
from thaw.progress import Progress
from thaw.project import phase, start, workspace
from thaw.project.links import check_links
from thaw.project.settings import Settings

TOLERATED = 3  # unreadable pictures that never stop a run, however few pictures there are


class Read(NamedTuple):
    """A file that was read: its pixels (None with a reason if unreadable), its pixel rule, and its
    hash."""

    pixels: NDArray[np.uint8] | None
    reason: str
    rule: str
    hash: str


def prepare(config: Settings) -> None:
    """From the data folder to the manifest and the decoded pictures."""
    data = workspace.data()
    check_links(data)
    rows = manifest.read_folder(data)
    manifest.classes_of(rows, config.prepare.positive, config.prepare.smallest_class)
    from_model = start.is_model(config.backbone.weights)
    preprocessing = (
        Preprocessing.from_json(start.meta(config)["preprocessing"])
        if from_model
        else preprocessing_of(config.backbone.name, config.backbone.weights)
    )
    check_size(config.backbone.name, config.backbone.weights, config.prepare.resolution or preprocessing.size)
    left_out = manifest.left_out(data, rows)
    warnings = manifest.warnings_of_left_out(left_out)
    warnings += manifest.warnings_of_layout(data, rows)
    files = [data / path for path in rows["path"]]

    with phase.outputs("prepare") as folder, ThreadPoolExecutor(config.resources.workers) as threads:
        shape = Shape.of(
            preprocessing, config.prepare.resolution, config.prepare.fit, max(stream(threads, _channels, files))
        )
        size = (shape.size, shape.size, shape.channels)
        kept = len(files) * np.prod(size, dtype=np.int64) <= config.prepare.cache_gb * 1e9
        with (folder / "pictures.npy").open("wb") if kept else nullcontext() as decoded:
            read = stream(threads, lambda file: _read(file, shape), files)
            hashes, reasons, rules = _read_all(read, Progress(len(files)), size, decoded)
        # Split before unreadable pictures are set aside, as `thaw add` does, which does not decode
        # these files.
        rows = rows.assign(hash=hashes, reason=reasons)
        rows["split"] = _splits(rows.drop(columns="reason"), config)
        quarantine = rows.loc[rows["reason"] != "", ["path", "reason"]]
        _check_unreadable(quarantine, len(rows), config.prepare.unreadable)
        rows = rows[rows["reason"] == ""].drop(columns="reason")
        classes = manifest.classes_of(rows, config.prepare.positive, config.prepare.smallest_class)
        splits.check_splits(rows, classes, _advice(config))
        if from_model:
            start.check_unseen(rows, config.backbone.weights)
        rows = manifest.complete(rows, classes)
        if len(quarantine):
            path, reason = quarantine.iloc[0]
            pictures = f"unreadable picture{'s' * (len(quarantine) > 1)}"
            warnings.append(f"{len(quarantine)} {pictures} set aside, such as {path} ({reason})")
        split_by = config.prepare.split_by
        if config.prepare.hold_out is not None and (nameless := int((rows[split_by] == "").sum())):
            warnings.append(
                f"{nameless} pictures have no {split_by}, and may belong to what prepare.hold_out holds out"
            )
        warnings += rule_warnings(rules) + manifest.warnings(rows, classes)
        manifest.write_table(rows, folder / "manifest.csv")
        manifest.write_table(left_out, folder / "left_out.csv")
        manifest.write_table(quarantine, folder / "quarantine.csv")
        meta = {
            "classes": classes,
            "slices": [name for name in manifest.slices_of(rows) if name != split_by],
            "data": manifest.fingerprint(rows),
            "preprocessing": preprocessing.to_json(),
            "shape": shape.to_json(),
            "counts": {
                "used": len(rows),
                "unreadable": len(quarantine),
                "left_out": dict(sorted(Counter(left_out["reason"]).items())),
                "pixels": dict(sorted(rules.items())),
            },
            "warnings": warnings,
        }
        phase.write_json(folder / "meta.json", meta)
        counts = pd.crosstab(rows["split"], rows["label"]).reindex(index=manifest.SPLITS, columns=classes)
        print(counts.to_string(), flush=True)
        for warning in warnings:
            print(f"warning: {warning}", flush=True)
        print(f"{len(rows)} pictures, {shape.size} x {shape.size}, " + ("decoded" if kept else "not kept decoded"))
        print(f"{len(quarantine)} unreadable pictures set aside, {len(left_out)} other files left out", end="")
        print(f": {manifest.counted(left_out['reason'])}" if len(left_out) else "", flush=True)


def _channels(file: Path) -> int:
    try:
        return channels_of(file)
    except Unreadable:
        return 1  # `_read` reports it


def _read(file: Path, shape: Shape) -> Read:
    digest = manifest.content_hash(file)
    try:
        picture, rule = read_picture(file)
    except Unreadable as error:
        return Read(None, error.reason, "", digest)
    return Read(squared(picture, shape), "", rule, digest)


def _read_all(
    pictures: Iterable[Read], progress: Progress, size: tuple[int, int, int], decoded: BinaryIO | None
) -> tuple[list[str], list[str], Counter[str]]:
    """Write the pixels of every readable picture. Returns the hash of each file, the reason if it
    cannot be read (else empty), and the number of pictures for each pixel rule."""
    hashes, reasons, rules = [], [], Counter[str]()
    if decoded:
        _write_header(decoded, 0, size)
    for picture in pictures:
        hashes.append(picture.hash)
        reasons.append(picture.reason)
        if picture.pixels is not None:
            rules[picture.rule] += 1
            if decoded:
                decoded.write(picture.pixels.data)
        progress.step(1, "pictures checked")
    if decoded:
        _write_header(decoded, rules.total(), size)
    return hashes, reasons, rules


def _write_header(file: BinaryIO, pictures: int, size: tuple[int, int, int]) -> None:
    """Write the header of the array, a second time once the number of pictures is known: numpy
    leaves room for it."""
    end = file.tell()
    file.seek(0)
    write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (pictures, *size)})
    assert end == 0 or (end - file.tell()) == pictures * np.prod(size, dtype=np.int64)
    file.seek(0, 2)


def _check_unreadable(quarantine: pd.DataFrame, pictures: int, share: float) -> None:
    if len(quarantine) > max(TOLERATED, int(share * pictures)):
        first = ", ".join(f"{path} ({reason})" for path, reason in quarantine.head(3).itertuples(index=False))
        raise InputError(
            f"{len(quarantine)} of {pictures} pictures in {workspace.data()} cannot be read: {first}"
            f"{' and others' if len(quarantine) > 3 else ''}; {TOLERATED} or a share of {share:g} may be set aside: "
            "repair or remove them, or raise prepare.unreadable"
        )


def _splits(rows: pd.DataFrame, config: Settings) -> pd.Series:
    section = config.prepare
    if section.folds:
        return splits.assign_folds(rows, section.val, section.fold, section.folds, section.seed)
    if section.split_by and section.hold_out is not None:
        return splits.assign_held_out(rows, section.split_by, str(section.hold_out), section.val, section.seed)
    if section.split_by:
        return splits.assign_by_date(rows, section.split_by, section.val, section.test, workspace.data() / "labels.csv")
    frozen = (workspace.data() / "splits.csv").is_file()
    return splits.assign_splits(rows, section.val, section.test, section.seed, frozen)


def _advice(config: Settings) -> str:
    """Advice for a split that lacks a class."""
    if config.prepare.hold_out is not None:
        return "hold out another value (prepare.hold_out), or change prepare.val"
    return "change prepare.val and prepare.test" if config.prepare.split_by else splits.DRAW_AGAIN


if __name__ == "__main__":
    phase.start(prepare)
