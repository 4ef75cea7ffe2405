"""Laws of studies on one machine: shared phases run once, and results lie where docs say.

The phases are toys; git, DVC and Prefect are real. An ablation has two arms here: which there are
otherwise, and what they share, is in tests/tasks/test_study.py.
"""

import csv
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from children import call, git, thaw
from workspaces import with_our_code

ROOT = Path(__file__).parents[2]
ARMS = ("recipe", "high rate")
PHASES = ["prepare", "embed", "head", "unfreeze", "evaluate", "report"]


@dataclass(frozen=True)
class Study:
    """A study that has ended: its output, the phases that ran, and the folder of its results."""

    printed: str
    ran: Counter[str]
    folder: Path

    @property
    def table(self) -> list[dict[str, str]]:
        """The rows of table.csv."""
        with (self.folder / "table.csv").open() as table:
            return list(csv.DictReader(table))


def _thaw(workspace: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return thaw(workspace, *arguments, patience=600, **{"COLUMNS": "240"} | environment)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = with_our_code(tmp_path_factory.mktemp("studies") / "workspace")
    with (folder / "thaw" / "project" / "study.py").open("a") as code:
        code.write(f"\nfor name in [*ABLATION]:\n    if name not in {ARMS}:\n        del ABLATION[name]\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "start")
    return folder


def _studied(workspace: Path, server: str, *command: str) -> Study:
    """The answer of a study in this workspace."""
    log = workspace.parent / "log"
    log.write_text("")
    ended = _thaw(workspace, *command, "--parallel", "2", PREFECT_API_URL=server, TOY_LOG=str(log))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (report,) = re.findall(r"^Report: (.+)$", ended.stdout, re.M)
    ran = Counter(line.split()[0] for line in log.read_text().splitlines())
    return Study(ended.stdout, ran, Path(report).parent)


@pytest.fixture(scope="module")
def ablation(workspace: Path, server: str) -> Study:
    return _studied(workspace, server, "ablate", "--seeds", "1")


@pytest.fixture(scope="module")
def again(workspace: Path, server: str, ablation: Study) -> Study:
    """The same command once more."""
    return _studied(workspace, server, "ablate", "--seeds", "1")


@pytest.fixture(scope="module")
def folded(workspace: Path, server: str) -> Study:
    return _studied(workspace, server, "seeds", "1", "--folds", "2")


@pytest.fixture(scope="module")
def curve(workspace: Path, server: str, ablation: Study) -> Study:
    """After another study of the same pictures and backbone."""
    return _studied(workspace, server, "curve", "--shares", "1,0.5", "--seeds", "1")


STUDIES = {"ablation": ["figure.png"], "again": ["figure.png"], "folded": [], "curve": ["figure.png"]}


def _artifacts(printed: str) -> list[Any]:
    """What the flow run that a command named has left."""
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    (run_id,) = re.findall(r"^Run: .+/flow-run/([0-9a-f-]{36})$", printed, re.M)
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run_id)]))
    with get_client(sync_client=True) as client:
        return list(client.read_artifacts(artifact_filter=of_run))


def _cells(row: dict[str, str]) -> str:
    """What a row of a printed table looks like."""
    return r" *│ *".join(map(re.escape, row.values()))


@pytest.mark.server
def test_arms_share_the_phases_that_they_have_in_common(ablation: Study) -> None:
    """The recipe and a high rate differ in phase 2 alone."""
    assert [ablation.ran[phase] for phase in PHASES[:5]] == [1, 1, 1, 2, 2]
    assert re.findall(r"^until-(\w+)-\w+: done$", ablation.printed, re.M) == ["head"]
    first, last = re.findall(r"^[\w-]+-seed0: done(.*)$", ablation.printed, re.M)
    assert re.fullmatch(r" \(1 of 2; about \d+ min left\)", first)
    assert last == ""
    assert {row["arm"] for row in ablation.table} == {"head only", *ARMS}
    assert {row["seeds"] for row in ablation.table} == {"1"}


@pytest.mark.server
def test_the_same_study_again_computes_nothing_and_finds_the_same(ablation: Study, again: Study) -> None:
    assert not again.ran
    assert again.printed.count(": done before") == len(ARMS)
    assert again.folder == ablation.folder
    assert again.table == ablation.table


@pytest.mark.server
def test_every_fold_is_trained_and_all_their_pictures_answer(workspace: Path, folded: Study) -> None:
    assert [folded.ran[phase] for phase in PHASES[:5]] == [2, 2, 2, 2, 2]
    experiments = call(workspace, "dvc", "exp", "list", "--name-only").split()
    for arm in ("recipe-fold0-seed0", "recipe-fold1-seed0"):
        assert f"{folded.folder.name}-{arm}" in experiments
    assert folded.table[0]["figure"] == "accuracy"


@pytest.mark.server
def test_a_curve_has_a_row_for_each_share_and_takes_what_another_study_computed(curve: Study) -> None:
    assert [(row["share"], row["seeds"]) for row in curve.table] == [("0.5", "1"), ("1", "1")]
    assert not {"prepare", "embed"} & curve.ran.keys()


@pytest.mark.server
@pytest.mark.parametrize(("name", "figures"), STUDIES.items(), ids=STUDIES)
def test_what_a_study_found_is_printed_kept_and_on_the_page_of_its_run(
    request: pytest.FixtureRequest, server: str, workspace: Path, name: str, figures: list[str]
) -> None:
    result: Study = request.getfixturevalue(name)
    assert result.folder.parent == workspace / "artifacts" / "studies"
    assert {file.name for file in result.folder.iterdir()} == {"report.html", "table.csv", *figures}
    page = (result.folder / "report.html").read_text()
    artifacts = _artifacts(result.printed)
    tables = [json.loads(artifact.data) for artifact in artifacts if artifact.type == "table"]
    assert max(map(len, tables)) == len(result.table)
    for row in (row for table in tables for row in table):
        assert re.search(_cells(row), result.printed), row
        assert all(f"<td>{value}</td>" in page for value in row.values())
    pictures = [artifact.data for artifact in artifacts if artifact.type == "markdown"]
    assert len(pictures) == len(figures)
    for markdown in pictures:
        (data,) = re.findall(r"\(data:image/png;base64,(.+)\)", markdown)
        assert data in page
    assert call(workspace, "git", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("curve --shares x", "--shares x is not a list of numbers; write it like 0.05,0.25,1"),
        ("curve --shares 0,1", "give shares above 0 and up to 1"),
        ("ablate --set unfreeze.ratio=0", "'unfreeze.ratio' is 0, which is not allowed"),
        ("ablate --set nonsense=1", "unknown key 'nonsense'"),
        ("seeds 2 --pool p --parallel 2", "--parallel is for this machine"),
    ],
)
def test_a_wrong_study_is_one_sentence_before_anything_starts(tmp_path: Path, command: str, sentence: str) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    ended = _thaw(tmp_path, *command.split())
    assert ended.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", ended.stderr)
    assert sentence in ended.stderr
    assert ended.stdout == ""
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dvc.yaml", "params.yaml"]


@pytest.mark.parametrize(("command", "least"), [("seeds 0", 1), ("seeds 2 --folds 1", 2)])
def test_a_number_out_of_range_is_refused_with_the_range(command: str, least: int) -> None:
    ended = _thaw(ROOT, *command.split())
    assert ended.returncode == 2
    assert re.search(rf"(>=|greater than or equal to ){least}\b", ended.stderr)
    assert "Traceback" not in ended.stderr
