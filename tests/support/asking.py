"""The side of a command that asks a warm process to fork it, and ends as its fork ends.

Python itself starts in 8 ms, and the suite starts a command two thousand times. The modules that
one would take here, `json`, `socket`, `subprocess`, `signal` and `typing`, take 30 ms more; so
this file imports what is built in.
"""

import _signal as signal
import _socket as socket
import marshal
import os
import sys
import time

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MOST_FILES = 32


def ask(folder: str, name: str, program: str, arguments: list[str]) -> None:
    """Run a program in a fork of that name and end as it does; return if nobody can fork it."""
    connection = _connected(folder, name)
    files = [number for number in open_files() if os.get_inheritable(number)]
    if not connection or len(files) > MOST_FILES:
        return
    request = {
        "program": program,
        "arguments": arguments,
        "path": sys.path[:-1],  # without the folder of this file
        "python": [sys.executable, sys.prefix, sys.exec_prefix],
        "folder": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "files": files,
        "ignored": [int(number) for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN],
    }
    content = marshal.dumps(request)
    numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in files)
    head = len(content).to_bytes(8, "big")
    connection.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
    connection.sendall(content)
    if not (begun := _line(connection)):
        return
    child = int(begun)

    def pass_on(number: int, frame: object) -> None:
        try:  # noqa: SIM105
            os.killpg(child, number)
        except ProcessLookupError:
            pass

    for number in PASSED_ON:
        if number not in request["ignored"]:
            signal.signal(number, pass_on)
    ended = _line(connection)
    code = int(ended) if ended else 255
    if code < 0:
        try:  # noqa: SIM105
            signal.signal(-code, signal.SIG_DFL)
        except OSError:  # SIGKILL is as it is
            pass
        os.kill(os.getpid(), -code)
    os._exit(code)


def _line(connection: "socket.socket") -> bytes:
    """The next line of an answer, empty at its end."""
    line = b""
    while (byte := connection.recv(1)) not in (b"", b"\n"):
        line += byte
    return line


def _connected(folder: str, name: str) -> "socket.socket | None":
    """A connection to the forker, started if needed; it answers once it has imported everything."""
    deadline = 0.0
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"{folder}/{name}")
        except OSError:
            pass
        else:
            return connection
        if not deadline:
            deadline = time.monotonic() + 5
            _start(folder, name)
        elif time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def open_files() -> list[int]:
    """The files that this process has open."""
    results = []
    for name in os.listdir("/dev/fd"):  # noqa: PTH208
        try:
            os.fstat(int(name))
        except OSError:
            continue
        results.append(int(name))
    return sorted(results)


def _start(folder: str, name: str) -> None:
    import subprocess

    program = os.path.join(os.path.dirname(__file__), "commands.py")  # noqa: PTH118, PTH120
    subprocess.Popen(
        [sys.executable, program, folder, name, " " * 4096],
        cwd="/",
        # tests tell processes by these, and this one is none of theirs
        env={key: value for key, value in os.environ.items() if key != "TMPDIR" and not key.startswith("PREFECT__")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ).returncode = 0  # nobody waits for it
