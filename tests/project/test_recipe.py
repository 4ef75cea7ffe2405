"""Laws of the recipe: a phase runs again exactly when its code, packages or weights change."""

import shutil
from pathlib import Path

import pytest
from children import call

from thaw.errors import InputError
from thaw.project import recipe

ROOT = Path(__file__).resolve().parents[2]
TASKS = {  # what a phase imports of thaw: numbers only, tensors too, and what draws
    "count": "from thaw.statistics import metrics",
    "learn": "from thaw.learning.folding import fold_batchnorm",
    "draw": "from thaw.report import page",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library, and a project of three phases that count their runs."""
    top = tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT / "thaw", top / "library", ignore=shutil.ignore_patterns("__pycache__"))
    folder = top / "project"
    (folder / "tasks").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "LIBRARY", top / "library")
        patch.chdir(folder)
        stages = ["stages:"]
        for name, line in TASKS.items():
            (folder / f"tasks/{name}.py").write_text(line + "\n")
            stages += [f"  {name}:", f"    cmd: echo ran >> {name}.log && touch {name}.txt", "    params:"]
            stages += [f"      - thaw.yaml: [{', '.join(recipe.keys(name))}]", f"    outs: [{name}.txt]"]
        (folder / "dvc.yaml").write_text("\n".join(stages) + "\n")
        (folder / "params.yaml").write_text("backbone: {name: resnet18, weights: own.pth}\n")
        (folder / "own.pth").write_text("weights")
        (folder / "thaw.yaml").write_text(f"project: test\nthaw: {recipe.thaw.__version__}\n")
        call(folder, "dvc", "init", "-q", "--no-scm")
        recipe.refresh()
        assert ran(folder) == set(TASKS)
        assert ran(folder) == set()
    return top


@pytest.fixture
def library(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library, which the recipe takes for the one that runs."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.setattr(recipe, "LIBRARY", tmp_path / "library")
    return tmp_path / "library"


@pytest.fixture
def project(library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project that runs it."""
    monkeypatch.chdir(library.with_name("project"))
    return library.with_name("project")


def ran(folder: Path) -> set[str]:
    """The phases that `dvc repro` runs."""
    for log in folder.glob("*.log"):
        log.unlink()
    call(folder, "dvc", "repro", "-q")
    return {log.stem for log in folder.glob("*.log")}


def add_line(file: Path) -> None:
    file.write_text(file.read_text() + "\nCHANGED = True\n")


@pytest.mark.parametrize(
    ("changed", "phases"),
    [
        ("statistics/metrics.py", {"count"}),
        ("learning/folding.py", {"learn"}),
        ("report/page.py", {"draw"}),
        ("report/page.html.jinja", {"draw"}),
        ("project/registry.py", set()),
    ],
)
def test_a_change_of_the_library_runs_exactly_the_phases_that_import_it(
    library: Path, project: Path, changed: str, phases: set[str]
) -> None:
    add_line(library / changed)
    recipe.refresh()
    assert ran(project) == phases


def test_another_version_runs_exactly_the_phases_that_import_the_package_and_dvc_names_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recipe.installed
    monkeypatch.setattr(recipe, "installed", lambda name: "99.0" if name == "scikit-learn" else real(name))
    monkeypatch.setattr(recipe, "in_own_repository", lambda: True)
    recipe.refresh()
    assert "versions.scikit-learn" in call(project, "dvc", "status")
    assert ran(project) == {"count"}


def test_what_a_version_was_built_for_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "version", lambda name: "2.14.1+cpu")
    assert recipe.installed("torch") == "2.14.1"


def test_weights_from_a_file_count_by_their_content(project: Path) -> None:
    task = project / "tasks/learn.py"
    task.write_text(task.read_text() + "from thaw.learning import backbones\n")
    recipe.refresh()
    stages = (project / "dvc.yaml").read_text()
    listed = f"[{', '.join(recipe.keys('learn'))}]"
    old = next(line for line in stages.splitlines() if "code.learn" in line)
    (project / "dvc.yaml").write_text(stages.replace(old, f"      - thaw.yaml: {listed}"))
    assert ran(project) == {"learn"}
    (project / "own.pth").write_text("other weights")
    recipe.refresh()
    assert ran(project) == {"learn"}


def test_a_phase_under_another_recipe_does_not_start(library: Path, project: Path) -> None:
    recipe.check("learn")
    add_line(library / "learning/folding.py")
    recipe.check("count")
    with pytest.raises(InputError, match="the code of thaw that learn runs changed; `thaw run` brings it up to date"):
        recipe.check("learn")


def test_a_phase_whose_stage_leaves_out_what_it_imports_does_not_start(project: Path) -> None:
    task = project / "tasks/count.py"
    task.write_text(task.read_text() + "import matplotlib\n")
    with pytest.raises(InputError, match=r"stage count must depend .* `- thaw.yaml: \[versions.matplotlib\]`"):
        recipe.check("count")


@pytest.mark.parametrize("key", ["thaw", "versions"])
def test_another_thaw_or_torch_than_the_project_was_made_with_asks_for_an_upgrade(project: Path, key: str) -> None:
    recipe.write({"thaw": "0.0.1"} if key == "thaw" else {"versions": {"torch": "1.0"}})
    with pytest.raises(InputError, match=r"made with (thaw 0.0.1|torch 1.0), and .* is installed: `thaw upgrade`"):
        recipe.refresh()
    assert recipe.pipeline.read("thaw.yaml")["thaw"] == ("0.0.1" if key == "thaw" else recipe.thaw.__version__)


def test_the_name_and_the_comments_of_the_file_stay(library: Path, project: Path) -> None:
    (project / "thaw.yaml").write_text("# ours\n" + (project / "thaw.yaml").read_text())
    add_line(library / "statistics/metrics.py")
    recipe.refresh()
    assert (project / "thaw.yaml").read_text().startswith("# ours\nproject: test\n")
