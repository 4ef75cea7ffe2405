"""Every Python that a test starts reads this first: DVC, phases and workers' flow runs are forked from warm processes.

tests/conftest.py puts this folder on PYTHONPATH and names the folder of the sockets of tests/support/commands.py, which
does the work. Importing DVC takes most of the time of most of its commands, and the suite calls it a thousand times;
the same is true of torch in a phase on small pictures and of prefect in a flow of toys. This process stays as the one
that the caller sees: it hands over its arguments, folder, environment and open files, passes signals on, and ends as
the command ended. If anything is in the way, it runs the command itself.
"""

import os
import sys


def _slow() -> str | None:
    """The phase of the toy that is to last until it is ended."""
    try:
        with open(".dvc/tmp/slow") as file:
            return file.read()
    except OSError:
        return os.environ.get("TOY_SLOW")


def _command() -> tuple[str, str, list[str]] | None:
    """Who forks this command, its program and its arguments; None if nobody does, as where a test is about its end."""
    known = os.environ.get("THAW_WARM_PREFIX", "").split(os.pathsep)  # environments with these packages
    if sys.prefix not in known or not os.environ.get("THAW_WARM") or _slow() in sys.orig_argv:
        return None
    first, *rest = [*sys.orig_argv[1:], ""]
    if os.environ.get("TOY_SLOW") and ("dvc" in rest or first.endswith("/bin/dvc")):
        return None  # a test that kills a flow run finds it among the parents of the phase that hangs
    if first == "-m" and rest[0] in ("dvc", "thaw.project.send"):
        return "dvc", rest[0], rest[1:-1]
    if first == "-m" and rest[0] in ("prefect.engine", "prefect.runner._workspace_supervisor") and not _slow():
        return "flow", rest[0], rest[1:-1]
    if first == "-m" and (rest[0].startswith("tasks.") or rest[0] == "thaw.project.compare"):
        return "torch", rest[0], rest[1:-1]
    if first.endswith("/bin/dvc"):
        return "dvc", "dvc", rest[:-1]
    if first == "-c" and os.environ.pop("THAW_WARM_CODE", None):
        return "torch", "-c", rest[:-1]
    if first.endswith("/bin/thaw") and rest[0] == "phase":
        return "torch", first, rest[:-1]
    return None


if (command := _command()) is not None:
    sys.path.append(os.path.join(os.path.dirname(__file__), ".."))  # noqa: PTH118, PTH120
    import commands

    commands.ask(os.environ["THAW_WARM"], *command)
    sys.path.pop()
