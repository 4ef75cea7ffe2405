"""Every Python that a test starts reads this first: `python -m dvc` is forked from a process that has DVC imported.

tests/conftest.py puts this folder on PYTHONPATH and names the socket of tests/support/warm_dvc.py, which does the
work. Importing DVC takes most of the time of most of its commands, and the suite calls it a thousand times. This
process stays as the one that the caller sees: it hands over its arguments, folder, environment and open files,
passes signals on, and ends as the command ended. If anything is in the way, it runs DVC itself.
"""

import os
import sys


def _dvc_arguments() -> list[str] | None:
    """The arguments of this process if it is DVC, and not one whose end is what a test is about."""
    slow = "TOY_SLOW" in os.environ or os.path.exists(".dvc/tmp/slow")  # noqa: PTH110 - pathlib takes long to import
    if slow or "THAW_WARM_DVC" not in os.environ:
        return None
    if sys.orig_argv[1:3] == ["-m", "dvc"]:
        return sys.orig_argv[3:]
    if sys.orig_argv[1:] and sys.orig_argv[1].endswith("/bin/dvc"):
        return sys.orig_argv[2:]
    return None


if (arguments := _dvc_arguments()) is not None:
    sys.path.append(os.path.join(os.path.dirname(__file__), ".."))  # noqa: PTH118, PTH120
    import warm_dvc

    warm_dvc.ask(os.environ["THAW_WARM_DVC"], arguments)
    sys.path.pop()
