"""add: new labelled pictures join the data in one step; pictures already there keep their split.

    thaw add PATH      pictures under PATH -> data/, data.dvc

Files are staged outside data/ first. Then a journal lists what is going to change; while it exists,
the next command undoes what was begun (`recover`). PATH is only read.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from thaw.errors import InputError, Refused
from thaw.project import pin, settings, workspace
from thaw.project.lock import only_retraining
from thaw.project.stage import OnLine, finish

if TYPE_CHECKING:
    import pandas as pd

REPLACED = ("data/labels.csv", "data/splits.csv", "data.dvc")


@dataclass(frozen=True)
class Added:
    """How many pictures are new, by split too, and how many were known; the paths of all."""

    new: int
    known: int
    splits: dict[str, int]
    paths: list[str] = field(default_factory=list)
    # files that look like pictures, and why they did not join
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        new = f"{self.new} new picture{'s' * (self.new > 1)} ({splits})" if self.new else "nothing new"
        return new + (f", {self.known} known already" if self.known else "")


def arrived(path: Path) -> bool:
    """Whether there is anything to add: a picture, or a labels.csv with rows.

    A link to a folder counts too, so that `add` can refuse it with a sentence.
    """
    entries = [entry for entry in path.rglob("*") if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    if any(entry.is_dir() and entry.is_symlink() for entry in entries):
        return True
    if not files:
        return False
    from thaw.data.manifest import is_picture

    table = path / "labels.csv"
    rows = table.read_bytes().strip().splitlines()[1:] if table.is_file() else []
    return bool(rows) or any(is_picture(file.relative_to(path)) for file in files)


def add(path: Path, new_classes: bool = False, on_line: OnLine = print, dry_run: bool = False) -> Added:
    """Add the pictures under `path` to the data, all or none, while holding the workspace."""
    with only_retraining("thaw add"):
        return add_held(path, new_classes, on_line, dry_run)


def add_held(path: Path, new_classes: bool = False, on_line: OnLine = print, dry_run: bool = False) -> Added:
    """`add` for a caller that holds the workspace. `Refused` names all pictures that cannot
    join."""
    from thaw.data import manifest, splits
    from thaw.data.parallel import gather, stream
    from thaw.data.pictures import open_picture
    from thaw.project.links import check_links

    recover()
    pin.check()  # else the new pin would take in every other difference too
    config = settings.read()
    data = workspace.data()
    _check_place(path, data)
    check_links(path, copied=True)
    with _data_at_fault():
        check_links(data)
    new = _read(path)
    left_out = manifest.left_out(path, new)
    for warning in manifest.warnings_of_left_out(left_out):
        on_line(f"warning: {warning}")
    if not workspace.has_content(data):
        finish("data", [sys.executable, "-m", "thaw.project.bring"], on_line)
    frozen = (data / "splits.csv").is_file()
    if config.prepare.folds and not frozen:
        raise InputError(
            f"prepare.folds is {config.prepare.folds}, which draws new splits for each fold, but an add freezes "
            "the splits of all pictures: set prepare.folds to null first"
        )
    if config.prepare.split_by and not frozen:
        raise InputError(
            f"prepare.split_by is '{config.prepare.split_by}', which draws the splits from that column, but an add "
            "freezes the splits of all pictures: set prepare.split_by and prepare.hold_out to null first"
        )
    with _data_at_fault():
        old = manifest.read_folder(data)
    _check_columns(new, old, path, data)

    def hash_of(file: Path) -> str:
        if not file.is_file():
            open_picture(file)  # raises with the reason
        return manifest.content_hash(file)

    def hash_if_readable(name: str) -> str:
        try:
            return manifest.content_hash(path / name)
        except OSError:
            return ""

    def why_unreadable(name: str) -> str:
        try:
            open_picture(path / name)
        except InputError as error:
            return str(error)
        return ""

    on_line(f"{len(new)} pictures in {path}, {len(old)} in data/")
    with ThreadPoolExecutor(config.resources.workers) as threads:
        old = old.assign(hash=gather(threads, hash_of, [data / name for name in old["path"]]))
        all_new = new.assign(hash=gather(threads, hash_if_readable, new["path"]))
        unknown = all_new.loc[~all_new["hash"].isin(old["hash"]), "path"]
        tried = zip(unknown, stream(threads, why_unreadable, unknown), strict=True)
        if unreadable := {name: why for name, why in tried if why}:
            others = len(unreadable) - 1
            raise Refused(unreadable, f" ({others} more pictures cannot be read)" if others else "")
    new = manifest.only_new(old, all_new)
    _check_classes(new, old, path, data, new_classes)

    rows = splits.join(old, new, config.prepare.val, config.prepare.test, config.prepare.seed, frozen)
    drawn = rows["split"].iloc[len(old) :]
    counts = {split: int((drawn == split).sum()) for split in manifest.SPLITS}
    meant = left_out[~left_out["reason"].isin(manifest.HARMLESS)]
    reasons = dict(zip(meant["path"], meant["reason"], strict=True))
    added = Added(len(new), len(all_new) - len(new), counts, list(all_new["path"]), reasons)
    if new.empty:
        return added
    classes = manifest.classes_of(rows, config.prepare.positive, 1)
    sources = [path / name for name in new["path"]]
    new = new.assign(path=_places(new, drawn, data))
    rows = rows.assign(path=[*old["path"], *new["path"]])
    if not dry_run:
        _change(sources, new, rows)
    try:
        manifest.classes_of(rows, config.prepare.positive, config.prepare.smallest_class)
        splits.check_splits(rows, classes)
    except InputError as mistake:
        on_line(f"warning: {mistake}")
    for warning in manifest.warnings(manifest.complete(rows, classes), classes):
        on_line(f"warning: {warning}")
    return added


def recover() -> None:
    """Undo an add that was killed half-way. The caller holds the workspace, so no dvc of it still
    runs."""
    scratch = _scratch()
    if journal().is_file():
        begun = json.loads(journal().read_text(encoding="utf-8"))
        for name in begun["files"]:
            (workspace.root() / name).unlink(missing_ok=True)
        for name in REPLACED:
            if name not in begun["kept"]:
                (workspace.root() / name).unlink(missing_ok=True)
            elif (scratch / "old" / name).is_file():  # else it was put back before
                (scratch / "old" / name).replace(workspace.root() / name)
        for name in reversed(begun["folders"]):
            with suppress(OSError):  # it was not made yet
                (workspace.root() / name).rmdir()
        journal().unlink()
    shutil.rmtree(scratch, ignore_errors=True)


def journal() -> Path:
    """The file that exists while an add is under way, or after one was killed."""
    return _scratch() / "journal.json"


def _scratch() -> Path:
    return workspace.root() / ".dvc" / "tmp" / "thaw-add"


def _check_place(path: Path, data: Path) -> None:
    if not path.is_dir():
        raise InputError(f"there is no folder {path}; name the folder with the new pictures")
    a, b = path.resolve(), data.resolve()
    if a.is_relative_to(b) or b.is_relative_to(a):
        raise InputError(f"one of {path} and data/ lies in the other; put the new pictures into a folder of their own")


def _read(path: Path) -> "pd.DataFrame":
    """The rows of the new pictures."""
    from thaw.data import manifest

    try:
        return manifest.read_folder(path)
    except Refused:
        raise
    except InputError as mistake:
        raise _all_refused(path, str(mistake)) from None


@contextmanager
def _data_at_fault() -> Iterator[None]:
    """Turn `Refused` about the data that are there into a plain error: the new pictures are not at
    fault."""
    try:
        yield
    except Refused as mistake:
        raise InputError(str(mistake)) from None


def _all_refused(path: Path, why: str) -> Refused:
    """The error for all files, if the table is missing or wrong."""
    from thaw.data.manifest import is_visible

    files = [file.relative_to(path) for file in path.rglob("*") if file.is_file()]
    return Refused({file.as_posix(): why for file in files if is_visible(file)} or {"": why})


def _check_columns(new: "pd.DataFrame", old: "pd.DataFrame", path: Path, data: Path) -> None:
    """Raise unless the new pictures have the same columns as the data."""
    new_columns, old_columns = (set(rows.columns) - {"path", "label", "split"} for rows in (new, old))
    if missing := sorted(old_columns - new_columns):
        raise _all_refused(
            path,
            f"{path} lacks the columns {', '.join(missing)} that data/labels.csv has; "
            f"give it a labels.csv with the columns {', '.join(['path', 'label', *sorted(old_columns)])}",
        )
    if unknown := sorted(new_columns - old_columns):
        place = "data/labels.csv lacks" if (data / "labels.csv").is_file() else "class folders have no place for"
        raise _all_refused(
            path, f"{path}/labels.csv has the columns {', '.join(unknown)}, which {place}; take them out"
        )


def _check_classes(new: "pd.DataFrame", old: "pd.DataFrame", path: Path, data: Path, new_classes: bool) -> None:
    from thaw.data.manifest import SYSTEM_FOLDERS, is_picture
    from thaw.data.pictures import SUFFIXES

    unknown = new[~new["label"].isin(old["label"])]
    known = ", ".join(sorted(old["label"].unique()))
    if len(unknown) and not new_classes:
        raise Refused(
            {
                name: f"{path / name} has the label '{label}', which is not a class yet; the classes are {known}: "
                "correct it, or allow new ones with `--new-classes`"
                for name, label in zip(unknown["path"], unknown["label"], strict=True)
            }
        )
    if (data / "labels.csv").is_file():
        return
    nameless = {
        name: f"the new class '{label}' cannot be the name of a folder in data/; choose another name"
        for name, label in zip(unknown["path"], unknown["label"], strict=True)
        if label != Path(label).name or label.startswith(".") or label.casefold() in SYSTEM_FOLDERS
    }
    unseen = {
        name: f"{path / name} would not be found in a class folder; give it a name that does not begin with a dot, "
        f"and one of the endings {', '.join(sorted(SUFFIXES))}"
        for name in new["path"]
        if not is_picture(PurePosixPath(PurePosixPath(name).name))
    }
    if reasons := nameless | unseen:
        raise Refused(reasons)


def _places(new: "pd.DataFrame", splits: "pd.Series", data: Path) -> list[str]:
    """The path of each new picture relative to data/, in its layout; a name that is taken gets a
    hash."""
    from thaw.data import manifest

    table = (data / "labels.csv").is_file()
    folders = {} if table else manifest.split_folders(data)
    places: list[str] = []
    used: set[str] = set()
    for path, label, digest, split in zip(new["path"], new["label"], new["hash"], splits, strict=True):
        place = PurePosixPath(path if table else f"{label}/{Path(path).name}")
        if folders:  # a split without a folder of its own is part of train
            place = folders.get(split, folders.get("train", data / "train")).name / place
        names = chain([place], (place.with_stem(f"{place.stem}-{digest[:length]}") for length in range(8, 65)))
        name = next(str(name) for name in names if str(name) not in used and not (data / name).exists())
        used.add(name)
        places.append(name)
    return places


def _change(sources: list[Path], new: "pd.DataFrame", rows: "pd.DataFrame") -> None:
    """Copy pictures and their rows into the data, all or nothing."""
    try:
        _move(_stage(sources, new, rows))
        _check_read_back(rows)
        pin.write("add")
        journal().unlink()  # committed: nothing is undone from here on
    except OSError as error:
        raise InputError(f"data/ cannot take the new pictures ({error}); nothing was changed") from error
    finally:
        recover()


def _stage(sources: list[Path], new: "pd.DataFrame", rows: "pd.DataFrame") -> list[str]:
    """Stage all new files of data/, complete and checked; returns their paths."""
    from thaw.data import manifest

    staged, table = _scratch() / "new" / "data", workspace.data() / "labels.csv"
    for source, name, digest in zip(sources, new["path"], new["hash"], strict=True):
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, staged / name)
        if manifest.content_hash(staged / name) != digest:
            raise InputError(f"{source} changed while it was read; add it when it is complete")
    manifest.write_table(rows.sort_values("path")[["path", "split"]], staged / "splits.csv")
    if table.is_file():
        before = table.read_bytes()
        columns = manifest.columns_of(table)
        lines = manifest.csv_of(new.reindex(columns=columns, fill_value=""), header=False)
        end = b"" if before.endswith(b"\n") else b"\n"
        (staged / "labels.csv").write_bytes(before + end + lines.encode())
    return sorted(path.relative_to(_scratch() / "new").as_posix() for path in staged.rglob("*") if path.is_file())


def _move(files: list[str]) -> None:
    """Write the journal, then move the staged files to their places."""
    root, scratch = workspace.root(), _scratch()
    backed_up = [name for name in REPLACED if (root / name).is_file()]
    for name in backed_up:
        (scratch / "old" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, scratch / "old" / name)
    parents = {parent for name in files for parent in PurePosixPath(name).parents}
    folders = sorted(str(parent) for parent in parents if not (root / parent).exists())
    begun = {"files": [name for name in files if name not in REPLACED], "folders": folders, "kept": backed_up}
    (scratch / "partial.json").write_text(json.dumps(begun), encoding="utf-8")
    (scratch / "partial.json").replace(journal())
    for name in folders:
        (root / name).mkdir()
    for name in files:
        (scratch / "new" / name).replace(root / name)


def _check_read_back(rows: "pd.DataFrame") -> None:
    from thaw.data import manifest

    columns = ["path", "label", "split"]
    written = manifest.read_folder(workspace.data())[columns]
    assert written.to_numpy().tolist() == rows.sort_values("path")[columns].to_numpy().tolist(), "data/ is not as meant"
