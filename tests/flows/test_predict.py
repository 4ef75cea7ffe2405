"""Laws of the flow that predicts: what is new, once by each model, versioned, and shown beside
validation."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from packages import make, make_project
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.states import State

from thaw.project import lock, registry, runs
from thaw.project import predict as predicting
from thaw.project.settings import override
from thaw.report.predictions import markdown

pytestmark = pytest.mark.server

# of the runs below, in turn
OUTCOMES = ["Completed", "Cached", "Completed", "Failed", "Cached", "Failed"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a model in use, and six pictures that arrived."""
    packaged = make(tmp_path / "packaged")
    # flows read the project's name at import, so all tests of a process share one
    folder = tmp_path / "toy"
    folder.mkdir()
    make_project(folder, packaged)
    monkeypatch.chdir(folder)
    registry.register("HEAD", "a package")
    registry.promote("v1.0.0", "by hand")
    for number in range(6):
        (folder / "arrived").mkdir(exist_ok=True)
        shutil.copy(packaged.pictures / f"noise/{number}.png", folder / "arrived")
    return folder


def run(source: str = "arrived") -> State:
    from flows.predict import predict

    return predict(source, return_state=True)


def test_new_pictures_are_predicted_once_versioned_and_shown_beside_validation(
    server: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thaw.model.model import Model

    first = run()
    assert first.name == "Completed", first.message
    tables = sorted((project / "predictions").rglob("*.csv"))
    rows = pd.read_csv(tables[0])
    predictions = Model.load(project / "artifacts/package", "cpu").predict(sorted(Path("arrived").iterdir()))
    assert rows["path"].tolist() == [row.path for row in predictions]
    assert rows["decision"].tolist() == [row.decision for row in predictions]
    assert "predictions" in (project / "predictions.dvc").read_text()
    with get_client(sync_client=True) as client:
        (shown,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[first.state_details.flow_run_id]),
                key=ArtifactFilterKey(any_=["predictions"]),
            )
        )
    count = rows["decision"].tolist().count("noise")
    assert f"| noise | {count} | {100 * count / 6:.1f} % | 25.0 % |" in str(shown.data)
    assert run().name == "Cached"
    (project / "arrived/broken.png").write_text("no picture")
    assert run().message == f"1 new picture in {max((project / 'predictions').rglob('*.csv')).relative_to(project)}"
    assert len(list((project / "predictions").rglob("*.csv"))) == 2
    ignored = subprocess.run(["git", "check-ignore", "-q", "predictions"], cwd=project)
    assert ignored.returncode == 0
    with lock.only_prediction("another one"), monkeypatch.context() as patch:
        patch.setattr(lock, "PAUSE", 0.01)
        override(["retrain.wait=0.001"], project / "params.yaml")
        assert "another prediction holds this workspace (another one, process " in (run().message or "")
    with lock.only_retraining("a long one"):
        assert run().name == "Cached"
    failed = run("nowhere")
    assert failed.is_failed()
    assert "there is no nowhere" in (failed.message or "")
    noted = [(line.flow, line.outcome, line.recorded) for line in runs.read()]
    assert noted == [("predict", outcome, False) for outcome in OUTCOMES]


def test_another_model_predicts_every_picture_anew(project: Path) -> None:
    assert predicting.predict("arrived", "prod")
    assert predicting.predict("arrived", "prod") is None
    folder = project / "other"
    shutil.copytree(project / "artifacts/package", folder)
    (folder / "identity.json").write_text(json.dumps({"model": "another model"}))
    result = predicting.predict("arrived", "other")
    assert result
    assert result.pictures == 6
    assert (project / result.file).parent.name == "another mode"


def test_shares_are_of_what_can_be_read_and_what_is_not_known_is_a_dash() -> None:
    shown = markdown(
        {
            "file": "a.csv", "pictures": 5, "decisions": {"a": 3, "b": 1}, "unsure": 1, "unlike": None,
            "unreadable": 1, "expected": {"a": 0.5, "c": 0.5}, "false_alarms": 0.02,
        }
    )  # fmt: skip
    assert shown.splitlines()[0] == "5 new pictures, 1 of them unreadable; the rows are in `a.csv`."
    assert shown.splitlines()[4:] == [
        "| a | 3 | 75.0 % | 50.0 % | +25.0 |",
        "| c | 0 | 0.0 % | 50.0 % | −50.0 |",
        "| b | 1 | 25.0 % | – | – |",
        "| *unsure* | 1 | 25.0 % | – | – |",
    ]
