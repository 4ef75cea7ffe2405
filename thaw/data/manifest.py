"""The manifest: one row per picture, with path, label, target, split, group, slices and content
hash.

Data come as class folders (`data/defective/1.png`, optionally under train/val/test) or as pictures
with a `labels.csv` (path, label; optional target, group, split; every further column is a slice).
In either, `splits.csv` (path, split) freezes the split of the pictures it names.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from thaw.data.pictures import SUFFIXES
from thaw.data.pixels import FORMATS
from thaw.errors import InputError, Refused

SPLITS = ("train", "val", "test")
FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
# Folders that operating systems and network storages create.
SYSTEM_FOLDERS = frozenset(
    {
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@tmp",
        "__macosx",
        "__pycache__",
        "lost+found",
        "system volume information",
    }
)
# File extensions of picture formats that thaw does not read.
_NOT_READ = """
    .arw .cr2 .cr3 .czi .dcm .dds .dib .dicom .dng .eps .exr .fit .fits .hdr .heic .heics .heif .hif .ico .jxl .jxr
    .mha .mhd .nd2 .nef .nii .npy .nrrd .orf .pcx .pdf .psd .qoi .raf .raw .rw2 .sgi .svg .svs .tga .vsi .xcf
"""
OTHER_FORMATS = frozenset(_NOT_READ.split())
HIDDEN = "hidden"
SYSTEM = "in a folder of the operating system or the storage"
NO_PICTURE = "not a picture by the ending of the name"
NOT_LISTED = "not named in labels.csv"
NO_CLASS = "in no class folder"
BESIDE = "beside the folders of the splits"
HARMLESS = (HIDDEN, SYSTEM, NO_PICTURE)
KNOWN = ("path", "label", "target", "split", "group", "hash")
PREDICTED = ("head_p_", "finetuned_p_")  # how the columns of evaluate's probabilities begin
RESERVED = ("hash", "head_prediction", "finetuned_prediction")
MOST_ALIKE = 3  # warnings about names that look alike


def read_folder(root: Path) -> pd.DataFrame:
    """The rows of `labels.csv`, or of the class folders under `root`, sorted by path."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; put your pictures there or run `thaw data` for the demo's")
    table, splits = root / "labels.csv", root / "splits.csv"
    rows = _read_table(table) if table.is_file() else _read_class_folders(root)
    rows = _freeze(rows, splits) if splits.is_file() else rows
    return rows.sort_values("path", ignore_index=True)


def _freeze(rows: pd.DataFrame, table: Path) -> pd.DataFrame:
    """The rows with the splits of `splits.csv`, which may move rows out of train but never out of
    val or test."""
    frozen = _read_csv(table, ("path", "split"))
    wrong = frozen[~frozen["split"].isin(SPLITS) | frozen["path"].duplicated()]
    if len(wrong):
        raise InputError(f"{table}: line {wrong.index[0] + 2} names a picture twice or no split; bring the file back")
    frozen_split = rows["path"].map(frozen.set_index("path")["split"]).fillna("")
    own = rows["split"] if "split" in rows else pd.Series("", rows.index)
    wrong = rows[(frozen_split != "") & own.isin(["val", "test"]) & (frozen_split != own)]
    if len(wrong):
        path, row = wrong.iloc[0]["path"], wrong.index[0]
        raise InputError(
            f"{path} is in {own[row]} by its folder or labels.csv and in {frozen_split[row]} by {table}; no picture "
            "changes its split by itself: correct one of them"
        )
    return rows.assign(split=frozen_split.where(frozen_split != "", own))


def groups_of(rows: pd.DataFrame) -> list[str] | None:
    """The group of each row of a manifest, for intervals; a picture without one is a group of its
    own. None if no picture has one."""
    groups = rows["group"].where(rows["group"] != "", rows["hash"])
    return groups.tolist() if (rows["group"] != "").any() else None


def slices_of(rows: pd.DataFrame) -> list[str]:
    """The names of the slice columns."""
    return [column for column in rows.columns if column not in KNOWN]


def csv_of(rows: pd.DataFrame, header: bool = True) -> str:
    """A table as CSV; `read_table` restores every cell, whatever it contains."""
    text = str(rows.to_csv(index=False, header=header, lineterminator="\n"))
    if "\r" in text:
        # Before Python 3.13 a lone \r is not quoted unless it is in the line terminator, but
        # readers end a row there.
        text = str(rows.to_csv(index=False, header=header, lineterminator="\r\n"))
        text = re.sub(r'("[^"]*")|\r\n', lambda match: match[1] or "\n", text)
    return text


def write_table(rows: pd.DataFrame, file: Path) -> None:
    """Write a table; `read_table` gives an equal one."""
    file.write_bytes(csv_of(rows).encode())


def read_table(source: Path | BinaryIO, numbers: Iterable[str] = ()) -> pd.DataFrame:
    """Read a table with every cell as text, except the columns `numbers`, in which an empty cell
    is NaN."""
    # Without a header, because pandas renames columns, and takes the first one as index if rows
    # are longer.
    rows = pd.read_csv(source, header=None, dtype=str, keep_default_na=False, encoding="utf-8")
    return _with_numbers(rows.iloc[1:].set_axis(list(rows.iloc[0]), axis=1).reset_index(drop=True), numbers)


def read_predictions(source: Path | BinaryIO) -> pd.DataFrame:
    """Read evaluate's predictions: every column is text except the probabilities."""
    rows = read_table(source)
    return _with_numbers(rows, [name for name in map(str, rows) if name.startswith(PREDICTED)])


def _with_numbers(rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    def numbers_of(column: pd.Series) -> pd.Series:
        try:
            return column.astype("int64")
        except ValueError:
            return column.replace("", "nan").astype("float64")

    return rows.assign(**{name: numbers_of(rows[name]) for name in columns})


def _read_csv(table: Path, needed: tuple[str, str]) -> pd.DataFrame:
    """Read a user's table: case and spaces in names of known columns do not matter, cells are
    stripped."""
    try:
        rows = read_table(table)
    except (ValueError, pd.errors.ParserError) as error:
        advice = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(f"{table} cannot be read as CSV: {' '.join(str(error).split())}{advice}") from None
    header = [str(name) or f"Unnamed: {number}" for number, name in enumerate(rows)]
    columns = [lower if (lower := name.strip().casefold()) in KNOWN else name for name in header]
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
                f"{table} has no column '{column}'; it needs {' and '.join(needed)}, with commas between, and has "
                f"{list(rows.columns)}"
            )
    return rows


def columns_of(table: Path) -> list[str]:
    """The columns of a labels.csv, in its order."""
    return list(_read_csv(table, ("path", "label")).columns)


def written_rows(table: Path) -> pd.DataFrame:
    """The rows of a labels.csv as they are written, right or wrong, with paths as `read_folder`
    gives them."""
    rows = _read_csv(table, ("path", "label"))
    return rows.assign(path=rows["path"].map(_posix))


def _posix(path: str) -> str:
    return path and Path(path).as_posix()


def line_of(table: Path, path: str) -> int:
    """The line of a picture in a labels.csv whose cells have one line each."""
    return _read_table(table)["path"].tolist().index(path) + 2


def _read_table(table: Path) -> pd.DataFrame:
    rows = _read_csv(table, ("path", "label"))
    if reserved := [name for name in map(str, rows) if name in RESERVED or name.startswith(PREDICTED)]:
        raise InputError(f"{table} has a column '{reserved[0]}', a name that thaw uses itself; rename it")
    if rows.empty:
        raise InputError(f"{table} has no rows; add one for each picture")
    rows["path"] = rows["path"].map(_posix)
    if "split" in rows:
        rows["split"] = rows["split"].str.lower()
    reasons: dict[str, str] = {}
    for wrong, why in _wrong_rows(rows):
        for row in rows[wrong].itertuples():
            reasons.setdefault(str(row.path), f"{table}{why(row)}")
    if reasons:
        raise Refused(reasons)
    if "split" in rows:
        rows["split"] = rows["split"].replace(FOLDERS)
    if "target" in rows:
        rows["target"] = pd.to_numeric(rows["target"])
    return rows


def _wrong_rows(rows: pd.DataFrame) -> Iterator[tuple[pd.Series, Callable[[Any], str]]]:
    """Which rows of a labels.csv are wrong, and the words for one of them, check by check."""
    paths = rows["path"]
    empty = (paths == "") | (rows["label"] == "")
    yield empty, lambda row: f": line {row.Index + 2} has an empty path or label; fill it in"
    outside = paths.map(lambda path: path.startswith("/") or ".." in Path(path).parts)
    yield outside, lambda row: f": path '{row.path}' leaves the data folder; paths start there"
    yield paths.duplicated(), lambda row: f" lists {row.path} twice; keep one row for each picture"
    if "split" in rows:
        unknown = ~rows["split"].isin([*FOLDERS, ""])
        yield unknown, lambda row: f": split '{row.split}' is unknown; allowed are train, val, test or empty"
    if "target" in rows:
        improbable = ~pd.to_numeric(rows["target"], errors="coerce").between(0, 1)
        yield improbable, lambda row: f": target '{row.target}' is not a probability; give a number from 0 to 1"


def is_picture(path: PurePath) -> bool:
    """Whether a file is treated as a picture, by its path relative to the data alone."""
    return is_visible(path) and path.suffix.lower() in SUFFIXES


def is_visible(path: PurePath) -> bool:
    """Whether a file, with its path from the data on, was put there by somebody, as far as its
    name tells."""
    return not _is_hidden(path) and not _is_system(path)


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_system(path: PurePath) -> bool:
    return any(part.casefold() in SYSTEM_FOLDERS for part in path.parts)


def left_out(root: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Every file under `root` that is neither a picture in `rows` nor a table: its relative path,
    and the reason."""
    tables = [name for name in ("labels.csv", "splits.csv") if (root / name).is_file()]
    used = {*rows["path"], *tables}
    files = [file.relative_to(root) for file in root.rglob("*") if file.is_file()]
    inner = {top.name for _, top in _split_folders(root)}
    reasons = {
        file.as_posix().encode("utf-8", "backslashreplace").decode(): _why_left_out(file, "labels.csv" in tables, inner)
        for file in files
        if file.as_posix() not in used
    }
    return pd.DataFrame(sorted(reasons.items()), columns=["path", "reason"], dtype=str)


def _why_left_out(file: PurePath, listed: bool, splits: set[str]) -> str:
    suffix = file.suffix.lower()
    if _is_system(file):
        return SYSTEM
    if _is_hidden(file):
        return HIDDEN
    if suffix in OTHER_FORMATS:
        return f"thaw does not read {suffix}: save it as PNG, TIFF or JPEG"
    if suffix not in SUFFIXES:
        return NO_PICTURE
    if listed:
        return NOT_LISTED
    return BESIDE if splits and file.parts[0] not in splits else NO_CLASS


def counted(values: pd.Series) -> str:
    """The values with their counts, the most frequent first."""
    counts = values.value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
    return ", ".join(f"{count} {value}" for value, count in counts.items())


def warnings_of_left_out(files: pd.DataFrame) -> list[str]:
    """What somebody may have meant to be used among the files that are left out."""
    suspicious = files[~files["reason"].isin(HARMLESS)]
    return [
        f"{len(paths)} picture{'s' * (len(paths) > 1)} left out, such as {paths.iloc[0]}: {reason}"
        for reason, paths in suspicious.groupby("reason", sort=True)["path"]
    ]


def _folders_in(root: Path) -> list[Path]:
    with os.scandir(root) as entries:  # does not ask for each of a hundred thousand pictures
        names = [entry.name for entry in entries if entry.is_dir() and is_visible(PurePath(entry.name))]
    return [root / name for name in sorted(names)]


def _named(folder: Path) -> str:
    return folder.name.strip()


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split under `root`; empty where folders are classes."""
    return dict(_split_folders(root))


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    """The folders that are splits: if train and another split have class folders, or if all
    folders with pictures are splits. A stray folder beside them does not turn them into classes."""
    tops = _folders_in(root)
    named = [(FOLDERS[name], top) for top in tops if (name := _named(top).lower()) in FOLDERS]
    several = {"train"} < {split for split, _ in named} and any(_folders_in(top) for _, top in named)
    others = (top for top in tops if _named(top).lower() not in FOLDERS)
    return named if several or not any(map(_has_picture, others)) else []


def _has_picture(folder: Path) -> bool:
    return any(file.is_file() and is_picture(file.relative_to(folder)) for file in folder.rglob("*"))


def _check_no_splits(classes: list[Path]) -> None:
    """Raise if folders that would be classes look like splits, or have splits inside."""
    for folder in classes:
        inner = [inside for inside in _folders_in(folder) if _has_picture(inside)]
        splits = {FOLDERS[name] for inside in inner if (name := _named(inside).lower()) in FOLDERS}
        if {"train"} < splits:
            raise InputError(
                f"the folder {folder} would be a class, but it holds the splits {' and '.join(sorted(splits))}; put "
                "splits on top (train/CLASS, test/CLASS), or use a labels.csv with a column split"
            )
        if len(inner) > 1 and FOLDERS.keys() & re.findall("[a-z]+", folder.name.lower()):
            others = ", ".join(other.name for other in classes if other != folder)
            raise InputError(
                f"the folder {folder} is named like a split and has folders of pictures inside, but beside it is "
                f"{others}, so it would be a class; name splits train, val and test and take other folders out, or "
                "use a labels.csv"
            )


def warnings_of_layout(root: Path, rows: pd.DataFrame) -> list[str]:
    """What about class folders may not be as it was meant."""
    if (root / "labels.csv").is_file():
        return []
    folders = [folder for _, folder in _class_folders(root)]
    empty = sorted({_named(folder) for folder in folders} - set(rows["label"]))
    messages = [f"the folder {name} holds no picture and is no class" for name in empty]
    inner = {tuple(_named(inside) for inside in _folders_in(folder)) for folder in folders}
    if len(inner) == 1 and len(names := inner.pop()) > 1 and len(folders) > 1:
        messages.append(
            f"all class folders have the same folders inside ({', '.join(names[:5])}): if those are the classes, "
            "move them up"
        )
    return messages


def _class_folders(root: Path) -> list[tuple[str, Path]]:
    """The split (empty: thaw decides) and the folder of each class."""
    if splits := _split_folders(root):
        return [(split, folder) for split, top in splits for folder in _folders_in(top)]
    return [("", folder) for folder in _folders_in(root)]


def _read_class_folders(root: Path) -> pd.DataFrame:
    classes = _class_folders(root)
    split = any(name for name, _ in classes)
    if not split:
        _check_no_splits([folder for _, folder in classes])
    rows = [
        {"path": path.relative_to(root).as_posix(), "label": _named(folder), "split": name}
        for name, folder in classes
        for path in sorted(folder.rglob("*"))
        if path.is_file() and is_picture(path.relative_to(root))
    ]
    if not rows:
        files = left_out(root, pd.DataFrame({"path": []}))
        counts = f" ({counted(files['reason'])})" if len(files) else ""
        raise InputError(
            f"no pictures found under {root}{counts}; allowed are a folder for each class with {', '.join(FORMATS)} "
            "files in it, or pictures with a labels.csv (columns path and label)"
        )
    if reasons := {row["path"]: why for row in rows if (why := _why_unnamed(**row))}:
        raise Refused(reasons)
    frame = pd.DataFrame(rows)
    return frame if split else frame.drop(columns="split")


def _why_unnamed(path: str, label: str, split: str) -> str:
    if not label:
        return f"the class of '{path}' has no name; rename its folder"
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"the file name {path!a} is not in UTF-8; rename the file"
    return ""


def classes_of(rows: pd.DataFrame, positive: str | None, smallest: int) -> list[str]:
    """The class names in order. Of two, the positive one is last: `positive`, or the one with the
    higher targets."""
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


def only_new(old: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with new pictures: without those in `old` and without duplicates. Contradicting
    labels are an error."""
    names: dict[str, dict[str, str]] = {}  # of the pictures of a content, by label
    for kind, pictures in (("known", old), ("new", rows)):
        for digest, label, path in zip(pictures["hash"], pictures["label"], pictures["path"], strict=True):
            names.setdefault(digest, {}).setdefault(label, f"the {kind} picture {path} ({label})")
    pairs = old["hash"] + " " + old["label"]
    new = rows[~(rows["hash"] + " " + rows["label"]).isin(pairs)]
    reasons = {
        path: f"the new picture {path} ({label}) is identical to {contradicting[0]}; correct one of the labels"
        for digest, label, path in zip(new["hash"], new["label"], new["path"], strict=True)
        if (contradicting := [name for other, name in names[digest].items() if other != label])
    }
    if reasons:
        raise Refused(reasons)
    return new.drop_duplicates("hash")


def complete(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """The manifest: known columns in a fixed order, slices between them, missing values filled
    in."""
    group = rows.get("group", "")
    target = rows["target"] if "target" in rows else pd.Series(np.nan, rows.index)
    if len(classes) == 2 and "target" not in rows:
        target = rows["label"].eq(classes[1]).astype(float)
    order = ["path", "label", "target", "split", "group", *slices_of(rows), "hash"]
    return rows.assign(group=group, target=target)[order].reset_index(drop=True)


def read_manifest(table: Path) -> pd.DataFrame:
    """Read a manifest: every column is text except target, which may be empty."""
    return read_table(table, ["target"])


def fingerprint(rows: pd.DataFrame) -> str:
    """SHA-256 of the manifest with the hashes of its pictures: equal fingerprints mean equal
    data."""
    return hashlib.sha256(csv_of(rows).encode()).hexdigest()


def warnings(rows: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """Warnings about data that make results less reliable."""
    messages = []
    if len(classes) == 2:
        positive, target = rows["label"] == classes[1], rows["target"]
        against = rows[(positive & (target < 0.5)) | (~positive & (target > 0.5))]
        first = [f"{row.path} ({row.label}, {row.target:g})" for row in against.head(3).itertuples()]
        if first:
            messages.append(
                f"label and target contradict each other in {len(against)} of {len(rows)} pictures, such as "
                f"{', '.join(first)}: training follows the target, splits and scores follow the label"
            )
    copies = rows[rows["hash"].duplicated(keep=False)]
    across = copies.groupby("hash")["split"].nunique()
    if len(copies):
        messages.append(f"{len(copies)} pictures have an identical twin")
    if (across > 1).any():
        messages.append(f"{(across > 1).sum()} sets of identical pictures lie in more than one split: results flatter")
    labels = copies.groupby("hash")["label"].nunique()
    if (labels > 1).any():
        messages.append(f"{(labels > 1).sum()} sets of identical pictures have different labels: correct them")
    shared = copies[copies["group"] != ""].groupby("hash")["group"].nunique()
    if (shared > 1).any():
        messages.append(
            f"{(shared > 1).sum()} sets of identical pictures lie in several groups: thaw keeps those together"
        )
    grouped = rows[rows["group"] != ""]
    for kind, names in (("classes", pd.Series(classes, dtype=str)), ("groups", pd.Series(grouped["group"].unique()))):
        alike = [same for _, same in names.groupby(names.map(_plain)) if len(same) > 1]
        messages += [
            f"the {kind} {', '.join(same)} look alike (case, spaces, forms of letters): if they are one, give them "
            "one name"
            for same in alike[:MOST_ALIKE]
        ]
    crossing = grouped.groupby("group")["split"].nunique()
    if (crossing > 1).any():
        messages.append(f"{(crossing > 1).sum()} groups lie in more than one of the given splits: results flatter")
    return messages


def _plain(name: str) -> str:
    """A name without what the eye does not see: case, spaces, and how Unicode composes its
    letters."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def targets_of(rows: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.float32]:
    """Class probabilities (n, classes) to train on: of two classes the target is that of the last,
    else 0 or 1."""
    if len(classes) == 2 and rows["target"].notna().all():
        positive = rows["target"].to_numpy(dtype=np.float32)
        return np.stack([1 - positive, positive], axis=1)
    return np.eye(len(classes), dtype=np.float32)[labels_of(rows, classes)]


def labels_of(rows: pd.DataFrame, classes: Sequence[str]) -> NDArray[np.int64]:
    """The number of each row's class."""
    number = {label: number for number, label in enumerate(classes)}
    return np.array([number[label] for label in rows["label"]], dtype=np.int64)
