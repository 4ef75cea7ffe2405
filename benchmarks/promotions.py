"""A simulated year of weekly retrainings: how often a promotion rule is wrong, and where it ends.

    python -m benchmarks.promotions       # two minutes; prints the table of docs/operation.md
    python -m benchmarks.promotions --years 5

Each week's model is as good as the last one up to chance. One in ten is worse by five points, and
one in ten is worse by 20 points in a single class. `thaw.statistics.promotion` judges all of them
on the same test pictures.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from thaw.statistics.intervals import Codes, Numbers
from thaw.statistics.metrics import Probabilities
from thaw.statistics.promotion import Limits, decide

WEEKS = 52
FIRST, LUCK = 0.90, 0.008  # accuracy of the first model; standard deviation over seeds and data
ALIKE = 0.9  # correlation of the difficulties of a picture for two models


class Rule(NamedTuple):
    """`plain`: a class counts by its plain change. `anchor`: also compare with the best version."""

    sure: float
    plain: bool
    anchor: bool


RULES = {
    "before: 97.5 % sure, a class counts by its plain change": Rule(0.975, True, False),
    "97.5 % sure": Rule(0.975, False, False),
    "80 % sure": Rule(0.8, False, False),
    "70 % sure": Rule(0.7, False, False),
    "70 % sure, also against the best: the default": Rule(0.7, False, True),
    "60 % sure, also against the best": Rule(0.6, False, True),
    "50 % sure, also against the best": Rule(0.5, False, True),
}


class Count(NamedTuple):
    """Over all weeks: models worse by more than the margin, how many of them were promoted;
    as good or better ones, how many of them were refused.
    """

    worse: int
    promoted: int
    good: int
    refused: int
    end: float
    seen: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, default=6)
    years = parser.parse_args().years
    print("| test pictures | rule | equal, refused | worse, promoted | as good, refused | after a year | as measured |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for classes, pictures, trend in ((2, 660, 0.0), (10, 200, 0.0), (2, 660, 0.03)):
        what = f"{pictures} in {classes} classes" + (f", models gain {100 * trend:.0f} points a year" if trend else "")
        for name, rule in RULES.items():
            years_of_rule = [
                year(np.random.default_rng(number), classes, pictures, trend, rule) for number in range(years)
            ]
            worse, promoted, good, refused = (sum(figures[place] for figures in years_of_rule) for place in range(4))
            alike = equals(classes, pictures, rule, 20 * years)
            end, seen = (np.mean([figures[place] for figures in years_of_rule]) for place in (4, 5))
            print(
                f"| {what} | {name} | {100 * alike:.0f} % | {100 * promoted / worse:.0f} % "
                f"| {100 * refused / good:.0f} % | {100 * end:.1f} % | {100 * seen:.1f} % |",
                flush=True,
            )


def equals(classes: int, pictures: int, rule: Rule, trials: int) -> float:
    """How often one of two equally good models is refused in favour of the other."""
    random, refused = np.random.default_rng(0), 0
    labels, truth = np.arange(pictures) % classes, np.full(classes, FIRST)
    for _ in range(trials):
        hard = random.normal(size=pictures)
        refused += not _accepted(*(_answers(random, hard, labels, classes, truth) for _ in range(2)), labels, rule)
    return refused / trials


def year(random: np.random.Generator, classes: int, pictures: int, trend: float, rule: Rule) -> Count:
    labels = np.arange(pictures) % classes
    hard = random.normal(size=pictures)
    ask = lambda accuracies: _answers(random, hard, labels, classes, accuracies)  # noqa: E731
    truth = np.full(classes, FIRST)
    line = [(truth, ask(truth))]  # versions that came into use
    worse = promoted = good = refused = 0
    for week in range(WEEKS):
        new = np.full(classes, FIRST + trend * week / WEEKS + random.normal(0, LUCK))
        if week % 10 == 4:
            new -= 0.05
        if week % 10 == 9:
            new[random.integers(classes)] -= 0.2
        new = np.clip(new, 0.01, 0.995)
        answers = ask(new)
        used = line[-1][0].mean()
        accepted = _accepted(line[-1][1], answers, labels, rule)
        if accepted and rule.anchor:
            best = max(line, key=lambda version: (version[1].argmax(1) == labels).mean())
            accepted = best is line[-1] or _accepted(best[1], answers, labels, rule)
        worse += (is_worse := new.mean() < used - 0.01)
        promoted += is_worse and accepted
        good += (is_good := new.mean() >= used)
        refused += is_good and not accepted
        if accepted:
            line.append((new, answers))
    seen = float((line[-1][1].argmax(1) == labels).mean())
    return Count(worse, promoted, good, refused, float(line[-1][0].mean()), seen)


def _answers(
    random: np.random.Generator, hard: Numbers, labels: Codes, classes: int, accuracies: Numbers
) -> Probabilities:
    """Right where the difficulty, partly shared by all models, is below the model's accuracy."""
    own = np.sqrt(ALIKE) * hard + np.sqrt(1 - ALIKE) * random.normal(size=len(hard))
    wrong = own > norm.ppf(accuracies)[labels]
    predicted = np.where(wrong, (labels + random.integers(1, classes, len(labels))) % classes, labels)
    return np.eye(classes)[predicted]


def _accepted(before: Probabilities, after: Probabilities, labels: Codes, rule: Rule) -> bool:
    limits = Limits("accuracy", {}, 0.01, rule.sure, 0.05, 0.05, 20)
    names: Sequence[str] = [str(number) for number in range(before.shape[1])]
    decision = decide(before, after, labels, names, None, pd.DataFrame(index=labels), limits)
    if not rule.plain:
        return decision.promoted
    return decision.gain["floor"] >= -0.01 and all(row["change"] >= -0.05 - 1e-9 for row in decision.falls)


if __name__ == "__main__":
    main()
