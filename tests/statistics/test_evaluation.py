"""Laws of evaluation: what is chosen on validation, and what a table says of which network."""

import numpy as np
import pandas as pd
import pytest
import torch

from thaw.statistics import evaluation
from thaw.statistics.evaluation import Evaluation, Pictures


def judged(classes: int, promise: float = 0.9, shift: float = 0.0, seed: int = 0) -> tuple[Evaluation, np.ndarray]:
    """A network that is right three times in four, and the labels of the test pictures."""
    random = np.random.default_rng(seed)
    splits = []
    for _ in range(2):
        labels = random.integers(classes, size=80)
        logits = random.normal(size=(80, classes)) + 2 * np.eye(classes)[labels]
        splits.append(Pictures(torch.from_numpy(logits), labels))
    val, test = splits
    test = test._replace(logits=test.logits + torch.tensor([shift] + [0.0] * (classes - 1)))
    names = list("abc"[:classes])
    return evaluation.evaluate(val, test, names, None, "precision", promise), test.labels


def test_temperature_threshold_and_decisions_do_not_depend_on_the_test_pictures() -> None:
    (one, _), (other, _) = judged(2), judged(2, shift=3.0)
    assert one.operating
    assert other.operating
    assert one.operating["threshold"] == other.operating["threshold"]
    for name in ("temperature", "decisions_on_val"):
        assert one.figures[name] == other.figures[name]
    assert one.figures["accuracy"] != other.figures["accuracy"]
    assert one.figures["recall"] == one.operating["recall"]["value"]


@pytest.mark.parametrize(("classes", "promise"), [(2, 1.1), (3, 0.9)])
def test_without_a_kept_promise_or_with_three_classes_there_is_no_operating_point(classes: int, promise: float) -> None:
    network, _ = judged(classes, promise)
    assert network.operating is None
    assert "recall" not in network.figures


def test_predictions_and_tables_name_the_network_they_are_of() -> None:
    (head, labels), (finetuned, _) = judged(2), judged(2, shift=3.0)
    both, rows = {"head": head, "finetuned": finetuned}, pd.DataFrame({"path": [f"{n}.png" for n in range(80)]})
    table = evaluation.predictions(both, rows, ["a", "b"])
    assert list(table)[1:] == [
        *("head_prediction", "finetuned_prediction"),
        *("head_p_a", "head_p_b", "finetuned_p_a", "finetuned_p_b"),
    ]
    assert (table["finetuned_prediction"] == np.array(["a", "b"])[finetuned.probabilities.argmax(1)]).all()
    tables = evaluation.tables(both, labels, ["a", "b"], pd.DataFrame({"site": ["x", "y"] * 40}))
    assert tables["classes"][["model", "class"]].to_numpy().tolist() == [
        [name, label] for name in both for label in ("a", "b")
    ]
    by_site = tables["slices"].groupby("model")["accuracy"].mean()
    assert by_site["head"] == pytest.approx(head.figures["accuracy"])
    assert by_site["finetuned"] == pytest.approx(finetuned.figures["accuracy"])
