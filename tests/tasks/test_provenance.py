"""Laws of what made an output: no setting escapes DVC's run cache, and what a cache gives back is checked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import settings

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def keys_of(stage: str) -> Iterator[str]:
    """Every setting that a stage depends on, such as `unfreeze.ratio`."""
    for key in settings.all_keys():
        if any(f"{key}.".startswith(f"{param}.") for param in STAGES[stage]["params"]):
            yield key


@pytest.fixture(scope="module")
def run_cache_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What DVC itself asks its run cache for, by stage, where a setting has some value."""
    from dvc.repo import Repo
    from dvc.stage.cache import _get_stage_hash

    folder = tmp_path_factory.mktemp("repo")
    yaml = YAML(typ="safe")
    stages = {
        name: {"cmd": "true", "deps": ["picture"], "params": stage["params"], "outs": [f"out-{name}"]}
        for name, stage in STAGES.items()
    }
    yaml.dump({"stages": stages}, folder / "dvc.yaml")
    (folder / "picture").write_text("pixels")
    repo = Repo.init(str(folder), no_scm=True)

    def key(name: str, setting: str, value: Any) -> str:
        values = yaml.load(ROOT / "params.yaml")
        *sections, last = setting.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
        yaml.dump(values, folder / "params.yaml")
        repo._reset()
        stage = repo.stage.load_one(name=name)
        stage.save_deps()
        return str(_get_stage_hash(stage))

    before = Path.cwd()
    os.chdir(folder)
    yield key
    os.chdir(before)
    repo.close()


@pytest.mark.parametrize("stage", STAGES)
def test_dvcs_run_cache_never_answers_for_another_value_of_a_setting(run_cache_key: Any, stage: str) -> None:
    deaf = [key for key in keys_of(stage) if run_cache_key(stage, key, "one") == run_cache_key(stage, key, "other")]
    assert deaf == []
