"""Run a phase of thaw as `python -m tasks.PHASE` does, and time each step of its progress.

python -m benchmarks.peers.parts embed parts.json   # {"features": {"seconds": 58.2, ...}}
"""

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from thaw.progress import Progress


class Timed(Progress):
    """Times each step of the loop; the first one from the start of the progress."""

    # of the whole process: by name of the part, its seconds and when it ended
    parts: dict[str, dict[str, float]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.since = time.perf_counter()

    def step(self, pictures: int, label: str) -> None:
        super().step(pictures, label)
        now = time.perf_counter()
        before = Timed.parts.get(label, {"seconds": 0.0})
        Timed.parts[label] = {"seconds": before["seconds"] + now - self.since, "end": time.time()}
        self.since = now


def main(phase: str, file: Path) -> None:
    """Run the phase with every progress timed."""
    import thaw.progress

    Timed.parts = {}
    thaw.progress.Progress = Timed  # before the phase imports it  # type: ignore[misc]
    runpy.run_module(f"tasks.{phase}", run_name="__main__")
    file.write_text(json.dumps(Timed.parts))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
