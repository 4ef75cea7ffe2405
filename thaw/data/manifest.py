"""The manifest: one row a picture, with path, label, target, split, group, slices and content hash.

Data come as class folders (`data/defective/1.png`, optionally under train/val/test) or as pictures with a
`labels.csv` (path, label; optional target, group, split; every further column is a slice). In either, `splits.csv`
(path, split) freezes the split of the pictures it names.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.data.pictures import SUFFIXES
from thaw.errors import InputError

SPLITS = ("train", "val", "test")
FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
KNOWN = ("path", "label", "target", "split", "group", "hash")


def read_folder(root: Path) -> pd.DataFrame:
    """The rows that `labels.csv` or the class folders under `root` tell, sorted by path."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; put your pictures there or run `thaw data` for the demo's")
    table, splits = root / "labels.csv", root / "splits.csv"
    rows = _read_table(table) if table.is_file() else _read_class_folders(root)
    rows = _freeze(rows, splits) if splits.is_file() else rows
    return rows.sort_values("path", ignore_index=True)


def _freeze(rows: pd.DataFrame, table: Path) -> pd.DataFrame:
    """The rows with the splits in `splits.csv`. What folders or labels.csv call train it may divide, nothing else."""
    frozen = _read_csv(table, ("path", "split"))
    wrong = frozen[~frozen["split"].isin(SPLITS) | frozen["path"].duplicated()]
    if len(wrong):
        raise InputError(f"{table}: line {wrong.index[0] + 2} names a picture twice or no split; bring the file back")
    told = rows["path"].map(frozen.set_index("path")["split"]).fillna("")
    given = rows["split"] if "split" in rows else pd.Series("", rows.index)
    wrong = rows[(told != "") & given.isin(["val", "test"]) & (told != given)]
    if len(wrong):
        path, row = wrong.iloc[0]["path"], wrong.index[0]
        raise InputError(
            f"{path} is in {given[row]} by its folder or labels.csv and in {told[row]} by {table}; no picture changes "
            "its split by itself: correct one of them"
        )
    return rows.assign(split=told.where(told != "", given))


def slices_of(rows: pd.DataFrame) -> list[str]:
    """The names of the slice columns."""
    return [column for column in rows.columns if column not in KNOWN]


def csv_of(rows: pd.DataFrame, header: bool = True) -> str:
    """A table as CSV, from which `read_table` gives every cell back as it was, whatever is in it."""
    text = str(rows.to_csv(index=False, header=header, lineterminator="\n"))
    if "\r" in text:
        # Before Python 3.13 only what is a part of a line's end is quoted, and a reader ends a row at a lone \r too.
        text = str(rows.to_csv(index=False, header=header, lineterminator="\r\n"))
        text = re.sub(r'("[^"]*")|\r\n', lambda match: match[1] or "\n", text)
    return text


def write_table(rows: pd.DataFrame, file: Path) -> None:
    """Write a table that `read_table` reads back equal."""
    file.write_bytes(csv_of(rows).encode())


def read_table(source: Path | BinaryIO, numbers: Iterable[str] = ()) -> pd.DataFrame:
    """A table in which every cell is the text that was written, but for the columns of numbers; an empty one is NaN."""
    # Without a header: pandas would rename columns, and take the first one for an index where rows are longer.
    rows = pd.read_csv(source, header=None, dtype=str, keep_default_na=False, encoding="utf-8")
    return _with_numbers(rows.iloc[1:].set_axis(list(rows.iloc[0]), axis=1).reset_index(drop=True), numbers)


def read_predictions(source: Path | BinaryIO) -> pd.DataFrame:
    """What evaluate said of each test picture: text but for the probabilities."""
    rows = read_table(source)
    return _with_numbers(rows, [name for name in map(str, rows) if name.startswith(("head_p_", "finetuned_p_"))])


def _with_numbers(rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    def numbers_of(column: pd.Series) -> pd.Series:
        try:
            return column.astype("int64")
        except ValueError:
            return column.replace("", "nan").astype("float64")

    return rows.assign(**{name: numbers_of(rows[name]) for name in columns})


def _read_csv(table: Path, needed: tuple[str, str]) -> pd.DataFrame:
    """A table that a user wrote: a known column is known however it is spelled, and spaces around cells are dropped."""
    try:
        rows = read_table(table)
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{table} cannot be read as CSV: {' '.join(str(error).split())}") from None
    header = [str(name) or f"Unnamed: {number}" for number, name in enumerate(rows)]
    columns = [known if (known := name.strip().casefold()) in KNOWN else name for name in header]
    for column in columns:
        same = [repr(name) for name, other in zip(header, columns, strict=True) if other == column]
        if len(same) > 1:
            raise InputError(f"{table} has the columns {' and '.join(same)}, which are one; keep one")
    rows.columns = pd.Index(columns)
    for name in columns:
        if name != "path":
            rows[name] = rows[name].str.strip()
    for column in needed:
        if column not in rows:
            raise InputError(
                f"{table} has no column '{column}'; it needs {' and '.join(needed)}, it has {list(rows.columns)}"
            )
    return rows


def columns_of(table: Path) -> list[str]:
    """The columns of a labels.csv, in its order."""
    return list(_read_csv(table, ("path", "label")).columns)


def _read_table(table: Path) -> pd.DataFrame:
    rows = _read_csv(table, ("path", "label"))
    if "hash" in rows:
        raise InputError(f"{table} has a column 'hash', a name that thaw uses itself; rename it")
    if rows.empty:
        raise InputError(f"{table} has no rows; add one for each picture")
    bad = rows[(rows["path"] == "") | (rows["label"] == "")]
    if len(bad):
        raise InputError(f"{table}: line {bad.index[0] + 2} has an empty path or label; fill it in")
    rows["path"] = rows["path"].map(lambda path: Path(path).as_posix())
    outside = rows[rows["path"].map(lambda path: path.startswith("/") or ".." in Path(path).parts)]
    if len(outside):
        raise InputError(f"{table}: path '{outside.iloc[0]['path']}' leaves the data folder; paths start there")
    twice = rows[rows["path"].duplicated()]
    if len(twice):
        raise InputError(f"{table} lists {twice.iloc[0]['path']} twice; keep one row for each picture")
    if "split" in rows:
        rows["split"] = rows["split"].str.lower()
        wrong = rows[~rows["split"].isin([*FOLDERS, ""])]
        if len(wrong):
            given = wrong.iloc[0]["split"]
            raise InputError(f"{table}: split '{given}' is unknown; allowed are train, val, test or empty")
        rows["split"] = rows["split"].replace(FOLDERS)
    if "target" in rows:
        numbers = pd.to_numeric(rows["target"], errors="coerce")
        wrong = rows[~numbers.between(0, 1)]
        if len(wrong):
            given = wrong.iloc[0]["target"]
            raise InputError(f"{table}: target '{given}' is not a probability; give a number from 0 to 1")
        rows["target"] = numbers
    return rows


def _folders_in(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _named(folder: Path) -> str:
    return folder.name.strip()


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split under `root`; empty where folders are classes."""
    tops = _folders_in(root)
    names = [FOLDERS.get(_named(top).lower(), "") for top in tops]
    return dict(zip(names, tops, strict=True)) if all(names) else {}


def _read_class_folders(root: Path) -> pd.DataFrame:
    tops = _folders_in(root)
    split = bool(split_folders(root))
    if split:
        classes = [(FOLDERS[_named(top).lower()], folder) for top in tops for folder in _folders_in(top)]
    else:
        classes = [("", folder) for folder in tops]
    rows = [
        {"path": path.relative_to(root).as_posix(), "label": _named(folder), "split": split}
        for split, folder in classes
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix.lower() in SUFFIXES
    ]
    if not rows:
        raise InputError(
            f"no pictures found under {root}; allowed are a folder for each class with {', '.join(sorted(SUFFIXES))} "
            "files in it, or pictures with a labels.csv (columns path and label)"
        )
    for row in rows:
        if not row["label"]:
            raise InputError(f"the class of '{row['path']}' has no name; rename its folder")
        try:
            row["path"].encode()
        except UnicodeEncodeError:
            raise InputError(f"the file name {row['path']!a} is not in UTF-8; rename the file") from None
    frame = pd.DataFrame(rows)
    return frame if split else frame.drop(columns="split")


def classes_of(rows: pd.DataFrame, positive: str | None, smallest: int) -> list[str]:
    """The class names in order; of two, the positive one is last: as told, or the one with the higher targets."""
    counts = rows["label"].value_counts()
    if len(counts) < 2:
        raise InputError(f"all pictures have the label '{counts.index[0]}'; a classifier needs at least two classes")
    if counts.min() < smallest:
        raise InputError(
            f"class '{counts.idxmin()}' has {counts.min()} pictures, too few; add pictures until it has {smallest}, "
            "or merge it with another class"
        )
    classes = sorted(counts.index)
    if positive is not None and positive not in classes:
        raise InputError(f"prepare.positive is '{positive}', which is no class; the classes are {', '.join(classes)}")
    if len(classes) > 2:
        if "target" in rows:
            raise InputError(f"labels.csv has targets and {len(classes)} classes; targets are for two classes only")
        return classes
    if "target" in rows:
        means = rows.groupby("label")["target"].mean()
        positive = positive or str(means.idxmax())
        other = next(label for label in classes if label != positive)
        if means[positive] < means[other]:
            raise InputError(
                f"prepare.positive is '{positive}', with a mean target of {means[positive]:.3g}; that of '{other}' is "
                f"{means[other]:.3g}, and a target is the probability of the positive class: set prepare.positive to "
                "null, or turn the targets round (1 - target)"
            )
    return sorted(classes, key=lambda label: label == positive)


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assign_folds(rows: pd.DataFrame, val: float, fold: int, folds: int, seed: int) -> pd.Series:
    """The split of every row with one of so many folds as test split, and val drawn from the others; stratified by
    label, groups kept whole. Over all folds every row is in test once."""
    if "split" in rows and (rows["split"] != "").any():
        raise InputError(
            "prepare.folds divides all pictures anew, but these come with splits: leave them out, or folds"
        )
    groups = rows["group"].where(rows["group"] != "", rows["hash"]) if "group" in rows else rows["hash"]
    by_class = groups.groupby(rows["label"]).nunique()
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

    Identical pictures without a group count as one. Depends on the rows and the seed, not on their order. Where splits
    are given but none is val, val is taken from train, unless they are `frozen`: said by an earlier draw.
    """
    rows = rows.sort_values("path")
    given = _follow(rows, rows["split"]) if "split" in rows else pd.Series("", index=rows.index)
    shares = {"train": 1 - val - test, "val": val, "test": test}
    if (given != "").any() and not frozen:
        missing = [split for split in SPLITS if split not in set(given)]
        if "train" in missing:
            raise InputError("splits are given but no picture is in train; mark some as train, or give no splits")
        if missing:
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
    groups = rows["group"].where(rows["group"] != "", rows["hash"]) if "group" in rows else rows["hash"]
    free = given == ""
    totals = rows["label"].value_counts().sort_index()
    counts = pd.crosstab(groups[free], rows["label"][free]).sort_index().reindex(columns=totals.index, fill_value=0)
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
    return groups.map(chosen)


def only_new(known: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose picture is neither among the known ones nor twice in the rows; refused if labels contradict."""
    labelled = set(zip(known["hash"], known["label"], strict=True))
    names = {row.hash: f"the known picture {row.path} ({row.label})" for row in known.itertuples()}
    kept = []
    for row in rows.itertuples():
        if (row.hash, row.label) in labelled:
            continue
        if row.hash in names:
            raise InputError(
                f"the new picture {row.path} ({row.label}) is identical to {names[row.hash]}; correct one of the labels"
            )
        labelled.add((row.hash, row.label))
        names[row.hash] = f"the new picture {row.path} ({row.label})"
        kept.append(row.Index)
    return rows.loc[kept]


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


def complete(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The manifest: known columns in one order, slices between them, what was not given filled in."""
    group = rows.get("group", "")
    target = rows["target"] if "target" in rows else pd.Series(np.nan, rows.index)
    if len(classes) == 2 and "target" not in rows:
        target = rows["label"].eq(classes[1]).astype(float)
    order = ["path", "label", "target", "split", "group", *slices_of(rows), "hash"]
    return rows.assign(group=group, target=target)[order].reset_index(drop=True)


def read_manifest(table: Path) -> pd.DataFrame:
    """The manifest that was written to `table`; all is text but the target, which may be missing."""
    return read_table(table, ["target"])


def fingerprint(rows: pd.DataFrame) -> str:
    """SHA-256 over the pictures and what is said of them: two manifests with the same one are the same data."""
    return hashlib.sha256(csv_of(rows).encode()).hexdigest()


def warnings(rows: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """What is allowed in a manifest but makes results less trustworthy."""
    found = []
    if len(classes) == 2:
        positive, target = rows["label"] == classes[1], rows["target"]
        against = rows[(positive & (target < 0.5)) | (~positive & (target > 0.5))]
        first = [f"{row.path} ({row.label}, {row.target:g})" for row in against.head(3).itertuples()]
        if first:
            found.append(
                f"label and target contradict each other in {len(against)} of {len(rows)} pictures, such as "
                f"{', '.join(first)}: training follows the target, splits and scores follow the label"
            )
    copies = rows[rows["hash"].duplicated(keep=False)]
    across = copies.groupby("hash")["split"].nunique()
    if len(copies):
        found.append(f"{len(copies)} pictures have an identical twin")
    if (across > 1).any():
        found.append(f"{(across > 1).sum()} sets of identical pictures lie in more than one split: results flatter")
    labels = copies.groupby("hash")["label"].nunique()
    if (labels > 1).any():
        found.append(f"{(labels > 1).sum()} sets of identical pictures have different labels: correct them")
    names = pd.Series(classes, dtype=str)
    for _, same in names.groupby(names.str.casefold()):
        if len(same) > 1:
            found.append(f"the classes {', '.join(same)} differ only in case: if they are one, give them one name")
    grouped = rows[rows["group"] != ""]
    crossing = grouped.groupby("group")["split"].nunique()
    if (crossing > 1).any():
        found.append(f"{(crossing > 1).sum()} groups lie in more than one of the given splits: results flatter")
    return found


def targets_of(rows: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float32]:
    """Class probabilities (n, classes) to train on: of two classes the target is that of the last, else 0 or 1."""
    if len(classes) == 2 and rows["target"].notna().all():
        positive = rows["target"].to_numpy(dtype=np.float32)
        return np.stack([1 - positive, positive], axis=1)
    return np.eye(len(classes), dtype=np.float32)[labels_of(rows, classes)]


def labels_of(rows: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.int64]:
    """The number of each row's class."""
    number = {label: number for number, label in enumerate(classes)}
    return np.array([number[label] for label in rows["label"]], dtype=np.int64)
