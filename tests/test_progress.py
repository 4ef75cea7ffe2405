"""Laws of progress lines: they can be parsed, never exceed 100 %, and the last one says 100 %."""

import re

import pytest

from thaw.progress import Progress

LINE = re.compile(r"^\[ *(\d+)%\] (.+), \d+ pictures/s, \d+:\d\d left$")


@pytest.mark.parametrize("done", [10, 3], ids=["to the end", "stopped early"])
def test_progress_lines_rise_to_one_hundred_percent(done: int, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(total=100, every=0.0)
    for number in range(done):
        progress.step(10, f"epoch {number}")
    progress.end("stopped")
    lines = capsys.readouterr().out.splitlines()
    results = [LINE.match(line) for line in lines]
    assert all(results), lines
    percents = [int(match[1]) for match in results if match]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert percents.count(100) == 1


def test_progress_is_quiet_between_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(total=1000, every=3600.0)
    for _ in range(999):
        progress.step(1, "embed")
    assert capsys.readouterr().out == ""
    progress.step(1, "embed")
    assert capsys.readouterr().out.startswith("[100%] embed")
