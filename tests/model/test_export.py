"""Laws of exports: an ONNX file says what its package says, with and without torch."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest
from packages import CLASSES, Packaged
from PIL import Image, ImageOps

from thaw.data import pixels
from thaw.data.manifest import read_manifest, write_table
from thaw.data.pictures import decode
from thaw.errors import InputError
from thaw.model import onnx, package, proof
from thaw.model.model import Answers, Model, Pixels
from thaw.project import models, settings
from thaw.project.export import export

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "thaw"]))  # none of them can be imported
sys.path.insert(0, ".")
sys.argv = ["reference.py", *sys.argv[1:]]
runpy.run_path("reference.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return proof.draw(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def expected(packaged: Packaged, drawn: list[Path]) -> Answers:
    """What the network says of the drawn pictures."""
    model = Model.load(packaged.folder, "cpu")
    return model.predictor(np.stack([decode(path, model.about.shape) for path in drawn]))


def test_an_export_says_what_the_network_says_of_pictures_of_every_kind(
    exported: Path, drawn: list[Path], expected: Answers
) -> None:
    result = proof.agreement(expected, onnx.Exported(exported).of_files(drawn), 0.4)
    assert result.holds()
    assert result.decisions == result.pictures == len(drawn)


def as_it_lies(file: Image.Image) -> tuple[Image.Image, str]:
    return pixels.eight_bits(file)


def as_pillow_converts(file: Image.Image) -> tuple[Image.Image, str]:
    return ImageOps.exif_transpose(file).convert("RGB"), ""


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        ("upright", as_it_lies),  # EXIF is not read
        ("upright", as_pillow_converts),  # 16 bits are cut off, alpha is left out
        ("cut_of", lambda size, geometry: ((geometry.size, geometry.size - 1), (0, 0))),
    ],
)
def test_a_reference_that_reads_pictures_otherwise_is_no_proof(
    exported: Path, drawn: list[Path], expected: Answers, monkeypatch: pytest.MonkeyPatch, part: str, fault: Any
) -> None:
    monkeypatch.setattr(pixels, part, fault)
    assert not proof.agreement(expected, onnx.Exported(exported).of_files(drawn), 0.4).holds()


def test_the_files_beside_an_export_use_it_without_torch_and_without_thaw(
    packaged: Packaged, exported: Path, drawn: list[Path]
) -> None:
    command = [sys.executable, "-c", ALONE, exported.name, *map(str, drawn)]
    ran = subprocess.run(command, cwd=exported.parent, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    for prediction, row in zip(Model.load(packaged.folder, "cpu").predict(drawn), lines, strict=True):
        assert (row["path"], row["decision"]) == (prediction.path, prediction.decision)
        assert row["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-5)


def test_an_export_says_all_of_itself_that_its_package_does(packaged: Packaged, exported: Path) -> None:
    about = package.read(packaged.folder)
    network = onnx.Exported(exported)
    assert network.about == about
    assert network.network.about["classes"] == CLASSES
    assert network.network.about["operating"]["threshold"] == about.threshold
    inputs, (probabilities, features) = network.network.session.get_inputs(), network.network.session.get_outputs()
    assert [(value.name, value.type, value.shape) for value in inputs] == [
        ("pixels", "tensor(uint8)", ["pictures", 32, 32, 3])
    ]
    assert (probabilities.name, probabilities.shape[1]) == ("probabilities", 2)
    assert (features.name, features.shape[1]) == ("features", 1024)


def test_pictures_say_the_same_alone_and_in_any_batch(exported: Path, drawn: list[Path]) -> None:
    network = onnx.Exported(exported)
    alone = np.concatenate([network.of_files([path]).features for path in drawn])
    assert alone == pytest.approx(network.of_files(drawn).features, abs=1e-4)


def test_no_more_views_than_those_of_a_batch_are_in_memory_at_once(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, sizes = onnx.Exported(exported), []
    answers = network.network.answers

    def counted(pixels: Pixels) -> tuple[Any, Any]:
        sizes.append(len(pixels))
        return answers(pixels)

    monkeypatch.setattr(network.network, "answers", counted)
    assert len(network(np.zeros((70, 32, 32, 3), np.uint8)).probabilities) == 70
    assert sizes == [32, 32, 6]  # in two views each


def test_what_is_no_export_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.onnx"):
        onnx.Exported(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(InputError, match=r"text\.onnx is not a network that `thaw export` wrote"):
        onnx.Exported(tmp_path / "text.onnx")


def test_without_its_packages_an_export_is_one_sentence_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else "there")
    with pytest.raises(InputError, match=r"need onnxscript, .*install thaw-vision\[export\]"):
        onnx.check_installed()


def test_agreement_is_broken_by_any_difference_beyond_tolerance_and_counts_decisions() -> None:
    p, features = np.array([[0.6, 0.4], [0.59995, 0.40005], [0.2, 0.8]]), np.array([[-2.0], [0], [1]])
    q = p + np.array([[1, -1], [1, -1], [0, 0]]) * 0.9 * proof.TOLERANCE
    expected = Answers(p, features)
    result = proof.agreement(expected, Answers(q, features + 1e-3), 0.4)
    assert result == proof.Agreement(3, pytest.approx(0.9 * proof.TOLERANCE), 1, pytest.approx(5e-4))
    assert result.holds()
    assert proof.agreement(expected, Answers(q, None), None) == replace(result, decisions=3, features=None)
    assert not proof.agreement(expected, Answers(p + 1.1 * proof.TOLERANCE, features), None).holds()
    assert not proof.agreement(expected, Answers(p, features + 2.1e-3), None).holds()


def test_an_exported_file_predicts_what_its_package_predicts(packaged: Packaged, exported: Path) -> None:
    paths = sorted(packaged.pictures.rglob("*.png"))
    by_file, by_package = models.load(str(exported)).predict(paths), models.load(str(packaged.folder)).predict(paths)
    assert {row.label for row in by_package} == set(CLASSES), "the law is empty: it always says the same"
    for one, other in zip(by_file, by_package, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert one == replace(other, probabilities=one.probabilities, distance=one.distance)
        assert one.distance == pytest.approx(other.distance, abs=1e-5)


def test_an_exported_file_has_its_own_views_and_device(exported: Path) -> None:
    assert models.load(str(exported), "cpu", views="flip").about.views == "flip"
    with pytest.raises(InputError, match=r"views is 'square', and .* has those of flip: use its package"):
        models.load(str(exported), views="square")
    with pytest.raises(InputError, match="the device is 'cuda'; an exported model runs on the cpu"):
        models.load(str(exported), "cuda")


# --- thaw export


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the exported network is at hand: writing it takes the exporter seconds."""

    def write(folder: Path, target: Path) -> Path:
        shutil.copytree(exported.parent, target, dirs_exist_ok=True)
        return target / exported.name

    monkeypatch.setattr(onnx, "write", write)


@pytest.fixture
def project(packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose pictures are those of the package, half of them for the test."""
    root = tmp_path / "project"
    shutil.copytree(packaged.pictures, root / "data")
    shutil.copy(ROOT / "params.yaml", root)
    (root / "dvc.yaml").write_text("stages: {}\n")
    paths = sorted(path.relative_to(root / "data").as_posix() for path in (root / "data").rglob("*.png"))
    rows = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths], "target": 0.5, "group": ""})
    rows["split"], rows["hash"] = ["test", "train"] * (len(rows) // 2), rows["path"]
    (root / "artifacts/prepare").mkdir(parents=True)
    write_table(rows, root / "artifacts/prepare/manifest.csv")
    monkeypatch.chdir(root)
    return root


def proof_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "proof.json").read_text())
    return result


@pytest.mark.usefixtures("quick")
def test_outside_a_project_an_export_is_proven_on_drawn_pictures(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    export(str(packaged.folder), Path("out"), False, lines.append)
    assert {"model.onnx", "reference.py", "pixels.py", "proof.json"} <= {path.name for path in Path("out").iterdir()}
    assert "23 drawn pictures" in lines[1]
    result = proof_of(Path("out"))
    assert result["model"] == package.identity(packaged.folder)
    assert result["drawn"]["pictures"] == result["drawn"]["decisions"] == 23
    assert result["drawn"]["largest"] <= proof.TOLERANCE
    assert "test" not in result
    with pytest.raises(InputError, match="out is there already; name a new folder"):
        export(str(packaged.folder), Path("out"), False, lines.append)
    with pytest.raises(InputError, match="there is no folder deep; make it"):
        export(str(packaged.folder), Path("deep/out"), False, lines.append)
    with pytest.raises(InputError, match="--int8 needs the pictures of the project"):
        export(str(packaged.folder), Path("other"), True, lines.append)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("quick")
def test_an_export_that_says_something_else_is_refused_and_leaves_nothing(packaged: Packaged, tmp_path: Path) -> None:
    other = shutil.copytree(packaged.folder, tmp_path / "other")
    about = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps(about | {"temperature": 1.51}))
    with pytest.raises(InputError, match=r"probabilities of 23 drawn pictures differ by up to .* nothing was written"):
        export(str(other), tmp_path / "out", False)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.usefixtures("quick")
def test_in_a_project_an_export_is_proven_on_all_its_test_pictures(packaged: Packaged, project: Path) -> None:
    export(str(packaged.folder), project / "out", False)
    assert proof_of(project / "out")["test"] == {
        "pictures": 8,
        "decisions": 8,
        "largest": ANY,
        "features": ANY,
        "by": "the network",
    }


@pytest.mark.usefixtures("quick")
def test_what_evaluate_said_of_this_very_model_is_what_an_export_has_to_say(packaged: Packaged, project: Path) -> None:
    """Files that changed since, a difference that the network itself would have too, are found."""
    shutil.copytree(packaged.folder, project / "artifacts/package")
    model = Model.load(packaged.folder, "cpu")
    rows = read_manifest(project / "artifacts/prepare/manifest.csv")
    paths = rows["path"][rows["split"] == "test"].tolist()
    p = [row.probabilities for row in model.predict([project / "data" / path for path in paths])]
    output = pd.DataFrame({"path": paths} | {f"finetuned_p_{label}": [row[label] for row in p] for label in CLASSES})
    (project / "artifacts/evaluate").mkdir()
    write_table(output, project / "artifacts/evaluate/predictions.csv")
    export("artifacts/package", project / "out", False)
    assert proof_of(project / "out")["test"]["by"] == "evaluate"
    shutil.copy(project / "data" / paths[-1], project / "data" / paths[0])
    with pytest.raises(InputError, match=r"probabilities of 8 test pictures \(by evaluate\) differ"):
        export("artifacts/package", project / "other", False)


@pytest.mark.usefixtures("quick")
def test_8_bits_say_what_they_cost_and_are_refused_beyond_the_margin(
    packaged: Packaged, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    settings.override(["export.margin=1.0"], project / "params.yaml")
    export(str(packaged.folder), project / "out", True, lines.append)
    result = proof_of(project / "out")["int8"]
    assert result["pictures"] == 8
    assert result["slowest"] <= result["speed"] <= result["fastest"]
    assert (project / "out/model.int8.onnx").stat().st_size < 0.5 * (project / "out/model.onnx").stat().st_size
    quantised = models.load(str(project / "out/model.int8.onnx"))
    assert quantised.about == replace(package.read(packaged.folder), far=None, meta=ANY)
    assert {row.unlike for row in quantised.predict([packaged.pictures])} == {None}
    assert "model.int8.onnx: accuracy" in lines[-2]
    shutil.copy(project / "out/model.int8.onnx", project / "quantised.onnx")
    cost = proof.cost
    monkeypatch.setattr(
        onnx, "write_int8", lambda file, target, batches: shutil.copy(project / "quantised.onnx", target)
    )
    settings.override(["export.margin=0.01"], project / "params.yaml")
    monkeypatch.setattr(proof, "cost", lambda *values: replace(cost(*values), change=-0.011, low=-0.02, high=0.0))
    with pytest.raises(
        InputError, match=r"change the accuracy by −1\.1 points \(95 % interval −2\.0 to 0\.0\), and exp"
    ):
        export(str(packaged.folder), project / "refused", True)
    assert not (project / "refused").exists()
