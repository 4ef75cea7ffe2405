"""Laws of the distance from the training pictures, in feature space."""

import numpy as np
import pytest

from thaw.model import unlike


def near_a_few_directions(count: int, seed: int) -> unlike.Features:
    """Points in 100 dimensions near 5 directions, of any length."""
    random = np.random.default_rng(seed)
    directions = np.random.default_rng(9).normal(size=(5, 100))
    points = directions[random.integers(5, size=count)] + random.normal(size=(count, 100)) / 4
    return (points * random.uniform(1, 9, (count, 1))).astype(np.float32)


def test_a_distance_is_one_minus_the_cosine_to_the_nearest_however_long_a_vector_is() -> None:
    known = unlike.fit(np.array([[2, 0, 0], [0, 5, 0]], np.float32))
    points = np.array([[9, 0, 0], [0, 0, 7], [3, 0, 3], [0, 4, -4], [-1, -1, 0], [0, 0, 0]], np.float32)
    assert known.distances(points) == pytest.approx([0, 1, 1 - 0.5**0.5, 1 - 0.5**0.5, 1 + 0.5**0.5, 1], abs=1e-3)
    same = near_a_few_directions(100, 0)
    assert unlike.fit(same).distances(same).min() == 0


def test_the_threshold_keeps_its_promise_on_validation_and_about_so_on_others() -> None:
    known = unlike.fit(near_a_few_directions(500, 0))
    seen = known.distances(near_a_few_directions(1000, 1))
    far = unlike.threshold(seen, 0.05)
    assert (seen > far).mean() <= 0.05
    assert 0.02 < (known.distances(near_a_few_directions(2000, 2)) > far).mean() < 0.09
    foreign = np.random.default_rng(3).normal(size=(500, 100)).astype(np.float32)
    assert (known.distances(foreign) > far).mean() > 0.95


@pytest.mark.parametrize("counts", [(2000, 10), (300, 300, 3), (1,) * 700, (5, 5)])
def test_each_class_has_its_share_of_what_is_kept_and_none_is_left_out(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    places = unlike.drawn(labels)
    assert len(set(places)) == len(places)
    kept = np.bincount(labels[places])
    per_class = -(-unlike.PICTURES // len(counts))
    assert kept.tolist() == [min(count, per_class) for count in counts]
    assert (unlike.drawn(labels) == places).all()
