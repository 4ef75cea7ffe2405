"""serve: a model as an HTTP server, which follows the model in use.

thaw serve
curl -F files=@a.jpg -F files=@b.png http://127.0.0.1:8000/predict
"""

import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from html import escape
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from socket import AF_INET, AF_INET6, create_server, socket
from typing import Annotated, Any, NamedTuple

import uvicorn
from fastapi import FastAPI, File, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thaw.errors import InputError
from thaw.model.model import BATCH, Model, Prediction
from thaw.model.sources import Picture

LOOK_EVERY = 5.0  # seconds between two checks which model is in use
MEGABYTE = 2**20
NO_FILES = "there are no pictures: send each as a file in a form field named files, as curl -F files=@a.jpg does"
PATIENCE = 16  # a request that is too large is read up to this many times the limit


class Limits(NamedTuple):
    """What one request may bring."""

    files: int
    megabytes: int


class Answer(BaseModel):
    """What the model says of one picture; only `error` where it cannot be read."""

    file: str
    prediction: str | None = None
    probabilities: dict[str, float] | None = None
    decision: str | None = None
    unsure: bool | None = None
    unlike: bool | None = None
    distance: float | None = None
    error: str | None = None


class Answers(BaseModel):
    """The pictures of a request in its order, all of them seen by one model."""

    model: str
    predictions: list[Answer]


class About(BaseModel):
    """The model that answers."""

    model: str
    classes: list[str]
    threshold: float | None
    meta: dict[str, Any]


class Health(BaseModel):
    """That the server is up; `problem` where the model in use could not be loaded and the one
    before still answers."""

    model: str
    problem: str | None


class Loaded(NamedTuple):
    """A model and the name it was loaded by."""

    name: str
    model: Model


class InUse:
    """The loaded model in use; a request keeps the one that it began with."""

    def __init__(self, name_now: Callable[[], str], load: Callable[[str], Model]) -> None:
        self.name_now = name_now
        self.load = load
        name = name_now()
        self.loaded = Loaded(name, load(name))
        self.problem: str | None = None

    def look(self) -> None:
        """Load the model in use if it changed; if that fails, keep the old one."""
        try:
            name = self.name_now()
            if name != self.loaded.name:
                self.loaded = Loaded(name, self.load(name))
            self.problem = None
        except Exception as error:  # nothing may end the server
            self.problem = f"the model in use could not be loaded: {error}"

    @contextmanager
    def followed(self, every: float) -> Iterator[None]:
        """Check periodically, in a thread."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(every):
                self.look()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Waiting(NamedTuple):
    """The pictures of a request, and the future of its answer: model name and predictions."""

    pictures: list[Picture]
    answer: Future[tuple[str, list[Prediction]]]


class Together:
    """Answers waiting requests together, batch after batch: a batch costs less than its parts."""

    def __init__(self, in_use: InUse) -> None:
        self.in_use = in_use
        self.waiting: deque[Waiting] = deque()
        self.worker = ThreadPoolExecutor(1)

    def ask(self, pictures: list[Picture]) -> tuple[str, list[Prediction]]:
        """Predict the pictures with one model; returns its name too."""
        request = Waiting(pictures, Future())
        self.waiting.append(request)
        self.worker.submit(self._answer_waiting)
        return request.answer.result()

    def _answer_waiting(self) -> None:
        batch: list[Waiting] = []
        while self.waiting and sum(len(request.pictures) for request in batch) < BATCH:
            batch.append(self.waiting.popleft())
        name, model = self.in_use.loaded
        try:
            predictions = model.stream(picture for request in batch for picture in request.pictures)
            for request in batch:
                request.answer.set_result((name, list(islice(predictions, len(request.pictures)))))
        except Exception as error:
            for request in batch:
                if not request.answer.done():
                    request.answer.set_exception(error)


def application(in_use: InUse, limits: Limits, token: str | None = None, look_every: float = LOOK_EVERY) -> FastAPI:
    """The server's pages; with a token all but /health ask for it."""
    together = Together(in_use)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        with in_use.followed(look_every), together.worker:
            yield

    app = FastAPI(title="thaw", docs_url=None, redoc_url=None, lifespan=life)
    app.add_middleware(_Door, most=limits.megabytes * MEGABYTE, token=token)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, __: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": NO_FILES}, 422)

    @app.post("/predict", summary="Name the class of pictures, sent as form fields named `files`.")
    def predict(files: Annotated[list[UploadFile], File(default_factory=list)]) -> Answers:
        if not files:
            raise HTTPException(400, NO_FILES)
        if len(files) > limits.files:
            raise HTTPException(413, f"there are {len(files)} files; allowed in one request are {limits.files}")
        names = [file.filename or f"file {number}" for number, file in enumerate(files, 1)]
        pictures = [Picture(Path(name), file.file) for name, file in zip(names, files, strict=True)]
        model, predictions = together.ask(pictures)
        answers = [
            Answer(
                file=name,
                prediction=result.label or None,
                probabilities=dict(result.probabilities) or None,
                decision=result.decision or None,
                unsure=result.unsure,
                unlike=result.unlike,
                distance=result.distance,
                error=result.error or None,
            )
            for name, result in zip(names, predictions, strict=True)
        ]
        return Answers(model=model, predictions=answers)

    @app.get("/model", summary="What the model that answers says of itself.")
    async def about_model() -> About:
        name, about = in_use.loaded.name, in_use.loaded.model.about
        return About(model=name, classes=about.classes, threshold=about.threshold, meta=about.meta)

    @app.get("/health", summary="Whether the server is up, and with which model.")
    async def health() -> Health:
        return Health(model=in_use.loaded.name, problem=in_use.problem)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi()))

    return app


class _Door:
    """Turns away whoever has no token, and stops reading a request that is too large."""

    def __init__(self, app: ASGIApp, most: int, token: str | None) -> None:
        self.app, self.most, self.token = app, most, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, read = Headers(scope=scope), 0
        if self.token is not None and scope["path"] != "/health" and not self._opens(headers.get("authorization", "")):
            detail = "the token is wrong or missing: send the header `Authorization: Bearer TOKEN`"
            await _read_rest(receive, self.most)
            await JSONResponse({"detail": detail}, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                if message.get("more_body"):
                    await _read_rest(receive, PATIENCE * self.most)
                allowed = f"allowed are {self.most // MEGABYTE} MB, of all its files together"
                raise HTTPException(413, f"the request is too large: {allowed}", {"Connection": "close"})
            return message

        await self.app(scope, counted, send)

    def _opens(self, authorization: str) -> bool:
        assert self.token is not None
        return secrets.compare_digest(authorization.encode("latin-1"), f"Bearer {self.token}".encode())


async def _read_rest(receive: Receive, most: int) -> None:
    """Read and drop the rest of a request: a client that is cut off while it sends never reads
    why."""
    read = 0
    while read < most:
        message = await receive()
        read += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _page(schema: dict[str, Any]) -> str:
    """A page that lists the endpoints, without outside resources."""
    rows = "".join(
        f"<tr><td><code>{method.upper()} {escape(path)}</code></td><td>{escape(operation['summary'])}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>thaw serve</title>'
        "<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 40px; color-scheme: light dark; }"
        " td { padding: 4px 24px 4px 0; }</style>"
        f'<h1>thaw serve</h1><table>{rows}</table><p><a href="openapi.json">openapi.json</a></p>'
        "<pre>curl -F files=@a.jpg -F files=@b.png http://HOST:PORT/predict</pre></html>"
    )


def check(host: str, token: str | None) -> None:
    """Raise if other machines could reach the server without a token."""
    if token == "":
        raise InputError("the token is empty; set THAW_SERVE_TOKEN to a long random one, or leave it out on loopback")
    if not is_loopback(host) and token is None:
        raise InputError(
            f"--host {host} can be reached from other machines, and there is no token; set THAW_SERVE_TOKEN (or "
            "--token), or leave --host out"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket:
    """Open a listening socket; port 0 means any free one."""
    try:
        return create_server((host, port), family=AF_INET6 if ":" in host else AF_INET)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); choose another with --host and --port"
        ) from None


def server(app: FastAPI, host: str) -> uvicorn.Server:
    """A server that runs until Ctrl-C or SIGTERM, and then finishes open requests.

    On loopback it answers to its own names only, which keeps out DNS rebinding.
    """
    names = [host, f"[{host}]", "localhost"] if is_loopback(host) else ["*"]
    return uvicorn.Server(uvicorn.Config(TrustedHostMiddleware(app, names), log_level="warning", lifespan="on"))
