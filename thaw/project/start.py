"""Start training from a model of the project: `backbone.weights: prod`, or a version.

The recipe's `weights` is then the identity of that model, so a promotion is a reason to run. The
model's files are in a scratch folder of that name; refreshing the recipe brings them.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaw.errors import InputError
from thaw.project import pipeline, workspace
from thaw.project.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

MODEL = re.compile(r"prod|v?\d+\.\d+\.\d+")
LEARNED = "learned-*.csv"  # manifests of the model and of those that it started from


def is_model(weights: str) -> bool:
    """Whether training starts from a model of the project."""
    return MODEL.fullmatch(weights) is not None


def folder(identity: str | None = None) -> Path:
    """The folder with the files of a start model, by default the one that the recipe names."""
    return workspace.scratch() / "start" / str(identity or pipeline.read("thaw.yaml").get("weights"))


def meta(config: Settings) -> dict[str, Any]:
    """The metadata of the start model; raises if it does not fit the settings."""
    values: dict[str, Any] = json.loads((folder() / "meta.json").read_text(encoding="utf-8"))
    if values["backbone"] != config.backbone.name:
        raise InputError(
            f"backbone.weights is {config.backbone.weights}, which is a {values['backbone']}, and backbone.name is "
            f"{config.backbone.name}: a start needs the same network"
        )
    if values["folded"] and config.unfreeze.batchnorm != "frozen":
        raise InputError(
            f"backbone.weights is {config.backbone.weights}, whose BatchNorms are folded into its convolutions, so "
            f"unfreeze.batchnorm cannot be {config.unfreeze.batchnorm}: use frozen"
        )
    return values


def check_unseen(rows: "pd.DataFrame", weights: str) -> None:
    """Raise if the start model, or one that it started from, learned from a test picture of
    today."""
    from thaw.data.manifest import read_manifest

    test = rows[rows["split"] == "test"]
    for file in sorted(folder().glob(LEARNED)):
        learned = read_manifest(file)
        seen = test[test["hash"].isin(learned.loc[learned["split"] != "test", "hash"])]
        if len(seen):
            raise InputError(
                f"backbone.weights is {weights}, which learned from {len(seen)} of the pictures that are to test "
                f"now, such as {seen['path'].iloc[0]}: keep the split of then (data/splits.csv), or start from other "
                "weights"
            )
