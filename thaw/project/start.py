"""Where training starts if that is a model of the project: `backbone.weights: prod`, or a version.

The recipe's `weights` is then the identity of that model, so a promotion is a reason to run. Its files lie in the
scratch folder under that name; whoever brings the recipe up to date brings them too.
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
LEARNED = "learned-*.csv"  # manifests of what the model, and those that it started from, were trained and chosen on


def is_model(weights: str) -> bool:
    """Whether training starts from a model of the project."""
    return MODEL.fullmatch(weights) is not None


def folder(identity: str | None = None) -> Path:
    """Where the files of a model lie to start from; by default of the one that the recipe names."""
    return workspace.ROOT / ".dvc/tmp/thaw/start" / str(identity or pipeline.read("thaw.yaml").get("weights"))


def meta(config: Settings) -> dict[str, Any]:
    """What the model says of itself; raises if it does not fit the settings."""
    known: dict[str, Any] = json.loads((folder() / "meta.json").read_text(encoding="utf-8"))
    if known["backbone"] != config.backbone.name:
        raise InputError(
            f"backbone.weights is {config.backbone.weights}, which is a {known['backbone']}, and backbone.name is "
            f"{config.backbone.name}: a start needs the same network"
        )
    if known["folded"] and config.unfreeze.batchnorm != "frozen":
        raise InputError(
            f"backbone.weights is {config.backbone.weights}, whose BatchNorms are folded into its convolutions, so "
            f"unfreeze.batchnorm cannot be {config.unfreeze.batchnorm}: use frozen"
        )
    return known


def check_unseen(rows: "pd.DataFrame", weights: str) -> None:
    """Raise if the model, or one that it started from, learned from a picture that is to test now."""
    from thaw.data.manifest import read_manifest

    test = rows[rows["split"] == "test"]
    for file in sorted(folder().glob(LEARNED)):
        learned = read_manifest(file)
        known = test[test["hash"].isin(learned.loc[learned["split"] != "test", "hash"])]
        if len(known):
            raise InputError(
                f"backbone.weights is {weights}, which learned from {len(known)} of the pictures that are to test "
                f"now, such as {known['path'].iloc[0]}: keep the split of then (data/splits.csv), or start from other "
                "weights"
            )
