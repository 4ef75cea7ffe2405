"""Splits: which rows of the manifest are for training, validation and test."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from thaw.data.manifest import SPLITS, line_of, slices_of
from thaw.errors import InputError


def units_of(rows: pd.DataFrame) -> pd.Series:
    """For each row the unit that must stay in one split: its group, joined with all groups that
    share an identical picture. A picture without a group belongs to the unit of its duplicates."""
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
    """The split of every row, with one of the folds as test and val drawn from the others;
    stratified by label, groups kept whole. Over all folds every row is in the test once."""
    if "split" in rows and (rows["split"] != "").any():
        raise InputError(
            "prepare.folds divides all pictures anew, but these come with splits: leave them out, or folds"
        )
    units = units_of(rows)
    by_class = units.groupby(rows["label"]).nunique()
    smallest, most = by_class.idxmin(), int(by_class.min())
    if folds > most:
        units_named = (
            f"groups with pictures of class '{smallest}'" if "group" in rows else f"pictures of class '{smallest}'"
        )
        raise InputError(f"prepare.folds is {folds}, but there are {most} {units_named}: use 2 to {most}")
    rows = rows.sort_values("path")
    free = pd.Series("", rows.index)
    drawn = _draw(rows, free, {str(number): 1 / folds for number in range(folds)}, seed)
    others = drawn != str(fold)
    shares = {"train": 1 - val * folds / (folds - 1), "val": val * folds / (folds - 1)}
    return drawn.mask(~others, "test").mask(others, _draw(rows[others], free[others], shares, seed))


def assign_splits(rows: pd.DataFrame, val: float, test: float, seed: int, frozen: bool = False) -> pd.Series:
    """The split of every row. A given split stays; duplicates and pictures of the same group
    follow it. The rest is drawn stratified by label, groups kept whole, so that all rows together
    come close to the shares.

    Depends on the rows and the seed, not on their order. If only some splits are given, the
    missing ones are drawn from train and from pictures without a split, and the given val and test
    stay; unless splits are `frozen`, that is, from an earlier draw.
    """
    rows = rows.sort_values("path")
    fixed = _follow(rows, rows["split"]) if "split" in rows else pd.Series("", index=rows.index)
    shares = {"train": 1 - val - test, "val": val, "test": test}
    present = set(fixed)
    if present - {""} and not frozen:
        if not present & {"train", ""}:
            raise InputError(
                "splits are given but no picture is in train; mark some as train or leave their split empty, or give "
                "no splits"
            )
        missing = [split for split in ("val", "test") if split not in present]
        if missing or "train" not in present:
            free = fixed.isin(["train", ""])
            shares = {"train": 1 - sum(shares[name] for name in missing), **{name: shares[name] for name in missing}}
            return fixed.mask(free, _draw(rows[free], pd.Series("", rows.index[free]), shares, seed))
    return fixed.mask(fixed == "", _draw(rows, fixed, shares, seed))


def assign_by_date(rows: pd.DataFrame, column: str, val: float, test: float, table: Path) -> pd.Series:
    """The newest pictures are test, the newest of the others val. Pictures of one date stay
    together, and so do units, whose date is that of their newest picture. The cuts are at the
    dates closest to the shares."""
    _check_split_by(rows, column)
    dates = {text: _date_of(text) for text in rows[column].unique()}
    if wrong := [text for text, moment in dates.items() if moment is None]:
        row = rows[rows[column].isin(wrong)].iloc[0]
        raise InputError(
            f"{table}: line {line_of(table, row['path'])} has '{row[column]}' in '{column}', the column of "
            "prepare.split_by, and that is no date; write YYYY-MM-DD, with or without a time, or YYYY-MM or YYYY, or "
            "set prepare.hold_out to one value of the column"
        )
    newest = rows[column].map(dates).groupby(units_of(rows)).transform("max")
    counts = newest.value_counts().sort_index(ascending=False)
    if len(counts) < len(SPLITS):
        raise InputError(
            f"prepare.split_by is '{column}', in which whole groups have {len(counts)} different dates; train, val and "
            "test need three at least"
        )
    shares = counts.cumsum().to_numpy() / len(rows)
    last_of_test = int(np.abs(shares[:-2] - test).argmin())
    last_of_val = last_of_test + 1 + int(np.abs(shares[last_of_test + 1 : -1] - test - val).argmin())
    from_test, from_val = counts.index[last_of_test], counts.index[last_of_val]
    split = np.select([newest >= from_test, newest >= from_val], ["test", "val"], "train")
    return pd.Series(split, rows.index)


def _date_of(text: str) -> datetime | None:
    """The ISO 8601 date (with or without a time), month or year in a text; None if it has none."""
    try:
        moment = datetime.fromisoformat(text + {4: "-01-01", 7: "-01"}.get(len(text), ""))
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def assign_held_out(rows: pd.DataFrame, column: str, value: str, val: float, seed: int) -> pd.Series:
    """Test is every picture with `value` in the column, and the rest of their units; val is drawn
    from the others."""
    _check_split_by(rows, column)
    rows = rows.sort_values("path")
    values = sorted(set(rows[column]) - {""})
    if value not in values:
        raise InputError(
            f"prepare.hold_out is '{value}', which column '{column}' has not; it has {', '.join(values[:10])}"
            f"{' and others' if len(values) > 10 else ''}"
        )
    units = units_of(rows)
    others = rows[~units.isin(units[rows[column] == value])]
    if others.empty:
        raise InputError(f"prepare.hold_out is '{value}', and no picture is without it in column '{column}'")
    drawn = _draw(others, pd.Series("", others.index), {"train": 1 - val, "val": val}, seed)
    return drawn.reindex(rows.index, fill_value="test")


def _check_split_by(rows: pd.DataFrame, column: str) -> None:
    if "split" in rows and (rows["split"] != "").any():
        raise InputError(
            "prepare.split_by decides the split of all pictures, but these come with splits: leave them out, or set it "
            "to null"
        )
    columns = [*slices_of(rows), *(["group"] if "group" in rows else [])]
    if column not in columns:
        available = (
            f"labels.csv has {', '.join(columns)}" if columns else "these data have none; give them a labels.csv"
        )
        raise InputError(f"prepare.split_by is '{column}', which is no column to split by; {available}")


def _follow(rows: pd.DataFrame, fixed: pd.Series) -> pd.Series:
    """The given splits; rows without one take that of their duplicates or group (if these differ:
    test, then train)."""
    keys = [rows[column].where(rows[column] != "") for column in ("hash", "group") if column in rows]
    while True:
        before = fixed
        for key in keys:
            of_key = fixed[fixed != ""].groupby(key).min()
            fixed = fixed.where(fixed != "", key.map(of_key).fillna(""))
        if fixed.equals(before):
            return fixed


def _draw(rows: pd.DataFrame, fixed: pd.Series, shares: dict[str, float], seed: int) -> pd.Series:
    """Draw splits for the rows without one. Units are placed whole, large ones first, each into
    the split that lacks the most of the unit's classes."""
    units = units_of(rows)
    free = fixed == ""
    totals = rows["label"].value_counts().sort_index()
    counts = pd.crosstab(units[free], rows["label"][free]).sort_index().reindex(columns=totals.index, fill_value=0)
    names = list(shares)
    present = pd.crosstab(fixed, rows["label"]).reindex(index=names, columns=totals.index, fill_value=0)
    sizes = counts.to_numpy(dtype=np.float64)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-sizes.sum(axis=1)[order], kind="stable")]
    total = totals.to_numpy(dtype=np.float64)
    goal = np.outer(list(shares.values()), total)
    lacking = goal - present.to_numpy(dtype=np.float64)
    assigned: dict[str, str] = {}
    for row in order:
        split = int(np.argmax(lacking / np.maximum(goal, 1e-9) @ (sizes[row] / total)))
        lacking[split] -= sizes[row]
        assigned[str(counts.index[row])] = names[split]
    return units.map(assigned)


def join(old: pd.DataFrame, new: pd.DataFrame, val: float, test: float, seed: int, frozen: bool) -> pd.DataFrame:
    """The old rows with unchanged splits, followed by the new rows with theirs."""
    old = old.assign(split=assign_splits(old, val, test, seed, frozen))
    both = pd.concat([old, new], ignore_index=True)
    both["split"] = both["split"].fillna("")
    return both.assign(split=assign_splits(both, val, test, seed, frozen=True))


DRAW_AGAIN = "change prepare.val and prepare.test, or set prepare.seed to draw again"


def check_splits(rows: pd.DataFrame, classes: Sequence[str], advice: str = DRAW_AGAIN) -> None:
    """Raise unless every class is in every split."""
    table = pd.crosstab(rows["label"], rows["split"]).reindex(index=list(classes), columns=list(SPLITS), fill_value=0)
    for split in SPLITS:
        for label in classes:
            if table.loc[label, split] == 0:
                raise InputError(
                    f"class '{label}' has no picture in the {split} split ({table.loc[label].sum()} in all); add "
                    f"pictures or groups of it, {advice}"
                )
