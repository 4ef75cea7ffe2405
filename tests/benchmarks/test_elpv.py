"""Laws of the bench on ELPV: which cells each protocol counts, and what the seeds say together."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from benchmarks import elpv

TARGETS = [0.0, 0.0, 1 / 3, 1 / 3, 2 / 3, 1.0]
DEFECTIVE = [0.1, 0.6, 0.2, 0.7, 0.8, 0.4]  # what the network says of them


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run on six cells, not in the order of labels.csv; positive class last."""
    paths = [f"{number}.png" for number in range(6)]
    (tmp_path / "data").mkdir()
    pd.DataFrame({"path": paths[::-1], "target": TARGETS[::-1]}).to_csv(tmp_path / "data/labels.csv", index=False)
    output = np.array(DEFECTIVE)
    # wrong where the fine-tuned network is right
    columns = {"head_p_functional": output, "head_p_defective": 1 - output}
    columns |= {"finetuned_p_functional": 1 - output, "finetuned_p_defective": output}
    (tmp_path / "artifacts/evaluate").mkdir(parents=True)
    predictions = pd.DataFrame({"path": paths, "label": np.where(np.array(TARGETS) > 0.5, "defective", "functional")})
    predictions.assign(**columns).to_csv(tmp_path / "artifacts/evaluate/predictions.csv", index=False)
    monkeypatch.setattr(elpv, "ROOT", tmp_path)
    return tmp_path


def test_each_protocol_counts_its_own_cells(folder: Path) -> None:
    rows = pd.DataFrame(elpv.judged(folder, "resnet50", "random", 3)).set_index(["network", "protocol"])
    finetuned = rows.loc["finetuned"]
    assert finetuned["pictures"].to_dict() == {"> 0.5": 6, "> 0": 6, "confident": 3}
    assert finetuned["accuracy"].to_dict() == pytest.approx({"> 0.5": 3 / 6, "> 0": 3 / 6, "confident": 1 / 3})
    assert rows.loc["head", "accuracy"].to_dict() == pytest.approx((1 - finetuned["accuracy"]).to_dict())
    assert set(rows["seed"]) == {3}
    assert set(rows["backbone"]) == {"resnet50"}


def test_seeds_are_summed_up_by_protocol_split_backbone_and_network(folder: Path) -> None:
    rows = pd.DataFrame(
        row | {"accuracy": row["accuracy"] + seed / 100}
        for seed in range(4)
        for split in ("random", "grouped")
        for row in elpv.judged(folder, "resnet50", split, seed)
    )
    summary = pd.DataFrame(elpv.summed_up(rows))
    assert len(summary) == 3 * 2 * 2
    row = summary.query("protocol == '> 0.5' and split == 'grouped' and network == 'finetuned'").iloc[0]
    values = rows.query("protocol == '> 0.5' and split == 'grouped' and network == 'finetuned'")["accuracy"]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row["seeds"], row["accuracy"]) == (4, pytest.approx(values.mean()))
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((expected.low, expected.high))


def test_rows_of_the_same_settings_stay_and_those_of_other_settings_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elpv, "RESULTS", folder / "results/elpv.json")
    monkeypatch.setattr(elpv, "TUNED", {})
    monkeypatch.setattr(elpv, "measured", lambda backbone, split, seed, _: elpv.judged(folder, backbone, split, seed))

    def known(arguments: str) -> set[tuple[str, int]]:
        monkeypatch.setattr("sys.argv", ["elpv", "--backbone", "resnet50", *arguments.split()])
        elpv.main()
        rows = json.loads((folder / "results/elpv.json").read_text())["rows"]
        assert len(rows) == len({(row["split"], row["seed"], row["protocol"], row["network"]) for row in rows})
        return {(row["split"], row["seed"]) for row in rows}

    random = {("random", 0), ("random", 1)}
    assert known("--split random --seeds 2") == random
    assert known("--split grouped --seeds 1") == random | {("grouped", 0)}
    assert known("--split random --seeds 1") == random | {("grouped", 0)}
    assert known("--split random --seeds 1 --set unfreeze.epochs=1") == {("random", 0)}
