"""Versions of the model: `thaw models`, `promote`, `approve`, `reject`, `rollback`, `reproduce`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from thaw.cli.endings import one_sentence_endings, say
from thaw.cli.tables import show_versions


def models(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every metric.")] = False,
) -> None:
    """Show the versions of the model, the newest first: which is in use, their scores, and their
    data."""
    with one_sentence_endings():
        from thaw.project import registry

        versions = registry.versions()
        if as_json:
            typer.echo(json.dumps([asdict(version) for version in versions], indent=2, default=str))
        elif not versions:
            typer.echo(registry.FIRST)
        else:
            show_versions(versions)


def promote(version: Annotated[str, typer.Argument(help="Such as v2.0.0; `thaw models` shows all.")]) -> None:
    """Put a version of the model in use, whatever the comparison says."""
    with one_sentence_endings():
        from thaw.project import registry

        registry.promote(version, "by hand")
        _show_in_use()


Note = Annotated[str, typer.Option("--note", help="The reason; it stays with the version.")]


def approve(
    version: Annotated[str, typer.Argument(help="A version that waits; `thaw models` shows all.")], note: Note = ""
) -> None:
    """Approve a version that waits for a person (promote.approve): it is put in use."""
    with one_sentence_endings():
        from thaw.project import approvals, registry

        message = approvals.approve(version, note, say)
        _answered(version, message)
        if registry.find(version).standing != registry.STAGE:
            raise typer.Exit(1)


def reject(
    version: Annotated[str, typer.Argument(help="A version that waits; `thaw models` shows all.")], note: Note = ""
) -> None:
    """Reject a version that waits for a person: the model in use stays."""
    with one_sentence_endings():
        from thaw.project import approvals

        _answered(version, approvals.reject(version, note))


def _answered(version: str, message: str) -> None:
    """Print the outcome of an answer; tell it to the run that asked, if its server is running."""
    from thaw.orchestration.server import running
    from thaw.project import registry

    say(message)
    with running() as api:
        if api:
            from thaw.orchestration import asking

            asking.end(registry.find(version).name, message)


def rollback() -> None:
    """Put the previous version back in use; called again, the one before it."""
    with one_sentence_endings():
        from thaw.project import registry

        registry.rollback()
        _show_in_use()


def reproduce(
    version: Annotated[str, typer.Argument(help="Such as v2.0.0; `thaw models` shows all.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="The folder to work in.", show_default="beside the project"),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="WHEEL", help="The thaw of that version, if another one is installed."),
    ] = None,
    environment: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="An environment to use, instead of one made by uv.")
    ] = None,
) -> None:
    """Compute a version anew with its own thaw and packages, and say which outputs have the same
    bytes.

    Works in a folder of its own. Only the data come from a cache or remote.
    """
    with one_sentence_endings():
        from thaw.project import reproduce as reproducing

        outputs = reproducing.reproduce(version, out, source, environment, say)
        for line in reproducing.lines(outputs):
            say(line)
        if not all(output.same for output in outputs):
            raise typer.Exit(1)


def _show_in_use() -> None:
    from thaw.project import registry

    version = registry.in_use(registry.versions())
    assert version
    typer.echo(
        f"{version.name} is in use: `dvc artifacts get . {registry.artifact()} --stage {registry.STAGE}` brings it"
    )
