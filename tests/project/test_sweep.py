"""Laws of a sweep: its arms, which phases they share, what they start from, and their results."""

import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thaw.errors import InputError
from thaw.project import grid as grids
from thaw.project import plan, sweep
from thaw.report.sweep_plot import sweep_plot
from thaw.report.sweeps import readable
from thaw.statistics.sweeps import best, by_setting

TREE = ("embed.batch_size", "head.batch_size", "unfreeze.batch_size", "unfreeze.epochs", "evaluate.batch_size")


def _names(grid: list[str], seeds: int | None = None) -> list[str]:
    return [arm.name for arm in grids.arms(grid, seeds, 50)]


def _git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments], cwd=root, check=True)


def test_arms_are_all_combinations_and_every_setting_gets_every_seed(trained_toy: Path) -> None:
    assert _names(["unfreeze.ratio=10,30", "unfreeze.epochs=2"], 2) == [
        "ratio10-seed0",
        "ratio10-seed1",
        "ratio30-seed0",
        "ratio30-seed1",
    ]
    assert _names([], 3) == ["unchanged-seed0", "unchanged-seed1", "unchanged-seed2"]
    assert _names(["seed=7,9"]) == ["unchanged-seed7", "unchanged-seed9"]
    (arm, _) = grids.arms(["unfreeze.ratio=10,30", "unfreeze.epochs=2"], None, 50)
    assert arm.overrides == ["unfreeze.ratio=10", "unfreeze.epochs=2", "seed=0"]


def test_brackets_protect_the_commas_of_a_list(trained_toy: Path) -> None:
    grid = ["unfreeze.blocks=all,[features.7.0, features.8],2"]
    blocks = [arm.settings.unfreeze.blocks for arm in grids.arms(grid, None, 50)]
    assert blocks == ["all", ["features.7.0", "features.8"], 2]


def test_names_of_arms_are_names_for_git(trained_toy: Path) -> None:
    names = _names(["prepare.positive=a..b,c.,x/y~z", "head.learning_rate=1e-3,0.01", "embed.views=none,flip"])
    for name in names:
        subprocess.run(["git", "check-ref-format", f"refs/exps/aa/bb/sweep-1-{name}"], check=True)
    alike = _names(["embed.views=none,flip", "evaluate.views=none,flip"])
    assert "embed.viewsnone-evaluate.viewsflip-seed0" in alike


@pytest.mark.parametrize(
    ("grid", "seeds", "sentence"),
    [
        ([], None, "a sweep needs values to try"),
        ([], 0, "--seeds 0 leaves nothing to train"),
        (["unfreeze.ratio=10,30"], -1, "--seeds -1 leaves nothing"),
        (["unfreeze.ratio"], None, "'unfreeze.ratio' is not a setting"),
        (["unfreeze.ratio=10,,30"], None, "has an empty value"),
        (["unfreeze.ratio="], None, "has an empty value"),
        (["unfreeze.ratio=10,30,10"], None, "gives the arm ratio10-seed0 twice"),
        (["unfreeze.ratio=10", "unfreeze.ratio=30"], None, "names unfreeze.ratio twice"),
        (["seed=1,2"], 2, "both choose the seeds"),
        (["unfreeze.ratoi=10,30"], None, "the nearest that exists is 'unfreeze.ratio'"),
        (["unfreeze.ratio=10,fast"], None, "'unfreeze.ratio' is 'fast'"),
        (["unfreeze.ratio=1,2,3,4,5,6", "unfreeze.epochs=1,2,3"], 3, "has 54 arms, and 50 are allowed"),
    ],
)
def test_a_wrong_grid_is_one_sentence(trained_toy: Path, grid: list[str], seeds: int | None, sentence: str) -> None:
    with pytest.raises(InputError, match=r"\A[^\n]+\Z") as raised:
        grids.arms(grid, seeds, 50)
    assert sentence in str(raised.value)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.sampled_from(TREE), st.lists(st.integers(1, 9), min_size=1, max_size=2, unique=True), max_size=3
    ),
    seeds=st.integers(1, 2),
)
def test_no_phase_is_computed_twice_whatever_the_grid(
    trained_toy: Path, values: dict[str, list[int]], seeds: int
) -> None:
    """Two jobs that would compute the same phase wait for one another."""
    grid = [f"{key}={','.join(map(str, choices))}" for key, choices in values.items()]
    arms = grids.arms(grid, seeds, 50)
    jobs = {job.name: job for job in plan.plan(arms)}
    settings_of = {tuple(arm.overrides): arm.settings for arm in arms}
    assert [name for name in jobs if not name.startswith("until-")] == sorted(
        (arm.name for arm in arms), key=list(jobs).index
    )
    phases = ["prepare", "embed", "head", "unfreeze", "evaluate", "report"]

    def before(name: str) -> list[str]:
        after = jobs[name].after
        return [] if after is None else [after, *before(after)]

    def reads(name: str) -> list[tuple[object, ...]]:
        """For each phase that a job goes through, everything that its result depends on."""
        config = settings_of[tuple(jobs[name].overrides)]
        read: list[object] = [config.prepare]
        per_phase = [(), (config.embed,), (config.seed, config.head), (config.unfreeze,), (config.evaluate,), ()]
        keys = []
        for phase, own in zip(phases, per_phase, strict=True):
            read += own
            keys.append((phase, *read))
            if phase == jobs[name].until:
                return keys
        return keys

    for one, other in combinations(jobs, 2):
        shared = set(reads(one)) & set(reads(other))
        made = {key for job in {*before(one)} | {*before(other)} for key in reads(job)}
        assert shared <= made or one in before(other) or other in before(one)


def test_the_name_of_a_sweep_follows_from_its_commit_and_arms(trained_toy: Path) -> None:
    _git(trained_toy, "add", ".")
    _git(trained_toy, "commit", "-qm", "start")

    def name(values: str) -> str:
        return sweep.sweep(grids.arms([f"unfreeze.ratio={values}"], 2, 50), False).name

    first, same, other = map(name, ("10,30", "10,30", "10,20"))
    assert first == same != other
    _git(trained_toy, "commit", "-qm", "another", "--allow-empty")
    assert name("10,30") != first


def test_what_workers_would_not_get_is_one_sentence(trained_toy: Path, tmp_path: Path) -> None:
    def refusal(pool: bool) -> str:
        with pytest.raises(InputError, match=r"\A[^\n]+\Z") as raised:
            sweep.base(pool)
        return str(raised.value)

    assert "needs a git commit" in refusal(False)
    _git(trained_toy, "add", ".")
    _git(trained_toy, "commit", "-qm", "start")
    (trained_toy / "dvc.lock").write_text("{}")  # the phases write it; no arm needs it
    assert sweep.base(False).repository == str(trained_toy)
    (trained_toy / "phases.py").write_text("pass")
    assert refusal(False).startswith("phases.py differ")
    _git(trained_toy, "checkout", "-q", "phases.py")

    assert "git remote add origin" in refusal(True)
    _git(trained_toy, "remote", "add", "origin", "../origin.git")
    assert "origin does not answer" in refusal(True)
    _git(tmp_path, "init", "-q", "--bare", "origin.git")
    assert "push first" in refusal(True)
    _git(trained_toy, "push", "-q", "origin", "HEAD")
    assert "dvc remote add" in refusal(True)
    with (trained_toy / ".dvc" / "config").open("a") as config:
        config.write("[core]\n    remote = storage\n['remote \"storage\"']\n    url = /storage\n")
    assert "commit first" in refusal(True)
    _git(trained_toy, "commit", "-qam", "storage")
    _git(trained_toy, "push", "-q", "origin", "HEAD")
    assert sweep.base(True).repository == str(tmp_path / "origin.git")
    _git(trained_toy, "remote", "set-url", "origin", "https://somebody:secret@localhost:1/thaw.git")
    assert "secret" not in refusal(True)


def _arms(**columns: Any) -> pd.DataFrame:
    rest = dict.fromkeys(("head_accuracy", "accuracy", "gain", "auc", "minutes"), 0.8) | {"same": False}
    return pd.DataFrame(rest | {"arm": [str(n) for n in range(4)], "seed": [0, 1, 0, 1]} | columns)


def test_the_best_setting_is_chosen_on_validation_and_never_on_test() -> None:
    arms = _arms(setting=["a", "a", "b", "b"], val_loss=[0.3, 0.4, 0.2, 0.3], accuracy=[0.9, 0.9, 0.1, 0.1])
    assert best(by_setting(arms)) == "b"


def test_a_setting_whose_seeds_are_not_all_done_is_not_best() -> None:
    arms = _arms(setting=["a", "a", "b", "b"], val_loss=[0.3, 0.4, 0.1, 0.9]).drop(index=3)
    assert best(by_setting(arms)) == "a"


def test_the_table_says_mean_and_spread_and_nothing_where_there_is_none() -> None:
    arms = _arms(setting=["a", "a", "b", "b"], val_loss=0.3, gain=[0.01, 0.03, -0.02, 0.0]).drop(index=3)
    first, second = readable(by_setting(arms))
    assert (first["seeds"], first["gain"]) == ("2", "+2.0 ± 1.4 points")
    assert (second["seeds"], second["gain"]) == ("1", "−2.0 points")


def test_a_setting_that_kept_nothing_of_phase_2_has_no_gain() -> None:
    arms = _arms(setting=["a", "a", "b", "b"], val_loss=0.3, gain=[0.0, 0.0, 0.0, 0.02], same=[True, True, True, False])
    first, second = readable(by_setting(arms))
    assert first["gain"] == "not kept"
    assert second["gain"] == "+1.0 ± 1.4 points"


def test_the_plot_is_a_picture_for_any_number_of_settings() -> None:
    for settings_of_arms in (["a"] * 4, ["a", "a", "b", "b"], list("abcd")):
        arms = _arms(setting=settings_of_arms, val_loss=0.3)
        table = by_setting(arms)
        assert sweep_plot(arms, table, best(table)).startswith(b"\x89PNG")
