"""Python processes that find torch and its like imported, because each is forked from one that has done so."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
# Nothing of this project, and nothing that reads its environment when it is imported, as prefect does.
_FORKS.set_forkserver_preload(
    ["torch", "torch._dynamo", "torchvision", "pandas", "scipy.stats", "sklearn.metrics", "matplotlib.pyplot"]
)


def python(folder: Path, code: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process of its own, as `python -W ignore -c` would in a folder."""
    with tempfile.TemporaryDirectory() as told:
        printed, complained = Path(told, "stdout"), Path(told, "stderr")
        given = (code, arguments, folder, os.environ | environment, printed, complained)
        child = _FORKS.Process(target=_child, args=given)
        child.start()
        child.join()
        assert child.exitcode is not None
        return subprocess.CompletedProcess(code, child.exitcode, printed.read_text(), complained.read_text())


def _child(
    code: str, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], printed: Path, complained: Path
) -> None:
    for stream, path in ((1, printed), (2, complained)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [str(folder), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["-c", *arguments]
    warnings.simplefilter("ignore")
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
