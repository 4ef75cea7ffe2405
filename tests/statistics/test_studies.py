"""Laws of studies: figures over seeds are those of each seed, intervals cover both chances."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from thaw.report import studies as looks
from thaw.report.ablation import ablation_plot
from thaw.report.differences import differences
from thaw.statistics import metrics
from thaw.statistics import studies as study
from thaw.statistics.studies import Training


def _run(setting: str, seed: int, right: dict[str, list[bool]], groups: int = 10) -> Training:
    """A run over as many pictures as verdicts, all of class `a`, in ten groups."""
    count = len(right["head"])
    predictions = pd.DataFrame(
        {
            "path": [f"{number}.png" for number in range(count)],
            "label": "a",
            "group": [f"g{number % groups}" for number in range(count)],
            "half": ["low" if number < count / 2 else "high" for number in range(count)],
        }
    )
    metrics: dict[str, object] = {"forgetting": {"distance": 0.1 * (seed + 1), "cka": 0.9}}
    for network, verdicts in right.items():
        predictions[f"{network}_prediction"] = np.where(verdicts, "a", "b")
        predictions[f"{network}_p_a"] = np.where(verdicts, 0.9, 0.3)
        predictions[f"{network}_p_b"] = 1 - predictions[f"{network}_p_a"]
        metrics[network] = {
            "accuracy": float(np.mean(verdicts)), "balanced_accuracy": 0.5, "auc": None if seed else 0.5, "ece": 0.1,
        }  # fmt: skip
    return Training(setting, seed, metrics, pd.DataFrame(), predictions)


def _drawn(setting: str, seed: int, head: float, finetuned: float, count: int = 400) -> Training:
    random = np.random.default_rng([seed, len(setting)])
    return _run(setting, seed, {"head": random.random(count) < head, "finetuned": random.random(count) < finetuned})


def test_no_change_is_no_difference_and_a_certain_one_holds_up_to_one() -> None:
    runs = [_run("x", seed, {"head": [True, False] * 20, "finetuned": [True] * 40}) for seed in range(3)]
    groups, head = study.groups_of(runs), study.verdicts(runs, "head")
    none = study.difference(head, head, groups)
    assert none["mean"] == 0
    assert 0.04 < none["high"] == -none["low"] < 0.1
    always = [_run("x", 0, {"head": [False] * 40, "finetuned": [True] * 40})]
    both = [study.verdicts(always, name) for name in ("head", "finetuned")]
    sure = study.difference(*both, study.groups_of(always))
    assert sure["mean"] == sure["high"] == 1
    assert 0.7 < sure["low"] < 0.9


def test_two_seeds_have_no_interval_and_one_has_that_of_its_pictures() -> None:
    runs = [_drawn("x", seed, 0.7, 0.8) for seed in range(3)]
    known = []
    for count in (1, 2, 3):
        of = [study.verdicts(runs[:count], name) for name in ("head", "finetuned")]
        known.append(not np.isnan(study.difference(*of, study.groups_of(runs))["low"]))
    assert known == [True, False, True]


def test_interval_is_wider_where_seeds_disagree() -> None:
    steady = [_drawn("x", seed, 0.7, 0.8) for seed in range(4)]
    shaky = [_drawn("x", seed, 0.7, 0.8 + (0.15 if seed % 2 else -0.15)) for seed in range(4)]
    widths = []
    for runs in (steady, shaky):
        result = study.difference(
            study.verdicts(runs, "head"), study.verdicts(runs, "finetuned"), study.groups_of(runs)
        )
        assert result["low"] < result["mean"] < result["high"]
        widths.append(result["high"] - result["low"])
    assert widths[1] > 1.5 * widths[0]


def test_seeds_are_summed_up_with_spread_and_by_slice() -> None:
    runs = [_drawn("x", seed, 0.7, 0.8) for seed in range(3)]
    figures, slices = study.seeds(runs, ["half"])
    accuracy = figures.iloc[0]
    accuracies = [run.metrics["head"]["accuracy"] for run in runs]
    assert accuracy["head"] == pytest.approx(np.mean(accuracies))
    assert accuracy["head_spread"] == pytest.approx(np.std(accuracies, ddof=1))
    assert accuracy["gain"] == pytest.approx(accuracy["finetuned"] - accuracy["head"])
    assert slices["value"].tolist() == ["high", "low"]
    assert slices["finetuned"].mean() == pytest.approx(accuracy["finetuned"])
    assert slices["gain"].mean() == pytest.approx(accuracy["gain"])


def test_where_no_seed_kept_anything_of_phase_2_there_is_no_gain() -> None:
    runs = [_run("recipe", seed, {"head": [True, False] * 20, "finetuned": [True, False] * 20}) for seed in range(2)]
    moved = _drawn("other", 0, 0.5, 0.8, 40)
    assert {"gain", "gain_low"} <= set(study.seeds(runs, ["half"])[0])
    for run in runs:
        run.metrics["phase_2"] = {"same": True}
    assert not any("gain" in column for table in study.seeds(runs, ["half"]) for column in table)
    table = study.ablation([*runs, moved], "recipe").set_index("arm")
    assert np.isnan(table.loc["recipe", "over_head"])
    assert not np.isnan(table.loc["other", ["over_head", "over_recipe"]].astype(float)).any()


def test_folds_of_one_seed_are_one_answer() -> None:
    whole = _drawn("x", 0, 0.7, 0.8)
    parts = [
        Training("x", 0, whole.metrics, whole.history, whole.predictions.iloc[rows])
        for rows in (slice(0, 150), slice(150, None))
    ]
    pd.testing.assert_frame_equal(study.verdicts([whole], "head"), study.verdicts(parts, "head"))


def test_ablation_compares_each_arm_with_head_only_and_with_the_recipe() -> None:
    runs = [
        _drawn(setting, seed, 0.7, level) for seed in range(3) for setting, level in (("recipe", 0.85), ("high", 0.5))
    ]
    table = study.ablation(runs, "recipe").set_index("arm")
    assert table.index.tolist() == ["head only", "recipe", "high", "recipe, seeds averaged"]
    assert table.loc["recipe", "over_head_low"] > 0
    assert table.loc["high", "over_recipe_high"] < 0
    assert np.isnan(table.loc["recipe", "over_recipe"])
    assert table.loc["head only", "over_recipe"] == pytest.approx(-table.loc["recipe", "over_head"])
    assert table.loc["high", "distance"] == pytest.approx(0.2)


def test_auc_of_arms_differs_by_as_much_as_their_own_auc_does() -> None:
    def scored(setting: str, seed: int, noise: float) -> Training:
        run = _drawn(setting, seed, 0.7, 0.8)
        labels = np.arange(len(run.predictions)) % 2
        p = labels + noise * np.random.default_rng(seed).normal(size=len(labels))
        own = {"label": np.where(labels, "b", "a"), "finetuned_p_a": -p, "finetuned_p_b": p}
        auc = metrics.auc(np.stack([-p, p], 1), labels)
        predictions = run.predictions.assign(**own).sample(frac=1, random_state=seed)
        return replace(run, predictions=predictions, metrics=run.metrics | {"finetuned": {"accuracy": 0.8, "auc": auc}})

    runs = [
        scored(*arm, noise)
        for noise, setting in [(0.5, "recipe"), (1.5, "high")]
        for arm in [(setting, seed) for seed in range(3)]
    ]
    row = study.ablation(runs, "recipe").set_index("arm").loc["high"]
    own = {
        name: np.mean([run.metrics["finetuned"]["auc"] for run in runs if run.setting == name])
        for name in ("recipe", "high")
    }
    assert row["auc_over_recipe"] == pytest.approx(own["high"] - own["recipe"])
    assert row["auc_over_recipe_low"] < row["auc_over_recipe"] < row["auc_over_recipe_high"] < 0


def test_averaged_seeds_say_what_the_mean_of_their_probabilities_says() -> None:
    # 0.9 where right, 0.3 where wrong
    sure, unsure = [True, True, False, False], [True, False, True, False]
    runs = [_run("x", seed, {"head": output, "finetuned": output}) for seed, output in enumerate((sure, unsure))]
    for run in study.averaged(runs):
        assert (run.predictions["finetuned_prediction"] == "a").tolist() == [True, True, True, False]
        assert run.predictions["finetuned_p_a"].tolist() == pytest.approx([0.9, 0.6, 0.6, 0.3])
        assert run.metrics["finetuned"]["accuracy"] == 0.75
    assert study.seeds(runs, [])[0].set_index("figure").loc["accuracy", "averaged"] == 0.75


def test_every_arm_of_a_study_is_in_its_picture() -> None:
    history = pd.DataFrame({"epoch": [0, 1], "val_accuracy": [0.5, 0.6]})
    runs = [
        replace(_drawn(setting, seed, 0.7, 0.8), history=history)
        for seed in range(2)
        for setting in ("recipe", "high", "low")
    ]
    table = study.ablation(runs, "recipe")
    for png in (ablation_plot(runs, table), differences(table)):
        assert Image.open(io.BytesIO(png)).size[0] > 1000
    text = looks.page("title", ["about"], {"arms": looks.readable(table, ["accuracy"])}, {"figure": png})
    assert all(f"<td>{arm}</td>" in text for arm in table["arm"])
    assert "http" not in text.replace("http-equiv", "")
