"""Commands forked from a process that has imported their packages. See site/sitecustomize.py.

The process that was to be the command asks (asking.py), and `serve` runs in the one that forks:
one forks what computes with torch, one what is made of DVC, one what imports prefect, and one its
server. The first who asks starts it; it ends with the suite (leftovers.py).
"""

import marshal
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from asking import MOST_FILES, PASSED_ON, open_files

# All packages that DVC imports when it needs them.
DVC_PACKAGES = (
    "dvc.commands",
    "dvc.repo",
    "dvc.stage",
    "dvc.dependency",
    "dvc_data",
    "dvc_objects",
    "scmrepo",
    "sqltrie",
)
DVC_MODULES = (
    "dvc.cli.parser", "dvc.cachemgr", "dvc.output", "dvc.data_cloud", "dvc.dirs", "dvc.ui.table",
    "dvc.utils.strictyaml", "dvc_http", "networkx", "dulwich.porcelain", "dulwich.worktree", "dulwich.filters",
    "dulwich.stash", "dulwich.gc", "pygit2", "ruamel.yaml", "ruamel.yaml.mergevalue",
    "fsspec.implementations.memory", "rich.table", "rich.status",
)  # fmt: skip
# Packages that phases import; none of this project, and none that reads the environment.
TORCH_MODULES = (
    "torch", "torch._dynamo", "torchvision", "torchvision.transforms.v2.functional", "safetensors.torch", "pandas",
    "scipy.stats", "scipy.optimize", "sklearn.metrics", "sklearn.model_selection", "sklearn.linear_model",
    "matplotlib.pyplot", "PIL.ImageOps", "ruamel.yaml", "jinja2", "pydantic.main", "typer.main", "rich.table",
)  # fmt: skip
# prefect reads its settings when it is imported; `_settings_anew` has it read them once more.
FLOW_MODULES = (
    "prefect.main", "prefect.cli", "prefect.flow_engine", "prefect.runner", "prefect.workers.process",
    "prefect.deployments.steps.pull", "prefect.deployments.flow_runs", "prefect.artifacts", "pydantic.v1",
    "ruamel.yaml", "pandas", "matplotlib.backends.backend_agg", "gto.api", "typer.main", "rich.table",
)  # fmt: skip
SERVER_MODULES = ("prefect.cli.server", "prefect.cli._server_utils", "prefect.server.api.server")


def serve(folder: str, name: str) -> None:
    """Fork a process for each command that is asked for."""
    import gc

    with socket.socket(socket.AF_UNIX) as listening:
        try:
            listening.bind(f"{folder}/{name}")
        except OSError:
            return  # another process was quicker
        listening.listen(64)  # other askers wait: importing the same at once would cost more
        _import_everything(name)
        gc.freeze()
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _watch(connection)
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _import_everything(name: str) -> None:
    import importlib
    import pkgutil

    modules = {"torch": TORCH_MODULES, "flow": FLOW_MODULES, "server": SERVER_MODULES}
    names = [*modules.get(name, (*DVC_MODULES, *DVC_PACKAGES))]
    for package in DVC_PACKAGES if name == "dvc" else ():
        result = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.", onerror=lambda _: None)
        names += [module.name for module in result]
    for name in names:
        with suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    if "dvc.cli.parser" in names:
        from dvc.cli.parser import get_main_parser

        get_main_parser()  # the child keeps it


def _watch(connection: socket.socket) -> None:
    """Fork the command in its own session; report how it ended, and end it if the asker is gone."""
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
        _become(marshal.loads(content), files)
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
    import importlib
    import tempfile
    import threading

    _show([request["program"], *request["arguments"]] if request["program"] != "dvc" else request["arguments"])
    for number in PASSED_ON:
        ignored = number in request["ignored"]
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if ignored else usual)
    above = 1 + max(request["files"])
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for file in files]
    for number, copy in zip(request["files"], copies, strict=True):
        os.dup2(copy, number)
    kept = {0, 1, 2, *request["files"]}
    for number in open_files():
        if number not in kept:
            os.close(number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.executable, sys.prefix, sys.exec_prefix = request["python"]
    sys.path[:] = [request["folder"], *request["path"]]
    importlib.invalidate_caches()
    tempfile.tempdir = None  # TMPDIR may be another one
    if "prefect" in sys.modules:
        if request["program"].rpartition("/")[2] == "thaw":
            sys.meta_path.insert(0, _Later())
        else:
            _settings_anew()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(write_through="PYTHONUNBUFFERED" in os.environ)  # type: ignore[union-attr]
    code: Any = 1
    try:
        code = _run(request["program"], request["arguments"])
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


class _Later:
    """Hides prefect until it is imported: thaw sets its environment variables before."""

    def __init__(self) -> None:
        names = [name for name in sys.modules if name.partition(".")[0] == "prefect"]
        self.modules = {name: sys.modules.pop(name) for name in names}
        self.spec = self.modules["prefect"].__spec__

    def find_spec(self, name: str, *_: Any) -> Any:
        from importlib.machinery import ModuleSpec

        if name != "prefect":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        return self.modules["prefect"]

    def exec_module(self, module: Any) -> None:
        module.__spec__ = self.spec
        sys.modules.update(self.modules)
        _settings_anew()


def _settings_anew() -> None:
    """Let prefect read the environment of the command."""
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging(incremental=False)


def _run(program: str, arguments: list[str]) -> int:
    """Run a module, a script or a line of code; returns the exit code unless it exits by itself."""
    import runpy
    import warnings

    sys.argv = [program, *arguments]
    if program == "dvc":
        from dvc import cli

        sys.argv[0] = cli.__file__
        return cli.main(arguments)
    if program == "-c":
        code, *sys.argv[1:] = arguments
        warnings.simplefilter("ignore")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif os.path.isabs(program):  # noqa: PTH117
        sys.path[0] = os.path.dirname(program)  # noqa: PTH120
        runpy.run_path(program, run_name="__main__")
    else:
        sys.modules.pop(program, None)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    return 0


def _show(arguments: list[str]) -> None:
    """List this process with the command's arguments, as thaw/project/heal.py expects."""
    import ctypes

    start, end = map(int, open("/proc/self/stat").read().rsplit(")", 1)[1].split()[45:47])  # noqa: SIM115
    shown = b"".join(b"\0" + argument.encode() for argument in arguments) + b"\0"
    if len(shown) < end - start:
        ctypes.memmove(start, shown.rjust(end - start, b" "), end - start)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
