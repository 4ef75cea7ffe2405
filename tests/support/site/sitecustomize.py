"""Read by every Python that a test starts: DVC, phases and flow runs are forked from warm ones.

tests/conftest.py puts this folder on PYTHONPATH and names the folder of the sockets of
tests/support/commands.py, which does the work. Importing DVC takes most of the time of most of its
commands, and the suite calls it a thousand times; the same is true of torch in a phase on small
pictures and of prefect in a flow of toys. This process stays as the one that the caller sees: it
hands over its arguments, folder, environment and open files, passes signals on, and ends as the
command ended. If anything is in the way, it runs the command itself.
"""

import os
import sys

ENGINES = ("prefect.engine", "prefect.runner._workspace_supervisor")


def _slow() -> str | None:
    """The toy's phase that hangs until it is killed, in runs of this workspace."""
    try:
        with open(".dvc/tmp/slow") as file:
            return file.read()
    except OSError:
        return None


def _command() -> tuple[str, str, list[str]] | None:
    """The forker for this command, its program and arguments; None if it must not be forked."""
    # environments with these packages
    known = os.environ.get("THAW_WARM_PREFIX", "").split(os.pathsep)
    slow, to_last = _slow(), os.environ.get("TOY_SLOW")
    if sys.prefix not in known or not os.environ.get("THAW_WARM") or {slow, to_last} & {*sys.orig_argv}:
        return None
    first, *rest = [*sys.orig_argv[1:], ""]
    if first == "-m":
        program, *arguments = rest[:-1]
    else:
        program, arguments = first, rest[:-1]
    if program.endswith("/bin/dvc"):
        return "dvc", "dvc", arguments
    if program in ("dvc", "thaw.project.send"):
        return "dvc", program, arguments
    if program == "-c" and os.environ.pop("THAW_WARM_CODE", None):
        return "torch", program, arguments
    if program.startswith("tasks.") or program == "thaw.project.compare":
        return "torch", program, arguments
    if program in ENGINES and not slow:
        return "flow", program, arguments
    if program == "prefect":
        return "server" if arguments[:2] == ["server", "start"] else "flow", program, arguments
    if program == "thaw" or program.endswith("/bin/thaw"):
        if slow or to_last or "schedule" in arguments:  # which is told by its own id
            return None
        return "torch" if arguments[:1] == ["phase"] else "flow", program, arguments
    return None


if (command := _command()) is not None:
    sys.path.append(os.path.join(os.path.dirname(__file__), ".."))  # noqa: PTH118, PTH120
    import asking

    asking.ask(os.environ["THAW_WARM"], *command)
    sys.path.pop()
