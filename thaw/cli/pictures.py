"""`thaw add`, `remove` and `data`."""

import itertools
from pathlib import Path
from typing import Annotated

import typer

from thaw.cli.endings import one_sentence_endings, say


def add(
    path: Annotated[Path, typer.Argument(help="A folder of new labelled pictures, in any layout that data/ may have.")],
    new_classes: Annotated[bool, typer.Option("--new-classes", help="Allow classes that are not in data/.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count only; data/ stays as it is.")] = False,
) -> None:
    """Add new labelled pictures to the data; no earlier picture moves between train, val and test.

    Adds all of them or none. The folder is only read, and pictures that are in the data already
    are skipped.
    """
    with one_sentence_endings():
        from thaw.project.add import add

        added = add(path, new_classes, say, dry_run)
        say(str(added))
        if added.new and not dry_run:
            say("data.dvc pins them: `git commit data.dvc` keeps this state of the data, `thaw run` trains with it")


def remove(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Pictures of data/, or folders, by their paths in data/.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="COLUMN=VALUE", help="Instead, all pictures with this value, such as patient=17."),
    ] = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove them from DVC's cache and remote, the archive and the UI too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take pictures out of the data, and say which versions and records still hold them or learned
    from them.

    Identical files go together, whatever their names. --purge also deletes what was made from them:
    decoded pictures, features, and pictures in reports and in the UI. A version that loses data can
    no longer be reproduced.
    """
    with one_sentence_endings():
        from thaw.project import withdraw

        pictures = withdraw.select(paths or [], where)
        withdraw.bring_lists()
        say(f"{len(pictures)} picture{'s' * (len(pictures) > 1)}, such as {pictures[0].path}")
        for holder in itertools.chain(withdraw.holders(pictures), withdraw.places(pictures)):
            say(str(holder))
        if not yes and not typer.confirm("Remove them everywhere, for good?" if purge else "Take them out of data/?"):
            raise typer.Exit(1)
        for sentence in withdraw.withdraw(pictures, purge, say, _forget):
            say(sentence)
        say("`git commit data.dvc` keeps this state of the data, `thaw run` trains with it")


def _forget(data_hashes: list[str]) -> None:
    """Delete pages in the UI that show pictures of these data versions."""
    from thaw.orchestration import server

    with server.server(say=lambda line: None) as api:
        from thaw.orchestration import story

        say(f"{story.forget(data_hashes)} pages with pictures were deleted from the UI")
        if server.is_own(api):
            server.wipe(server.database())


def data(
    accept: Annotated[
        bool, typer.Option("--accept", help="Instead, pin data/ as it is, with new, changed and missing files.")
    ] = False,
) -> None:
    """Get the data that data.dvc pins: from the DVC cache or remote, else from its package."""
    with one_sentence_endings():
        from thaw.project.stage import repro

        if accept:
            pin_as_it_is()
        else:
            typer.echo(f"data: {repro('data.dvc', on_line=say)}")


def pin_as_it_is() -> None:
    """Pin data/ as it is."""
    from thaw.project import mend, pin
    from thaw.project.lock import only_retraining

    with only_retraining("thaw data --accept"):
        mend.mend()  # nobody means to pin half an add
        pin.accept(say)
