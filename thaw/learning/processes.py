"""Processes: several run one phase side by side and each takes a share; alone, each function here does nothing.

    torchrun --nproc-per-node 2 -m tasks.embed      # by hand, or on several machines; else `resources.processes: 2`

Who is who stands in the variables that torchrun sets; `start` sets the same ones for processes of its own.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from thaw.errors import InputError

if TYPE_CHECKING:  # the small phases that only ask who is first do without torch
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Sliced = TypeVar("Sliced", torch.Tensor, NDArray[np.int64])

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def count() -> int:
    """How many processes run this phase."""
    return int(os.environ.get("WORLD_SIZE", 1))


def number() -> int:
    """Which one this is, from 0."""
    return int(os.environ.get("RANK", 0))


def here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count()))


def number_here() -> int:
    """Which one of those on this machine this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def first() -> bool:
    """Whether this is the one that prints and writes."""
    return number() == 0


def start(processes: int, command: list[str]) -> int:
    """Run a command in so many processes, in the process group of the caller; the exit code of who failed, or 0.

    What they write to stderr is shown at the end, and of a failure only what the one says that began it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    children: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        complaints = [files.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        try:
            for each, complaint in enumerate(complaints):
                own = {**shared, "RANK": each, "LOCAL_RANK": each}
                environment = os.environ | {name: str(value) for name, value in own.items()}
                children.append(subprocess.Popen(command, env=environment, stderr=complaint))
            while not any(codes := [child.poll() for child in children]) and None in codes:
                time.sleep(0.05)
        finally:
            _end(children)
        # Who loses a peer fails too, perhaps at once: a user's mistake goes before what it led to.
        failed = [each for each, child in enumerate(children) if child.returncode == 2]
        failed += [each for each, code in enumerate(codes) if code]
        told = failed[0] if failed else 0
        complaints[told].seek(0)
        sys.stderr.write(complaints[told].read().decode(errors="replace"))
        sys.stderr.flush()
    return children[told].returncode


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.terminate()
    deadline = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def join(device: "torch.device") -> None:
    """Meet the other processes; nobody waits for another longer than a day."""
    if count() > 1:
        import torch

        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(days=1))


def leave() -> None:
    """Part from the other processes when all is done."""
    if count() > 1:
        import torch

        torch.distributed.destroy_process_group()


def wait() -> None:
    """Go on when all have come this far."""
    if count() > 1:
        import torch

        torch.distributed.barrier()


def share(values: "Sliced") -> "Sliced":
    """The part of `values` that is this process's, in one piece; the parts are of one size, but for one at most."""
    return values[len(values) * number() // count() : len(values) * (number() + 1) // count()]


def gathered(mine: "torch.Tensor") -> "torch.Tensor":
    """The parts of all, one after the other."""
    if count() == 1:
        return mine
    import torch

    parts: list[torch.Tensor] = [mine] * count()
    torch.distributed.all_gather_object(parts, mine)
    return torch.cat(parts)


def mean(mine: "torch.Tensor") -> "torch.Tensor":
    """The mean of what all have."""
    if count() > 1:
        import torch

        torch.distributed.all_reduce(mine)
    return mine / count()


def joined(model: "torch.nn.Module") -> "torch.nn.Module":
    """The network whose gradients are the mean over all processes; made anew where other weights become trainable."""
    if count() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, forward_sync_buffers=False)


def check(what: str, pictures: int) -> None:
    """Raise unless there is a picture for each process."""
    if pictures < count():
        raise InputError(
            f"resources.processes is {count()}, but {what} has {pictures} pictures: use at most {pictures}"
        )
