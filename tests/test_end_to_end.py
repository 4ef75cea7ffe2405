"""The whole recipe on a part of the default data, with a real Prefect server, DVC and the UI."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from children import importing
from typer.testing import CliRunner

pytestmark = [pytest.mark.server, pytest.mark.end_to_end]

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("thaw", "tasks", "flows", "dvc.yaml", "params.yaml", "thaw.yaml", "pyproject.toml", ".gitignore", ".dvcignore")
PHASES = ("data", "prepare", "embed", "head", "unfreeze", "evaluate", "package", "report")
SMALL = {"resolution: 160": "resolution: 48", "max_epochs: 100": "max_epochs: 5", "views: square": "views: none"}
EPOCHS = re.compile(r"^  epochs: auto ", re.MULTILINE)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": importing(folder)},
        text=True,
        capture_output=True,
    )


def thaw(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return call(folder, sys.executable, "-m", "thaw", *arguments)


def dvc(folder: Path, *arguments: str) -> str:
    done = call(folder, sys.executable, "-m", "dvc", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states_of(run_id: str) -> dict[str, str]:
    """Phase: the name of its task run's state, as the server tells."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    async def ask() -> dict[str, str]:
        async with get_client() as client:
            runs = await client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run_id]}))
            return {run.name: run.state.name for run in runs if run.state}

    return asyncio.run(ask())


def run_id_in(output: str) -> str:
    result = re.findall(r"/v2/runs/flow-run/([0-9a-f-]{36})", output)
    assert result, output
    return str(result[-1])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, server: str) -> Path:
    """A clone of the project with every fourteenth picture of ELPV, low resolution, one epoch."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in HOUSE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    text = (folder / "params.yaml").read_text()
    for old, new in SMALL.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(EPOCHS.sub("  epochs: 1 ", text))
    call(folder, "git", "init", "-q")
    dvc(folder, "init", "-q")
    made = call(
        folder, sys.executable, "-c", "from thaw.project import bring, workspace; bring.make_elpv(workspace.data())"
    )
    assert made.returncode == 0, made.stderr
    labels = pd.read_csv(folder / "data/labels.csv")
    kept = labels.iloc[::14]
    for path in set(labels["path"]) - set(kept["path"]):
        (folder / "data" / path).unlink()
    kept.to_csv(folder / "data/labels.csv", index=False)
    dvc(folder, "add", "-q", "data")
    call(folder, "git", "add", ".")
    call(folder, "git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", "start")
    return folder


@pytest.fixture(scope="module")
def first_run(workspace: Path) -> str:
    """The id of the first run of the flow."""
    done = thaw(workspace, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Report:" in done.stdout
    return run_id_in(done.stdout)


def test_first_run_completes_every_phase_and_leaves_what_it_promises(workspace: Path, first_run: str) -> None:
    assert states_of(first_run) == dict.fromkeys(PHASES, "Completed") | {"data": "Cached"}
    metrics = json.loads((workspace / "artifacts/evaluate/metrics.json").read_text())
    assert {"head", "finetuned", "gain"} < metrics.keys()
    page = (workspace / "artifacts/report/report.html").read_text()
    assert "data:image/png;base64" in page


def test_evaluate_predict_an_export_and_a_server_say_the_same_of_the_same_files(
    workspace: Path, first_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thaw.cli import app

    monkeypatch.chdir(workspace)

    def called(*arguments: str) -> None:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output

    evaluated = pd.read_csv("artifacts/evaluate/predictions.csv")
    table, exported, predictions = (str(tmp_path / name) for name in ("test.csv", "exported", "predictions.csv"))
    evaluated.assign(path=f"{workspace}/data/" + evaluated["path"])[["path"]].to_csv(table, index=False)
    called("export", "--model", "artifacts/package", "--out", exported)
    proof = json.loads((tmp_path / "exported/proof.json").read_text())
    assert (proof["test"]["by"], proof["test"]["pictures"]) == ("evaluate", len(evaluated))
    assert proof["test"]["decisions"] == len(evaluated)
    decisions = []
    for model in ("artifacts/package", f"{exported}/model.onnx"):
        called("predict", table, "--model", model, "--out", predictions)
        predicted = pd.read_csv(predictions)
        for label in ("defective", "functional"):
            differences = predicted[f"p_{label}"] - evaluated[f"finetuned_p_{label}"]
            assert differences.abs().max() < 1e-4
        decisions.append(predicted[["prediction", "decision", "unsure", "unlike"]])
    assert decisions[0].equals(decisions[1])
    assert decisions[0]["prediction"].tolist() == evaluated["finetuned_prediction"].tolist()
    served = pd.DataFrame(answers_of_a_server(workspace, [Path("data", path) for path in evaluated["path"]]))
    assert served["decision"].tolist() == decisions[0]["decision"].tolist()
    differences = served["probabilities"].str["defective"] - evaluated["finetuned_p_defective"]
    assert differences.abs().max() < 1e-4


def answers_of_a_server(workspace: Path, pictures: list[Path]) -> list[dict[str, Any]]:
    """What `thaw serve` answers, started as a command."""
    command = [sys.executable, "-m", "thaw", "serve", "--model", "artifacts/package", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(workspace)}
    with subprocess.Popen(command, cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            address = re.findall(r"http://[\d.:]+", process.stdout.readline())[0]
            files = [("files", (path.name, (workspace / path).read_bytes())) for path in pictures]
            parts = [files[start : start + 64] for start in range(0, len(files), 64)]
            replies = [httpx.post(f"{address}/predict", files=part, timeout=120) for part in parts]
            return [answer for reply in replies for answer in reply.raise_for_status().json()["predictions"]]
        finally:
            process.terminate()


@pytest.mark.browser
def test_ui_shows_the_run_with_its_phases_and_their_states(first_run: str, server: str) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed on this machine")
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.goto(f"{server.removesuffix('/api')}/v2/runs/flow-run/{first_run}?tab=TaskRuns")
        for phase in PHASES:
            expect(page.get_by_text(phase, exact=True).first).to_be_visible(timeout=60_000)
        expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
        expect(page.get_by_text("Cached", exact=True).first).to_be_visible()
        page.screenshot(path=os.environ.get("THAW_SCREENSHOT") or None)
        browser.close()


def test_artifacts_of_the_run_are_on_the_server(first_run: str) -> None:
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter

    async def ask() -> dict[str, str]:
        async with get_client() as client:
            result = await client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id={"any_": [first_run]}))
            return {artifact.key: artifact.type for artifact in result if artifact.key}

    kinds = asyncio.run(ask())
    expected = {"metrics": "table", "summary": "markdown"}
    expected |= {"learning-curves-head": "markdown", "learning-curves-unfreeze": "markdown"}
    expected |= {f"progress-{phase}": "progress" for phase in ("embed", "head", "unfreeze")}
    assert expected.items() <= kinds.items()


def test_dvc_repro_after_the_flow_and_the_flow_after_dvc_repro_do_nothing(workspace: Path, first_run: str) -> None:
    assert "up to date" in dvc(workspace, "repro")
    done = thaw(workspace, "run")
    assert done.returncode == 0, done.stderr
    assert states_of(run_id_in(done.stdout)) == dict.fromkeys(PHASES, "Cached")


def test_a_changed_setting_reruns_what_depends_on_it_and_changed_back_restores_it(
    workspace: Path, first_run: str
) -> None:
    weights = workspace / "artifacts/unfreeze/model/weights.safetensors"
    before = weights.read_bytes()
    untouched = dict.fromkeys(("data", "prepare", "embed", "head"), "Cached")
    changed = thaw(workspace, "run", "--set", "unfreeze.ratio=25")
    assert states_of(run_id_in(changed.stdout)) == untouched | dict.fromkeys(
        ("unfreeze", "evaluate", "package", "report"), "Completed"
    )
    assert "unfreeze.ratio" in dvc(workspace, "params", "diff")
    restored = thaw(workspace, "run", "--set", "unfreeze.ratio=10")
    assert states_of(run_id_in(restored.stdout)) == untouched | dict.fromkeys(
        ("unfreeze", "evaluate", "package", "report"), "Restored"
    )
    assert weights.read_bytes() == before


def test_dvc_shows_metrics_plots_and_experiments_and_a_deleted_output_comes_back(
    workspace: Path, first_run: str
) -> None:
    shown = json.loads(dvc(workspace, "metrics", "show", "--json"))
    assert "gain" in json.dumps(shown)
    dvc(workspace, "plots", "show", "-o", "plots", "--json")
    ran = call(workspace, sys.executable, "-m", "dvc", "exp", "run", "-S", "evaluate.at_least=0.8")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "evaluate.at_least" in dvc(workspace, "exp", "show", "--csv")
    weights = workspace / "artifacts/unfreeze/model/weights.safetensors"
    before = weights.read_bytes()
    shutil.rmtree(workspace / "artifacts/unfreeze/model")
    back = thaw(workspace, "run", "--set", "evaluate.at_least=0.9")
    assert back.returncode == 0, back.stderr
    assert states_of(run_id_in(back.stdout))["unfreeze"] == "Restored"
    assert weights.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "unfreeze.ratoi=3"], "the nearest that exists is 'unfreeze.ratio'"),
        (["--set", "backbone.name=resnet51"], "unknown backbone 'resnet51'"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_exit_code_two(
    workspace: Path, first_run: str, arguments: list[str], sentence: str
) -> None:
    before = (workspace / "params.yaml").read_bytes()
    done = thaw(workspace, "run", *arguments)
    assert (workspace / "params.yaml").read_bytes() == before
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
