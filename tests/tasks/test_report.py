"""Laws of the phase report: each mistake with the map of its own picture."""

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from packages import CLASSES, SHAPE, make
from PIL import Image

from tasks import report
from thaw.data.pictures import VIEWS, Normaliser, Pictures, Preprocessing, decode
from thaw.errors import InputError
from thaw.learning import checkpoint
from thaw.learning.attribution import evidence
from thaw.project import networks, settings

ROOT = Path(__file__).resolve().parents[2]


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_each_of_the_worst_mistakes_stands_beside_the_map_of_its_own_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path)
    shutil.copytree(made.network, tmp_path / "artifacts/unfreeze/model")
    (tmp_path / "data").symlink_to(made.pictures)
    monkeypatch.chdir(tmp_path)
    model, meta = checkpoint.load(made.network)
    paths = sorted(path.relative_to(made.pictures).as_posix() for path in made.pictures.rglob("*.png"))
    rows = pd.DataFrame({"path": paths, "split": ["train", "test"] * (len(paths) // 2)})
    pictures = Pictures([made.pictures / path for path in paths], SHAPE, None, 1)
    data = networks.of_splits(("test",), rows, CLASSES, torch.zeros(len(paths), 2), pictures, meta)
    monkeypatch.setattr(networks, "dataset", lambda config, *reads: data if reads == ("test",) else None)
    monkeypatch.setattr(networks, "use_resources", lambda config: torch.device("cpu"))
    config = settings.read(ROOT / "params.yaml")
    worst = pd.DataFrame({"path": [paths[13], paths[1], paths[7], paths[5]], "prediction": [*CLASSES, *CLASSES]})
    normalise = Normaliser(Preprocessing.from_json(meta["preprocessing"]), torch.device("cpu"))
    for png, path, label in zip(report.with_maps(worst, config), worst["path"], worst["prediction"], strict=True):
        pixels = torch.from_numpy(decode(made.pictures / path, SHAPE)[None].copy()).permute(0, 3, 1, 2)
        target = torch.tensor([CLASSES.index(label)])
        maps, _ = evidence(model, pixels, normalise, VIEWS[config.evaluate.views], target)
        own, other = (report.with_map(path, sign * maps[0].numpy(), SHAPE) for sign in (1, -1))
        assert abs(pixels_of(png) - pixels_of(own)).max() <= 3
        assert abs(pixels_of(png) - pixels_of(other)).max() > 30


def test_the_figure_that_decides_is_that_of_both_networks_and_its_rule_fits_the_data() -> None:
    config = settings.read(ROOT / "params.yaml")
    labels = ["good"] * 30 + ["bad"] * 10
    predictions = pd.DataFrame({"path": [f"{number}.png" for number in range(40)], "label": labels})
    for network, right in (("head", 20), ("finetuned", 36)):
        bad = [0.9 if (label == "bad") == (number < right) else 0.1 for number, label in enumerate(labels)]
        predictions[f"{network}_p_bad"], predictions[f"{network}_p_good"] = bad, [1 - value for value in bad]
    manifest = predictions[["path", "label"]].assign(group="", hash=predictions["path"], split="test")
    manifest.loc[40] = ["seen.png", "bad", "", "seen.png", "train"]

    def of(**rule: object) -> dict[str, object] | None:
        changed = config.model_copy(update={"promote": config.promote.model_copy(update=rule)})
        return report.deciding(changed, manifest, predictions, {}, ["bad", "good"])

    assert of() is None, "accuracy comes first anyway"
    row = of(by="cost", costs={"bad": {"good": 5.0}})
    assert row is not None
    assert (row["by"], row["before"], row["after"]) == ("cost", (10 + 10 * 5) / 40, 4 * 5 / 40)
    with pytest.raises(InputError, match=r"promote\.costs names 'god', which is no class; the classes are bad, good"):
        of(costs={"bad": {"god": 5.0}})
