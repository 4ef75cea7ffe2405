"""Settings: `params.yaml` as frozen typed objects. Only the file has defaults; a mistake is one
sentence."""

import difflib
import io
import re
import runpy
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, create_model
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarint import ScalarInt

from thaw.errors import InputError
from thaw.project import pipeline, workspace
from thaw.project.journal import replace

# Keys of earlier versions, and what replaced them.
# DVC's run cache ignores keys named `size` or `nfiles`, so no setting may have such a name.
RENAMED = {"prepare.size": "prepare.resolution"}
FORMER = {
    **{old: f"is called '{new}' now; rename it" for old, new in RENAMED.items()},
    "unfreeze.patience": "is gone: phase 2 always runs all its epochs; take the line out",
}

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Limit = Annotated[float, Field(ge=0, le=1)]
Minutes = Annotated[float, Field(gt=0)] | None
Views = Literal["none", "flip", "flips", "square"]
S = TypeVar("S", bound="Section")


def _which_blocks(value: Any) -> Any:
    keyword = isinstance(value, str) and re.fullmatch(r"all|gradual|first [1-9]\d*", value)
    is_count = type(value) is int and value >= 1
    is_list = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    if keyword or is_count or is_list:
        return value
    raise PydanticCustomError("blocks", "use all, gradual, a number of last blocks, first N, or a list of names")


class Section(BaseModel):
    """A section of the file: unknown keys are errors, values are frozen, text is never converted
    to a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Resources(Section):
    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: Literal["auto", "always", "never"]
    processes: Count
    threads: Annotated[int, Field(ge=0)]
    workers: Count
    activations_gb: NotNegative


class Backbone(Section):
    name: str
    weights: str


class Prepare(Section):
    resolution: Annotated[int, Field(ge=16)] | None
    fit: Literal["whole", "crop"]
    val: Share
    test: Share
    seed: Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)] | None
    fold: Annotated[int, Field(ge=0)]
    split_by: str | None
    hold_out: str | int | None
    positive: str | None
    smallest_class: Annotated[int, Field(ge=3)]
    unreadable: Limit
    cache_gb: NotNegative


class Embed(Section):
    views: Views
    draws: Count | None
    batch_size: Count


class Head(Section):
    learning_rate: Annotated[float, Field(gt=0, le=1000)]  # far larger ones overflow a float
    weight_decay: NotNegative
    batch_size: Count
    max_epochs: Annotated[int, Field(ge=0)]
    patience: Count


class Unfreeze(Section):
    blocks: Annotated[str | int | list[str], PlainValidator(_which_blocks)]
    ratio: Rate
    head_ratio: Rate
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    epochs: Literal["auto"] | Count
    batch_size: Count
    weight_decay: NotNegative
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batchnorm: Literal["frozen", "adapt", "train"]
    views: Views
    draws: Count | None
    precision: Literal["float32", "bfloat16"]
    drop: Annotated[float, Field(ge=0, le=1)]
    jitter: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    l2_sp: NotNegative
    mixup: NotNegative
    cutmix: NotNegative
    ema: Annotated[float, Field(ge=0, lt=1)]
    keep: Literal["best", "last"]
    interpolate: bool


class Evaluate(Section):
    views: Views
    batch_size: Count
    promise: Literal["precision", "specificity"]
    at_least: Annotated[float, Field(gt=0, le=1)]


class Package(Section):
    sure: Limit
    false_alarms: Share
    license: str | None


class Retrain(Section):
    incoming: str | None
    archive: str
    archive_gb: NotNegative
    wait: NotNegative
    late: NotNegative
    oldest: NotNegative | None
    disk_gb: NotNegative
    retries: Annotated[int, Field(ge=0)]
    git_remote: str | None


class Promote(Section):
    by: Literal["accuracy", "auc", "macro_f1", "recall", "cost"]
    costs: dict[str, dict[str, NotNegative]]
    margin: Limit
    sure: Annotated[float, Field(ge=0.5, lt=1)]
    class_limit: Limit
    slice_limit: Limit
    smallest: Count
    approve: Literal["nobody", "person"]
    wait: Annotated[float, Field(gt=0)]


class Export(Section):
    margin: Limit


class Timeouts(Section):
    data: Minutes
    prepare: Minutes
    embed: Minutes
    head: Minutes
    unfreeze: Minutes
    evaluate: Minutes
    package: Minutes
    report: Minutes
    promote: Minutes
    predict: Minutes
    push: Minutes


class Settings(Section):
    """The whole file."""

    seed: Annotated[int, Field(ge=0)]
    labels: Annotated[float, Field(gt=0, le=1)]
    class_weights: Literal["none", "balanced"]
    resources: Resources
    backbone: Backbone
    prepare: Prepare
    embed: Embed
    head: Head
    unfreeze: Unfreeze
    evaluate: Evaluate
    package: Package
    retrain: Retrain
    promote: Promote
    export: Export
    timeouts: Timeouts

    def section(self, kind: type[S]) -> S:
        """The settings of a phase of the project's own, by the class that its file in tasks/
        declares."""
        value: S = getattr(self, kind.__name__.lower())
        return value


def file() -> Path:
    """The project's params.yaml."""
    return workspace.root() / "params.yaml"


def read(path: Path | None = None) -> Settings:
    """The settings in `path`, by default the project's params.yaml; raises at the first mistake."""
    path = path or file()
    return _check(_load(path), path.name)


def override(changes: list[str], path: Path | None = None) -> None:
    """Write `section.key=value` changes into the file and keep its comments; if one is wrong,
    nothing is written."""
    path = path or file()
    values = _load(path)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise InputError(f"'{change}' is not a setting; write key=value, such as unfreeze.ratio=30")
        *sections, last = key.strip().split(".")
        place = values
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise InputError(_unknown(key.strip(), "--set"))
        try:
            place[last] = _yaml().load(text)
        except YAMLError:
            raise InputError(f"'{text}' is not a value for {key}; write a number, a word or a list [a, b]") from None
    _check(values, "--set")
    if changes:
        content = io.BytesIO()
        _yaml().dump(values, content)
        replace(path, content.getvalue())


def all_keys(model: type[Settings] = Settings) -> list[str]:
    """Every key, such as `unfreeze.ratio`."""
    keys = []
    for name, field in model.model_fields.items():
        section = field.annotation
        inner = section.model_fields if isinstance(section, type) and issubclass(section, Section) else None
        keys += [f"{name}.{key}" for key in inner] if inner is not None else [name]
    return keys


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    return yaml


def _load(path: Path) -> Any:
    try:
        values = _yaml().load(path)
    except FileNotFoundError:
        raise InputError(f"there is no {path}; bring it back with `git checkout {path.name}`") from None
    except YAMLError as error:
        raise InputError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path.name} is not a list of sections; bring it back with `git checkout {path.name}`")
    return values


def _check(values: Any, source: str) -> Settings:
    model = _with_own_phases()
    try:
        settings = model.model_validate(_plain(values))
    except ValidationError as error:
        raise InputError(_sentence(error.errors(), source, model)) from None
    if settings.prepare.val + settings.prepare.test >= 1:
        raise InputError(f"{source}: prepare.val and prepare.test leave nothing to train on; their sum must be below 1")
    if settings.prepare.folds and settings.prepare.fold >= settings.prepare.folds:
        last = settings.prepare.folds - 1
        raise InputError(f"{source}: prepare.fold is {settings.prepare.fold}; of {last + 1} folds it is 0 to {last}")
    if settings.prepare.split_by and settings.prepare.folds:
        raise InputError(f"{source}: prepare.folds and prepare.split_by both decide the test split; set one to null")
    if settings.prepare.hold_out is not None and not settings.prepare.split_by:
        raise InputError(
            f"{source}: prepare.hold_out is '{settings.prepare.hold_out}', but no prepare.split_by names its column"
        )
    costs = settings.promote.costs
    if settings.promote.by == "cost" and not costs:
        raise InputError(
            f"{source}: promote.by is cost and promote.costs names none; write what mistakes cost by the right class "
            "and the one that was said, such as {defective: {functional: 10}}"
        )
    if right := [name for name, row in costs.items() if name in row]:
        raise InputError(
            f"{source}: promote.costs has a cost of '{right[0]}' for a picture of '{right[0]}', which is no mistake; "
            "take it out"
        )
    return settings


def _with_own_phases() -> type[Settings]:
    """`Settings` extended by the sections that the project's own phases declare, and their time
    limits."""
    own = [
        phase
        for phase in pipeline.stages()
        if phase not in Settings.model_fields and phase not in Timeouts.model_fields
    ]
    if not own:
        return Settings
    sections: dict[str, Any] = {phase: (kind, ...) for phase in own if (kind := _declared(phase))}
    limits: dict[str, Any] = dict.fromkeys(own, (Minutes, None))
    sections["timeouts"] = (create_model("Timeouts", __base__=Timeouts, **limits), ...)
    return create_model("Settings", __base__=Settings, **sections)


def _declared(phase: str) -> type[Section] | None:
    """The class that declares a phase's settings in its own file, such as `Duplicates` in
    tasks/duplicates.py."""
    file = workspace.root() / "tasks" / f"{phase}.py"
    name = phase.capitalize()
    if not file.is_file() or f"class {name}(" not in file.read_text(encoding="utf-8"):
        return None
    try:
        kind = runpy.run_path(str(file)).get(name)
    except Exception as error:
        raise InputError(f"{file} cannot be imported for its settings: {type(error).__name__}: {error}") from None
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _plain(value: Any) -> Any:
    """Strip ruamel's wrappers, which strict types reject."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    width = getattr(value, "_width", None) or 0  # of a ScalarInt
    if isinstance(value, ScalarInt) and width > len(str(value)):
        return str(value).zfill(width)  # 007 is a text
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _sentence(errors: list[Any], source: str, model: type[Settings]) -> str:
    """The first mistake as one sentence; the messages of a union type are joined."""
    # unknown keys first: a misspelt one explains a missing one
    errors = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    if first["type"] == "extra_forbidden":
        return _unknown(key, source, model)
    if first["type"] == "missing":
        return f"{source}: '{key}' is missing; add it, or bring the file back with `git checkout params.yaml`"
    reasons = [error["msg"] for error in errors if error["loc"][:2] == first["loc"][:2]]
    allowed = " or ".join(dict.fromkeys(reason[:1].lower() + reason[1:] for reason in reasons))
    if "valid string" in allowed and isinstance(first["input"], (bool, float, date)):
        allowed += f"; a text that looks like something else stands in quotes: --set '{key}=\"TEXT\"'"
    return f"{source}: '{key}' is {first['input']!r}, which is not allowed: {allowed}"


def _unknown(key: str, source: str, model: type[Settings] = Settings) -> str:
    if key in FORMER:
        return f"{source}: '{key}' {FORMER[key]}"
    near = difflib.get_close_matches(key, all_keys(model), 1, 0.0)[0]
    return f"{source}: unknown key '{key}'; the nearest that exists is '{near}'"
