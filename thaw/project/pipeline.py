"""The phases of the project, as listed in dvc.yaml: the one list from which everything else
derives."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from thaw.project import workspace


def read(name: str) -> dict[str, Any]:
    """A YAML file of the workspace; empty if there is none."""
    return load(workspace.root() / name)


def load(file: Path) -> dict[str, Any]:
    """A YAML file; empty if there is none."""
    return (YAML(typ="safe").load(file) if file.is_file() else None) or {}


def stages() -> dict[str, Any]:
    """The stages of dvc.yaml by name, in their order."""
    stages: dict[str, Any] = read("dvc.yaml").get("stages", {})
    return stages


def project() -> str:
    """The project's name, also on a Prefect server: from thaw.yaml, else that of its folder."""
    return str(read("thaw.yaml").get("project") or workspace.root().name)


def phases() -> dict[str, str]:
    """The DVC target of each phase of a run, in order: the data, then every stage."""
    return {"data": "data.dvc", **{name: name for name in stages()}}


def setting(value: object) -> str:
    """The value of a setting as written in params.yaml."""
    return "null" if value is None else str(value)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their full keys."""
    by_key: dict[str, Any] = {}
    for key, value in values.items():
        by_key |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return by_key
