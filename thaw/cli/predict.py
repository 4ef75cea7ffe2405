"""`thaw predict`."""

import os
import sys
from typing import Annotated

import typer

from thaw.cli.endings import user_mistakes
from thaw.startup import search_less_for_garbage

Sources = Annotated[
    list[str] | None,
    typer.Argument(help="Pictures, folders, archives (.zip, .tar), a CSV with a column path, or - for a list."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def predict(
    paths: Sources = None,
    model: Annotated[
        str, typer.Option(help="prod (the model in use), a version such as v2.0.0, a package's folder, or FILE.onnx.")
    ] = "prod",
    out: Annotated[
        str, typer.Option(metavar="FILE", help="A file in .csv or .jsonl, or - for CSV on standard output.")
    ] = "-",
    views: Annotated[
        str | None, typer.Option(help="none, flip, flips or square; by default those of evaluate.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that the network sees at once.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Threads that decode pictures.")] = 2,
    device: Device = "auto",
) -> None:
    """Classify pictures: one row each, with calibrated probabilities and the decision.

    Works in a project and outside. A picture that cannot be read is a row with the reason.
    """
    search_less_for_garbage()
    with user_mistakes():
        from thaw.learning.machine import keep_freed_memory
        from thaw.model import predictions, sources
        from thaw.project import models

        sources.check(paths or [])  # before the model is loaded
        predictions.check(out)
        keep_freed_memory()
        try:
            tally = predictions.predict(models.load(model, device, workers, views), paths or [], out, batch_size)
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(130) from None
        typer.echo(tally, err=True)
