"""compare: whether the new model takes the place of the one in use, judged on the test pictures of
today.

    python -m thaw.project.compare FOLDER VERSION [FOLDER VERSION] [--new FOLDER VERSION]

The first is the model in use, the second the best that was in use, if that is another one; `--new`
is the new one where it is not the model of the workspace. Writes
artifacts/promotion/{decision.json,changes.png}.

No DVC stage, since what it finds hangs on which model is in use. `run()` is how the flow starts it.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.errors import InputError
from thaw.project import models, phase, registry, results, settings, workspace
from thaw.project.journal import replace as replace_file
from thaw.project.registry import Version
from thaw.project.settings import Promote, Settings
from thaw.project.stage import OnLine, finish
from thaw.startup import search_less_for_garbage

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

    from thaw.project.networks import Dataset

CHANGES = "changes.png"  # test pictures that the model in use gets right and the new one wrong
MANY = 20  # comparisons on the same test pictures; docs/operation.md shows what a year of them does


@dataclass(frozen=True)
class Outcome:
    """What is to become of the new model, and why.

    `state` is "first" (no model was in use), "same" (it is the model in use) or "compared" (with
    `champion`). `gain` and `falls` are those of `thaw.statistics.promotion.Decision`; `inputs`
    tells whether it need be found again. `anchor` is the best version that was in use, if that is
    another one, with the reason and gain of the comparison with it. `notes` are sentences about
    what to distrust. `model` is DVC's hash of the new model.
    """

    state: str
    champion: str | None
    promoted: bool
    reason: str
    gain: dict[str, Any]
    falls: list[dict[str, Any]]
    inputs: dict[str, Any]
    anchor: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    model: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def run(champion: Version | None, on_line: OnLine = print) -> Outcome:
    """Decide about the model that lies in the workspace against the one in use, and put that on
    top of the report."""
    from thaw.report.promotion import page

    _folder().mkdir(parents=True, exist_ok=True)
    if champion is None or champion.model == registry.model_of(None):
        (_folder() / CHANGES).unlink(missing_ok=True)
    if champion is None:
        outcome = Outcome("first", None, True, "no model was in use", {}, [], {})
    elif champion.model == registry.model_of(None):
        reason = f"it is {champion.name}, the model in use: the same weights, and nothing that changes a prediction"
        outcome = Outcome("same", champion.name, False, reason, {}, [], {})
    else:
        outcome = _compared(champion, on_line)
    outcome = replace(outcome, model=registry.model_of(None))
    _write(outcome)
    report = workspace.artifacts("report/report.html")
    html = page(report.read_text(encoding="utf-8"), changes(), **outcome.to_json())
    (_folder() / "report.html").write_text(html, encoding="utf-8")
    return outcome


def again(version: Version, champion: Version, on_line: OnLine = print) -> Outcome:
    """Decide about a version that waited for a person, against the model that is in use by now."""
    _folder().mkdir(parents=True, exist_ok=True)
    outcome = replace(_compared(champion, on_line, version), model=version.model)
    _write(outcome)
    return outcome


def changes() -> bytes:
    """The test pictures that the model in use gets right and the new one wrong, the surest
    mistakes first, as PNG; empty where there are none."""
    picture = _folder() / CHANGES
    return picture.read_bytes() if picture.is_file() else b""


def decision() -> Outcome | None:
    """The last decision, if there is one; one that a power cut damaged is none."""
    try:
        return Outcome(**phase.read_json(_folder() / "decision.json"))
    except (FileNotFoundError, ValueError):
        return None


def check(promote: Promote) -> None:
    """Raise `InputError` if the rule does not fit the classes of the data that `prepare` has
    read."""
    from thaw.statistics import promotion

    promotion.check(promote.by, promote.costs, phase.read_json(workspace.artifacts("prepare/meta.json"))["classes"])


def compare(config: Settings, others: list[tuple[Path, str]], new: tuple[Path, str] | None = None) -> None:
    """The child process: the new model against the one in use, and against an anchor if there is
    one."""
    from thaw.data.manifest import groups_of, labels_of, read_predictions
    from thaw.project import networks
    from thaw.statistics import promotion
    from thaw.statistics.promotion import Decision, Limits, Points, aligned, decide

    device = networks.use_resources(config)
    data = networks.dataset(config, "val", "test")
    promotion.check(config.promote.by, config.promote.costs, data.classes)
    two = len(data.classes) == 2
    rows = data.rows.loc[data.split("test")].reset_index(drop=True)
    predictions = read_predictions(workspace.artifacts("evaluate/predictions.csv"))
    assert predictions["path"].tolist() == rows["path"].tolist(), "evaluate saw other test pictures"
    if new:
        challenger, own_classes, own_cut = _said(config, data, device, *new)
    else:
        challenger = predictions[[f"finetuned_p_{label}" for label in data.classes]].to_numpy()
        own_classes = data.classes
        own_cut = ((results.metrics().get("operating") or {}).get("finetuned") or {}).get("threshold")
    limits = Limits(**config.promote.model_dump(exclude={"approve", "wait"}))
    decisions: list[Decision] = []
    notes: list[str] = []
    for folder, version in others:
        probabilities, its_classes, cut = _said(config, data, device, folder, version)
        classes = list(dict.fromkeys([*data.classes, *own_classes, *its_classes]))
        before, after = aligned(probabilities, its_classes, classes), aligned(challenger, own_classes, classes)
        result = decide(
            before,
            after,
            labels_of(rows, data.classes),
            classes,
            groups_of(rows),
            rows[data.meta["slices"]],
            limits,
            Points(1, cut, own_cut, config.evaluate.promise) if two else None,
        )
        if not decisions:
            _write_changes(_changed(rows, before, after, classes))
        decisions.append(result)
        notes += _learned(Path(f"{folder}.csv"), version, rows["hash"])
    result = decisions[0]
    outcome = Outcome("compared", others[0][1], **asdict(result), inputs={}, notes=notes)
    if len(decisions) > 1:
        anchor, name = decisions[1], others[1][1]
        outcome = replace(outcome, anchor={"name": name, "reason": anchor.reason, "gain": anchor.gain})
        if result.promoted and not anchor.promoted:
            reason = f"against {name}, the best that was in use, {anchor.reason}"
            outcome = replace(outcome, promoted=False, reason=reason)
    _write(outcome)
    print(f"{'promoted' if outcome.promoted else 'not promoted'}: {outcome.reason}", flush=True)


def _changed(rows: "pd.DataFrame", before: Any, after: Any, classes: list[str]) -> "pd.DataFrame":
    """The pictures that were right and are wrong now, the surest mistakes first."""
    import pandas as pd

    names = pd.Index(classes)
    right, prediction = names[before.argmax(1)] == rows["label"], names[after.argmax(1)]
    table = pd.DataFrame(
        {"path": rows["path"], "label": rows["label"], "prediction": prediction, "confidence": after.max(1)}
    )
    worse: pd.DataFrame = table[right & (prediction != rows["label"])]
    return worse.sort_values(["confidence", "path"], ascending=[False, True])


def _write_changes(table: "pd.DataFrame") -> None:
    from thaw.report.drawing import thumbnail
    from thaw.report.mistakes import SHOWN, mistakes

    worst = table.head(SHOWN)
    picture = mistakes(worst, [thumbnail(workspace.data() / path) for path in worst["path"]]) if len(worst) else b""
    (_folder() / CHANGES).unlink(missing_ok=True)
    if picture:
        (_folder() / CHANGES).write_bytes(picture)


def _said(
    config: Settings, data: "Dataset", device: "torch.device", folder: Path, version: str
) -> "tuple[Any, list[str], float | None]":
    """What an earlier model says of today's test pictures: probabilities, its classes, and of two
    its threshold.

    Its temperature and threshold are those of today's validation pictures, as the new model's are.
    """
    from thaw.data.pictures import VIEWS, Normaliser, Pictures, Preprocessing, Shape
    from thaw.learning import checkpoint
    from thaw.learning.folding import fold_batchnorm
    from thaw.learning.prediction import predict
    from thaw.progress import Progress
    from thaw.statistics import calibration
    from thaw.statistics.promotion import aligned

    model, meta = checkpoint.load(folder)
    shape = Shape(**meta["shape"])
    if not meta["folded"]:
        fold_batchnorm(model, shape.blank())
    decoded = data.pictures.decoded if shape == data.pictures.shape else None
    val, test = data.split("val"), data.split("test")
    views = VIEWS[config.evaluate.views]
    pictures = Pictures(data.pictures.files, shape, decoded, config.resources.workers)
    normalise = Normaliser(Preprocessing.from_json(meta["preprocessing"]), device)
    progress = Progress((len(val) + len(test)) * views)
    seen, unseen = (
        predict(model.to(device), pictures, rows, normalise, views, config.evaluate.batch_size, progress, version)
        for rows in (val, test)
    )
    labels = data.rows["label"][data.rows["split"] == "val"]
    temperature = calibration.temperature(*_known(seen, labels, meta["classes"]))
    cut = None
    if len(data.classes) == 2:
        scores = aligned(calibration.probabilities(seen, temperature), meta["classes"], data.classes)[:, 1]
        positive = (labels == data.classes[1]).to_numpy()
        cut = calibration.threshold(scores, positive, config.evaluate.promise, config.evaluate.at_least)
    return calibration.probabilities(unseen, temperature), meta["classes"], cut


def _learned(table: Path, version: str, hashes: "pd.Series") -> list[str]:
    """Whether a version was trained or chosen on some of today's test pictures, by their
    content."""
    from thaw.data.manifest import read_manifest

    if not table.is_file():
        return [f"whether {version} learned from today's test pictures is unknown: its manifest.csv is not available"]
    known = read_manifest(table)
    count = int(hashes.isin(known["hash"][known["split"] != "test"]).sum())
    if not count:
        return []
    return [f"{version} learned from {count} of today's {len(hashes)} test pictures, which favours it"]


def _known(logits: "Tensor", labels: "pd.Series", classes: list[str]) -> "tuple[Tensor, Tensor]":
    """The logits and labels of the pictures whose class the model knows."""
    import pandas as pd
    import torch

    codes = torch.from_numpy(pd.Categorical(labels, classes).codes.astype("int64"))
    return logits[codes >= 0], codes[codes >= 0]


def _compared(champion: Version, on_line: OnLine, new: Version | None = None) -> Outcome:
    """`new` is the new model where it is a version; else it is that of the workspace."""
    if new and new.model == registry.model_of(None):
        new = None
    versions = registry.versions()
    best = anchor(champion, versions, settings.read().promote.by)
    inputs = _inputs(champion, best) | ({"new": f"{new.name} {new.model}"} if new else {})
    previous = decision()
    if previous and previous.inputs == inputs:
        on_line(f"decided before: {previous.reason}")
        return previous
    with ExitStack() as stack:
        others, notes = [str(stack.enter_context(_files(champion))), champion.name], []
        if best:
            try:
                others += [str(stack.enter_context(_files(best))), best.name]
            except InputError:
                notes.append(f"{best.name}, the best that was in use, was not compared: its files are not available")
        if new:
            others += ["--new", str(stack.enter_context(_files(new))), new.name]
        finish("promote", [sys.executable, "-m", "thaw.project.compare", *others], on_line)
    outcome = decision()
    assert outcome, "the child process left no decision"
    notes += _worn(versions, outcome.gain.get("test_pictures", 0))
    return replace(outcome, inputs=inputs, notes=[*outcome.notes, *notes])


def anchor(champion: Version, versions: list[Version], by: str) -> Version | None:
    """The version that was in use and had the highest figure when it was new, if that is higher
    than the one in use: so that many small losses do not add up. Where costs decide it is
    accuracy, since versions bear no costs."""
    names = registry.were_in_use()
    candidates = [version for version in versions if version.name in names and version.model != champion.model]
    best = max(candidates, key=lambda version: _figure(version, by), default=None)
    return best if best and _figure(best, by) > _figure(champion, by) else None


def _figure(version: Version, by: str) -> float:
    value = version.metrics.get("finetuned", {}).get({"macro_f1": "f1", "cost": "accuracy"}.get(by, by))
    return -1.0 if value is None else float(value)


def _worn(versions: list[Version], pictures: int) -> list[str]:
    """How many models these test pictures, or most of them, have judged, once that is many."""
    judged = sum(version.metrics.get("test_pictures", 0) > pictures / 2 for version in versions) + 1
    if judged < MANY:
        return []
    return [
        f"these test pictures, or most of them, have judged {judged} models by now; a model chosen by them looks "
        "better than it is, so add new ones with a split of test"
    ]


def _inputs(champion: Version, best: Version | None) -> dict[str, Any]:
    """All that a decision hangs on."""
    config = settings.read()
    files = ("prepare/manifest.csv", "evaluate/predictions.csv")
    contents = [workspace.artifacts(file).read_bytes() for file in files]
    return {
        "champion": f"{champion.name} {champion.model}",
        "anchor": f"{best.name} {best.model}" if best else "",
        "files": [hashlib.sha256(content).hexdigest() for content in contents],
        "settings": config.model_dump(include={"seed", "evaluate", "promote"}),
    }


@contextmanager
def _files(version: Version) -> Iterator[Path]:
    """The files of a version while the block lasts, and beside them its table of pictures if there
    is one."""
    with models.files(version) as folder:
        models.get(version, models.MANIFEST, Path(f"{folder}.csv"))
        yield folder


def _folder() -> Path:
    return workspace.artifacts("promotion")


def _write(outcome: Outcome) -> None:
    replace_file(_folder() / "decision.json", (json.dumps(outcome.to_json(), indent=2) + "\n").encode())


if __name__ == "__main__":
    search_less_for_garbage()
    names = [argument for argument in sys.argv[1:] if argument != "--new"]
    others = list(zip(map(Path, names[::2]), names[1::2], strict=True))
    newest = others.pop() if "--new" in sys.argv else None
    phase.start(lambda config: compare(config, others, newest))
