"""Which recipe of phase 2 is right from 50 to 5,000 pictures: candidates and a rule to choose.

    python -m benchmarks.sizes plan FOLDER ...       # trains nothing; says how long it will take
    python -m benchmarks.sizes choose FOLDER ...     # all candidates, small sizes, two seeds
    python -m benchmarks.sizes confirm FOLDER ... --candidates epochs steps-100   # five seeds
    python -m benchmarks.sizes tables FOLDER ...     # what is known so far

A FOLDER has the layout of data/; its own splits are ignored. Each stage continues where it
stopped: every finished training is a line of benchmarks/results/sizes.jsonl.

**Sizes.** At most 1,500 pictures of each set, at 80 px. A quarter of them, in whole groups, is the
test of every training. Half of the others are left out. From the other half 50 pictures are drawn,
or 10 % or 25 % of both halves (no 10 % where these are fewer than 50); 100 % are both halves. A
fifth of what is drawn is validation, as in the default run. Each seed draws anew.

**Candidates** are trajectories (CANDIDATES) and what is kept of each (KEEP). One training gives
all that may be kept. `batch-16` and `all-labels` are trained last, if there is time.

**Figures.** Networks are judged on up to 300 of the pictures left out, at 100 % on validation, in
one view. The score of a network is its gain over the head alone in points: the mean of its gains
in accuracy and in AUC.

**Rule.** A change is compared with what it changes: numbers of steps with `epochs`, other
trajectories with `steps-100`, what is kept with `last` of the same trajectory. Its difference is
averaged over seeds, then over sets and sizes. It is taken if that mean is above two of its
standard errors over sets and sizes, and if no set is worse by more than a point. Of two numbers of
steps the smaller one is taken, unless the larger one is better by more than one standard error.
All changes taken are combined. The combination and `epochs` go to `confirm`; it becomes the default
unless it is worse there at 100 % by more than a point. The tables name the sets that got worse.

**Added after seed 0 of `choose`, before `confirm`.** There was time for one seed (and for one set
of 50 pictures of the next), and by the rule above nothing is taken. The best candidate was
`slow-head`, which differs from `epochs` in two things; the rule compares no such pairs. So
`confirm` compares the two on new seeds, 1 to 4. `slow-head` becomes the default if the same two
conditions hold over all sizes, and at 100 % alone it is not worse by more than a point.

**Added after seed 1 of `choose`.** By the rule `steps-300` is taken, so `confirm` compares it with
`epochs`; `slow-head` has only one or two seeds.
"""

import argparse
import contextlib
import io
import json
import math
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from thaw.data.manifest import classes_of, complete, content_hash, labels_of, read_folder, slices_of, targets_of
from thaw.data.pictures import VIEWS, Normaliser, Pictures, Shape, channels_of, decode, drawn_views
from thaw.data.splits import assign_splits
from thaw.learning.backbones import Classifier, create, preprocessing_of
from thaw.learning.batches import Split, TrainingData, order
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import scale_dropout, unfreeze
from thaw.learning.losses import VAL_LOSS, Objective, cross_entropy
from thaw.learning.machine import keep_freed_memory
from thaw.learning.prediction import features_of, predict
from thaw.learning.training import FineTuning, HeadTraining, Weights, fine_tune, fit_head
from thaw.project import settings
from thaw.statistics import calibration, metrics, studies

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "sizes.jsonl"
# what choose trained and confirm has not tested yet
WEIGHTS = ROOT / "benchmarks" / "runs" / "sizes"
RESOLUTION = 80  # 160 px, the default, would take three times as long
MAX_PICTURES, TEST, VAL, JUDGES = 1500, 0.25, 0.2, 300
SIZES: dict[str, int | float] = {"50": 50, "10 %": 0.1, "25 %": 0.25, "100 %": 1.0}
SMALL = ("50", "10 %")
EMA = 0.99

Rows = NDArray[np.int64]


class Candidate(NamedTuple):
    """A trajectory: at least eight epochs and `steps` steps; the rest as described."""

    steps: int = 0
    ratio: float = 10
    slow_head: bool = False  # the head at the rate of the backbone
    phase_1: bool = True
    batch_size: int = 32
    all_labels: bool = False  # trains on validation pictures too

    def epochs(self, pictures: int) -> int:
        """The number of epochs with that many training pictures."""
        return max(8, math.ceil(self.steps / len(order(np.arange(pictures), self.batch_size))))

    def name(self, pictures: int) -> str:
        """Its name, or that of an earlier candidate that trains the same on that many pictures."""
        alike = self._replace(steps=0) if self.epochs(pictures) == 8 else self
        return next(name for name, other in CANDIDATES.items() if other in (alike, self))


CANDIDATES = {
    "epochs": Candidate(),  # the defaults when this was written
    "steps-100": Candidate(steps=100),
    "steps-300": Candidate(steps=300),
    "ratio-30": Candidate(steps=100, ratio=30),
    "slow-head": Candidate(steps=100, slow_head=True),
    "batch-16": Candidate(steps=100, batch_size=16),
    "no-phase-1": Candidate(steps=100, phase_1=False),
    "all-labels": Candidate(steps=100, all_labels=True),
}
KEEP = {
    "last": "the weights after the last epoch",
    "ema": "their moving average, 0.99 a step",
    "loss": "of the epoch with the lowest validation loss, head only among them",
    "calibrated": "of the epoch with the lowest validation loss after fitting a temperature",
    "auc": "of the epoch with the highest validation AUC",
}


class DataSet(NamedTuple):
    """A decoded data set. Of its split, train may be drawn, val is left out, test stays."""

    name: str
    rows: pd.DataFrame
    classes: list[str]
    targets: Tensor
    pictures: Pictures
    normalise: Normaliser

    def labels(self, rows: Rows) -> NDArray[np.int64]:
        return labels_of(self.rows.loc[rows], self.classes)


class Draw(NamedTuple):
    """Row numbers of one size and seed; candidates are compared on `judges`."""

    train: Rows
    val: Rows
    judges: Rows


class Cell(NamedTuple):
    """One size and seed of a set, and its head of phase 1."""

    data: DataSet
    size: str
    seed: int
    draw: Draw
    head: Weights


# --------------------------------------------------------------------------------------------- data


def load(folder: Path, config: settings.Settings) -> DataSet:
    """Read, thin, split and decode a folder."""
    rows = read_folder(folder).drop(columns="split", errors="ignore")
    rows = rows.loc[sampled(rows["label"], MAX_PICTURES, 0)].reset_index(drop=True)
    rows["hash"] = [content_hash(folder / path) for path in rows["path"]]
    classes = classes_of(rows, None, 3)
    rows["split"] = assign_splits(rows, (1 - TEST) / 2, TEST, 0)
    rows = complete(rows, classes)
    files = [folder / path for path in rows["path"]]
    preprocessing = preprocessing_of(config.backbone.name, config.backbone.weights)
    shape = Shape.of(preprocessing, RESOLUTION, config.prepare.fit, max(map(channels_of, files)))
    decoded = np.stack([decode(file, shape) for file in files])
    targets = torch.from_numpy(targets_of(rows, classes))
    pictures = Pictures(files, shape, decoded, 1)
    return DataSet(folder.name, rows, classes, targets, pictures, Normaliser(preprocessing, torch.device("cpu")))


def sizes_of(data: DataSet) -> list[str]:
    """The sizes that this set is large enough for."""
    pool = (data.rows["split"] != "test").sum()
    return [size for size, share in SIZES.items() if share * (1 if isinstance(share, int) else pool) >= 50]


def sampled(labels: pd.Series, count: int, seed: int) -> Rows:
    """About `count` of the rows, the same share of each class; all if there are no more."""
    drawn = pd.Series(np.random.default_rng(seed).permutation(len(labels)), labels.index)
    sizes = labels.groupby(labels).transform("size")
    kept = drawn.groupby(labels).rank() <= np.ceil(min(1.0, count / len(labels)) * sizes)
    return labels.index[kept].to_numpy(np.int64)


def draw(rows: pd.DataFrame, size: str, seed: int) -> Draw:
    """The pictures of a size, split into train and val, and those that judge."""
    pool, test = rows[rows["split"] != "test"], rows[rows["split"] == "test"]
    share = SIZES[size]
    count = share if isinstance(share, int) else round(share * len(pool))
    source = pool if size == "100 %" else pool[pool["split"] == "train"]
    drawn = source.loc[sampled(source["label"], count, seed)].assign(split="train")
    split = assign_splits(pd.concat([drawn, test]), VAL, TEST, seed)
    train, val = (np.array(split.index[split == name], np.int64) for name in ("train", "val"))
    left = pool[pool["split"] == "val"]
    return Draw(train, val, val if size == "100 %" else left.loc[sampled(left["label"], JUDGES, seed)].index.to_numpy())


# ----------------------------------------------------------------------------------------- training


def network(data: DataSet, config: settings.Settings, seed: int) -> Classifier:
    torch.manual_seed(seed)
    model = create(config.backbone.name, config.backbone.weights, len(data.classes), data.pictures.shape.size)
    return model.eval().to(memory_format=torch.channels_last)


def cell_of(data: DataSet, config: settings.Settings, size: str, seed: int) -> Cell:
    """Draw, embed and train the head, as the default run does."""
    drawn = draw(data.rows, size, seed)
    model = network(data, config, seed)
    fold_batchnorm(model, data.pictures.shape.blank())
    return Cell(data, size, seed, drawn, trained_head(data, config, model, seed, drawn.train, drawn.val))


def trained_head(
    data: DataSet, config: settings.Settings, model: Classifier, seed: int, train: Rows, val: Rows
) -> Weights:
    """The weights of the head after phase 1 on these pictures."""
    features = []
    for rows, views in ((train, VIEWS[config.embed.views]), (val, 1)):
        numbers = drawn_views(len(rows), views, config.embed.draws)
        out = np.empty((*numbers.shape, model.head.in_features), np.float32)
        features_of(model, data.pictures, rows, data.normalise, numbers, 64, out)
        features.append((out, data.targets[rows]))
    head = HeadTraining(seed=seed, **config.head.model_dump())
    return fit_head(model.head, *features, head, Objective(cross_entropy(), VAL_LOSS)).weights


def phase_2(config: settings.Settings, seed: int, **changes: Any) -> FineTuning:
    """Phase 2 with the settings of a run, and these changes of them."""
    taken = {"blocks", "batchnorm", "views", "precision", "drop", "label_smoothing"}
    section = config.unfreeze.model_dump(exclude=taken) | {"draws": None, "keep": "last"} | changes
    return FineTuning(seed=seed, learning_rate=config.head.learning_rate, views=VIEWS[config.unfreeze.views], **section)


class Watch:
    """Validates before each epoch, and keeps the best weights by each figure, epoch 0 included."""

    def __init__(self, cell: Cell, model: Classifier) -> None:
        self.cell, self.model = cell, model
        self.best: dict[str, tuple[float, int, Weights]] = {}
        self.seen = 0

    def __call__(self, epoch: int) -> None:
        """Called with the number of the next epoch; twice with 1."""
        if epoch == self.seen:
            return
        self.seen = epoch
        data, val = self.cell.data, self.cell.draw.val
        logits, targets, labels = (
            predict(self.model, data.pictures, val, data.normalise, 1, 64),
            data.targets[val],
            data.labels(val),
        )
        cooled = logits / calibration.temperature(logits, torch.from_numpy(labels))
        area = metrics.auc(calibration.probabilities(logits, 1), labels)
        figures = {
            "loss": VAL_LOSS.measure(logits, targets).item(),
            "calibrated": VAL_LOSS.measure(cooled, targets).item(),
            "auc": 0.0 if area is None else -area,
        }
        better = [name for name, value in figures.items() if name not in self.best or value < self.best[name][0]]
        weights = copied(self.model) if better else {}
        self.best |= {name: (figures[name], epoch - 1, weights) for name in better}


def copied(model: torch.nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def train(
    cell: Cell, config: settings.Settings, candidate: Candidate
) -> tuple[Classifier, dict[str, Weights], dict[str, Any]]:
    """Train one trajectory; returns the network, the weights by `keep`, and their epochs."""
    data, drawn = cell.data, cell.draw
    model = network(data, config, cell.seed)
    if candidate.phase_1:
        model.head.load_state_dict(cell.head)
    unfreeze(model, "all", "frozen")
    fold_batchnorm(model, data.pictures.shape.blank())
    scale_dropout(model, config.unfreeze.drop)
    rows = np.concatenate([drawn.train, drawn.val]) if candidate.all_labels else drawn.train
    fine_tuning = phase_2(
        config,
        cell.seed,
        epochs=(epochs := candidate.epochs(len(rows))),
        ratio=candidate.ratio,
        head_ratio=candidate.ratio if candidate.slow_head else 1,
        batch_size=candidate.batch_size,
        ema=EMA,
    )
    train_split, val_split = (Split(part, data.targets[part]) for part in (rows, drawn.val))
    training_data = TrainingData(data.pictures, data.normalise, train_split, val_split)
    watch = Watch(cell, model)
    with contextlib.redirect_stdout(io.StringIO()):  # a line for each epoch
        averaged = fine_tune(model, training_data, fine_tuning, Objective(cross_entropy(), VAL_LOSS), watch).weights
    watch(epochs + 1)
    kept, at = {"last": copied(model), "ema": averaged}, {"epochs": epochs}
    if not candidate.all_labels:  # it trains on the validation pictures too
        kept |= {name: weights for name, (_, _, weights) in watch.best.items()}
        at |= {name: epoch for name, (_, epoch, _) in watch.best.items()}
    return model, kept, at


def probabilities_of(cell: Cell, model: Classifier, weights: Weights, rows: Rows, views: int) -> NDArray[np.float64]:
    """Probabilities of the pictures."""
    model.load_state_dict(weights)
    logits = predict(model, cell.data.pictures, rows, cell.data.normalise, views, 64)
    return calibration.probabilities(logits, 1)


def figures(cell: Cell, p: NDArray[np.float64], rows: Rows) -> dict[str, float | None]:
    labels = cell.data.labels(rows)
    return {"accuracy": float((p.argmax(1) == labels).mean()), "auc": metrics.auc(p, labels)}


def head_only(cell: Cell, config: settings.Settings) -> tuple[Classifier, Weights]:
    model = network(cell.data, config, cell.seed)
    model.head.load_state_dict(cell.head)
    fold_batchnorm(model, cell.data.pictures.shape.blank())
    return model, copied(model)


# ------------------------------------------------------------------------------------------- stages


class Key(NamedTuple):
    """The name of a training."""

    set: str
    size: str
    seed: int
    candidate: str

    @property
    def weights(self) -> Path:
        return WEIGHTS / ("-".join(map(str, self)).replace(" %", "%") + ".pt")


def known(kind: str) -> dict[Key, dict[str, Any]]:
    """The rows so far: `judged` on pictures left out, or `tested`."""
    if not RESULTS.is_file():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {Key(*row["key"]): row for row in rows if row["kind"] == kind}


def write(kind: str, key: Key, row: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, "key": list(key), **row}) + "\n")


def todo(sets: Sequence[DataSet], stage: str, names: Sequence[str]) -> list[Key]:
    """The trainings of a stage in order: a seed of all sets before the next seed."""
    sizes, seeds = (SMALL, range(2)) if stage == "choose" else (tuple(SIZES), range(5))
    done = known("judged") if stage == "choose" else known("tested")
    keys: list[Key] = []
    for seed, size, data in product(seeds, sizes, sets):
        if size in sizes_of(data):
            pictures = len(draw(data.rows, size, seed).train)
            keys += [Key(data.name, size, seed, CANDIDATES[name].name(pictures)) for name in names]
    return [key for key in dict.fromkeys(keys) if key not in done]


def run(sets: Sequence[DataSet], config: settings.Settings, stage: str, names: Sequence[str]) -> None:
    """Train and judge what is missing; `confirm` also measures on the test."""
    by_name, cell, start = {data.name: data for data in sets}, None, time.perf_counter()
    keys = todo(sets, stage, names)
    for number, key in enumerate(keys, 1):
        if cell is None or (cell.data.name, cell.size, cell.seed) != key[:3]:
            cell = cell_of(by_name[key.set], config, key.size, key.seed)
            head_model, head_weights = head_only(cell, config)
            head_judged = figures(
                cell, probabilities_of(cell, head_model, head_weights, cell.draw.judges, 1), cell.draw.judges
            )
        if key not in known("judged") or (stage == "confirm" and not key.weights.is_file()):
            began = time.perf_counter()
            model, kept, at = train(cell, config, CANDIDATES[key.candidate])
            seconds = round(time.perf_counter() - began, 1)
            judged = {
                name: figures(cell, probabilities_of(cell, model, weights, cell.draw.judges, 1), cell.draw.judges)
                for name, weights in kept.items()
            }
            counts = {name: len(rows) for name, rows in cell.draw._asdict().items()}
            if key not in known("judged"):
                write("judged", key, {**counts, "at": at, "seconds": seconds, "head": head_judged, **judged})
            WEIGHTS.mkdir(parents=True, exist_ok=True)
            torch.save({name: kept[name] for name in ("last", "ema")}, key.weights)
        if stage == "confirm":
            write("tested", key, tested(cell, head_model, {"head": head_weights, **torch.load(key.weights)}))
            key.weights.unlink()
        minutes = (time.perf_counter() - start) / 60
        print(f"{number}/{len(keys)} {' '.join(map(str, key))}, {minutes:.0f} min", flush=True)


def tested(cell: Cell, model: Classifier, networks: dict[str, Weights]) -> dict[str, Any]:
    """Figures and verdicts of each network on the test pictures, in two views."""
    test = cell.data.rows.index[cell.data.rows["split"] == "test"].to_numpy(np.int64)
    row: dict[str, Any] = {"train": len(cell.draw.train), "val": len(cell.draw.val)}
    for name, weights in networks.items():
        p = probabilities_of(cell, model, weights, test, VIEWS["flip"])
        row[name] = {**figures(cell, p, test), "predicted": p.argmax(1).tolist()}
    return row


def plan(sets: Sequence[DataSet], config: settings.Settings, keys: Sequence[Key]) -> float:
    """The minutes that these trainings will take, timed on a few batches on this machine."""
    data = sets[0]
    cell = Cell(data, "50", 0, draw(data.rows, "50", 0), network(data, config, 0).head.state_dict())
    rows = cell.draw.train[:32]
    model = network(data, config, 0)
    predict(model, data.pictures, rows, data.normalise, 1, 32)
    began = time.perf_counter()
    predict(model, data.pictures, np.tile(rows, 3), data.normalise, 1, 32)
    look = (time.perf_counter() - began) / len(rows) / 3
    began = time.perf_counter()
    few = Cell(data, "50", 0, Draw(np.tile(rows, 2), rows[:1], rows[:1]), cell.head)
    train(few, config, Candidate())
    step = (time.perf_counter() - began) / (8 * 2 * len(rows))
    by_name, seconds = {data.name: data for data in sets}, 0.0
    for key in keys:
        drawn, candidate = draw(by_name[key.set].rows, key.size, key.seed), CANDIDATES[key.candidate]
        pictures = len(drawn.train) + candidate.all_labels * len(drawn.val)
        epochs = candidate.epochs(pictures)
        seconds += epochs * (pictures * step + 2 * len(drawn.val) * look) + 4 * len(drawn.judges) * look
    return seconds / 60


# ------------------------------------------------------------------------------------------- tables


def scores() -> pd.DataFrame:
    """A row for each training and `keep`: gains over the head alone when judged, in points."""
    rows = []
    for key, row in known("judged").items():
        for name in KEEP:
            if name in row:
                gains = {f: 100 * ((row[name][f] or 0.5) - (row["head"][f] or 0.5)) for f in ("accuracy", "auc")}
                rows.append({**key._asdict(), "keep": name, **gains, "score": sum(gains.values()) / 2})
    return pd.DataFrame(rows)


def compared(table: pd.DataFrame, one: tuple[str, str], other: tuple[str, str]) -> dict[str, Any]:
    """How much better `other` (candidate, keep) scores than `one`, and on which sets worse."""
    parts = [table[(table["candidate"] == name) & (table["keep"] == keep)] for name, keep in (one, other)]
    before, after = (part.set_index(["set", "size", "seed"])["score"] for part in parts)
    cells = (after - before).dropna().groupby(["set", "size"]).mean()
    by_set = cells.groupby("set").mean()
    error = float(cells.std(ddof=1) / len(cells) ** 0.5) if len(cells) > 1 else math.nan
    worse = [f"{name} ({change:+.1f})" for name, change in by_set.items() if change < 0]
    mean = float(cells.mean())
    taken = mean > 2 * error and bool((by_set >= -1).all())
    return {"better by": mean, "error": error, "worse sets": ", ".join(worse), "cells": len(cells), "taken": taken}


def choice(table: pd.DataFrame) -> pd.DataFrame:
    """All comparisons of the rule, over the small sizes."""
    table = table[table["size"].isin(SMALL)]
    names = [name for name in CANDIDATES if name in set(table["candidate"])]
    rows = []
    for name in names:
        if name != "epochs":
            base = "epochs" if name.startswith("steps-") else "steps-100"
            rows.append({"change": name, "from": base, **compared(table, (base, "last"), (name, "last"))})
    if {"steps-100", "steps-300"} <= set(names):
        both = compared(table, ("steps-100", "last"), ("steps-300", "last"))
        rows.append({"change": "steps-300", "from": "steps-100", **both})
    for name, keep in product(("epochs", "steps-100", "steps-300"), KEEP):
        if name in names and keep != "last":
            rows.append({"change": f"{name}, {keep}", "from": name, **compared(table, (name, "last"), (name, keep))})
    return pd.DataFrame(row for row in rows if row["cells"])


def lesson(sets: Sequence[DataSet], candidate: str, keep: str = "last") -> pd.DataFrame:
    """By set and size: head only, fine-tuned, and the gain with its interval."""
    rows = []
    for data, size in product(sets, SIZES):
        own = {
            key.seed: row
            for key, row in known("tested").items()
            if key[:2] == (data.name, size) and key.candidate == CANDIDATES[candidate].name(row["train"])
        }
        if own:
            test = data.rows[data.rows["split"] == "test"]
            rows += list(_of_parts(data.name, size, own, test, data.classes, keep))
    return pd.DataFrame(rows)


def _of_parts(
    name: str, size: str, own: dict[int, dict[str, Any]], test: pd.DataFrame, classes: list[str], keep: str
) -> Iterator[dict[str, Any]]:
    """All test pictures, then those of each value of each slice."""
    labels, paths = labels_of(test, classes), test["path"].to_numpy()
    right = {
        network: pd.DataFrame({seed: (row[network]["predicted"] == labels) * 1.0 for seed, row in own.items()}, paths)
        for network in ("head", keep)
    }
    groups = pd.Series(test["group"].where(test["group"] != "", test["hash"]).to_numpy(), paths)
    parts = {"": np.ones(len(test), dtype=bool)}
    if size == "100 %":
        parts |= {
            f"{column} {value}": (test[column] == value).to_numpy()
            for column in slices_of(test)
            for value in sorted(set(test[column]))
        }
    for part, inside in parts.items():
        row = {"set": name, "part": part, "size": size, "seeds": len(own), "test": int(inside.sum())}
        row["labels"] = next(result["train"] + result["val"] for result in own.values())
        for network, values in right.items():
            row[network] = studies.over_seeds((100 * values[inside].mean()).tolist())["mean"]
            if not part:
                row[f"{network}_auc"] = float(np.mean([result[network]["auc"] for result in own.values()]))
        span = studies.difference(right["head"][inside], right[keep][inside], groups[inside])
        yield row | {f"gain_{end}": 100 * value for end, value in span.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("plan", "choose", "confirm", "tables"))
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--candidates", nargs="+", choices=list(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--keep", choices=("last", "ema"), default="last", help="of which the last table is")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    config = settings.read(ROOT / "params.yaml")
    sets = [load(folder, config) for folder in options.folders]
    if options.stage == "tables":
        pd.set_option("display.width", 200)
        print(choice(scores()).round(2).to_string(index=False))
        for name in options.candidates:
            print(name, lesson(sets, name, options.keep).round(3).to_string(index=False), sep="\n")
        return
    stages = ("choose", "confirm") if options.stage == "plan" else (options.stage,)
    for stage in stages:
        keys = todo(sets, stage, options.candidates)
        print(f"{stage}: {len(keys)} trainings, about {plan(sets, config, keys):.0f} minutes", flush=True)
    if options.stage != "plan":
        run(sets, config, options.stage, options.candidates)


if __name__ == "__main__":
    main()
