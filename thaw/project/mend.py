"""What a killed process left half done in the workspace is undone or ended, before anybody builds on it."""

from contextlib import suppress

from thaw.project import add, overrides, registry
from thaw.project.lock import Busy, only_retraining


def mend() -> None:
    """Undo or end what was begun. Whoever calls holds the workspace: nothing of it is still at work."""
    add.recover()
    overrides.undo()
    registry.finish()


def mend_if_idle() -> None:
    """The same for a command that only reads; where a run holds the workspace, that is not half done but under way."""
    if not (overrides.JOURNAL.file.is_file() or registry.ENTERED.file.is_file()):
        return
    with suppress(Busy), only_retraining("mending"):
        mend()
