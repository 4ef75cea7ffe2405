"""Studies: many trainings of one question, and what they say together. Values in, values out.

A run is one training with one setting and seed; runs of one study answered the same test pictures, or with folds
each picture once for each seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from thaw.statistics import intervals
from thaw.statistics.metrics import headline
from thaw.statistics.records import same_networks

SPREAD = "_spread"
NETWORKS = ("head", "finetuned")


@dataclass(frozen=True)
class Run:
    """One training: what it tried, what its phases found, and what it said of its test pictures."""

    setting: str
    seed: int
    metrics: dict[str, Any]
    history: pd.DataFrame
    predictions: pd.DataFrame


def verdicts(runs: Sequence[Run], network: str) -> pd.DataFrame:
    """Whether each test picture (a row, by path) was named rightly with each seed (a column)."""
    parts = []
    for run in runs:
        right = run.predictions[f"{network}_prediction"] == run.predictions["label"]
        parts.append(pd.DataFrame({"path": run.predictions["path"], "seed": run.seed, "right": right.astype(float)}))
    return pd.concat(parts).pivot(index="path", columns="seed", values="right")


def scores(runs: Sequence[Run], network: str) -> dict[int, pd.DataFrame]:
    """With each seed the probability of each class (a column) for each test picture (a row, by path)."""
    start = f"{network}_p_"
    parts: dict[int, list[pd.DataFrame]] = {}
    for run in runs:
        found = run.predictions.set_index("path")
        found = found[[column for column in found if str(column).startswith(start)]]
        parts.setdefault(run.seed, []).append(found.rename(columns=lambda column: column.removeprefix(start)))
    return {seed: pd.concat(each) for seed, each in parts.items()}


def averaged(runs: Sequence[Run]) -> list[Run]:
    """The runs of one setting as what their networks say together: the mean of their probabilities over the seeds.

    There is one for each run still, all alike, so that each is compared with what the same seed has.
    """
    means = {name: pd.concat(list(scores(runs, name).values())).groupby(level="path").mean() for name in NETWORKS}
    found = []
    for run in runs:
        predictions, metrics = run.predictions.copy(), {}
        for network, mean in means.items():
            classes = mean.columns.to_numpy()
            p = mean.loc[predictions["path"]].to_numpy()
            predictions[f"{network}_prediction"] = classes[p.argmax(1)]
            predictions[[f"{network}_p_{name}" for name in classes]] = p
            labels = pd.Categorical(predictions["label"], classes).codes.astype(np.int64)
            metrics[network] = headline(p, labels)
        setting = f"{run.setting}, seeds averaged"
        found.append(replace(run, setting=setting, metrics=metrics, history=run.history[:0], predictions=predictions))
    return found


def groups_of(runs: Sequence[Run]) -> pd.Series:
    """The group of each test picture, by path; one without is a group of its own."""
    rows = pd.concat([run.predictions[["path", "group"]] for run in runs]).drop_duplicates("path").set_index("path")
    return rows["group"].where(rows["group"] != "", rows.index.to_series())


def difference(one: pd.DataFrame, other: pd.DataFrame, groups: pd.Series) -> dict[str, float]:
    """How much more of the pictures `other` named rightly than `one`, with a paired 95 % interval, NaN where there is
    none.

    Both chances are in it: other pictures (whole groups) and other seeds. With a single seed the second is missing.
    """
    change = (other - one).dropna(axis="columns")
    assert not change.empty, "the two have no seed in common"
    values = change.to_numpy()
    return _with_interval(float(values.mean()), intervals.of_change(values, _codes(groups.loc[change.index])))


def auc_difference(
    one: dict[int, pd.DataFrame], other: dict[int, pd.DataFrame], labels: pd.Series, groups: pd.Series
) -> dict[str, float]:
    """How much larger the AUC of `other` is than that of `one`, as `difference` has it; nothing where there is none."""
    seeds = [seed for seed in one if seed in other]
    paths = one[seeds[0]].index
    wanted = pd.Categorical(labels.loc[paths], one[seeds[0]].columns).codes.astype(np.int64)
    codes = _codes(groups.loc[paths])
    areas = [
        intervals.difference(*(intervals.auc(arm[seed].loc[paths].to_numpy(), wanted, codes) for arm in (one, other)))
        for seed in seeds
    ]
    if np.isnan([area.value for area in areas]).any():
        return {}
    mean = float(np.mean([area.value for area in areas]))
    classes = intervals.averaged(one[seeds[0]].to_numpy())
    return _with_interval(mean, intervals.of_class_mean(areas, wanted, codes, classes))


def _codes(groups: pd.Series) -> intervals.Codes:
    return intervals.codes_of(groups.astype(str).tolist(), len(groups))


def _with_interval(mean: float, span: intervals.Span) -> dict[str, float]:
    return {
        "mean": mean,
        **{end: np.nan if value is None else value for end, value in span._asdict().items() if end != "why"},
    }


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and spread (the standard deviation) over seeds; no spread of a single one."""
    known = np.array(values, dtype=np.float64)
    return {"mean": float(known.mean()), "spread": float(known.std(ddof=1)) if len(known) > 1 else None}


def seeds(runs: Sequence[Run], slices: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a recipe is worth over its seeds: a row for each figure of both networks, and one for each slice value.

    Returns:
        figure, head and head_spread, finetuned and finetuned_spread, averaged (the fine-tuned networks of all seeds
        together); of accuracy the gain with its interval too. The same for the accuracy in each slice.
    """
    together = averaged(runs)
    groups, both = groups_of(runs), {name: verdicts(runs, name) for name in NETWORKS}
    rows = []
    for figure in ("accuracy", "balanced_accuracy", "auc", "ece", "ece_uncalibrated"):
        row: dict[str, Any] = {"figure": figure}
        for name in NETWORKS:
            if known := _known(runs, name, figure):
                found = over_seeds(known)
                row |= {name: found["mean"], f"{name}{SPREAD}": found["spread"]}
        known = _known(together, "finetuned", figure)
        if known and runs[0].seed != runs[-1].seed:
            row["averaged"] = over_seeds(known)["mean"]
        rows.append(row)
    kept = not all(same_networks(run.metrics) for run in runs)
    if kept:
        rows[0] |= _prefixed("gain", difference(both["head"], both["finetuned"], groups))
    values = pd.concat([run.predictions[["path", *slices]] for run in runs]).drop_duplicates("path").set_index("path")
    parts = []
    for column in slices:
        for value, members in sorted(values.groupby(column).groups.items()):
            inside = {name: table.loc[members] for name, table in both.items()}
            part: dict[str, Any] = {"slice": column, "value": value, "pictures": len(members)}
            for name, table in inside.items():
                found = over_seeds(table.mean().tolist())
                part |= {name: found["mean"], f"{name}{SPREAD}": found["spread"]}
            if kept:
                part |= _prefixed("gain", difference(inside["head"], inside["finetuned"], groups))
            parts.append(part)
    return pd.DataFrame(rows), pd.DataFrame(parts)


def _known(runs: Sequence[Run], network: str, figure: str) -> list[float]:
    return [value for run in runs if (value := run.metrics[network].get(figure)) is not None]


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {prefix if name == "mean" else f"{prefix}_{name}": value for name, value in values.items()}


def curve(runs: Sequence[Run]) -> pd.DataFrame:
    """By setting, here a share of the labels: accuracy and AUC of both networks, mean and spread over the seeds."""
    rows = []
    for setting in dict.fromkeys(run.setting for run in runs):
        own = [run for run in runs if run.setting == setting]
        row: dict[str, Any] = {"share": setting, "seeds": len(own)}
        for name in NETWORKS:
            for figure in ("accuracy", "auc"):
                found = over_seeds([run.metrics[name][figure] for run in own])
                row |= {f"{name}_{figure}": found["mean"], f"{name}_{figure}{SPREAD}": found["spread"]}
        rows.append(row)
    return pd.DataFrame(rows)


def ablation(runs: Sequence[Run], recipe: str) -> pd.DataFrame:
    """A row for head only and one for each setting: accuracy, AUC, what it is better than head only and worse than the
    recipe, in AUC too, with intervals, and how far its network moved."""
    groups = groups_of(runs)
    own = {
        setting: [run for run in runs if run.setting == setting] for setting in dict.fromkeys(r.setting for r in runs)
    }
    if len(own[recipe]) > 1:
        together = averaged(own[recipe])
        own[together[0].setting] = together
    rows_of_all = pd.concat([run.predictions[["path", "label"]] for run in runs]).drop_duplicates("path")
    labels = rows_of_all.set_index("path")["label"]
    head, best = verdicts(own[recipe], "head"), verdicts(own[recipe], "finetuned")
    best_scores = scores(own[recipe], "finetuned")
    rows = []
    for setting, of, network in [
        ("head only", own[recipe], "head"),
        *((setting, of, "finetuned") for setting, of in own.items()),
    ]:
        row: dict[str, Any] = {"arm": setting}
        for figure in ("accuracy", "auc"):
            found = over_seeds([run.metrics[network][figure] for run in of])
            row |= {figure: found["mean"], f"{figure}{SPREAD}": found["spread"]}
        right = verdicts(of, network)
        if setting != recipe:
            row |= _prefixed("over_recipe", difference(best, right, groups))
            row |= _prefixed("auc_over_recipe", auc_difference(best_scores, scores(of, network), labels, groups))
        if network == "finetuned":
            if not all(same_networks(run.metrics) for run in of):
                row |= _prefixed("over_head", difference(head, right, groups))
            for figure in ("distance", "cka", "kept", "kl"):
                known = [moved[figure] for run in of if figure in (moved := run.metrics.get("forgetting", {}))]
                row[figure] = over_seeds(known)["mean"] if known else None
        rows.append(row | {"seeds": len(of)})
    table = pd.DataFrame(rows)
    table["seeds"] = table.pop("seeds")  # to the end
    return table
