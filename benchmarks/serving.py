"""`thaw serve`: requests a second, latency, and whether a change of model loses a request.

    .venv/bin/python -m benchmarks.serving                   # artifacts/package, pictures of data/
    .venv/bin/python -m benchmarks.serving --model artifacts/package model-onnx/model.onnx
    .venv/bin/python -m benchmarks.serving --seconds 30 --clients 8

Server and clients are processes on the same machine; a client asks again as soon as it has its
answer. `steady` keeps one model; `changing` reloads it under another name each second, as a
promotion does. Prints a line for each model and mode.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, cycle, product
from pathlib import Path

import httpx
import numpy as np

from thaw.data.pixels import open_image

ROOT = Path(__file__).resolve().parents[1]
Answer = tuple[int, float, str]  # status, seconds, the model that answered


def serve(name: str, changing: bool) -> None:
    """The server process: prints its port and answers until it is killed."""
    from thaw.learning.machine import keep_freed_memory
    from thaw.model import serve as serving
    from thaw.project import models

    keep_freed_memory()
    in_use = serving.InUse(lambda: str(int(time.time())) if changing else "the one", lambda _: models.load(name, "cpu"))
    listening = serving.listen("127.0.0.1", 0)
    app = serving.application(in_use, serving.Limits(files=64, megabytes=64), look_every=1.0)
    print(listening.getsockname()[1], flush=True)
    serving.server(app, "127.0.0.1").run([listening])


@contextmanager
def server(name: str, changing: bool) -> Iterator[str]:
    """A running server; yields its address."""
    command = [sys.executable, "-m", "benchmarks.serving", "--server", "--model", name]
    child = subprocess.Popen([*command, "--changing"] if changing else command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout
        yield f"http://127.0.0.1:{int(child.stdout.readline())}"
    finally:
        child.terminate()
        child.wait()


def ask(url: str, files: list[Path], batch: int, until: float) -> list[Answer]:
    """A client process: sends requests of `batch` pictures without a pause."""
    answers, pictures = [], cycle([(file.name, file.read_bytes()) for file in files])
    with httpx.Client(timeout=60) as client:
        while time.monotonic() < until:
            sent = [("files", next(pictures)) for _ in range(batch)]
            started = time.monotonic()
            answer = client.post(f"{url}/predict", files=sent)
            model = answer.json()["model"] if answer.status_code == 200 else ""
            answers.append((answer.status_code, time.monotonic() - started, model))
    return answers


def measure(url: str, files: list[Path], batch: int, clients: int, seconds: float) -> list[Answer]:
    """The figures of all clients together, after a second to warm up."""
    ask(url, files, batch, time.monotonic() + 1)
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as threads:
        return [*chain.from_iterable(threads.map(lambda _: ask(url, files, batch, until), range(clients)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[str(ROOT / "artifacts/package")])
    parser.add_argument("--pictures", type=Path, default=ROOT / "data")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--changing", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server:
        serve(options.model[0], options.changing)
        return
    files = [path for path in sorted(options.pictures.rglob("*")) if path.suffix in (".png", ".jpg")][:64]
    size = "x".join(map(str, open_image(files[0]).size))
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.clients} clients, pictures such as {size}")
    modes = (("steady", 1, False), ("steady", 16, False), ("changing", 1, True))
    for model, (name, batch, changing) in product(options.model, modes):
        with server(str(Path(model).absolute()), changing) as url:
            answers = measure(url, files, batch, options.clients, options.seconds)
        failed, models = sum(status != 200 for status, _, _ in answers), len({model for _, _, model in answers})
        p50, p99 = np.percentile([1000 * took for _, took, _ in answers], [50, 99])
        rate = len(answers) / options.seconds
        print(
            f"{Path(model).name}, {name:8}  {batch:2} pictures a request: {rate:5.1f} requests/s, "
            f"{rate * batch:5.1f} pictures/s, p50 {p50:.0f} ms, p99 {p99:.0f} ms; "
            f"{failed} of {len(answers)} lost, {models} models answered",
            flush=True,
        )


if __name__ == "__main__":
    main()
