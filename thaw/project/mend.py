"""Repair what a killed process left broken or half done in the workspace."""

from collections.abc import Callable
from contextlib import suppress

from thaw.project import add, heal, incoming, overrides, registry, withdraw
from thaw.project.lock import Busy, only_retraining


def mend(say: Callable[[str], None] = print) -> None:
    """Repair DVC's files, and undo or finish interrupted work. The caller must hold the
    workspace."""
    for fault in list(heal.faults()):
        fault.mend()
        say(f"warning: {fault.sentence}")
    add.recover()
    incoming.finish()
    withdraw.finish()
    overrides.undo()
    registry.finish()


def mend_if_idle(say: Callable[[str], None] = print) -> None:
    """The same for a command that only reads, unless a run holds the workspace: its work is still
    in progress."""
    journals = (overrides.JOURNAL, registry.ENTERED, withdraw.JOURNAL)
    begun = any(journal.file.is_file() for journal in journals)
    if begun or any(heal.faults()):
        with suppress(Busy), only_retraining("mending"):
            mend(say)
