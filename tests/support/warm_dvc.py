"""DVC commands forked from one process that has DVC imported. See tests/support/site/sitecustomize.py.

`ask` runs in the process that was to be `python -m dvc`, `serve` in the one that forks. The first who asks starts
the other one and does without it; it ends with the suite (tests/support/leftovers.py).
"""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

# Packages that DVC imports when it needs them, all of them.
PACKAGES = ("dvc.commands", "dvc.repo", "dvc.stage", "dvc.dependency", "dvc_data", "dvc_objects", "scmrepo", "sqltrie")
MODULES = ("dvc.cli.parser", "dvc.cachemgr", "dvc.output", "dvc_http", "networkx", "dulwich.porcelain", "pygit2")
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST_FILES = 32


def ask(address: str, arguments: list[str]) -> None:
    """Let the command of this process run over there and end as it ended; return if nobody is there."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError:
        _start(address)
        return
    files = [number for number in _open_files() if os.get_inheritable(number)]
    if len(files) > MOST_FILES:
        return
    request = {
        "arguments": arguments,
        "folder": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "files": files,
        "ignored": [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN],
    }
    content = json.dumps(request).encode()
    socket.send_fds(connection, [len(content).to_bytes(8, "big")], files)
    connection.sendall(content)
    answers = connection.makefile()
    child = int(answers.readline())

    def pass_on(number: int, frame: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child, number)

    for number in PASSED_ON:
        if number not in request["ignored"]:
            signal.signal(number, pass_on)
    ended = answers.readline()
    code = int(ended) if ended else 255
    if code < 0:
        with suppress(OSError):  # SIGKILL is as it is
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _open_files() -> list[int]:
    found = []
    for name in os.listdir("/dev/fd"):  # noqa: PTH208
        with suppress(OSError):
            os.fstat(int(name))
            found.append(int(name))
    return sorted(found)


def _start(address: str) -> None:
    subprocess.Popen(
        [sys.executable, __file__, address],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ).returncode = 0  # nobody waits for it


def serve(address: str) -> None:
    """Fork a process for each command that is asked for."""
    import gc

    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(address)
        except OSError:
            return  # another one was quicker
        _import_everything()
        gc.freeze()
        listening.listen(64)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _watch(connection)
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _import_everything() -> None:
    import importlib
    import pkgutil

    names = [*MODULES, *PACKAGES]
    for package in PACKAGES:
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.", onerror=lambda _: None)
        names += [module.name for module in found]
    for name in names:
        with suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)


def _watch(connection: socket.socket) -> None:
    """Fork the command, in a session of its own; say how it ended, and end it if whoever asked for it is gone."""
    import select

    head, files, _, _ = socket.recv_fds(connection, 8, MOST_FILES)
    if len(head) < 8:
        os._exit(0)
    content = connection.makefile("rb").read(int.from_bytes(head, "big"))
    child = os.fork()
    if child == 0:
        os.setsid()
        connection.sendall(f"{os.getpid()}\n".encode())
        connection.close()
        _become(json.loads(content), files)
    for number in files:
        os.close(number)
    life = os.pidfd_open(child)
    if life not in select.select([life, connection], [], [])[0]:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Be the command: its files, folder and environment."""
    import atexit
    import fcntl
    import threading

    from dvc import cli

    for number in PASSED_ON:
        ignored = number in request["ignored"]
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if ignored else usual)
    above = 1 + max(request["files"])
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for file in files]
    for number, copy in zip(request["files"], copies, strict=True):
        os.dup2(copy, number)
    kept = {0, 1, 2, *request["files"]}
    for number in _open_files():
        if number not in kept:
            os.close(number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = [cli.__file__, *request["arguments"]]
    sys.path[0] = request["folder"]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)  # type: ignore[union-attr]
    code: Any = 1
    try:
        code = cli.main(request["arguments"])
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:
        code = 130
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
