"""withdraw: take pictures out of the data, list what still holds them, and with `purge` delete
them there.

    thaw remove PATHS…  |  --where patient=17   [--purge]

A picture is its content: identical files go together, and their hash is what is searched for. A
journal lets the next command finish a removal that was killed.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from thaw.errors import InputError
from thaw.project import clean, experiment, pin, registry, settings, workspace
from thaw.project.git import contents, git
from thaw.project.heal import cache_folder, members, place
from thaw.project.journal import Journal, replace
from thaw.project.lock import only_retraining
from thaw.project.stage import OnLine, StageError, ask

if TYPE_CHECKING:
    import pandas as pd

JOURNAL = Journal("withdrawal")
REMOVED = ".thaw/removed.json"  # hashes of purged pictures, and the versions that lost data
DERIVED = ("artifacts/prepare", "artifacts/embed", "artifacts/report")  # made from pictures
UNLIKE = "artifacts/package/unlike.safetensors"  # features of training pictures only
AWAY = "the DVC remote does not answer, or nothing was ever sent there"
MANIFEST = "artifacts/prepare/manifest.csv"  # says what a model learned from
SHOWN = ("artifacts/promotion", "artifacts/studies")  # pages that DVC does not track


@dataclass(frozen=True)
class Picture:
    """A picture to remove: its path in data/, its hash in DVC, and its hash in the manifest."""

    path: str
    md5: str
    sha256: str


@dataclass(frozen=True)
class Holder:
    """A version, record or branch that holds such pictures; `learned` counts those that its model
    learned from."""

    name: str
    pictures: int
    learned: int | None

    def __str__(self) -> str:
        unknown = "whether its model learned from them is not known"
        learned = unknown if self.learned is None else f"its model learned from {self.learned}"
        return f"{self.name} holds {self.pictures} of them, {learned}"


def select(paths: Iterable[str], where: str | None) -> list[Picture]:
    """The pictures that the paths or COLUMN=VALUE select, with all identical ones."""
    from thaw.data.manifest import content_hash, read_folder

    data = workspace.data()
    rows = read_folder(data)
    rows = rows.assign(sha256=[content_hash(data / path) for path in rows["path"]])
    named = _named(rows, list(paths), where)
    if len(named) == len(rows):
        raise InputError("that is every picture of data/; nothing would be left to train on")
    equal = rows[rows["sha256"].isin(named["sha256"])]
    return [
        Picture(path, _md5(data / path), digest) for path, digest in zip(equal["path"], equal["sha256"], strict=True)
    ]


def _named(rows: "pd.DataFrame", paths: list[str], where: str | None) -> "pd.DataFrame":
    if bool(paths) == bool(where):
        raise InputError("say which pictures: paths in data/ (of pictures or folders), or --where COLUMN=VALUE")
    if where:
        column, equals, value = where.partition("=")
        columns = [name for name in rows.columns if name not in ("path", "sha256")]
        if not equals or column not in columns:
            raise InputError(f"--where is '{where}'; write COLUMN=VALUE with one of the columns {', '.join(columns)}")
        selected = rows[rows[column].astype(str) == value]
        if selected.empty:
            raise InputError(
                f"no picture has {column} '{value}'; there are {', '.join(sorted(set(rows[column]))[:10])}"
            )
        return selected
    parts = []
    for path in paths:
        name = path.removeprefix("./").removeprefix("data/").rstrip("/")
        selected = rows[(rows["path"] == name) | rows["path"].str.startswith(f"{name}/")]
        if selected.empty:
            raise InputError(f"'{path}' is no picture of data/ and no folder with some; one is {rows['path'].iloc[0]}")
        parts.append(selected)
    import pandas as pd

    return pd.concat(parts).drop_duplicates("path")


def holders(pictures: list[Picture]) -> list[Holder]:
    """Versions, records and branches whose data hold some of the pictures, if the cache has their
    lists."""
    cache, md5 = cache_folder(), {picture.md5 for picture in pictures}
    names = {version.commit: version.name for version in registry.versions()}
    for line in git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps/*/*/*", "refs/heads").splitlines():
        commit, name = line.split(" ", 1)
        names.setdefault(commit, f"the {'branch' if 'heads' in name else 'record'} {name.rsplit('/', 1)[-1]}")
    texts = contents([f"{commit}:./{file}" for commit in names for file in ("data.dvc", "dvc.lock")])
    result: list[Holder] = []
    for name, pinned, lock in zip(names.values(), texts[::2], texts[1::2], strict=True):
        held = [member for member in members(cache, registry.hashes(pinned).get("data", "")) if member[1] in md5]
        if held:
            result.append(Holder(name, len(held), _learned(_manifest(cache, registry.hashes(lock)), pictures)))
    return result


def places(pictures: list[Picture]) -> Iterator[str]:
    """Sentences on where else the pictures are: DVC's cache and remote, what arrived and its
    archive."""
    cache, md5 = cache_folder(), {picture.md5 for picture in pictures}
    held_in = {
        "DVC's cache": {digest for digest in md5 if place(cache, digest).is_file()},
        "the archive": {_md5(file) for file in _archived(md5)},
    }
    if experiment.has_remote():
        sent = _asked("--look", md5)
        if sent is None:
            yield f"{AWAY}, so what it holds is not known"
        held_in["the DVC remote"] = sent or set()
    for name, digests in held_in.items():
        if held := sum(picture.md5 in digests for picture in pictures):
            yield f"{name} holds {held} of them"


def bring_lists() -> None:
    """Bring what the cache lacks of the lists of folders, and of manifests, from the remote: they
    say what earlier states hold."""
    if not experiment.has_remote():
        return
    cache = cache_folder()
    for _ in range(2):  # a manifest is known once the list of its folder is there
        known = [_objects(cache, outs) for outs in clean.states()]
        lists = {digest for objects in known for digest in objects.values() if digest.endswith(".dir")}
        manifests = {objects[MANIFEST] for objects in known if MANIFEST in objects}
        if lacking := {digest for digest in lists | manifests if not place(cache, digest).is_file()}:
            _asked("--bring", lacking)


def _asked(option: str, md5: set[str]) -> set[str] | None:
    """Which of these the DVC remote has; None if it does not answer, or is not where it should be."""
    try:
        there = ask("remove", "thaw.project.unsend", option, *sorted(md5), on_line=lambda line: None)
    except StageError:
        return None
    return None if there is None else set(there)


def _archived(md5: set[str]) -> list[Path]:
    """The files with such contents in the archive and among what arrived."""
    retrain = settings.read().retrain
    folders = {workspace.root() / name for name in (retrain.archive, retrain.incoming) if name}
    return [file for folder in folders for file in folder.rglob("*") if file.is_file() and _md5(file) in md5]


def _manifest(cache: Path, outs: dict[str, str]) -> "pd.DataFrame | None":
    """The manifest of a state, if the cache has it."""
    from thaw.data.manifest import read_manifest

    folder, name = MANIFEST.rsplit("/", 1)
    file = place(cache, dict(members(cache, outs.get(folder, ""))).get(name, ""))
    return read_manifest(file) if file.is_file() else None


def _learned(rows: "pd.DataFrame | None", pictures: list[Picture]) -> int | None:
    if rows is None:
        return None
    ours = rows["hash"].isin([picture.sha256 for picture in pictures])
    return int((ours & (rows["split"] != "test")).sum())


def withdraw(
    pictures: list[Picture],
    purge: bool,
    on_line: OnLine = print,
    forget: Callable[[list[str]], None] = lambda hashes: None,
) -> list[str]:
    """Take pictures out of the data, with `purge` from everywhere; returns sentences on what was
    done.

    `forget` takes data versions out of the UI. It comes first, because whoever ends a removal that
    was killed knows no server.
    """
    with only_retraining("thaw remove"):
        pin.check()
        if purge and experiment.has_remote() and _asked("--look", set()) is None:
            raise InputError(f"{AWAY}: --purge needs it (`dvc push` makes a new one)")
        if purge:
            forget(_data_hashes(pictures))
        names = [picture.path for picture in pictures]
        JOURNAL.begin(paths=names, md5=[picture.md5 for picture in pictures], purge=purge)
        return finish(on_line)


def finish(on_line: OnLine = print) -> list[str]:
    """Finish a removal that was begun, if there is one. The caller holds the workspace."""
    begun = JOURNAL.read()
    if not begun:
        return []
    data = workspace.data()
    _drop_rows(set(begun["paths"]))
    for name in begun["paths"]:
        (data / name).unlink(missing_ok=True)
    pin.write("remove")
    sentences = [f"{len(begun['paths'])} pictures are out of data/; data.dvc pins the rest"]
    if begun["purge"]:
        sentences += _purge(set(begun["md5"]), on_line)
    JOURNAL.end()
    return sentences


def _drop_rows(paths: set[str]) -> None:
    from thaw.data.manifest import csv_of, read_table

    for name in ("labels.csv", "splits.csv"):
        table = workspace.data() / name
        if table.is_file():
            rows = read_table(table)
            names = rows["path"].map(lambda path: PurePosixPath(path).as_posix())
            replace(table, csv_of(rows[~names.isin(paths)]).encode())


def _purge(md5: set[str], on_line: OnLine) -> list[str]:
    """Delete pictures and what was made from them: in the workspace, DVC's cache and remote, the
    archive."""
    cache = cache_folder()
    affected, others = _states(cache, md5)
    kept = {digest for outs in others for digest in _objects(cache, outs).values()}
    derived: set[str] = set()
    for outs in affected:
        objects = _objects(cache, outs)
        made = _derived({*objects}, _may_be_trained_on(cache, outs, md5))
        derived |= {objects[path] for path in made}
        kept |= {objects[path] for path in objects.keys() - made}
    gone = md5 | (derived - kept)
    note = _noted()
    versions = _versions_of(affected)
    without_features = _versions_of([outs for outs in affected if outs.get(UNLIKE) in gone])
    note = {key: sorted({*note.get(key, []), *news}) for key, news in (("md5", md5), ("versions", versions))}
    replace(workspace.root() / REMOVED, (json.dumps(note, indent=2) + "\n").encode())
    sent = ask("remove", "thaw.project.unsend", *sorted(gone), on_line=on_line) if experiment.has_remote() else []
    if sent is None:
        raise InputError(f"{AWAY}: what is to be removed there waits for it")
    # lists of folders go last: whoever ends this after a kill reads in them what else has to go
    freed = sum(_delete(place(cache, digest)) for digest in sorted(gone, key=lambda digest: digest.endswith(".dir")))
    for output in (*DERIVED, *SHOWN):
        shutil.rmtree(workspace.root() / output, ignore_errors=True)
    if (features := workspace.root() / UNLIKE).is_file() and _md5(features) in gone:
        _delete(features)
    for file in workspace.scratch().rglob("*"):
        # journals stay; kept activations and the like go
        if file.is_file() and file.suffix != ".json":
            _delete(file)
    archived = _archived(md5)
    for file in archived:
        _delete(file)
    sentences = [f"{freed} objects went from DVC's cache, {len(archived)} files from the archive"]
    if sent:
        sentences.append(f"{len(sent)} objects went from the DVC remote")
    if versions:
        sentences.append(
            f"{', '.join(sorted(versions))} cannot be reproduced any more; {REMOVED} says so: commit it with data.dvc"
        )
    if without_features:
        sentences.append(
            f"the features of training pictures went from the packages of {', '.join(sorted(without_features))}, which "
            "predict as before, but no longer say `unlike`: train and promote a new model"
        )
    return sentences


def is_reproducible(version: str) -> bool:
    """Whether no picture of a version was purged."""
    return version not in _noted().get("versions", [])


def _data_hashes(pictures: list[Picture]) -> list[str]:
    """The short hashes of the data versions that hold some of the pictures, as in tags of flow
    runs."""
    affected, _ = _states(cache_folder(), {picture.md5 for picture in pictures})
    return sorted(_data_of(affected))


def _noted() -> dict[str, list[str]]:
    file = workspace.root() / REMOVED
    values: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return values


def _states(cache: Path, md5: set[str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Split the states (see `clean.states`) into those that may hold some of the pictures and the
    rest.

    A state whose data cannot be listed may hold some.
    """
    affected: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    for outs in clean.states():
        data = outs.get("data", "")
        listed = {digest for _, digest in members(cache, data)}
        (affected if listed & md5 or (data and not listed) else others).append(outs)
    return affected, others


def _derived(paths: set[str], is_trained_on: bool) -> set[str]:
    """Those of a state's files and folders that are made from the pictures.

    A manifest stays, with the list of its folder: it says what a model learned from.
    """
    stays = {MANIFEST, PurePosixPath(MANIFEST).parent.as_posix()} if MANIFEST in paths else set()
    made = {path for path in paths if any(PurePosixPath(path).is_relative_to(folder) for folder in DERIVED)}
    return made - stays | (paths & {UNLIKE} if is_trained_on else set())


def _may_be_trained_on(cache: Path, outs: dict[str, str], md5: set[str]) -> bool:
    """Whether the model of a state may have been trained on some of the pictures."""
    paths = [path for path, digest in members(cache, outs.get("data", "")) if digest in md5]
    rows = _manifest(cache, outs)
    return not paths or rows is None or bool((rows["path"].isin(paths) & (rows["split"] == "train")).any())


def _versions_of(states: list[dict[str, str]]) -> set[str]:
    data = _data_of(states)
    return {version.name for version in registry.versions() if version.data in data}


def _data_of(states: list[dict[str, str]]) -> set[str]:
    return {outs["data"][:7] for outs in states if outs.get("data")}


def _objects(cache: Path, outs: dict[str, str]) -> dict[str, str]:
    """The hashes of a state by path: of its outputs, and of the files in those that are folders."""
    inside = {f"{output}/{name}": md5 for output, digest in outs.items() for name, md5 in members(cache, digest)}
    return outs | inside


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def _delete(file: Path) -> bool:
    existed = file.is_file()
    file.unlink(missing_ok=True)
    return existed
