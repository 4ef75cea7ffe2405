"""Run a function over many files in threads and get the results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from thaw.errors import InputError

AHEAD = 64  # items computed ahead of the caller
Item = TypeVar("Item")
Result = TypeVar("Result")


def stream(threads: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results in order, computing only a few ahead of the caller, so that memory stays
    bounded.

    Every item is tried. At the end one error names the first failure and counts the others.
    """
    remaining, jobs = iter(items), deque[Future[Result]]()
    mistakes, first = 0, ""
    while True:
        jobs.extend(threads.submit(function, item) for item in islice(remaining, AHEAD - len(jobs)))
        if not jobs:
            break
        try:
            yield jobs.popleft().result()
        except InputError as error:
            mistakes, first = mistakes + 1, first or str(error)
    if mistakes:
        more = f" ({mistakes - 1} more pictures cannot be read)" if mistakes > 1 else ""
        raise InputError(first + more)


def gather(threads: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """All results of `stream` as a list."""
    return list(stream(threads, function, items))
