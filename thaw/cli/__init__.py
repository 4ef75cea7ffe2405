"""The command line: a module for each group of commands.

Heavy imports wait until a command needs them. So `thaw --help` answers at once, and prefect is not
imported before `thaw.orchestration.server` has set its environment variables.
"""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import thaw
from thaw.cli.explain import explain
from thaw.cli.export import export
from thaw.cli.operation import doctor, status
from thaw.cli.phases import phase
from thaw.cli.pictures import add, data, remove
from thaw.cli.predict import predict
from thaw.cli.projects import backup, clean, init, restore, upgrade
from thaw.cli.runs import run, schedule, ui
from thaw.cli.serve import serve
from thaw.cli.studies import ablate, curve, seeds, sweep, worker
from thaw.cli.versions import approve, models, promote, reject, reproduce, rollback

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Fine-tune a pretrained image classifier in two phases: a new head on the frozen backbone, then the "
    "unfrozen network at a much lower learning rate. Every phase is a cached DVC stage and a visible Prefect "
    "task.",
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"thaw {thaw.__version__}")
        raise typer.Exit


def _go_to(folder: Path | None) -> None:
    if folder is None:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        typer.echo(f"error: -C {folder}: {error.strerror}; name the folder of a project", err=True)
        raise typer.Exit(2) from None


@app.callback()
def main(
    folder: Annotated[
        Path | None,
        typer.Option("-C", metavar="FOLDER", callback=_go_to, help="Work on the project in FOLDER."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options before a command."""


COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Train": (init, run, ui, schedule, worker),
    "Data": (add, remove, data),
    "Questions": (sweep, seeds, curve, ablate),
    "Use a model": (predict, explain, export, serve),
    "Versions": (models, promote, approve, reject, rollback, reproduce),
    "Upkeep": (status, doctor, upgrade, clean, backup, restore, phase),
}


def _help(command: Callable[..., None]) -> str:
    """A command's docstring with its paragraphs in one line each, so that a terminal breaks
    them."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(help=_help(command), rich_help_panel=panel)(command)
