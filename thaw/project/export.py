"""export: write a model as a file for other programs, after a comparison on real files.

The comparison goes from files on disk to probabilities. It takes all test pictures, if there is a
project with pictures, and drawn ones of every kind that other software may decode differently.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thaw.data.manifest import groups_of, labels_of, read_manifest, read_predictions
from thaw.data.pictures import Shape, decode, in_batches
from thaw.errors import InputError
from thaw.formats import change, percent
from thaw.model import onnx, package, proof
from thaw.model.model import Answers, Model, Pixels
from thaw.model.proof import Agreement, Cost, Probabilities
from thaw.progress import Progress
from thaw.project import models, provenance, recipe, settings, workspace
from thaw.project.phase import write_json
from thaw.project.stage import OnLine

PROOF = "proof.json"
CALIBRATED_ON = 256  # training pictures that the ranges of 8 bits are measured on
BATCH = 8  # pictures
COMPUTES = ("onnxruntime", "numpy", "pillow", "torch")


def export(name: str, out: Path, int8: bool, on_line: OnLine = print) -> None:
    """Write the model of that name as ONNX into a new folder; no folder if the comparison fails."""
    onnx.check_installed()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; name a new folder")
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}; make it, or name a new folder in one that is there")
    rows = _pictures()
    if int8 and rows is None:
        raise InputError(
            "--int8 needs the pictures of the project: those of the training to calibrate on, those of the test to "
            "measure its cost; go into the project, and bring them with `thaw data`"
        )
    with models.folder_of(name) as folder, _new_folder(out) as target:
        on_line("writing the network: seconds for a small one, minutes for a large one")
        file = onnx.write(folder, target)
        network, exported = Model.load(folder, "cpu"), onnx.Exported(file)
        results: dict[str, Any] = {"model": package.identity(folder), "tolerance": proof.TOLERANCE}
        results["drawn"] = _compare_drawn(network, exported, on_line)
        if rows is not None:
            test = rows[rows["split"] == "test"].reset_index(drop=True)
            expected = _evaluated(folder, network, test)
            by = "the network" if expected is None else "evaluate"
            if expected is None:
                expected = _probabilities(network, _files(test), "the network")
            actual = _probabilities(exported, _files(test), file.name)
            agreement = proof.agreement(Answers(expected, None), Answers(actual, None), network.about.threshold)
            results["test"] = {**_check(agreement, f"test pictures (by {by})", on_line), "by": by}
            if int8:
                train = _files(rows[rows["split"] == "train"])
                results["int8"] = _write_int8(file, exported, actual, test, train, on_line)
        results["versions"] = {package: recipe.installed(package) for package in COMPUTES}
        write_json(target / PROOF, results)
    on_line(f"{out} holds the export: {', '.join(sorted(entry.name for entry in out.iterdir()))}")


def _pictures() -> pd.DataFrame | None:
    """The manifest of the project that the current folder is in, if its pictures are there."""
    table = workspace.root() / "artifacts/prepare/manifest.csv"
    if workspace.find(Path.cwd()) is None or not table.is_file() or not _data().is_dir():
        return None
    rows = read_manifest(table)
    if missing := [path for path in rows["path"] if not (_data() / path).is_file()]:
        raise InputError(f"data/ lacks {len(missing)} pictures, such as {missing[0]}: `thaw data` brings them")
    return rows


def _data() -> Path:
    return workspace.data()


def _files(rows: pd.DataFrame) -> list[Path]:
    return [_data() / path for path in rows["path"]]


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` if the block succeeds, and is deleted if not."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        partial = Path(scratch, "export")
        partial.mkdir()
        yield partial
        if out.is_dir():
            out.rmdir()
        partial.rename(out)


def _compare_drawn(network: Model, exported: onnx.Exported, on_line: OnLine) -> dict[str, Any]:
    """Compare an export and the network on drawn pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        files = proof.draw(Path(scratch))
        expected, actual = network.predictor(_pixels(files, network.about.shape)), exported.of_files(files)
    return _check(proof.agreement(expected, actual, network.about.threshold), "drawn pictures", on_line)


def _probabilities(predictor: Model | onnx.Exported, files: Sequence[Path], label: str) -> Probabilities:
    """Probabilities for picture files, by a model or by an export with its reference."""
    progress = Progress(len(files))
    parts = []
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        if isinstance(predictor, Model):
            parts.append(predictor.probabilities(_pixels(batch, predictor.about.shape)))
        else:
            parts.append(predictor.of_files(batch).probabilities)
        progress.step(len(batch), label)
    return np.concatenate(parts)


def _evaluated(folder: Path, network: Model, test: pd.DataFrame) -> Probabilities | None:
    """Evaluate's probabilities of the test pictures, if it had this model and nothing changed
    since."""
    table, current = (workspace.artifacts(name) for name in ("evaluate/predictions.csv", "package"))
    same = (current / package.META).is_file() and package.identity(current) == package.identity(folder)
    if not same or not table.is_file() or provenance.misfits().keys() & {"evaluate", "package"}:
        return None
    rows = read_predictions(table)
    if rows["path"].tolist() != test["path"].tolist():
        return None
    probabilities: Probabilities = rows[[f"finetuned_p_{label}" for label in network.classes]].to_numpy(np.float64)
    return probabilities


def _check(agreement: Agreement, name: str, on_line: OnLine) -> dict[str, Any]:
    """Raise if the differences are beyond tolerance; returns them as plain values."""
    features = "" if agreement.features is None else f" and features by {agreement.features:.1e} of the largest"
    differ = f"probabilities of {agreement.pictures} {name} differ by up to {agreement.largest:.1e}{features}"
    if not agreement.holds():
        raise InputError(
            f"the export does not say what the network says: {differ}, where {proof.TOLERANCE:g} and "
            f"{proof.OF_FEATURES:g} are allowed; nothing was written, use the package itself"
        )
    on_line(f"{onnx.FLOAT}: {differ}, {agreement.decisions} decisions are the same")
    return asdict(agreement)


def _write_int8(
    file: Path,
    exported: onnx.Exported,
    before: Probabilities,
    test: pd.DataFrame,
    train: Sequence[Path],
    on_line: OnLine,
) -> dict[str, Any]:
    """Write the export in 8 bits; raises if its accuracy drops by more than export.margin.

    `before` are the probabilities of the test pictures by the export in floats.
    """
    shape, classes = exported.about.shape, exported.about.classes
    if unknown := sorted(set(test["label"]) - set(classes)):
        raise InputError(f"this model does not know the class {unknown[0]} of the test pictures: leave out --int8")
    indices = np.linspace(0, len(train) - 1, min(len(train), CALIBRATED_ON)).astype(np.int64)
    batches = [[train[index] for index in batch] for batch in in_batches(indices, BATCH)]
    small = file.with_name(onnx.INT8)
    onnx.write_int8(file, small, (_pixels(batch, shape) for batch in batches))
    quantised = onnx.Exported(small)
    after = _probabilities(quantised, _files(test), small.name)
    pixels = _pixels(batches[0], shape)
    speeds = proof.speeds(lambda: exported(pixels), lambda: quantised(pixels))
    cost = proof.cost(before, after, labels_of(test, classes), groups_of(test), speeds)
    changed, margin = _in_words(cost), settings.read().export.margin
    if -cost.change > margin:
        raise InputError(
            f"8 bits change the accuracy by {changed}, and export.margin allows {100 * margin:g} fewer: leave out "
            "--int8, or allow more; nothing was written"
        )
    sizes = [f"{path.stat().st_size / 1e6:.1f} MB" for path in (small, file)]
    on_line(
        f"{small.name}: accuracy {percent(cost.accuracy)}, {changed}; {cost.speed:.2f} times as fast "
        f"({cost.slowest:.2f} to {cost.fastest:.2f}), {' instead of '.join(sizes)}"
    )
    return asdict(cost)


def _in_words(cost: Cost) -> str:
    span = ", too few pictures for an interval"
    if cost.low is not None:
        span = f" (95 % interval {' to '.join(change(end, 'percent') for end in (cost.low, cost.high))})"
    return f"{change(cost.change, 'percent')} points{span}"


def _pixels(files: Sequence[Path], shape: Shape) -> Pixels:
    return np.stack([decode(path, shape) for path in files])
