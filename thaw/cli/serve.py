"""`thaw serve`."""

from typing import Annotated

import typer

from thaw.cli.endings import say, user_mistakes
from thaw.cli.predict import Device
from thaw.errors import InputError
from thaw.startup import search_less_for_garbage


def serve(
    model: Annotated[
        str,
        typer.Option(help="prod (follows the model in use), a version such as v2.0.0, a package, or FILE.onnx."),
    ] = "prod",
    host: Annotated[
        str, typer.Option(help="Where it listens; other machines reach it only with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="THAW_SERVE_TOKEN", help="Clients must send it; safer in the variable than here."),
    ] = None,
    files: Annotated[int, typer.Option(min=1, help="Most files in one request.")] = 64,
    megabytes: Annotated[int, typer.Option(min=1, help="Largest request, in megabytes.")] = 64,
    device: Device = "auto",
) -> None:
    """Serve the answers of `thaw predict` over HTTP; a newly promoted model is picked up while it
    runs."""
    search_less_for_garbage()
    with user_mistakes():
        try:
            import python_multipart  # noqa: F401  (FastAPI parses uploads with it)
        except ImportError:
            raise InputError("thaw serve needs another package: pip install 'thaw-vision[serve]'") from None
        from thaw.learning.machine import keep_freed_memory
        from thaw.model import serve as serving
        from thaw.project import models

        serving.check(host, token)
        keep_freed_memory()
        in_use = serving.InUse(lambda: models.meant(model), lambda name: models.load(name, device))
        listening = serving.listen(host, port)
        app = serving.application(in_use, serving.Limits(files, megabytes), token)
        say(f"{in_use.loaded.name} answers on http://{host}:{listening.getsockname()[1]}; Ctrl-C ends it")
        serving.server(app, host).run([listening])
