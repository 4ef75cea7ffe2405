"""Laws of the parallel map: results stream in order, and never many at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from thaw.data.parallel import AHEAD, stream
from thaw.errors import InputError


def test_a_stream_keeps_order_and_never_holds_more_than_a_bounded_number() -> None:
    started, lock = [], threading.Lock()

    def work(number: int) -> int:
        with lock:
            started.append(number)
        return number * number

    with ThreadPoolExecutor(4) as threads:
        for taken, result in enumerate(stream(threads, work, range(10 * AHEAD))):
            assert result == taken * taken
            assert len(started) <= taken + AHEAD
    assert sorted(started) == list(range(10 * AHEAD))


def test_a_stream_tries_all_and_tells_of_the_first_mistake_and_the_number_of_others() -> None:
    tried = []

    def work(number: int) -> int:
        tried.append(number)
        if number % 100 == 7:
            raise InputError(f"picture {number} cannot be read")
        return number

    taken = []
    with (
        ThreadPoolExecutor(4) as threads,
        pytest.raises(InputError, match=r"^picture 7 cannot be read \(2 more pictures cannot be read\)$"),
    ):
        taken.extend(stream(threads, work, range(300)))
    assert sorted(tried) == list(range(300))


def test_a_stream_of_nothing_is_nothing() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert list(stream(threads, str, [])) == []
