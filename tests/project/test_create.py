"""Laws of new projects: they hold this repository's files, and overwrite nothing."""

from pathlib import Path

import pytest
from children import call, importing, thaw
from ruamel.yaml import YAML

from thaw import __version__
from thaw.errors import InputError
from thaw.project import template
from thaw.project.create import create

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_project_holds_the_very_files_of_this_repository_and_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "über all" / "tiles"
    create(folder)
    for name, text in template.texts().items():
        own = (folder / name).read_text()
        if name != "thaw.yaml":
            assert own == text == (ROOT / template.ELSEWHERE.get(name, name)).read_text()
    recipe = YAML(typ="safe").load(folder / "thaw.yaml")
    assert (recipe["project"], recipe["thaw"]) == ("tiles", __version__)
    assert (folder / "data").is_dir()
    assert not (folder / "data.dvc").exists()
    assert call(folder, "git", "status", "--short", "--untracked-files=all").count("\nA ") > 20
    assert "??" not in call(folder, "git", "status", "--short")


def test_a_run_without_pictures_says_so_before_anything_starts(tmp_path: Path) -> None:
    create(tmp_path / "tiles")
    done = thaw(tmp_path / "tiles", "run", PYTHONPATH=importing(ROOT))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is neither data/ nor data.dvc: put your pictures into data/")
    assert done.stderr.count("\n") == 1


def test_dvc_reads_the_pipeline_of_a_new_project(tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    create(folder, demo=True)
    stages = call(folder, "dvc", "stage", "list", "--name-only").split()
    assert stages == ["prepare", "embed", "head", "unfreeze", "evaluate", "package", "report"]
    assert (folder / "data.dvc").read_text() == (ROOT / "data.dvc").read_text()


def test_in_a_repository_that_exists_what_is_lacking_is_added_and_nothing_is_overwritten(tmp_path: Path) -> None:
    call(tmp_path, "git", "init", "-q")
    (tmp_path / "README.md").write_text("ours\n")
    (tmp_path / ".gitignore").write_text("/secret\n")
    output = create(tmp_path)
    assert (tmp_path / "README.md").read_text() == "ours\n"
    ignored = (tmp_path / ".gitignore").read_text().splitlines()
    assert ignored[0] == "/secret"
    assert "/data" in ignored
    assert "kept README.md as it is" in output
    assert not any("git repository" in sentence for sentence in output)


def test_a_project_in_a_folder_of_a_larger_repository_has_a_dvc_of_its_own(tmp_path: Path) -> None:
    call(tmp_path, "git", "init", "-q")
    call(tmp_path, "dvc", "init", "-q")
    folder = tmp_path / "models" / "tiles"
    create(folder)
    assert call(folder, "dvc", "root") == "."
    assert len(call(folder, "dvc", "stage", "list", "--name-only").split()) == 7


def test_a_folder_in_a_project_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    create(tmp_path / "tiles")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="is a project already; `thaw upgrade`"):
        create(tmp_path / "tiles")
    with pytest.raises(InputError, match="lies in the project"):
        create(tmp_path / "tiles" / "inner")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_pipeline_of_somebody_else_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(InputError, match=r"dvc.yaml exists and does not belong to a thaw project"):
        create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"]


def test_without_git_or_where_nobody_may_write_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot become a project: Not a directory"):
        create(tmp_path / "file" / "project")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="git, which is not installed: install it"):
        create(tmp_path / "tiles")
