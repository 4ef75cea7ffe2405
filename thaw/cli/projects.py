"""`thaw init` and `thaw upgrade`: projects are made, and follow the thaw that is installed."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from thaw.cli.endings import one_sentence_endings, say, user_mistakes


def init(
    folder: Annotated[Path, typer.Argument(help="Where; without it the current folder.", show_default=False)] = Path(),
    name: Annotated[
        str | None, typer.Option(help="What it is called on a Prefect server; without it as its folder.")
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
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; without this it only shows what would change.")
    ] = False,
) -> None:
    """Bring this project's pipeline and settings to the thaw that is installed.

    New settings come with their defaults, values stay. Files that you changed are merged with thaw's changes.
    """
    with one_sentence_endings():
        from thaw.project.upgrade import upgrade as plan

        for line in plan(apply):
            say(line)
