"""A function over many files by threads, with its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from thaw.errors import InputError

AHEAD = 64  # pictures that are decoded before the first of them is taken
Item = TypeVar("Item")
Found = TypeVar("Found")


def each(threads: ThreadPoolExecutor, function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """The function's results in order, few of them ahead of who takes them, so that nothing piles up.

    All items are tried, so that one sentence at the end can tell of all that fail.
    """
    left, jobs = iter(items), deque[Future[Found]]()
    mistakes, first = 0, ""
    while True:
        jobs.extend(threads.submit(function, item) for item in islice(left, AHEAD - len(jobs)))
        if not jobs:
            break
        try:
            yield jobs.popleft().result()
        except InputError as error:
            mistakes, first = mistakes + 1, first or str(error)
    if mistakes:
        more = f" ({mistakes - 1} more pictures cannot be read)" if mistakes > 1 else ""
        raise InputError(first + more)


def of_each(threads: ThreadPoolExecutor, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
    """All results of `each` at once."""
    return list(each(threads, function, items))
