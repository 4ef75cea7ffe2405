"""Laws of the comparison with peers: its ratios, one split for all, no run made twice."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.peers import __main__ as bench
from benchmarks.peers import pictures, results, thaw
from benchmarks.peers.contest import Contest
from thaw.project import settings, workspace

ROOT = Path(__file__).resolve().parents[2]
HEAD_EPOCHS, EPOCHS = 10, 8


def row(contestant: str, repeat: int, seconds: float = 0.0, **printed: list[float]) -> dict[str, Any]:
    by_name = {name.replace("_", " "): values for name, values in printed.items()}
    return {"contestant": contestant, "repeat": repeat, "seconds": seconds, "peak_gb": 1.0, "told": by_name}


def repeat_of(repeat: int, slower: float) -> list[dict[str, Any]]:
    """All contestants in one repeat; plain takes `slower` times as long as thaw."""
    epochs, heads = [5.0] * EPOCHS, [3.0] * HEAD_EPOCHS
    slow = [slower * seconds for seconds in epochs]
    rates = {"embed_rate": [200.0], "bare_embed_rate": [250.0], "training_rate": [60.0], "bare_training_rate": [75.0]}
    return [
        row("thaw", repeat, 100, phase_1=[30.0], unfreeze_epoch=epochs),
        row("plain", repeat, 100 * slower, head_epoch=[slower * head for head in heads], unfreeze_epoch=slow),
        row("bare", repeat, 40, **rates),
        row("plain-last", repeat, 50, unfreeze_epoch=[10.0 * slower]),
        row("thaw-last", repeat, 20, unfreeze_epoch=[5.0]),
        row("thaw-quick", repeat, 50, phase_1=[30.0], unfreeze_epoch=[1.0] * EPOCHS),
        row("thaw-last-quick", repeat, 20, unfreeze_epoch=[0.5] * EPOCHS),
        row("run", repeat, 400, run=[300.0], evaluate=[80.0]),
        row("run-quick", repeat, 200, run=[150.0], evaluate=[80.0 / slower]),
        row("fastai", repeat, 250, head_epoch=heads, unfreeze_epoch=epochs),
        row("lightning", repeat, 150, head_epoch=heads, unfreeze_epoch=epochs),
        row("transformers", repeat, 500, head_epoch=heads, unfreeze_epoch=epochs),
    ]


def test_a_ratio_says_how_many_times_as_fast_thaw_is_with_median_and_spread_over_the_repeats() -> None:
    rows = [row for repeat, slower in enumerate((2.0, 7.0, 4.0), 1) for row in repeat_of(repeat, slower)]
    result = results.ratios(rows, HEAD_EPOCHS, EPOCHS)
    spread = {"median": 4.0, "min": 2.0, "max": 7.0}
    assert result["phase1_vs_plain"] == spread
    assert result["phase2_vs_plain"] == spread
    assert result["total_vs_plain"] == spread
    assert result["phase2_last_blocks_vs_plain"] == {"median": 8.0, "min": 4.0, "max": 14.0}
    assert result["total_vs_fastest_peer"]["median"] == 1.5
    assert result["embed_vs_bare_loop"]["median"] == result["phase2_vs_bare_loop"]["median"] == 0.8
    assert result["total_with_levers_vs_plain"]["median"] == 8.0
    assert result["total_with_levers_vs_fastest_peer"]["median"] == 3.0
    assert result["phase2_all_blocks_with_levers_vs_plain"]["median"] == 20.0
    assert result["phase2_last_blocks_kept_vs_plain"]["median"] == 80.0
    assert result["run_with_levers_vs_without"]["median"] == 2.0
    assert result["evaluate_with_levers_vs_without"]["median"] == 4.0
    assert results.GOALS.keys() < result.keys()
    assert "| total with levers vs plain | 8.00 | 4.00 | 14.00 | 10 |" in results.ratio_table(result)


def test_runs_are_compared_within_their_repeat() -> None:
    rows = repeat_of(1, 2.0) + repeat_of(2, 2.0)
    for row in rows[len(rows) // 2 :]:  # the machine was ten times as slow in the second repeat
        row["seconds"] *= 10
        row["told"] = {name: [10 * value for value in values] for name, values in row["told"].items()}
    assert results.ratios(rows, HEAD_EPOCHS, EPOCHS)["total_vs_plain"] == {"median": 2.0, "min": 2.0, "max": 2.0}


def test_runs_of_all_epochs_are_not_timed() -> None:
    rows = repeat_of(1, 2.0)
    kept = [row | {"seconds": 999} for row in repeat_of(results.WHOLE, 7.0)]
    protocol = {"pictures": 90, "training_pictures": 60, "size": 64, "head_epochs": HEAD_EPOCHS, "epochs": EPOCHS}
    assert results.ratios(rows + kept, HEAD_EPOCHS, EPOCHS) == results.ratios(rows, HEAD_EPOCHS, EPOCHS)
    assert results.table(rows + kept, protocol) == results.table(rows, protocol)


def test_a_sample_says_what_a_whole_run_at_its_pace_would() -> None:
    start_and_test = 12.0
    whole = row("plain", 1, start_and_test + 10 * 3 + 8 * 5, head_epoch=[3.0] * 10, unfreeze_epoch=[5.0] * 8)
    sample = row("plain", 2, start_and_test + 3 + 5, head_epoch=[3.0], unfreeze_epoch=[5.0])
    assert results.figures(sample, 10, 8) == pytest.approx(results.figures(whole, 10, 8))
    # thaw trains its head to convergence in a sample too
    whole = row("thaw", 1, 30 + 8 * 5, phase_1=[30.0], unfreeze_epoch=[5.0] * 8)
    sample = row("thaw", 2, 30 + 5, phase_1=[30.0], unfreeze_epoch=[5.0])
    assert results.figures(sample, 10, 8) == pytest.approx(results.figures(whole, 10, 8))


def test_a_ratio_is_left_out_where_a_contestant_is_missing() -> None:
    result = results.ratios([row for row in repeat_of(1, 2.0) if row["contestant"] in ("thaw", "plain")], 10, 8)
    assert set(result) == {"phase1_vs_plain", "phase2_vs_plain", "total_vs_plain"}


def test_a_resumed_bench_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def watch(name: str, contest: Contest) -> dict[str, Any]:
        ran.append((name, contest.head_epochs, contest.epochs))
        if name == "fastai":
            raise KeyboardInterrupt
        return {"seconds": 1.0, "peak_gb": 1.0, "told": {}}

    monkeypatch.setattr(bench, "watch", watch)
    contest = Contest(str(tmp_path / "workspace"), "", 64, 0, 10, 8)
    sample = bench.run("plain", 1, contest)
    with pytest.raises(KeyboardInterrupt):
        bench.run("fastai", 1, contest)
    assert ran == [("plain", 1, 1), ("fastai", 1, 1)]
    assert bench.run("plain", 1, contest) == sample
    with pytest.raises(KeyboardInterrupt):
        bench.run("fastai", 1, contest)
    assert ran[2:] == [("fastai", 1, 1)]
    bench.run("thaw", 1, contest)
    # a sample does not replace a run of all epochs
    whole = bench.run("thaw", results.WHOLE, contest)
    assert ran[3:] == [("thaw", 1, 1), ("thaw", 10, 8)]
    assert bench.run("thaw", results.WHOLE, contest) == whole
    bench.run("thaw-last-quick", 1, contest)  # what it keeps pays over all epochs
    assert ran[5:] == [("thaw", 10, 8)]
    bench.run("plain", 1, contest, rate=3.0)  # nor a run with one rate for that with another
    assert ran[6:] == [("plain", 1, 1)]


def test_a_bench_says_how_long_it_takes_in_proportion_to_pictures_and_pixels() -> None:
    earlier = json.loads((ROOT / bench.EARLIER).read_text())["protocol"]
    jobs = [(1, "plain"), (1, "thaw"), (results.WHOLE, "plain")]
    whole = bench.minutes_of(jobs, earlier)
    few = bench.minutes_of(jobs, earlier | {"pictures": earlier["pictures"] / 4})
    start = len(jobs) * bench.START / 60
    assert few - start == pytest.approx((whole - start) / 4)
    assert bench.minutes_of(jobs, earlier | {"size": earlier["size"] / 2}) == pytest.approx(few)
    assert bench.minutes_of([(1, "one that is new")], earlier) > 0
    assert bench.minutes_of([], earlier) == 0


@pytest.mark.parametrize(
    ("best", "tried"),
    [(0, [0, 1, -1]), (1, [0, 1, 2]), (-1, [0, 1, -1, -2]), (2, [0, 1, 2, 3]), (9, [0, 1, 2, 3, 4])],
)
def test_a_rate_is_raised_or_lowered_while_validation_gets_better_in_five_trials_at_most(
    best: int, tried: list[int]
) -> None:
    steps = {bench.STEP**power: power for power in range(-9, 10)}

    def judge(rate: float) -> float:
        return -abs(best - next(power for near, power in steps.items() if near == pytest.approx(rate)))

    trials = bench.climb(judge)
    assert list(trials) == pytest.approx([bench.STEP**power for power in tried])
    assert max(trials, key=lambda rate: trials[rate]) == pytest.approx(bench.STEP ** min(best, 4))


def test_what_is_made_once_counts_as_time_of_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"outputs of frozen blocks": {"seconds": 6.0, "end": 10.0}}
    for epoch in range(3):
        parts[f"epoch {epoch}/2"] = {"seconds": 2.0, "end": 20.0 + epoch}
        parts[f"epoch {epoch}/2, validation"] = {"seconds": 1.0, "end": 20.5 + epoch}
    history = [{"val_accuracy": str(value)} for value in (0.7, 0.9, 0.8)]
    thaw.emit_epochs(Contest("", "", 64, 0, 10, 2), parts, history)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["value"] for event in events if event["name"] == "unfreeze epoch"] == [6.0, 6.0]
    validations = [(event["at"], event["value"]) for event in events if event["name"] == "val accuracy"]
    assert validations == [(20.5, 0.7), (21.5, 0.9), (22.5, 0.8)]


def test_accuracy_over_time_is_the_best_so_far_and_says_when_plain_was_reached() -> None:
    curves = {
        "plain": [(10.0, 0.6), (20.0, 0.8), (30.0, 0.7)],
        "thaw": [(5.0, 0.65), (6.0, 0.75), (7.0, 0.7)],
        "fastai": [(9.0, 0.5)],
    }
    rows = [row(name, results.WHOLE) | {"curve": curve} for name, curve in curves.items()]
    rows.append(row("thaw", 1) | {"curve": [(1.0, 0.99)]})  # a sample is no run of all epochs
    assert results.over_time(rows)["thaw"] == [(5.0, 0.65), (6.0, 0.75), (7.0, 0.75)]
    assert results.reached(rows) == {"plain": 20.0, "thaw": 6.0, "fastai": None}
    assert "| thaw | 6 s | 75.0% |" in results.time_table(rows)
    assert "| fastai | never | 50.0% |" in results.time_table(rows)
    assert results.time_table(rows[-1:]) == ""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project: 48 pictures in groups of three, with soft targets."""
    for name in ("thaw", "tasks", "benchmarks", "params.yaml", "dvc.yaml", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    rows = []
    (tmp_path / "data/images").mkdir(parents=True)
    for number in range(48):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"data/images/{number:02}.png")
        label = ("functional", "defective")[number % 2]
        rows.append((f"images/{number:02}.png", label, 0.2 + 0.6 * (number % 2), f"group {number // 3}"))
    table = pd.DataFrame(rows, columns=["path", "label", "target", "group"])
    table.to_csv(tmp_path / "data/labels.csv", index=False)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "RUNS", tmp_path / "runs")
    return tmp_path


@pytest.mark.slow
def test_every_contestant_sees_the_same_split_with_hard_labels(project: Path) -> None:
    contest = bench.prepare(16, 10, 8, None)
    root = thaw.workspace_of(replace(contest, out=str(project), seed=7))
    thaw.run("prepare", root)
    ours = pd.read_csv(root / "artifacts/prepare/manifest.csv")
    assert set(ours["split"]) == {"train", "val", "test"}
    assert (ours["target"] == (ours["label"] == "defective")).all()
    assert json.loads((root / "artifacts/prepare/meta.json").read_text())["classes"] == pictures.classes_of(contest)
    for split, rows in ours.groupby("split"):
        files = pictures.Files(contest, str(split))
        assert files.paths == rows["path"].tolist() == pictures.rows_of(contest, str(split))["path"].tolist()
        assert files.labels == rows["target"].astype(int).tolist()
        picture, label = files[0]
        assert tuple(picture.shape) == (3, 16, 16)
        assert label == files.labels[0]


def test_the_workspace_of_a_run_is_a_project_of_its_own_though_it_lies_in_one(project: Path) -> None:
    shared = project / "runs/shared"
    (shared / "data").mkdir(parents=True)
    shutil.copy(project / "params.yaml", shared)
    out = project / "runs/1-thaw"
    out.mkdir()
    root = thaw.workspace_of(Contest(str(shared), str(out), 16, 1, 10, 8, levers={"unfreeze.draws": 4}))
    assert workspace.find(project) == project
    assert workspace.find(root) == root
    assert settings.read(root / "params.yaml").unfreeze.draws == 4


def test_a_bench_begins_anew_when_protocol_code_or_settings_change(project: Path) -> None:
    before = bench.key_of("160 px", *bench.OF_ALL)
    assert bench.key_of("160 px", *bench.OF_ALL) == before
    assert bench.key_of("96 px", *bench.OF_ALL) != before
    for name in ("params.yaml", "thaw/statistics/metrics.py", "tasks/evaluate.py", "benchmarks/peers/plain.py"):
        change(project, name)
        assert bench.key_of("160 px", *bench.OF_ALL) != before
        before = bench.key_of("160 px", *bench.OF_ALL)


def change(project: Path, name: str) -> None:
    """Change a file of the small project, which is linked to the house's own until then."""
    path = project / name
    if (top := project / Path(name).parts[0]).is_symlink() and top != path:
        house = top.resolve()
        top.unlink()
        shutil.copytree(house, top, ignore=shutil.ignore_patterns("__pycache__", "runs", "results"))
    text = path.read_text()
    path.unlink()
    path.write_text(f"{text}\n# changed")


def test_predictions_of_other_pictures_are_refused(tmp_path: Path) -> None:
    test = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["bad", "good"], "group": "", "hash": ["1", "2"]})
    ours, plain = tmp_path / "ours.csv", tmp_path / "plain.csv"
    ours.write_text("b.png,0.1,0.9\na.png,0.8,0.2\n")  # in another order, and right
    plain.write_text("a.png,0.2,0.8\nb.png,0.2,0.8\n")
    scored = results.scores(test, ["bad", "good"], ours, plain)
    assert scored["accuracy"] == 1.0
    assert scored["over_plain"]["accuracy"] == 0.5
    ours.write_text("b.png,0.1,0.9\n")
    with pytest.raises(AssertionError, match="not about the test pictures"):
        results.scores(test, ["bad", "good"], ours, plain)


def test_the_table_names_the_rates_that_each_contestant_uses() -> None:
    rows = [row | {"peak_gb": 1.0} for row in repeat_of(1, 4.0)]
    protocol = {"head_epochs": HEAD_EPOCHS, "epochs": EPOCHS, "training_pictures": 10, "pictures": 20, "size": 32}
    table = results.table(rows, protocol)
    assert results.RATES.keys() == results.NAMES.keys()
    for name, rates in results.RATES.items():
        assert f"| {results.NAMES[name]} |" in table
        assert f"| {rates} |" in table
    for name in ("plain", "transformers"):
        code = (ROOT / f"benchmarks/peers/{name}.py").read_text()
        assert all(rate in code for rate in results.RATES[name].split("; "))
