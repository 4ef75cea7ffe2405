"""The command line: `thaw run` trains, `thaw ui` shows all runs, `thaw data` brings the data.

Heavy imports wait until a command needs them: `thaw --help` answers at once, and prefect reads its settings
from the environment only after `flows.server` has set them.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

import thaw
from thaw.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Fine-tune a pretrained image classifier in two phases: a new head on the frozen backbone, then the "
    "unfrozen network at a much lower learning rate. Every phase is a cached DVC stage and a visible Prefect "
    "task.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"thaw {thaw.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """The options before a command."""


@app.command()
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting in params.yaml first, such as unfreeze.ratio=10; may be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run every phase, even where nothing changed.")] = False,
) -> None:
    """Train: run all phases, or what changed since the last run, and show what fine-tuning gained.

    Brings the data first if it is missing. Starts a local Prefect server if none runs, and stops it again.
    """
    with _one_sentence_endings():
        from flows.server import page, server
        from tasks import results

        results.settings_with(overrides or [])  # a typing mistake is told before anything starts
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        console = _console()
        ours = "PREFECT_API_URL" not in os.environ
        with server(say=_say) as api:
            from flows import story
            from flows.retrain import retrain
            from flows.terminal import Terminal

            terminal = Terminal(console, lambda run_id: page(api, run_id))
            try:
                with terminal:
                    state = retrain(overrides, force, return_state=True)
            finally:
                if terminal.flow_run_id:
                    story.wait_until_told(terminal.flow_run_id)
            if not state.is_completed():
                _raise(
                    state.result(raise_on_failure=False),
                    state.message or "the run failed",
                    list(terminal.last_lines),
                )
            _show_outcome()
            address = page(api, str(state.state_details.flow_run_id))
        console.print(f"Report: {results.report_page()}", highlight=False, soft_wrap=True)
        console.print(f"Run:    {address}", highlight=False, soft_wrap=True)
        if ours:
            console.print("        (`thaw ui` brings this page back once the server has stopped)", highlight=False)


@app.command()
def ui(
    port: Annotated[
        int | None, typer.Option(help="Port of the server, if none runs yet. [default: 4200 or a free one]")
    ] = None,
) -> None:
    """Show all runs in the browser: keeps the Prefect server running until Ctrl-C."""
    with _one_sentence_endings():
        from flows.server import server, ui

        ours = "PREFECT_API_URL" not in os.environ
        with server(port, say=_say) as api:
            typer.echo(f"The runs are at {ui(api)}" + (" until you press Ctrl-C" if ours else ""))
            while ours:
                time.sleep(1)


@app.command()
def data() -> None:
    """Bring the data that data.dvc pins: from the DVC cache or remote, else from its package."""
    with _one_sentence_endings():
        from tasks.stage import repro

        typer.echo(f"data: {repro('data.dvc', on_line=_say)}")


def _say(line: str) -> None:
    print(line, flush=True)


def _console() -> "Console":
    from rich.console import Console

    return Console()


def _raise(error: object, sentence: str, last_lines: list[str]) -> None:
    """End with the error of a failed run, and show the last lines where nobody foresaw it."""
    if isinstance(error, InputError):
        raise error
    if sys.stdout.isatty():
        for line in last_lines:
            print(line, file=sys.stderr)
    raise RunError(sentence)


class RunError(RuntimeError):
    """A phase failed, and the user has read why."""


def _show_outcome() -> None:
    from rich.table import Table

    from flows.story import metric_rows
    from tasks import results

    metrics = results.metrics()
    table = Table(title=f"{metrics['test_pictures']} test pictures", title_justify="left")
    for column in ("", "accuracy", "AUC"):
        table.add_column(column)
    for name, row in metric_rows(metrics).items():
        table.add_row(name, row["accuracy"], row["AUC"])
    _console().print(table)


@contextmanager
def _one_sentence_endings() -> Iterator[None]:
    """Every foreseen end is one sentence; exit code 2 for bad input, 130 for Ctrl-C, 1 for a failed phase."""
    from flows.server import ServerError
    from tasks.stage import StageError

    try:
        yield
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except (RunError, StageError, ServerError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("Stopped; `thaw run` goes on with the phase that was interrupted.", err=True)
        raise typer.Exit(130) from None


if __name__ == "__main__":
    app()
