"""`thaw explain`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from thaw.cli.endings import say, user_mistakes
from thaw.cli.export import Packaged
from thaw.cli.predict import Device, Sources
from thaw.errors import InputError
from thaw.startup import search_less_for_garbage


def explain(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A new folder for a PNG of each picture and a table.")],
    paths: Sources = None,
    model: Packaged = "prod",
    label: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Show evidence for this class, not the most probable.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Draw over pictures where the model looked: orange speaks for the class, blue against it."""
    search_less_for_garbage()
    with user_mistakes():
        from thaw.model import sources
        from thaw.model.explain import TABLE, explain
        from thaw.progress import Progress
        from thaw.project import models

        sources.check(paths or [])
        rows = explain(models.load(model, device), sources.pictures(paths or [], sys.stdin), out, label)
        progress, unreadable = Progress(sources.count(paths or [])), 0
        for row in rows:
            progress.step(1, "explained")
            unreadable += bool(row.error)
        if not progress.done:
            raise InputError("no pictures came in: - reads paths, one a line")
        drawn = progress.done - unreadable
        rest = f"; {unreadable} could not be read" if unreadable else ""
        say(f"{drawn} of {progress.done} pictures drawn into {out}; {TABLE} there lists them{rest}")
