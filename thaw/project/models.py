"""Find a model by name: `prod`, a version such as v2.0.0, the folder of a package, or an exported
file.

`prod` and versions belong to a project; a folder or a file works anywhere.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from thaw.errors import InputError
from thaw.project import registry, settings, start, withdraw, workspace
from thaw.project.git import contents, dvc
from thaw.project.registry import Version
from thaw.project.stage import run
from thaw.statistics import records

if TYPE_CHECKING:
    from thaw.model.model import Model

ONNX = ".onnx"
MANIFEST = "artifacts/prepare/manifest.csv"


def load(name: str = "prod", device: str = "auto", workers: int = 2, views: str | None = None) -> "Model":
    """The model of that name; `thaw.load` says what each argument may be."""
    from thaw.model.model import Model

    if name.lower().endswith(ONNX):
        from thaw.model import onnx

        return onnx.load(Path(name), device, workers, views)
    with folder_of(name) as folder:
        return Model.load(folder, device, workers, views)


def meant(name: str) -> str:
    """The name with prod resolved to the version in use."""
    return _version(name).name if name == registry.STAGE else name


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """The folder of the package of that name, while the block lasts."""
    if start.is_model(name):
        with _package_of(_version(name)) as folder:
            yield folder
        return
    folder = Path(name)
    if folder.is_file() and name.lower().endswith(ONNX):
        raise InputError(f"{name} is an export, and the model itself is needed: name the folder of its package")
    if not folder.is_dir():
        raise InputError(
            f"there is no model '{name}'; name {registry.STAGE} (the model in use) or a version such as v2.0.0 of this "
            f"project, the folder of a package, or a file {ONNX}"
        )
    yield folder


@contextmanager
def files(version: Version) -> Iterator[Path]:
    """The files of a version's model, from DVC's cache or remote, while the block lasts."""
    with tempfile.TemporaryDirectory(prefix=f"{version.name}-", dir=_scratch()) as scratch:
        folder = Path(scratch, "model")
        lines = _get(version, version.path, folder)
        if lines and not withdraw.is_reproducible(version.name):
            lines = _get_without_features(version, folder, lines)
        if lines:
            errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
            why = errors[0] if errors else "no reason given"
            raise InputError(
                f"the files of {version.name} are neither in DVC's cache nor in its remote ({why}); bring them "
                "with `dvc fetch --all-tags`, or put another model in use with `thaw promote VERSION`"
            )
        yield folder


def get(version: Version, path: str, out: Path) -> bool:
    """Bring a file as it was at a version's commit; returns whether DVC could."""
    return not _get(version, path, out)


def _get(version: Version, path: str, out: Path) -> list[str]:
    """Run `dvc get`; returns what it printed if it failed, else nothing."""
    lines: list[str] = []
    return lines if run(dvc("get", ".", path, "--rev", version.commit, "--out", str(out)), lines.append) else []


def _get_without_features(version: Version, folder: Path, lines: list[str]) -> list[str]:
    """Bring a model that lost its features of training pictures to `thaw remove --purge`; returns
    what DVC printed if it failed, or `lines` if the model never had such features."""
    outs = registry.hashes(contents([f"{version.commit}:./dvc.lock"])[0])
    if withdraw.UNLIKE not in outs:
        return lines
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = [Path(path).name for path in outs if path.startswith(f"{version.path}/") and path != withdraw.UNLIKE]
    return [line for name in names for line in _get(version, f"{version.path}/{name}", folder / name)]


def _version(name: str) -> Version:
    """The version of that name, or the one in use."""
    if workspace.find(Path.cwd()) is None:
        raise InputError(
            f"'{name}' is a version of a project, and {Path.cwd()} is in none: name the folder of a package or a file "
            f"{ONNX} with --model, or go into the project"
        )
    if name != registry.STAGE:
        return registry.find(name)
    versions = registry.versions()
    version = registry.in_use(versions)
    if version is None:
        raise InputError(
            "no model is in use yet: `thaw promote VERSION` puts one in use; --model artifacts/package is the one that "
            "was trained last"
            if versions
            else registry.FIRST
        )
    return version


@contextmanager
def _package_of(version: Version) -> Iterator[Path]:
    """The package of a version: the workspace's own if it is the same model, else from DVC."""
    from thaw.model import package

    current = workspace.root() / version.path
    if _is_package(current) and package.identity(current) == version.model:
        yield current
        return
    with files(version) as folder:
        yield folder if (folder / registry.IDENTITY).is_file() else _make_package(folder, version)


def _is_package(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("meta.json", "weights.safetensors", registry.IDENTITY))


def _make_package(network: Path, version: Version) -> Path:
    """Make a package for a version from before there were packages, in a folder beside its
    network."""
    from thaw.learning import checkpoint
    from thaw.model import package

    details = network.parent / "details.json"
    metrics, params = contents(
        [f"{version.commit}:./{path}" for path in ("artifacts/evaluate/metrics.json", "params.yaml")]
    )
    get(version, "artifacts/evaluate/details.json", details)
    figures = records.joined(
        json.loads(metrics or "{}"), json.loads(details.read_text(encoding="utf-8")) if details.is_file() else {}
    )
    views = (YAML(typ="safe").load(params) or {}).get("evaluate", {}).get("views")
    if "temperature" not in figures.get("finetuned", {}) or views is None:
        raise InputError(f"{version.name} is from before thaw noted how to use a model: train and record a new one")
    sure = settings.read().package.sure
    meta = package.meta_of(checkpoint.read_meta(network), figures, [], [], views=views, sure=sure, versions={})
    package.write(network.parent / "package", network, None, meta, f"# {version.name}\n")
    return network.parent / "package"


def bring_start(name: str) -> str:
    """Bring the files of a version to where a training that starts from it expects them; returns
    the identity of its model."""
    versions = registry.versions()
    version = _version(name)
    target = start.folder(version.model)
    if not target.is_dir():
        with folder_of(version.name) as folder, tempfile.TemporaryDirectory(dir=_scratch()) as scratch:
            copy = Path(scratch, "start")
            shutil.copytree(folder, copy)
            for ancestor in _ancestors(version, versions):
                if not get(ancestor, MANIFEST, copy / start.LEARNED.replace("*", ancestor.name)):
                    raise InputError(
                        f"backbone.weights is {name}, and the list of pictures that {ancestor.name} learned from is "
                        "not available, so they may be in today's test split: bring it with `dvc fetch --all-tags`"
                    )
            target.parent.mkdir(parents=True, exist_ok=True)
            copy.rename(target)
    return version.model


def _ancestors(version: Version, versions: list[Version]) -> Iterator[Version]:
    """A version, the one that its training started from, and so on."""
    seen: set[str] = set()
    current: Version | None = version
    while current and current.name not in seen:
        yield current
        seen.add(current.name)
        weights = (YAML(typ="safe").load(contents([f"{current.commit}:./thaw.yaml"])[0]) or {}).get("weights")
        current = registry.version_of(weights, versions) if weights else None


def _scratch() -> Path:
    parent = workspace.scratch()
    parent.mkdir(parents=True, exist_ok=True)
    return parent
