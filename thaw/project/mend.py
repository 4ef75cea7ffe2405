"""What a killed process left broken or half done in the workspace is mended, before anybody builds on it."""

from collections.abc import Callable
from contextlib import suppress

from thaw.project import add, heal, incoming, overrides, registry
from thaw.project.lock import Busy, only_retraining


def mend(say: Callable[[str], None] = print) -> None:
    """Mend DVC's files, and undo or end what was begun. Whoever calls holds the workspace: nothing is still at work."""
    for fault in list(heal.faults()):
        fault.mend()
        say(f"warning: {fault.sentence}")
    add.recover()
    incoming.finish()
    overrides.undo()
    registry.finish()


def mend_if_idle(say: Callable[[str], None] = print) -> None:
    """The same for a command that only reads; where a run holds the workspace, that is not half done but under way."""
    begun = overrides.JOURNAL.file.is_file() or registry.ENTERED.file.is_file()
    if begun or any(heal.faults()):
        with suppress(Busy), only_retraining("mending"):
            mend(say)
