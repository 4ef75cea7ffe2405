"""The display of `thaw run`: a progress bar for each phase on a terminal, plain lines elsewhere.

It is a logging handler for the records of the phases (see `extra` in thaw/orchestration/run.py),
so the flow does not know about it, and workers do not use it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from thaw.progress import LINE

LOGGER = "prefect.task_runs"
COLOURS = {"Completed": "green", "Promoted": "green", "Cached": "blue", "Restored": "cyan", "Failed": "red"}


class Terminal(logging.Handler):
    """Shows a run on a console from its log records; use it as a context manager."""

    def __init__(self, console: Console, address_of: Callable[[str], str]) -> None:
        super().__init__()
        self.console = console
        self.address_of = address_of
        self.flow_run_id: str | None = None
        self.phase: str | None = None
        self.last_lines: deque[str] = deque(maxlen=20)
        self._bar: TaskID | None = None
        self._started = 0.0
        self._bars = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(20),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]:<10}"),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
        )

    def __enter__(self) -> "Terminal":
        logging.getLogger(LOGGER).addHandler(self)
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger(LOGGER).removeHandler(self)
        if self.phase:
            self._end("Failed" if error[0] is None else "Stopped")
        if self.console.is_terminal:
            self._bars.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """Handle a log record of the run; records of a phase have the attribute `phase`."""
        phase: str | None = getattr(record, "phase", None)
        if phase is None:
            return
        if self.flow_run_id is None:
            self.flow_run_id = str(record.__dict__["flow_run_id"])
            self.console.print(f"Watch it at {self.address_of(self.flow_run_id)}", soft_wrap=True)
        if phase != self.phase:
            self._begin(phase)
        if verdict := getattr(record, "verdict", None):
            self._end(str(verdict))
        elif line := getattr(record, "line", None):
            self._show(line)

    def _begin(self, phase: str) -> None:
        self.phase, self._started = phase, time.monotonic()
        self.last_lines.clear()
        if self.console.is_terminal:
            self._bar = self._bars.add_task(phase, total=None, left="", text="")

    def _show(self, line: str) -> None:
        self.last_lines.append(line)
        if self._bar is None:
            self.console.print(f"{self.phase}: {line}", markup=False, highlight=False, soft_wrap=True)
        elif match := LINE.match(line):
            left, text = match["left"] or "", escape(match["what"])
            self._bars.update(self._bar, total=100, completed=int(match["percent"]), left=left, text=text)
        else:
            self._bars.update(self._bar, text=escape(line))

    def _end(self, verdict: str) -> None:
        minutes, seconds = divmod(round(time.monotonic() - self._started), 60)
        took = f"{minutes}:{seconds:02d}"
        if self._bar is None:
            self.console.print(f"{self.phase}: {verdict} after {took}", highlight=False)
        else:
            done = None if verdict in ("Failed", "Stopped") else 100.0
            colour = COLOURS.get(verdict, "yellow")
            self._bars.update(self._bar, total=100, completed=done, left=took, text=f"[{colour}]{verdict}[/]")
        self.phase = self._bar = None
