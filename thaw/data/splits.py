"""Splits: which rows of the manifest train, which validate, which are the test."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from thaw.data.manifest import SPLITS
from thaw.errors import InputError


def units_of(rows: pd.DataFrame) -> pd.Series:
    """For each row the name of the unit that stays in one split: its group, together with every group that has a
    picture identical to one of its own; a picture without a group is of its twins' unit."""
    if "group" not in rows:
        return rows["hash"]
    units = rows["group"].where(rows["group"] != "", rows["hash"])
    while True:
        first = units.groupby(rows["hash"]).transform("min")
        joined = first.groupby(units).transform("min")
        if joined.equals(units):
            return units
        units = joined


def assign_folds(rows: pd.DataFrame, val: float, fold: int, folds: int, seed: int) -> pd.Series:
    """The split of every row with one of so many folds as test split, and val drawn from the others; stratified by
    label, groups kept whole. Over all folds every row is in test once."""
    if "split" in rows and (rows["split"] != "").any():
        raise InputError(
            "prepare.folds divides all pictures anew, but these come with splits: leave them out, or folds"
        )
    units = units_of(rows)
    by_class = units.groupby(rows["label"]).nunique()
    smallest, most = by_class.idxmin(), int(by_class.min())
    if folds > most:
        what = f"groups with pictures of class '{smallest}'" if "group" in rows else f"pictures of class '{smallest}'"
        raise InputError(f"prepare.folds is {folds}, but there are {most} {what}: use 2 to {most}")
    rows = rows.sort_values("path")
    free = pd.Series("", rows.index)
    drawn = _draw(rows, free, {str(number): 1 / folds for number in range(folds)}, seed)
    rest = drawn != str(fold)
    shares = {"train": 1 - val * folds / (folds - 1), "val": val * folds / (folds - 1)}
    return drawn.mask(~rest, "test").mask(rest, _draw(rows[rest], free[rest], shares, seed))


def assign_splits(rows: pd.DataFrame, val: float, test: float, seed: int, frozen: bool = False) -> pd.Series:
    """The split of every row: what is given stays; a picture identical to one with a split, or of its group, follows
    it; the rest is drawn stratified by label, groups kept whole, so that all rows together come near the shares.

    Depends on the rows and the seed, not on their order. Where splits are given but not all three, the missing ones are
    taken from train and from pictures without a split, and the given val and test stay as they are; unless splits are
    `frozen`: said by an earlier draw.
    """
    rows = rows.sort_values("path")
    given = _follow(rows, rows["split"]) if "split" in rows else pd.Series("", index=rows.index)
    shares = {"train": 1 - val - test, "val": val, "test": test}
    there = set(given)
    if there - {""} and not frozen:
        if not there & {"train", ""}:
            raise InputError(
                "splits are given but no picture is in train; mark some as train or leave their split empty, or give "
                "no splits"
            )
        missing = [split for split in ("val", "test") if split not in there]
        if missing or "train" not in there:
            taken = given.isin(["train", ""])
            shares = {"train": 1 - sum(shares[name] for name in missing), **{name: shares[name] for name in missing}}
            return given.mask(taken, _draw(rows[taken], pd.Series("", rows.index[taken]), shares, seed))
    return given.mask(given == "", _draw(rows, given, shares, seed))


def _follow(rows: pd.DataFrame, given: pd.Series) -> pd.Series:
    """The given splits, and for rows without one that of their twins or group (of several: test, then train)."""
    keys = [rows[column].where(rows[column] != "") for column in ("hash", "group") if column in rows]
    while True:
        before = given
        for key in keys:
            known = given[given != ""].groupby(key).min()
            given = given.where(given != "", key.map(known).fillna(""))
        if given.equals(before):
            return given


def _draw(rows: pd.DataFrame, given: pd.Series, shares: dict[str, float], seed: int) -> pd.Series:
    """Splits for the rows without a given one: whole groups, large ones first, each to the split that lacks most of
    what the group has."""
    units = units_of(rows)
    free = given == ""
    totals = rows["label"].value_counts().sort_index()
    counts = pd.crosstab(units[free], rows["label"][free]).sort_index().reindex(columns=totals.index, fill_value=0)
    names = list(shares)
    there = pd.crosstab(given, rows["label"]).reindex(index=names, columns=totals.index, fill_value=0)
    sizes = counts.to_numpy(dtype=np.float64)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-sizes.sum(axis=1)[order], kind="stable")]
    total = totals.to_numpy(dtype=np.float64)
    wanted = np.outer(list(shares.values()), total)
    lacking = wanted - there.to_numpy(dtype=np.float64)
    chosen: dict[str, str] = {}
    for row in order:
        split = int(np.argmax(lacking / np.maximum(wanted, 1e-9) @ (sizes[row] / total)))
        lacking[split] -= sizes[row]
        chosen[str(counts.index[row])] = names[split]
    return units.map(chosen)


def join(known: pd.DataFrame, new: pd.DataFrame, val: float, test: float, seed: int, frozen: bool) -> pd.DataFrame:
    """The known rows in the splits that they have without the new ones, and after them the new ones in theirs."""
    known = known.assign(split=assign_splits(known, val, test, seed, frozen))
    both = pd.concat([known, new], ignore_index=True)
    both["split"] = both["split"].fillna("")
    return both.assign(split=assign_splits(both, val, test, seed, frozen=True))


def check_splits(rows: pd.DataFrame, classes: Sequence[str]) -> None:
    """Raise unless every class is in every split."""
    table = pd.crosstab(rows["label"], rows["split"]).reindex(index=list(classes), columns=list(SPLITS), fill_value=0)
    for split in SPLITS:
        for label in classes:
            if table.loc[label, split] == 0:
                raise InputError(
                    f"class '{label}' has no picture in the {split} split ({table.loc[label].sum()} in all); add "
                    "pictures or groups of it, change prepare.val and prepare.test, or set prepare.seed to draw again"
                )
