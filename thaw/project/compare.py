"""compare: whether the new model takes the place of the one in use, judged on the test pictures of today.

    python -m thaw.project.compare FOLDER VERSION   # the model in use -> artifacts/promotion/decision.json

No DVC stage, since what it finds hangs on which model is in use. `run()` is how the flow starts it.
"""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.errors import InputError
from thaw.project import phase, registry, settings, workspace
from thaw.project.git import dvc
from thaw.project.registry import Version
from thaw.project.settings import Settings
from thaw.project.stage import OnLine, finish
from thaw.project.stage import run as run_command
from thaw.project.workspace import EVALUATE
from thaw.startup import search_less_for_garbage

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """What is to become of the new model, and why.

    `state` is "first" (no model was in use), "same" (it is the model in use) or "compared" (with `champion`).
    `gain` and `falls` are those of `thaw.statistics.promotion.Decision`; `inputs` tells whether it need be found again.
    """

    state: str
    champion: str | None
    promoted: bool
    reason: str
    gain: dict[str, Any]
    falls: list[dict[str, Any]]
    inputs: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def run(champion: Version | None, on_line: OnLine = print) -> Outcome:
    """Decide about the model that lies in the workspace against the one in use, and put that on top of the report."""
    from thaw.report.promotion import page

    _folder().mkdir(parents=True, exist_ok=True)
    if champion is None:
        outcome = Outcome("first", None, True, "no model was in use", {}, [], {})
    elif champion.model == registry.model_of(None):
        reason = f"it is {champion.name}, the model in use, with the very same weights"
        outcome = Outcome("same", champion.name, False, reason, {}, [], {})
    else:
        outcome = _compared(champion, on_line)
    _write(outcome)
    report = workspace.ROOT / "artifacts/report/report.html"
    html = page(report.read_text(encoding="utf-8"), **outcome.to_json())
    (_folder() / "report.html").write_text(html, encoding="utf-8")
    return outcome


def decision() -> Outcome | None:
    """The last decision, if there is one."""
    path = _folder() / "decision.json"
    return Outcome(**phase.read_json(path)) if path.is_file() else None


def compare(chosen: Settings, folder: Path, version: str) -> None:
    """The child process: both models on the test pictures."""
    from thaw.data.manifest import labels_of, read_predictions
    from thaw.data.pictures import VIEWS, Normaliser, Pictures, Preprocessing, Shape
    from thaw.learning import checkpoint
    from thaw.learning.folding import fold_batchnorm
    from thaw.learning.prediction import predict
    from thaw.progress import Progress
    from thaw.project import networks
    from thaw.statistics import calibration
    from thaw.statistics.promotion import Limits, aligned, decide

    device = networks.use_resources(chosen)
    data = networks.dataset(chosen, "val", "test")
    val, test = data.split("val"), data.split("test")
    rows = data.rows.loc[test].reset_index(drop=True)
    predictions = read_predictions(EVALUATE / "predictions.csv")
    assert predictions["path"].tolist() == rows["path"].tolist(), "evaluate saw other test pictures"
    model, meta = checkpoint.load(folder)
    shape = Shape(**meta["shape"])
    if not meta["folded"]:
        fold_batchnorm(model, shape.blank())
    decoded = data.pictures.decoded if shape == data.pictures.shape else None
    views = VIEWS[chosen.evaluate.views]
    pictures = Pictures(data.pictures.files, shape, decoded, chosen.resources.workers)
    normalise = Normaliser(Preprocessing.from_json(meta["preprocessing"]), device)
    progress = Progress((len(val) + len(test)) * views)
    seen, unseen = (
        predict(model.to(device), pictures, rows, normalise, views, chosen.evaluate.batch_size, progress, version)
        for rows in (val, test)
    )
    classes = list(dict.fromkeys([*data.classes, *meta["classes"]]))
    temperature = calibration.temperature(*_known(seen, data.rows["label"].iloc[val], meta["classes"]))
    challenger = predictions[[f"finetuned_p_{label}" for label in data.classes]].to_numpy()
    grouped = (rows["group"] != "").any()
    found = decide(
        aligned(calibration.probabilities(unseen, temperature), meta["classes"], classes),
        aligned(challenger, data.classes, classes),
        labels_of(rows, data.classes),
        classes,
        rows["group"].where(rows["group"] != "", rows["hash"]).tolist() if grouped else None,
        rows[data.meta["slices"]],
        Limits(**chosen.promote.model_dump()),
        chosen.seed,
    )
    _write(Outcome("compared", version, **asdict(found), inputs={}))
    print(f"{'promoted' if found.promoted else 'not promoted'}: {found.reason}", flush=True)


def _known(logits: "Tensor", labels: "pd.Series", classes: list[str]) -> "tuple[Tensor, Tensor]":
    """The logits and labels of the pictures whose class the model knows."""
    import pandas as pd
    import torch

    codes = torch.from_numpy(pd.Categorical(labels, classes).codes.astype("int64"))
    return logits[codes >= 0], codes[codes >= 0]


def _compared(champion: Version, on_line: OnLine) -> Outcome:
    inputs = _inputs(champion)
    known = decision()
    if known and known.inputs == inputs:
        on_line(f"decided before: {known.reason}")
        return known
    with _files(champion) as folder:
        finish("promote", [sys.executable, "-m", "thaw.project.compare", str(folder), champion.name], on_line)
    found = decision()
    assert found, "the child process left no decision"
    return replace(found, inputs=inputs)


def _inputs(champion: Version) -> dict[str, Any]:
    """All that a decision hangs on."""
    chosen = settings.read(workspace.ROOT / "params.yaml")
    files = ("prepare/manifest.csv", "evaluate/predictions.csv")
    contents = [(workspace.ROOT / "artifacts" / file).read_bytes() for file in files]
    return {
        "champion": f"{champion.name} {champion.model}",
        "files": [hashlib.sha256(content).hexdigest() for content in contents],
        "settings": chosen.model_dump(include={"seed", "evaluate", "promote"}),
    }


@contextmanager
def _files(version: Version) -> Iterator[Path]:
    """The files of a version, from DVC's cache or remote, for as long as the block lasts."""
    folder = workspace.ROOT / ".dvc/tmp/thaw/champion"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    get = ["get", ".", registry.MODEL, "--rev", version.commit, "--out", str(folder)]
    try:
        if run_command(dvc(*get), lines.append):
            why = next(
                (line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), "no reason given"
            )
            raise InputError(
                f"the files of {version.name}, the model in use, are neither in DVC's cache nor in its remote ({why}); "
                "bring them with `dvc fetch --all-tags`, or put another model in use with `thaw promote VERSION`"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> Path:
    return workspace.ROOT / "artifacts" / "promotion"


def _write(outcome: Outcome) -> None:
    partial_file = _folder() / ".decision.json.partial"
    phase.write_json(partial_file, outcome.to_json())
    partial_file.replace(_folder() / "decision.json")


if __name__ == "__main__":
    search_less_for_garbage()
    phase.start(lambda chosen: compare(chosen, Path(sys.argv[1]), sys.argv[2]))
