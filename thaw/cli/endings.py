"""How a command ends, and how it prints."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import typer

from thaw.errors import InputError
from thaw.startup import search_less_for_garbage

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def user_mistakes() -> Iterator[None]:
    """Turn an `InputError` into one sentence and exit code 2."""
    try:
        yield
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def one_sentence_endings() -> Iterator[None]:
    """Turn every expected error into one sentence: exit code 2 for bad input, 130 for Ctrl-C, 1
    for a failed phase."""
    search_less_for_garbage()
    from thaw.orchestration.server import ServerError
    from thaw.project import mend, workspace
    from thaw.project.stage import StageError

    try:
        with user_mistakes():
            workspace.check()
            mend.mend_if_idle(partial(typer.echo, err=True))
            sys.path.insert(0, str(workspace.root()))  # the flows that run are those of the project
            yield
    except (RunError, StageError, ServerError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Stopped; `thaw run` continues with the phase that was interrupted.", err=True)
        raise typer.Exit(130) from None


def fail(error: object, sentence: str, last_lines: list[str]) -> None:
    """Raise the error of a failed run; if it was not expected, show the last lines first."""
    if isinstance(error, InputError):
        raise error
    if sys.stdout.isatty():
        for line in last_lines:
            print(line, file=sys.stderr)
    raise RunError(sentence)


class RunError(RuntimeError):
    """A phase failed, and the user has been told why."""


def say(line: str) -> None:
    """Print a line without buffering."""
    print(line, flush=True)


def console() -> "Console":
    """The console for tables and colours."""
    from rich.console import Console

    return Console()
