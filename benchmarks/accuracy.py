"""What each lever of speed costs in accuracy and saves in time, against the plain recipe.

    python -m benchmarks.accuracy plan FOLDER ...      # trains a little; how long the rest takes
    python -m benchmarks.accuracy train FOLDER ...     # every arm on every set, seed by seed
    python -m benchmarks.accuracy table FOLDER ...     # what is known so far

A FOLDER has the layout of data/; its own splits are ignored. A folder with groups gives two sets:
one keeps groups apart, one is split at random. `train` continues where it stopped: each training
is a line of benchmarks/results/accuracy.jsonl. `--arms`, `--seeds` and `--size` choose what runs.

**Sets** are those of `benchmarks.sizes`: at most 1,500 pictures at 80 px, a quarter of them test.
`--size "25 %"` draws a quarter of the others, anew for each seed, with a fifth for validation; up
to 300 of the remaining pictures judge. A set too small for that gives all its pictures, and its
validation pictures judge.

**Arms** (ARMS) train 8 epochs from the same head, and the weights after the last one are judged,
in float32. `growing` shows training pictures at 48, 64, then 80 px, a third of the epochs each.
Seconds are CPU seconds of one thread for all of phase 2, validation and kept activations included.

**Rule.** The change of an arm is its accuracy minus that of `plain`, over the same pictures and
seeds of all sets, each picture with the same weight; its 95 % interval resamples whole groups. The
recommended arm is the fastest whose lower end on the judging pictures is above -1 point. Its
change on the test pictures, which no choice has seen, is the result: the goal is reached if the
lower end there, over other pictures and other seeds, is above -1 point. If it is not, no arm is
recommended.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import sizes
from benchmarks.sizes import Cell, DataSet, Draw, Rows
from thaw.data.pictures import VIEWS, Pictures
from thaw.data.splits import assign_splits
from thaw.learning.activations import Frozen
from thaw.learning.backbones import blocks
from thaw.learning.batches import Split, TrainingData
from thaw.learning.convolutions import quicken
from thaw.learning.cut import cut
from thaw.learning.folding import fold_batchnorm
from thaw.learning.freezing import scale_dropout, unfreeze
from thaw.learning.losses import VAL_LOSS, Objective, cross_entropy
from thaw.learning.machine import keep_freed_memory
from thaw.learning.prediction import predict
from thaw.learning.training import Weights, fine_tune
from thaw.project import settings
from thaw.statistics import intervals

RESULTS = sizes.ROOT / "benchmarks" / "results" / "accuracy.jsonl"
KEPT = sizes.ROOT / "benchmarks" / "runs" / "accuracy"
EPOCHS = 8
FEWEST = 800  # pictures outside the test; a smaller set gives all
GROWING = (48, 64, sizes.RESOLUTION)


class Arm(NamedTuple):
    """Phase 2 with some levers."""

    blocks: str | int = "all"
    draws: int | None = None
    mixed: bool = False  # bfloat16
    growing: bool = False


ARMS = {
    "plain": Arm(),
    "blocks-12": Arm(12),
    "blocks-12, draws-4": Arm(12, 4),
    "blocks-12, draws-4, bfloat16": Arm(12, 4, mixed=True),
    "blocks-9, draws-4, bfloat16": Arm(9, 4, mixed=True),
    "bfloat16": Arm(mixed=True),
    "growing": Arm(growing=True),
    "growing, bfloat16": Arm(mixed=True, growing=True),
}
HEAD = "head only"


class Key(NamedTuple):
    """The name of a training."""

    set: str
    size: str
    seed: int
    arm: str


# --------------------------------------------------------------------------------------------- sets


def sets_of(folders: Sequence[Path], config: settings.Settings) -> list[DataSet]:
    """The sets of all folders."""
    return [data for folder in folders for data in both_ways(sizes.load(folder, config))]


def both_ways(data: DataSet) -> Iterator[DataSet]:
    """The set, and if it has groups, the same pictures split at random."""
    yield data
    if (data.rows["group"] != "").any():
        rows = data.rows.drop(columns="split").assign(group="")
        split = assign_splits(rows, (1 - sizes.TEST) / 2, sizes.TEST, 0)
        yield data._replace(name=f"{data.name}, at random", rows=rows.assign(split=split))


def size_of(data: DataSet, size: str) -> str:
    """The size to draw: all of the set, if it is small."""
    return size if (data.rows["split"] != "test").sum() >= FEWEST else "100 %"


class Growing(Pictures):
    """Pictures whose training ones are shown at a side that grows."""

    def __init__(self, pictures: Pictures, train: Rows) -> None:
        super().__init__(pictures.files, pictures.shape, pictures.decoded, pictures.workers)
        self.train, self.side = set(train.tolist()), GROWING[0]

    def grow(self, epoch: int) -> None:
        """Take the side of an epoch."""
        self.side = GROWING[(epoch - 1) * len(GROWING) // EPOCHS]

    def batches(self, batches: Sequence[Rows]) -> Iterator[Tensor]:
        """As those of all pictures."""
        for rows, pixels in zip(batches, super().batches(batches), strict=True):
            small = self.side < pixels.shape[-1] and int(rows[0]) in self.train
            yield F.interpolate(pixels, self.side, mode="bilinear", antialias=True) if small else pixels


# ----------------------------------------------------------------------------------------- training


def train(cell: Cell, config: settings.Settings, arm: Arm) -> tuple[Weights, float]:
    """The weights after phase 2, and its CPU seconds."""
    data, drawn = cell.data, cell.draw
    model = sizes.network(data, config, cell.seed)
    model.head.load_state_dict(cell.head)
    again = partial(unfreeze, model, arm.blocks, "frozen")
    trained = again()
    fold_batchnorm(model, data.pictures.shape.blank())
    quicken(model, arm.mixed)
    scale_dropout(model, config.unfreeze.drop)
    fine_tuning = sizes.phase_2(
        config, cell.seed, draws=arm.draws, epochs=EPOCHS, ratio=10, head_ratio=1, batch_size=32, ema=0.0
    )
    pictures = Growing(data.pictures, drawn.train) if arm.growing else data.pictures
    splits = (Split(rows, data.targets[rows]) for rows in (drawn.train, drawn.val))

    def begin(epoch: int) -> None:
        again()
        if isinstance(pictures, Growing):
            pictures.grow(epoch)

    began = time.process_time()
    parts = cut(model, len(blocks(model.backbone)) - len(trained), data.pictures.shape.blank())
    frozen = Frozen(parts, KEPT, 1e9 * config.resources.activations_gb) if parts else None
    objective = Objective(cross_entropy(), VAL_LOSS)
    given = TrainingData(pictures, data.normalise, *splits, frozen)
    with contextlib.redirect_stdout(io.StringIO()):  # a line for each epoch
        kept = fine_tune(model, given, fine_tuning, objective, begin).weights
    return kept, time.process_time() - began


def run(sets: Sequence[DataSet], config: settings.Settings, keys: Sequence[Key]) -> None:
    """Train and judge."""
    by_name, cell, start = {data.name: data for data in sets}, None, time.perf_counter()
    for number, key in enumerate(keys, 1):
        if cell is None or (cell.data.name, cell.size, cell.seed) != key[:3]:
            cell = sizes.cell_of(by_name[key.set], config, key.size, key.seed)
            model, head = sizes.head_only(cell, config)
        weights, seconds = (head, 0.0) if key.arm == HEAD else train(cell, config, ARMS[key.arm])
        row = {"train": len(cell.draw.train), "val": len(cell.draw.val), "seconds": round(seconds, 2)}
        for part, views in (("judges", 1), ("test", VIEWS["flip"])):
            rows = rows_of(cell.data, cell.draw, part)
            p = sizes.probabilities_of(cell, model, weights, rows, views)
            row[part] = sizes.figures(cell, p, rows) | {"predicted": p.argmax(1).tolist()}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": list(key), **row}, separators=(",", ":")) + "\n")
        minutes = (time.perf_counter() - start) / 60
        print(f"{number}/{len(keys)} {' '.join(map(str, key))}: {seconds:.0f} s; {minutes:.0f} min in all", flush=True)


def rows_of(data: DataSet, drawn: Draw, part: str) -> Rows:
    """The rows of the test, or those that judge."""
    return drawn.judges if part == "judges" else np.array(data.rows.index[data.rows["split"] == "test"], np.int64)


def known() -> dict[Key, dict[str, Any]]:
    """The trainings so far."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
    return {Key(*row["key"]): row for row in map(json.loads, lines)}


def todo(sets: Sequence[DataSet], size: str, arms: Sequence[str], seeds: int) -> list[Key]:
    """Missing trainings in order: all arms of a set together, all sets before the next seed."""
    keys, done = product(range(seeds), sets, arms), known()
    all_keys = (Key(data.name, size_of(data, size), seed, arm) for seed, data, arm in keys)
    return [key for key in all_keys if key not in done]


def plan(sets: Sequence[DataSet], config: settings.Settings, keys: Sequence[Key]) -> dict[str, float]:
    """The CPU minutes that these trainings will take, by arm, timed on a few pictures."""
    by_name, data = {data_set.name: data_set for data_set in sets}, sets[0]
    rows = np.array(data.rows.index[data.rows["split"] != "test"], np.int64)
    few = Cell(data, "", 0, Draw(rows[:64], rows[64:80], rows[:1]), sizes.network(data, config, 0).head.state_dict())
    train(few, config, ARMS["plain"])  # warms up
    of_arm = {arm: train(few, config, ARMS[arm])[1] / 80 for arm in {key.arm for key in keys} & {*ARMS}}
    began = time.process_time()
    predict(sizes.network(data, config, 0), data.pictures, rows[:64], data.normalise, 1, 64)
    look, minutes = (time.process_time() - began) / 64, dict.fromkeys((key.arm for key in keys), 0.0)
    for key in keys:
        drawn = sizes.draw(by_name[key.set].rows, key.size, key.seed)
        test = len(rows_of(by_name[key.set], drawn, "test"))
        # `head` only computes features
        seconds = of_arm.get(key.arm, 3 * look) * (len(drawn.train) + len(drawn.val))
        minutes[key.arm] += (seconds + look * (len(drawn.judges) + 2 * test)) / 60
    return minutes


# ------------------------------------------------------------------------------------------- tables


def verdicts(sets: Sequence[DataSet], size: str, part: str) -> pd.DataFrame:
    """A row for each training and picture: set, seed, arm, path, group, right, seconds."""
    parts = []
    # a folder's pictures have the same groups in both of its sets
    of_folder: dict[str, pd.Series] = {}
    for data in sets:
        rows = data.rows
        own = of_folder.setdefault(folder_of(data.name), rows["group"].where(rows["group"] != "", rows["hash"]))
        for key, row in known().items():
            if (key.set, key.size) == (data.name, size_of(data, size)):
                shown = rows_of(data, sizes.draw(rows, key.size, key.seed), part)
                right = (row[part]["predicted"] == data.labels(shown)).astype(float)
                groups = folder_of(data.name) + " " + own[shown]
                given = {"set": key.set, "seed": key.seed, "arm": key.arm, "seconds": row["seconds"]}
                parts.append(pd.DataFrame({"path": rows["path"][shown], "group": groups, "right": right, **given}))
    return pd.concat(parts, ignore_index=True)


def folder_of(name: str) -> str:
    """The folder that a set is from."""
    return name.partition(",")[0]


def changes(table: pd.DataFrame, arm: str, seeds_too: bool) -> dict[str, float | None]:
    """An arm's accuracy minus plain's, in points; the interval covers pictures and seeds."""
    by_arm = table.pivot(index=["set", "path", "group", "seed"], columns="arm", values="right")
    change = (by_arm[arm] - by_arm["plain"]).dropna()
    if seeds_too:  # seeds that every picture has
        wide = change.unstack("seed").dropna(axis="columns")
        groups, values = wide.index.get_level_values("group"), wide.to_numpy()
    else:
        groups, values = change.index.get_level_values("group"), change.to_numpy()
    if not values.size:
        return {"change": None, "low": None, "high": None}
    span = intervals.of_change(values, intervals.codes_of(groups.tolist(), len(groups)))
    points = {"change": float(values.mean()), "low": span.low, "high": span.high}
    return {name: None if value is None else 100 * value for name, value in points.items()}


def summary(judged: pd.DataFrame, tested: pd.DataFrame) -> pd.DataFrame:
    """A row for each arm: its relative seconds, and its change on judging and on test pictures."""
    trainings = judged.groupby(["set", "seed", "arm"])["seconds"].first().unstack("arm")
    rows = []
    for arm in [name for name in (*ARMS, HEAD) if name in trainings and name != "plain"]:
        both = trainings[["plain", arm]].dropna()
        plain, own = both.sum()
        times = {"trainings": len(both), "seconds": own, "times as fast": plain / own if own else None}
        on = {"judges": changes(judged, arm, False), "test": changes(tested, arm, True)}
        rows.append({"arm": arm, **times, **{f"{part} {name}": v for part, of in on.items() for name, v in of.items()}})
    return pd.DataFrame(rows).astype({"times as fast": float})


def recommended(table: pd.DataFrame) -> str | None:
    """The fastest arm that passes on the judging pictures."""
    passed = table[(table["judges low"] > -1) & (table["arm"] != HEAD)]
    return None if passed.empty else str(passed.loc[passed["times as fast"].idxmax(), "arm"])


def by_set(tested: pd.DataFrame) -> pd.DataFrame:
    """For each set the accuracy of plain on test, and the change of each arm, in points."""
    # only pictures that every arm has predicted
    right = tested.pivot(index=["set", "path", "seed"], columns="arm", values="right").dropna()
    means = 100 * right.groupby("set").mean()
    others = [name for name in (*ARMS, HEAD) if name in means and name != "plain"]
    return means[others].sub(means["plain"], axis=0).assign(plain=means["plain"])


def show(sets: Sequence[DataSet], size: str) -> None:
    """Print the tables and the rule's recommendation."""
    pd.set_option("display.width", 250)
    judged, tested = (verdicts(sets, size, part) for part in ("judges", "test"))
    table = summary(judged, tested)
    print(table.round(2).to_string(index=False), by_set(tested).round(1).to_string(), sep="\n\n")
    arm = recommended(table)
    reached = arm and table.set_index("arm").loc[arm, "test low"] > -1
    print(f"\nrecommended on the judging pictures: {arm or 'none'}; above -1 point on the test: {bool(reached)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("plan", "train", "table"))
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, HEAD), default=[*ARMS, HEAD])
    parser.add_argument("--seeds", type=int, default=5, help="so many (5)")
    parser.add_argument("--size", choices=[*sizes.SIZES], default="25 %", help="of each set (25 %%)")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    config = settings.read(sizes.ROOT / "params.yaml")
    sets = sets_of(options.folders, config)
    if options.stage == "table":
        show(sets, options.size)
        return
    keys = todo(sets, options.size, options.arms, options.seeds)
    if keys:
        minutes = plan(sets, config, keys)
        arms = "; ".join(f"{arm} {count:.1f}" for arm, count in minutes.items())
        print(f"{len(keys)} trainings, about {sum(minutes.values()):.0f} minutes of one core: {arms}", flush=True)
    if options.stage == "train":
        run(sets, config, keys)
        show(sets, options.size)


if __name__ == "__main__":
    main()
