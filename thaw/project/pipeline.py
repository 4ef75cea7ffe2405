"""The phases of the project, as dvc.yaml lists them: the one list from which everything else derives."""

from typing import Any

from ruamel.yaml import YAML

from thaw.project import workspace


def stages() -> dict[str, Any]:
    """The stages of dvc.yaml by name, in their order; none where there is no such file."""
    file = workspace.ROOT / "dvc.yaml"
    values = YAML(typ="safe").load(file) if file.is_file() else None
    found: dict[str, Any] = (values or {}).get("stages", {})
    return found


def phases() -> dict[str, str]:
    """What DVC is asked to reproduce for each phase of a run, in their order: the data, then every stage."""
    return {"data": "data.dvc", **{name: name for name in stages()}}
