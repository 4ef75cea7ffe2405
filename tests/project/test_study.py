"""Laws of studies: which arms they have, what these share, and what the answer is read from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from thaw.errors import InputError
from thaw.project import plan, study
from thaw.project.grid import Arm


def test_arms_of_seeds_go_through_every_fold_of_every_seed(trained_toy: Path) -> None:
    assert [arm.name for arm in study.seeds(2, None, [])] == ["recipe-seed0", "recipe-seed1"]
    result = study.seeds(2, 3, ["unfreeze.epochs=2"])
    assert [arm.name for arm in result] == [f"recipe-fold{fold}-seed{seed}" for seed in (0, 1) for fold in (0, 1, 2)]
    assert {arm.settings.unfreeze.epochs for arm in result} == {2}


def test_seeds_share_what_no_seed_changes(trained_toy: Path) -> None:
    jobs = plan.plan(study.seeds(3, None, []))
    assert [job.until for job in jobs] == ["embed", "report", "report", "report"]
    assert {job.after for job in jobs[1:]} == {jobs[0].name}


def test_shares_of_a_curve_share_prepare_and_embed(trained_toy: Path) -> None:
    arms = study.curve(2, [1, 0.05, 0.05], [])
    assert [arm.name for arm in arms] == ["0.05-seed0", "0.05-seed1", "1-seed0", "1-seed1"]
    assert [job.until for job in plan.plan(arms)] == ["embed", *["report"] * 4]
    with pytest.raises(InputError, match="give shares above 0 and up to 1"):
        study.curve(2, [0.0, 1.0], [])


@pytest.mark.parametrize(
    ("arms", "key"),
    [
        (lambda change: study.seeds(2, 2, [change]), "prepare.fold"),
        (lambda change: study.curve(1, [1.0], [change]), "labels"),
        (lambda change: study.ablation(1, [change]), "seed"),
    ],
)
def test_what_a_study_varies_cannot_be_set(trained_toy: Path, arms: Callable[[str], list[Arm]], key: str) -> None:
    with pytest.raises(InputError, match=f"--set {key}: the study chooses {key} itself"):
        arms(f"{key}=1")


def test_shares_that_look_alike_are_one_and_all_labels_are_those_of_a_run(trained_toy: Path) -> None:
    arms = study.curve(1, [0.1234567, 0.12345671, 1], [])
    assert [arm.name for arm in arms] == ["0.123457-seed0", "1-seed0"]
    assert "labels=1.0" in arms[1].overrides


def test_ablation_has_every_mistake_with_every_seed_and_the_recipe_is_the_settings(trained_toy: Path) -> None:
    arms = study.ablation(2, ["unfreeze.ratio=20", "unfreeze.keep=best"])
    assert [arm.setting for arm in arms[::2]] == list(study.ABLATION)
    recipe, high, none, low, drawn = (arm.settings for arm in arms[1::2])
    assert {arm.settings.unfreeze.keep for arm in arms} == {"last"}
    assert (recipe.unfreeze.ratio, recipe.head.max_epochs) == (20, 100)
    assert (high.unfreeze.ratio, high.head.max_epochs) == (1, 100)
    assert (none.unfreeze.ratio, none.head.max_epochs) == (1, 0)
    assert (low.unfreeze.ratio, low.head.max_epochs) == (20, 0)
    assert (drawn.backbone.weights, drawn.head.max_epochs) == ("random 1", 0)


def test_every_option_is_compared_with_the_recipe(trained_toy: Path) -> None:
    arms = study.ablation(1, [], study.OPTIONS)
    assert arms[0].setting == study.RECIPE
    assert len({arm.name for arm in arms}) == len(arms)
    assert all(arm.settings != arms[0].settings for arm in arms[1:])


def test_no_seeds_is_one_sentence(trained_toy: Path) -> None:
    with pytest.raises(InputError, match="0 seeds leave nothing to train"):
        study.ablation(0, [])
