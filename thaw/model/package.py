"""package: a trained model as one folder, with everything needed to use it.

weights.safetensors   the network: the same bytes that phase 2 wrote, so a cache stores them once
meta.json             everything from a picture to a decision, the model's origin and its results
unlike.safetensors    features of training pictures
README.md             a model card
identity.json         a hash of everything that decides predictions, weights included
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
RESULTS = ("test_pictures", "phase_2", "head", "finetuned", "gain")  # keys of evaluate's metrics


@dataclass(frozen=True)
class Package:
    """The metadata of a package.

    `threshold` is for two classes: the decision is the second one from this probability on. Below
    the probability `sure` the most probable class is unsure. Beyond the distance `far` a picture
    is unlike the training pictures. `meta` is the whole of meta.json.
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
        """Parse the content of meta.json."""
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
    """The content of meta.json: the checkpoint's own metadata, how evaluate used the network, and
    its results.

    Args:
        network: metadata of the checkpoint.
        figures: all metrics of evaluate.
        by_class: test metrics by class.
        by_slice: test metrics by slice.
        views: the views that evaluate averaged over.
        sure: the probability below which the most probable class is called unsure.
        versions: installed versions of the packages that compute.
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
    """Write a package; `network` is the folder of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    if neighbours:
        neighbours.save(folder)
    shutil.copyfile(network / WEIGHTS, folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
    _write_json(folder / META, meta)
    _write_json(folder / IDENTITY, {"model": identity(folder)})


def read(folder: Path) -> Package:
    """Read the metadata of a package; raises if the folder holds none."""
    if not (folder / META).is_file():
        raise InputError(
            f"{folder} is no package, {META} is missing; name the folder of one, such as artifacts/package, or an "
            "exported file"
        )
    meta = checkpoint.read_meta(folder)
    if lacking := [key for key in ("views", "temperature", "operating", "sure", "unlike") if key not in meta]:
        raise InputError(
            f"{folder} holds a network, but {META} does not say how to use it ({', '.join(lacking)} missing): name the "
            "folder of its package, artifacts/package"
        )
    if meta["views"] not in VIEWS:
        raise InputError(f"{folder / META}: views is {meta['views']!r}; allowed are {', '.join(VIEWS)}")
    file = folder / IDENTITY
    return Package.of(meta, json.loads(file.read_text(encoding="utf-8"))["model"] if file.is_file() else "")


def identity(folder: Path) -> str:
    """A hash of everything in a package that decides its predictions, weights included."""
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    deciding = {key: meta[key] for key in PREDICTS}
    deciding["threshold"] = (meta["operating"] or {}).get("threshold")
    deciding["weights"] = checkpoint.weights_hash(folder)
    if (folder / unlike.FILE).is_file():
        deciding["neighbours"] = hashlib.sha256((folder / unlike.FILE).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:32]


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
