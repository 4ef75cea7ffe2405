"""`thaw run`, `thaw ui` and `thaw schedule`."""

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thaw.cli.endings import console, fail, one_sentence_endings, say
from thaw.cli.pictures import pin_as_it_is
from thaw.cli.tables import show_outcome
from thaw.errors import InputError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State
    from rich.console import Console

    from thaw.project.pin import DataDiffers


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
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="As scheduled runs do: take new pictures first; at the end compare the model with the one in use, "
            "save the run as a DVC experiment and push it to the DVC remote.",
        ),
    ] = False,
) -> None:
    """Train: run all phases, or what changed since the last run, and show what fine-tuning gained.

    Brings the data first if it is missing. Starts a local Prefect server if none runs, and stops
    it again.
    """
    with one_sentence_endings():
        from thaw.project import overrides as changes
        from thaw.project import reasons, recipe, results, workspace

        os.chdir(workspace.root())  # the current folder may be an output, which DVC deletes
        recipe.require_same()  # another thaw knows other settings
        changes.settings_with(overrides or [])  # report mistakes before anything starts
        if not record:  # a recorded run may take its first pictures from incoming/
            workspace.check_data()
        if not (overrides or record):  # these change the answer
            reasons.ask_early()  # in the background, while Prefect is imported
        from thaw.orchestration.server import page, server
        from thaw.project.pin import DataDiffers

        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        screen = console()
        ours = "PREFECT_API_URL" not in os.environ
        with server(say=say) as api:
            state, last_lines = _retrain(api, screen, overrides, force, record)
            error = state.result(raise_on_failure=False)
            if isinstance(error, DataDiffers) and _wants_it_pinned(error):
                pin_as_it_is()
                state, last_lines = _retrain(api, screen, overrides, force, record)
                error = state.result(raise_on_failure=False)
            if not state.is_completed():
                fail(error, state.message or "the run failed", last_lines)
            say(f"Done:   {state.message}")
            show_outcome()
            address = page(api, str(state.state_details.flow_run_id))
        screen.print(f"Report: {results.report_page()}", highlight=False, soft_wrap=True)
        screen.print(f"Run:    {address}", highlight=False, soft_wrap=True)
        if ours:
            screen.print("        (`thaw ui` brings this page back once the server has stopped)", highlight=False)


def _retrain(
    api: str, console: "Console", overrides: list[str] | None, force: bool, record: bool
) -> "tuple[State[Any], list[str]]":
    """Run the flow and show it; returns its state, and the last lines of the phase that ran
    last."""
    from prefect.client.schemas.objects import State
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.retrain import retrain
    from thaw.orchestration import story
    from thaw.orchestration.server import page
    from thaw.orchestration.terminal import Terminal

    terminal = Terminal(console, lambda run_id: page(api, run_id))
    try:
        # Without this a run ends up to a second later, because it waits for its heartbeat thread.
        with terminal, temporary_settings(set_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            state = retrain(overrides, force, record, stay=True, return_state=True)
        assert isinstance(state, State)
    finally:
        if terminal.flow_run_id:
            story.wait_until_told(terminal.flow_run_id)
    return state, list(terminal.last_lines)


def _wants_it_pinned(error: "DataDiffers") -> bool:
    """Ask the user, if there is a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return typer.confirm(f"{error.difference}. Pin it as it is?")


def ui(
    port: Annotated[
        int | None, typer.Option(help="Port of the server, if none runs yet.", show_default="4200 or a free one")
    ] = None,
) -> None:
    """Show all runs in the browser: keeps the Prefect server running until Ctrl-C."""
    with one_sentence_endings():
        from thaw.orchestration.server import server, ui

        ours = "PREFECT_API_URL" not in os.environ
        with server(port, say=say) as api:
            typer.echo(f"The runs are at {ui(api)}" + (" until you press Ctrl-C" if ours else ""))
            while ours:
                time.sleep(1)


def schedule(
    name: Annotated[
        str | None, typer.Argument(help="Which schedule, if there are several.", show_default="weekly")
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="When: minute, hour, day, month and weekday, such as '0 3 * * 1'.")
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="The time zone of --cron, such as Europe/Berlin.", show_default="that of this machine"),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting for the runs of --cron; may be repeated."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--predict", metavar="SOURCE", help="Predict the new pictures of a folder or CSV with --cron, not retrain."
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the schedules.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Pause a schedule.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a paused schedule.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove a schedule.")] = False,
) -> None:
    """Retrain, or predict, on a schedule: serve the one that --cron gives, and those that exist,
    until Ctrl-C.

    A paused schedule stays paused, and a schedule stays when nothing serves it.
    """
    with one_sentence_endings():
        from thaw.orchestration import schedule as schedules

        if sum((bool(cron or timezone or overrides or source), show, pause, resume, remove)) > 1:
            raise InputError(
                "choose one: --cron (with --timezone, --set and --predict), --list, --pause, --resume or --remove"
            )
        if show:
            schedules.show(say)
        elif pause or resume:
            schedules.set_paused(name, pause, say)
        elif remove:
            schedules.remove(name, say)
        else:
            schedules.serve(name, cron, timezone, overrides or [], say, source)
