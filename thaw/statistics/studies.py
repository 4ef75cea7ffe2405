"""Studies: the combined results of many trainings. Values in, values out.

A run is one training with one setting and seed. All runs of a study predict the same test
pictures, or with folds each picture once for each seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from thaw.statistics import intervals
from thaw.statistics.metrics import headline
from thaw.statistics.records import NETWORKS, same_networks

SPREAD = "_spread"


@dataclass(frozen=True)
class Training:
    """One training: its setting, seed, metrics, history, and predictions for its test pictures."""

    setting: str
    seed: int
    metrics: dict[str, Any]
    history: pd.DataFrame
    predictions: pd.DataFrame


def verdicts(runs: Sequence[Training], network: str) -> pd.DataFrame:
    """Whether each test picture (a row, by path) was classified correctly with each seed (a
    column)."""
    parts = []
    for run in runs:
        right = run.predictions[f"{network}_prediction"] == run.predictions["label"]
        parts.append(pd.DataFrame({"path": run.predictions["path"], "seed": run.seed, "right": right.astype(float)}))
    return pd.concat(parts).pivot(index="path", columns="seed", values="right")


def scores(runs: Sequence[Training], network: str) -> dict[int, pd.DataFrame]:
    """For each seed the probability of each class (a column) for each test picture (a row, by
    path)."""
    start = f"{network}_p_"
    parts: dict[int, list[pd.DataFrame]] = {}
    for run in runs:
        columns = run.predictions.set_index("path")
        columns = columns[[column for column in columns if str(column).startswith(start)]]
        parts.setdefault(run.seed, []).append(columns.rename(columns=lambda column: column.removeprefix(start)))
    return {seed: pd.concat(tables) for seed, tables in parts.items()}


def averaged(runs: Sequence[Training]) -> list[Training]:
    """The runs of one setting with their probabilities averaged over the seeds.

    There are as many runs as before, all with the same predictions, so that each is paired with
    its seed.
    """
    means = {name: pd.concat(list(scores(runs, name).values())).groupby(level="path").mean() for name in NETWORKS}
    result = []
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
        result.append(replace(run, setting=setting, metrics=metrics, history=run.history[:0], predictions=predictions))
    return result


def groups_of(runs: Sequence[Training]) -> pd.Series:
    """The group of each test picture, by path; one without is a group of its own."""
    rows = pd.concat([run.predictions[["path", "group"]] for run in runs]).drop_duplicates("path").set_index("path")
    return rows["group"].where(rows["group"] != "", rows.index.to_series())


def difference(first: pd.DataFrame, second: pd.DataFrame, groups: pd.Series) -> dict[str, float]:
    """The accuracy of `second` minus that of `first`, with a paired 95 % interval (NaN if there is
    none).

    The interval covers other pictures (whole groups) and other seeds; with a single seed other
    pictures only.
    """
    change = (second - first).dropna(axis="columns")
    assert not change.empty, "the two have no seed in common"
    values = change.to_numpy()
    return _with_interval(float(values.mean()), intervals.of_change(values, _codes(groups.loc[change.index])))


def auc_difference(
    first: dict[int, pd.DataFrame], second: dict[int, pd.DataFrame], labels: pd.Series, groups: pd.Series
) -> dict[str, float]:
    """The AUC of `second` minus that of `first`, with an interval as in `difference`; empty if AUC
    is undefined."""
    seeds = [seed for seed in first if seed in second]
    paths = first[seeds[0]].index
    label_codes = pd.Categorical(labels.loc[paths], first[seeds[0]].columns).codes.astype(np.int64)
    codes = _codes(groups.loc[paths])
    areas = [
        intervals.difference(
            *(intervals.auc(arm[seed].loc[paths].to_numpy(), label_codes, codes) for arm in (first, second))
        )
        for seed in seeds
    ]
    if np.isnan([area.value for area in areas]).any():
        return {}
    mean = float(np.mean([area.value for area in areas]))
    classes = intervals.averaged(first[seeds[0]].to_numpy())
    return _with_interval(mean, intervals.of_class_mean(areas, label_codes, codes, classes))


def _codes(groups: pd.Series) -> intervals.Codes:
    return intervals.codes_of(groups.astype(str).tolist(), len(groups))


def _with_interval(mean: float, span: intervals.Span) -> dict[str, float]:
    return {
        "mean": mean,
        **{end: np.nan if value is None else value for end, value in span._asdict().items() if end != "why"},
    }


def over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and spread (standard deviation) over seeds; the spread of a single seed is None."""
    array = np.array(values, dtype=np.float64)
    return {"mean": float(array.mean()), "spread": float(array.std(ddof=1)) if len(array) > 1 else None}


def seeds(runs: Sequence[Training], slices: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The figures of a setting over its seeds: a row for each figure, and a row for each slice
    value.

    Returns:
        figure, head and head_spread, finetuned and finetuned_spread, averaged (the mean
        prediction of all seeds); for accuracy also the gain with its interval. The same for the
        accuracy in each slice.
    """
    together = averaged(runs)
    groups, both = groups_of(runs), {name: verdicts(runs, name) for name in NETWORKS}
    rows = []
    for figure in ("accuracy", "balanced_accuracy", "auc", "ece", "ece_uncalibrated"):
        row: dict[str, Any] = {"figure": figure}
        for name in NETWORKS:
            if figures := _values(runs, name, figure):
                summary = over_seeds(figures)
                row |= {name: summary["mean"], f"{name}{SPREAD}": summary["spread"]}
        figures = _values(together, "finetuned", figure)
        if figures and runs[0].seed != runs[-1].seed:
            row["averaged"] = over_seeds(figures)["mean"]
        rows.append(row)
    has_gain = not all(same_networks(run.metrics) for run in runs)
    if has_gain:
        rows[0] |= _prefixed("gain", difference(both["head"], both["finetuned"], groups))
    values = pd.concat([run.predictions[["path", *slices]] for run in runs]).drop_duplicates("path").set_index("path")
    parts = []
    for column in slices:
        for value, members in sorted(values.groupby(column).groups.items()):
            inside = {name: table.loc[members] for name, table in both.items()}
            part: dict[str, Any] = {"slice": column, "value": value, "pictures": len(members)}
            for name, table in inside.items():
                summary = over_seeds(table.mean().tolist())
                part |= {name: summary["mean"], f"{name}{SPREAD}": summary["spread"]}
            if has_gain:
                part |= _prefixed("gain", difference(inside["head"], inside["finetuned"], groups))
            parts.append(part)
    return pd.DataFrame(rows), pd.DataFrame(parts)


def _values(runs: Sequence[Training], network: str, figure: str) -> list[float]:
    return [value for run in runs if (value := run.metrics[network].get(figure)) is not None]


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {prefix if name == "mean" else f"{prefix}_{name}": value for name, value in values.items()}


def curve(runs: Sequence[Training]) -> pd.DataFrame:
    """A row for each share of the labels: accuracy and AUC of both networks, mean and spread over
    the seeds."""
    rows = []
    for setting in dict.fromkeys(run.setting for run in runs):
        own = [run for run in runs if run.setting == setting]
        row: dict[str, Any] = {"share": setting, "seeds": len(own)}
        for name in NETWORKS:
            for figure in ("accuracy", "auc"):
                summary = over_seeds([run.metrics[name][figure] for run in own])
                row |= {f"{name}_{figure}": summary["mean"], f"{name}_{figure}{SPREAD}": summary["spread"]}
        rows.append(row)
    return pd.DataFrame(rows)


def ablation(runs: Sequence[Training], recipe: str) -> pd.DataFrame:
    """A row for head only and for each setting: accuracy, AUC, the differences to head only and to
    the recipe with their intervals, and how far the network moved."""
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
            summary = over_seeds([run.metrics[network][figure] for run in of])
            row |= {figure: summary["mean"], f"{figure}{SPREAD}": summary["spread"]}
        right = verdicts(of, network)
        if setting != recipe:
            row |= _prefixed("over_recipe", difference(best, right, groups))
            row |= _prefixed("auc_over_recipe", auc_difference(best_scores, scores(of, network), labels, groups))
        if network == "finetuned":
            if not all(same_networks(run.metrics) for run in of):
                row |= _prefixed("over_head", difference(head, right, groups))
            for figure in ("distance", "cka", "kept", "kl"):
                values = [moved[figure] for run in of if figure in (moved := run.metrics.get("forgetting", {}))]
                row[figure] = over_seeds(values)["mean"] if values else None
        rows.append(row | {"seeds": len(of)})
    table = pd.DataFrame(rows)
    table["seeds"] = table.pop("seeds")  # to the end
    return table
