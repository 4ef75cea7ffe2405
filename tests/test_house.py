"""Laws of the house: one word for a phase everywhere, and DVC knows what each stage reads."""

import re
from pathlib import Path

import yaml

from thaw.project import pipeline, recipe
from thaw.project.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_stages_tasks_and_files_use_the_same_words() -> None:
    assert list(pipeline.phases()) == ["data", *STAGES]
    for phase, stage in STAGES.items():
        assert stage["cmd"] == f"thaw phase {phase}"
        assert (ROOT / "tasks" / f"{phase}.py").is_file()
        outputs = [*stage["outs"], *stage.get("metrics", []), *stage.get("plots", [])]
        paths = [path if isinstance(path, str) else next(iter(path)) for path in outputs]
        record = f"artifacts/provenance/{phase}.json"
        assert record in paths
        paths.remove(record)
        assert all(path == f"artifacts/{phase}" or path.startswith(f"artifacts/{phase}/") for path in paths)


def test_every_stage_depends_on_its_own_file_and_on_exactly_the_recipe_of_what_it_imports() -> None:
    for phase, stage in STAGES.items():
        assert {path for path in stage["deps"] if path.endswith(".py")} == {f"tasks/{phase}.py"}
        assert recipe.listed(stage) == recipe.keys(phase), phase


def test_no_plot_of_the_whole_pipeline_is_a_cached_output() -> None:
    """`dvc exp save` puts such files into git, and then no stage can write them again."""
    whole = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    files = {path for plot in whole for values in plot.values() for path in values["y"]}
    in_git = {
        path
        for stage in STAGES.values()
        for plot in stage.get("plots", [])
        if isinstance(plot, dict)
        for path, options in plot.items()
        if options.get("cache") is False
    }
    assert files <= in_git


def test_the_recipe_is_up_to_date() -> None:
    assert recipe.changes() == {}, "`make recipe` brings thaw.yaml up to date"


def test_every_stage_depends_on_its_own_settings_and_on_keys_that_exist() -> None:
    for phase, stage in STAGES.items():
        for key in filter(lambda entry: isinstance(entry, str), stage["params"]):
            section, _, inner = key.partition(".")
            field = Settings.model_fields[section]
            assert not inner or inner in field.annotation.model_fields  # type: ignore[union-attr]
        if phase in Settings.model_fields:
            assert phase in stage["params"]


def test_every_input_of_a_stage_is_the_data_or_the_output_of_an_earlier_one() -> None:
    made = {"data"}
    for stage in STAGES.values():
        for path in stage["deps"]:
            assert path in made or path.startswith("tasks/"), path
        outputs = [*stage["outs"], *stage.get("metrics", []), *stage.get("plots", [])]
        made |= {path if isinstance(path, str) else next(iter(path)) for path in outputs}


def test_the_phases_that_train_declare_that_they_read_no_test_rows() -> None:
    for phase in ("embed", "head", "unfreeze"):
        declared = re.findall(r"networks\.dataset\(\w+, (.*)\)", (ROOT / "tasks" / f"{phase}.py").read_text())
        assert declared == ['"train", "val"']


def test_the_documents_name_every_module_and_none_that_is_not_there() -> None:
    named = re.findall(r"^\| `([a-z0-9_/]+\.py)` \|", (ROOT / "docs" / "house.md").read_text(), re.MULTILINE)
    files = [path for room in ("tasks", "flows", "thaw") for path in (ROOT / room).rglob("*.py")]
    there = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    assert sorted(named) == sorted(there)


def test_the_readme_names_every_room() -> None:
    tree = (ROOT / "README.md").read_text().split("## The house")[1].split("## ")[0]
    rooms = {path.name for path in (ROOT / "thaw").iterdir() if (path / "__init__.py").is_file()}
    assert rooms
    assert {room for room in rooms if f"      {room}/ " not in tree} == set()
