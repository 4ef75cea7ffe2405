"""package: a trained model as one folder, which is all that its use needs.

weights.safetensors   the network: the very bytes that phase 2 wrote, which a cache holds once
meta.json             all that turns a picture into a decision, where it comes from, its results
unlike.safetensors    where the features of training pictures lie
README.md             the same for people, as a model card
identity.json         a hash of the weights and of what changes predictions
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thaw.data.pictures import VIEWS, Preprocessing, Shape
from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.model import unlike
from thaw.model.unlike import Neighbours

WEIGHTS, META, CARD, IDENTITY = "weights.safetensors", "meta.json", "README.md", "identity.json"
# The keys of meta.json that change predictions, beside the threshold.
PREDICTS = ("backbone", "classes", "folded", "preprocessing", "shape", "views", "temperature", "sure", "unlike")
RESULTS = ("test_pictures", "phase_2", "head", "finetuned", "gain")  # of all figures of evaluate


@dataclass(frozen=True)
class Package:
    """What a package says of itself.

    `threshold` belongs to two classes: from this probability of the second one on, it is the
    decision. `sure` is the probability below which the most probable class is unsure, `far` the
    distance beyond which a picture is unlike those of the training. `meta` is all that meta.json
    says.
    """

    classes: list[str]
    shape: Shape
    preprocessing: Preprocessing
    views: str
    temperature: float
    threshold: float | None
    sure: float
    far: float | None
    meta: dict[str, Any]
    identity: str = ""

    @classmethod
    def of(cls, meta: dict[str, Any], identity: str = "") -> "Package":
        """From what meta.json says."""
        return cls(
            classes=list(meta["classes"]),
            shape=Shape(**meta["shape"]),
            preprocessing=Preprocessing.from_json(meta["preprocessing"]),
            views=meta["views"],
            temperature=meta["temperature"],
            threshold=(meta["operating"] or {}).get("threshold"),
            sure=meta["sure"],
            far=(meta["unlike"] or {}).get("threshold"),
            meta=meta,
            identity=identity,
        )


def meta_of(
    network: Mapping[str, Any],
    figures: Mapping[str, Any],
    by_class: list[dict[str, Any]],
    by_slice: list[dict[str, Any]],
    views: str,
    sure: float,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """What meta.json says of a network: what its checkpoint says, how evaluate used it, and what
    came out.

    Args:
        network: what the checkpoint says of itself.
        figures: all figures of evaluate.
        by_class: what the network is worth by class.
        by_slice: what it is worth by slice.
        views: the views that evaluate averaged over.
        sure: the probability below which the most probable class is called unsure.
        versions: of the packages that compute.
    """
    own = figures["finetuned"]
    operating = figures.get("operating") or {}
    point = operating.get("finetuned")
    terms = {
        "class": network["classes"][-1],
        "promise": operating.get("promise"),
        "at_least": operating.get("at_least"),
    }
    results = {name: figures[name] for name in RESULTS if name in figures}
    return {
        **network,
        "views": views,
        "temperature": own["temperature"],
        "operating": terms | point if point else None,
        "sure": sure,
        "unlike": None,
        "versions": dict(versions),
        "results": {**results, "classes": by_class, "slices": by_slice},
    }


def write(folder: Path, network: Path, neighbours: Neighbours | None, meta: Mapping[str, Any], card: str) -> None:
    """Write a package of the network in a checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if neighbours:
        neighbours.save(folder)
    shutil.copyfile(network / WEIGHTS, folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
    _write_json(folder / META, meta)
    _write_json(folder / IDENTITY, {"model": identity(folder)})


def read(folder: Path) -> Package:
    """What a package says of itself; raises where the folder holds none."""
    meta = checkpoint.read_meta(folder)
    if lacking := [key for key in ("views", "temperature", "operating", "sure", "unlike") if key not in meta]:
        raise InputError(
            f"{folder} holds a network, but {META} does not say how to use it ({', '.join(lacking)} missing): name the "
            "folder of its package, artifacts/package"
        )
    if meta["views"] not in VIEWS:
        raise InputError(f"{folder / META}: views is {meta['views']!r}; allowed are {', '.join(VIEWS)}")
    known = folder / IDENTITY
    return Package.of(meta, json.loads(known.read_text(encoding="utf-8"))["model"] if known.is_file() else "")


def identity(folder: Path) -> str:
    """A hash of the weights and of what changes predictions, in a package."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    deciding = {key: meta[key] for key in PREDICTS}
    deciding["threshold"] = (meta["operating"] or {}).get("threshold")
    deciding["weights"] = checkpoint.weights_hash(folder)
    if (folder / unlike.FILE).is_file():
        deciding["neighbours"] = hashlib.sha256((folder / unlike.FILE).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:32]


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
