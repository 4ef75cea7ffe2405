"""`thaw init`, `upgrade`, `backup` and `restore`: a project as a whole."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from thaw.cli.endings import one_sentence_endings, say, user_mistakes


def init(
    folder: Annotated[Path, typer.Argument(help="Where to make it.", show_default="the current folder")] = Path(),
    name: Annotated[
        str | None, typer.Option(help="Its name, also on a Prefect server.", show_default="that of the folder")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="With the demo's data: photographs of solar cells.")] = False,
) -> None:
    """Make a project: a git and DVC repository with the pipeline, ready for your pictures.

    In a repository that exists it adds what is missing. It never overwrites a file.
    """
    with user_mistakes():
        from thaw.project.create import create

        for sentence in create(folder, name, demo):
            say(sentence)
        go = "" if folder.absolute() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
        say(
            f"Next: {go}" + ("thaw run" if demo else "put your pictures into data/ (README.md says how), then thaw run")
        )


def upgrade(
    apply: Annotated[bool, typer.Option("--apply", help="Make the changes. Without this, only show them.")] = False,
) -> None:
    """Update this project's pipeline and settings to the installed thaw.

    New settings are added with their defaults, values stay. Files that you changed are merged with
    thaw's changes.
    """
    with one_sentence_endings():
        from thaw.project.upgrade import upgrade as plan

        for line in plan(apply):
            say(line)


def backup(
    file: Annotated[Path, typer.Argument(help="The tar file to write.")],
) -> None:
    """Back up the git repository with records and versions, and the database of the project's own
    Prefect server.

    Pictures and models are not in it: a DVC remote is their backup.
    """
    with one_sentence_endings():
        from thaw.project import backup as backups

        for sentence in backups.backup(file):
            say(sentence)


def restore(
    file: Annotated[Path, typer.Argument(help="What `thaw backup` wrote.")],
    folder: Annotated[Path, typer.Argument(help="Where to make the project; a new folder.")],
) -> None:
    """Restore the project of a backup into a new folder."""
    with user_mistakes():
        from thaw.project import backup as backups

        for sentence in backups.restore(file, folder):
            say(sentence)


def clean(
    apply: Annotated[
        bool, typer.Option("--apply", help="Free it. Without this, only show what could be freed.")
    ] = False,
) -> None:
    """Free decoded pictures and features of earlier data versions from DVC's cache; phases can
    make them again.

    Pictures, models, metrics, manifests and everything of the last run stay.
    """
    with one_sentence_endings():
        from thaw.project import clean as cleaning

        leftovers = cleaning.clean() if apply else cleaning.leftovers()
        say(f"{'freed ' * (apply and bool(leftovers.bytes))}{leftovers}")
        if leftovers.bytes and not apply:
            say("`thaw clean --apply` frees it")
