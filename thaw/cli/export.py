"""`thaw export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from thaw.cli.endings import say, user_mistakes
from thaw.startup import search_less_for_garbage

Packaged = Annotated[
    str, typer.Option(help="prod (the model in use), a version such as v2.0.0, or the folder of a package.")
]


class Format(StrEnum):
    """What a model can be exported as."""

    ONNX = "onnx"


def export(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="A new folder for the file and what is needed to use it.")
    ],
    model: Packaged = "prod",
    format: Annotated[Format, typer.Option(help="The format of the file.")] = Format.ONNX,
    int8: Annotated[bool, typer.Option("--int8", help="Also in 8 bits, calibrated on the training pictures.")] = False,
) -> None:
    """Write a model as a file for other programs.

    The file is compared with the model on all test pictures, and on made-up ones of unusual kinds.
    If the answers differ, nothing is written.
    """
    search_less_for_garbage()
    with user_mistakes():
        from thaw.learning.machine import keep_freed_memory
        from thaw.project.export import export

        keep_freed_memory()
        try:
            export(model, out, int8, say)
        except KeyboardInterrupt:
            typer.echo("Stopped; nothing was written.", err=True)
            raise typer.Exit(130) from None
