"""export: a model as a file for other programs, there only once it is proven on pictures.

The proof goes from files on disk to probabilities. It takes all test pictures of the project, where there is one with
pictures, and some that are drawn, of every kind that other software reads in its own way.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from thaw.data.manifest import labels_of, read_manifest, read_predictions
from thaw.data.pictures import Shape, decode
from thaw.errors import InputError
from thaw.formats import change, percent
from thaw.model import onnx, package, proof
from thaw.model.model import Answers, Model, Pixels
from thaw.model.proof import Cost
from thaw.progress import Progress
from thaw.project import models, provenance, recipe, settings, workspace
from thaw.project.phase import write_json
from thaw.project.stage import OnLine

PROOF = "proof.json"
CALIBRATED_ON = 256  # training pictures that say which ranges 8 bits have to hold
TIMED_ON = 8  # pictures
BATCH = 16
COMPUTES = ("onnxruntime", "numpy", "pillow", "torch")


def export(name: str, out: Path, int8: bool, on_line: OnLine = print) -> None:
    """Write the model of that name as ONNX into a new folder, proven; nothing is left where the proof fails."""
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
    with models.folder_of(name) as folder, _whole(out) as target:
        on_line("writing the network: seconds for a small one, minutes for a large one")
        file = onnx.write(folder, target)
        network, exported = Model.load(folder, "cpu"), onnx.Exported(file)
        found: dict[str, Any] = {"model": package.identity(folder), "tolerance": proof.TOLERANCE}
        with tempfile.TemporaryDirectory() as place:
            drawn = proof.draw(Path(place))
            wanted, got = _answers(network, drawn, "the network"), _answers(exported, drawn, file.name)
            found["drawn"] = _agreement(wanted, got, network, "drawn pictures", on_line)
        if rows is not None:
            test = rows[rows["split"] == "test"]
            files = [_data() / path for path in test["path"]]
            by_evaluate = _by_evaluate(folder, network, test)
            wanted = by_evaluate if by_evaluate is not None else _answers(network, files, "the network")
            got = _answers(exported, files, file.name)
            by = "the network" if by_evaluate is None else "evaluate"
            what = f"test pictures (by {by})"
            found["test"] = _agreement(wanted, got, network, what, on_line) | {"by": by}
            if int8:
                found["int8"] = _int8(file, exported, got, rows, on_line)
        found["versions"] = {name: recipe.installed(name) for name in COMPUTES}
        write_json(target / PROOF, found)
    on_line(f"{out} holds the export: {', '.join(sorted(entry.name for entry in out.iterdir()))}")


def _pictures() -> pd.DataFrame | None:
    """The manifest of the project that the current folder is in, if its pictures are there."""
    table = workspace.ROOT / "artifacts/prepare/manifest.csv"
    if workspace.find(Path.cwd()) is None or not table.is_file() or not _data().is_dir():
        return None
    rows = read_manifest(table)
    if missing := [path for path in rows["path"] if not (_data() / path).is_file()]:
        raise InputError(f"data/ lacks {len(missing)} pictures, such as {missing[0]}: `thaw data` brings them")
    return rows


def _data() -> Path:
    return workspace.ROOT / "data"


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when all went well, and else is gone."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        partial = Path(place, "export")
        partial.mkdir()
        yield partial
        if out.is_dir():
            out.rmdir()
        partial.rename(out)


def _answers(of: Model | onnx.Exported, files: Sequence[Path], what: str) -> Answers:
    """The answers of a model, or of an export by its reference, about picture files."""
    progress = Progress(len(files))
    parts = []
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        parts.append(of.predictor(_pixels(some, of.about.shape)) if isinstance(of, Model) else of.of_files(some))
        progress.step(len(some), what)
    return Answers(*map(np.concatenate, zip(*parts, strict=True)))


def _by_evaluate(folder: Path, network: Model, test: pd.DataFrame) -> Answers | None:
    """What evaluate said of the test pictures, where it saw this very model and nothing has changed since."""
    table, here = (workspace.ROOT / "artifacts" / name for name in ("evaluate/predictions.csv", "package"))
    same = (here / package.META).is_file() and package.identity(here) == package.identity(folder)
    if not same or not table.is_file() or provenance.misfits().keys() & {"evaluate", "package"}:
        return None
    rows = read_predictions(table)
    if rows["path"].tolist() != test["path"].tolist():
        return None
    return Answers(rows[[f"finetuned_p_{label}" for label in network.classes]].to_numpy(np.float64), None)


def _agreement(wanted: Answers, got: Answers, network: Model, what: str, on_line: OnLine) -> dict[str, Any]:
    """How far both agree; raises where that is not to float tolerance."""
    found = proof.agreement(wanted, got, network.about.threshold)
    features = "" if found.features is None else f" and features by {found.features:.1e} of the largest"
    differ = f"probabilities of {found.pictures} {what} differ by up to {found.largest:.1e}{features}"
    if not found.holds():
        raise InputError(
            f"the export does not say what the network says: {differ}, where {proof.TOLERANCE:g} and "
            f"{proof.OF_FEATURES:g} are allowed; nothing was written, use the package itself"
        )
    on_line(f"{onnx.FLOAT}: {differ}, {found.decisions} decisions are the same")
    return asdict(found)


def _int8(file: Path, exported: onnx.Exported, before: Answers, rows: pd.DataFrame, on_line: OnLine) -> dict[str, Any]:
    """Write the export in 8 bits beside the other; raises where it costs more than export.margin allows."""
    shape, classes = exported.about.shape, exported.about.classes
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    if unknown := sorted(set(test["label"]) - set(classes)):
        raise InputError(f"this model does not know the class {unknown[0]} of the test pictures: leave out --int8")
    train = [_data() / path for path in rows["path"][rows["split"] == "train"]]
    some = [train[place] for place in np.linspace(0, len(train) - 1, min(len(train), CALIBRATED_ON)).astype(int)]
    small = file.with_name(onnx.INT8)
    onnx.write_int8(file, small, (_pixels(some[at : at + BATCH], shape) for at in range(0, len(some), BATCH)))
    quantised, few = onnx.Exported(small), _pixels(some[:TIMED_ON], shape)
    after = _answers(quantised, [_data() / path for path in test["path"]], small.name)
    groups = test["group"].where(test["group"] != "", test["hash"]).tolist() if (test["group"] != "").any() else None
    speeds = proof.speeds(lambda: exported(few), lambda: quantised(few))
    cost = proof.cost(before.probabilities, after.probabilities, labels_of(test, classes), groups, speeds)
    changed, margin = _changed(cost), settings.read(workspace.ROOT / "params.yaml").export.margin
    if -cost.change > margin:
        raise InputError(
            f"8 bits change the accuracy by {changed}, and export.margin allows {100 * margin:g} fewer: leave out "
            "--int8, or allow more; nothing was written"
        )
    sizes = [f"{each.stat().st_size / 1e6:.1f} MB" for each in (small, file)]
    on_line(
        f"{small.name}: accuracy {percent(cost.accuracy)}, {changed}; {cost.speed:.2f} times as fast "
        f"({cost.slowest:.2f} to {cost.fastest:.2f}), {' instead of '.join(sizes)}"
    )
    return asdict(cost)


def _changed(cost: Cost) -> str:
    span = ", too few pictures for an interval"
    if cost.low is not None:
        span = f" (95 % interval {' to '.join(change(end, 'percent') for end in (cost.low, cost.high))})"
    return f"{change(cost.change, 'percent')} points{span}"


def _pixels(files: Sequence[Path], shape: Shape) -> Pixels:
    return np.stack([decode(path, shape) for path in files])
