"""Progress as plain lines, `[ 37%] head 3/8, 36 pictures/s, 2:10 left`: good for a log, easy to
parse for a bar."""

import re
import sys
import time
from typing import TextIO

# What `Progress` prints; flows read the progress of a phase from its lines.
LINE = re.compile(r"^\[ *(?P<percent>\d+)%\] (?P<text>(?P<what>.*?)(?:, (?P<left>\S+ left))?)$")


class Progress:
    """Prints how far a loop over pictures is: at most one line every two seconds, and one at the
    end.

    Where nobody knows the `total`, it says how many are done.
    """

    def __init__(self, total: int | None, every: float = 2.0, file: TextIO | None = None) -> None:
        self.total = total
        self.every = every
        self.file = file
        self.done = 0
        self.started = self.printed = time.monotonic()

    def step(self, pictures: int, label: str) -> None:
        """Count `pictures` more as done; `label` names the part of the loop."""
        self.done += pictures
        if self.total is not None:
            # rank 0 counts its share for each rank, but some have less
            self.done = min(self.done, self.total)
        now = time.monotonic()
        if now - self.printed < self.every and self.done != self.total:
            return
        self.printed = now
        self._print(label, now)

    def end(self, label: str) -> None:
        """Print the last line of a loop that may have ended early."""
        if self.done != self.total:
            self.total = self.done
            self._print(label, time.monotonic())

    def _print(self, label: str, now: float) -> None:
        rate = self.done / max(now - self.started, 1e-9)
        file = self.file or sys.stdout
        if self.total is None:
            print(f"{self.done:,} pictures, {label}, {rate:.0f} pictures/s", file=file, flush=True)
            return
        minutes, seconds = divmod(round((self.total - self.done) / max(rate, 1e-9)), 60)
        percent = int(100 * self.done / self.total)
        print(f"[{percent:3d}%] {label}, {rate:.0f} pictures/s, {minutes}:{seconds:02d} left", file=file, flush=True)
