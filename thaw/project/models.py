"""Which model is meant: `prod`, a version such as v2.0.0, the folder of a package, or an exported
file.

A version is known to the project; a folder or a file needs none.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML

from thaw.errors import InputError
from thaw.project import registry, settings, start, workspace
from thaw.project.git import contents, dvc
from thaw.project.registry import Version
from thaw.project.stage import run
from thaw.statistics import records

if TYPE_CHECKING:
    from thaw.model.model import Model

VERSION = re.compile(r"v?\d+\.\d+\.\d+")
ONNX = ".onnx"
MANIFEST = "artifacts/prepare/manifest.csv"


def load(name: str = "prod", device: str = "auto", workers: int = 2, views: str | None = None) -> "Model":
    """The model of that name, in memory.

    Args:
        name: prod (the model in use), a version such as v2.0.0, the folder of a package, or an
            exported file.
        device: auto, cpu, cuda or mps.
        workers: threads that decode pictures.
        views: none, flip, flips or square; None: as evaluate took them.
    """
    from thaw.model.model import Model

    if name.lower().endswith(ONNX):
        from thaw.model import onnx

        return onnx.load(Path(name), device, workers, views)
    with folder_of(name) as folder:
        return Model.load(folder, device, workers, views)


def meant(name: str) -> str:
    """The version that is in use now, for prod; any other name as it is."""
    return _version(name).name if name == registry.STAGE else name


@contextmanager
def folder_of(name: str) -> Iterator[Path]:
    """The folder of the package of that name, for as long as the block lasts."""
    if name == registry.STAGE or VERSION.fullmatch(name):
        with _package_of(_version(name)) as folder:
            yield folder
        return
    folder = Path(name)
    if not folder.is_dir():
        raise InputError(
            f"there is no model '{name}'; name {registry.STAGE} (the model in use) or a version such as v2.0.0 of this "
            f"project, the folder of a package, or a file {ONNX}"
        )
    yield folder


@contextmanager
def files(version: Version) -> Iterator[Path]:
    """What lies at the path of a version's model, from DVC's cache or remote, for as long as the
    block lasts."""
    with tempfile.TemporaryDirectory(prefix=f"{version.name}-", dir=_scratch()) as place:
        folder = Path(place, "model")
        if lines := _get(version, version.path, folder):
            why = next(
                (line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), "no reason given"
            )
            raise InputError(
                f"the files of {version.name} are neither in DVC's cache nor in its remote ({why}); bring them "
                "with `dvc fetch --all-tags`, or put another model in use with `thaw promote VERSION`"
            )
        yield folder


def get(version: Version, path: str, out: Path) -> bool:
    """Bring a file of a version's commit, where it is to be had; whether it is."""
    return not _get(version, path, out)


def _get(version: Version, path: str, out: Path) -> list[str]:
    """What DVC says where it cannot bring something."""
    lines: list[str] = []
    return lines if run(dvc("get", ".", path, "--rev", version.commit, "--out", str(out)), lines.append) else []


def _version(name: str) -> Version:
    """The version of that name, or the one in use."""
    if workspace.find(Path.cwd()) is None:
        raise InputError(
            f"'{name}' is a version of a project, and {Path.cwd()} is in none: name the folder of a package or a file "
            f"{ONNX} with --model, or go into the project"
        )
    if name != registry.STAGE:
        return registry.find(name)
    known = registry.versions()
    version = registry.in_use(known)
    if version is None:
        raise InputError(
            "no model is in use yet: `thaw promote VERSION` puts one in use; --model artifacts/package is the one that "
            "was trained last"
            if known
            else registry.FIRST
        )
    return version


@contextmanager
def _package_of(version: Version) -> Iterator[Path]:
    """The package of a version: what lies in the workspace if it is that, else from DVC."""
    from thaw.model import package

    here = workspace.ROOT / version.path
    if _is_whole(here) and package.identity(here) == version.model:
        yield here
        return
    with files(version) as folder:
        yield folder if (folder / registry.IDENTITY).is_file() else _made_of(folder, version)


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("meta.json", "weights.safetensors", registry.IDENTITY))


def _made_of(network: Path, version: Version) -> Path:
    """A package of the network of a version from before there were packages, beside it."""
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
    sure = settings.read(workspace.ROOT / "params.yaml").package.sure
    meta = package.meta_of(checkpoint.read_meta(network), figures, [], [], views=views, sure=sure, versions={})
    package.write(network.parent / "package", network, None, meta, f"# {version.name}\n")
    return network.parent / "package"


def bring_start(name: str) -> str:
    """Have the files of a version where a training that starts from it looks for them; the
    identity of its model."""
    known = registry.versions()
    version = _version(name)
    target = start.folder(version.model)
    if not target.is_dir():
        with folder_of(version.name) as folder, tempfile.TemporaryDirectory(dir=_scratch()) as place:
            made = Path(place, "start")
            shutil.copytree(folder, made)
            for ancestor in _line_of(version, known):
                if not get(ancestor, MANIFEST, made / start.LEARNED.replace("*", ancestor.name)):
                    raise InputError(
                        f"backbone.weights is {name}, and what {ancestor.name} learned from is not to be had, so that "
                        "it may be among today's test pictures: bring it with `dvc fetch --all-tags`"
                    )
            target.parent.mkdir(parents=True, exist_ok=True)
            made.rename(target)
    return version.model


def _line_of(version: Version, known: list[Version]) -> Iterator[Version]:
    """A version, the one that its training started from, and so on."""
    line: list[str] = []
    here: Version | None = version
    while here and here.name not in line:
        yield here
        line.append(here.name)
        weights = (YAML(typ="safe").load(contents([f"{here.commit}:./thaw.yaml"])[0]) or {}).get("weights")
        here = registry.version_of(weights, known) if weights else None


def _scratch() -> Path:
    parent = workspace.ROOT / ".dvc/tmp/thaw"
    parent.mkdir(parents=True, exist_ok=True)
    return parent
