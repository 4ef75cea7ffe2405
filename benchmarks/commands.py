"""How long commands take when nothing changed: whole processes, in turn, in a fresh clone.

    python benchmarks/commands.py [--repeats 5]   # prints and writes results/commands.json

The clone is of the last commit and uses this repository's DVC cache, which must hold the default
run (`make run`). The Prefect server stays up, as with `thaw ui`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THAW, DVC = ([sys.executable, "-m", module] for module in ("thaw", "dvc"))
COMMANDS = {  # with the seconds that each may take
    "thaw run": ([*THAW, "run"], 6.0),
    "thaw run --record": ([*THAW, "run", "--record"], None),
    "dvc repro": ([*DVC, "repro"], 2.0),
    "thaw --help": ([*THAW, "--help"], 0.5),
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "THAW_"))}


def main(repeats: int) -> None:
    """Time all commands in turn, several times, and print a table."""
    about, seconds = machine(), {name: list[float]() for name in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="thaw-commands-") as folder:
        clone = make_clone(Path(folder) / "thaw")
        with server(clone):
            call(clone, *THAW, "run", "--record")  # then nothing is left to record
            for _ in range(repeats):
                for name, (command, _) in COMMANDS.items():
                    started = time.perf_counter()
                    call(clone, *command)
                    seconds[name].append(time.perf_counter() - started)
    print(f"{'seconds':<20}{'median':>8}{'min':>8}{'max':>8}{'goal':>8}")
    commands = {}
    for name, (_, goal) in COMMANDS.items():
        runs = seconds[name]
        summary = {"median": statistics.median(runs), "min": min(runs), "max": max(runs)}
        print(f"{name:<20}" + "".join(f"{value:8.2f}" for value in summary.values()) + f"{goal or '–':>8}")
        commands[name] = {"goal": goal, **summary, "seconds": runs}
    results = ROOT / "benchmarks" / "results" / "commands.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"machine": about, "commands": commands}, indent=2) + "\n", encoding="utf-8")


def make_clone(clone: Path) -> Path:
    """A clone in which every phase is done."""
    call(ROOT, "git", "clone", "--quiet", str(ROOT), str(clone))
    for key, value in (("user.name", "benchmark"), ("user.email", "benchmark@localhost")):
        call(clone, "git", "config", key, value)
    cache = call(ROOT, *DVC, "cache", "dir").strip()
    call(clone, *DVC, "config", "--local", "cache.dir", cache)
    subprocess.run([*DVC, "checkout", "--quiet"], cwd=clone, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    if call(clone, *DVC, "status", "--json").strip() != "{}":
        sys.exit("error: the results of the last commit are not in DVC's cache: `make run`, commit, and come back")
    return clone


@contextmanager
def server(clone: Path) -> Iterator[None]:
    """Keep the clone's Prefect server up."""
    command = [*THAW, "ui"]
    with subprocess.Popen(command, cwd=clone, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            assert any(line.startswith("The runs are at") for line in child.stdout), "the server did not start"
            yield
        finally:
            child.terminate()


def call(folder: Path, *command: str) -> str:
    """Run a command that must succeed; returns its output."""
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": (names or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=5)
    main(arguments.parse_args().repeats)
