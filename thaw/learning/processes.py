"""Processes: several ranks share one phase; with a single process the functions here do nothing.

    torchrun --nproc-per-node 2 -m tasks.embed     # by hand; else set `resources.processes: 2`

Rank and world size are in the variables that torchrun sets; `start` sets the same ones for its
processes.
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

if TYPE_CHECKING:  # phases that only need the rank start without torch
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Sliced = TypeVar("Sliced", torch.Tensor, NDArray[np.int64])

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def world_size() -> int:
    """How many processes run this phase."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The rank of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def local_world_size() -> int:
    """How many of these processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def local_rank() -> int:
    """The rank of this process on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def first() -> bool:
    """Whether this is rank 0, which prints and writes."""
    return rank() == 0


def start(processes: int, command: list[str]) -> int:
    """Run a command in several processes, in the caller's process group; returns 0 or the exit
    code of the failure.

    Their stderr is shown at the end: after a failure that of the rank that failed first.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
    }
    children: list[subprocess.Popen[bytes]] = []
    with ExitStack() as files:
        errors = [files.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        try:
            for rank, error_file in enumerate(errors):
                own = {**shared, "RANK": rank, "LOCAL_RANK": rank}
                environment = os.environ | {name: str(value) for name, value in own.items()}
                children.append(subprocess.Popen(command, env=environment, stderr=error_file))
            while not any(codes := [child.poll() for child in children]) and None in codes:
                time.sleep(0.05)
        finally:
            _end(children)
        # One rank's failure fails the others: report the user's error first.
        failed = [rank for rank, child in enumerate(children) if child.returncode == 2]
        failed += [rank for rank, code in enumerate(codes) if code]
        reported = failed[0] if failed else 0
        errors[reported].seek(0)
        sys.stderr.write(errors[reported].read().decode(errors="replace"))
        sys.stderr.flush()
    return children[reported].returncode


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
    """Join the other ranks; no rank waits for another longer than a day."""
    if world_size() > 1:
        import torch

        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(days=1))


def leave() -> None:
    """Leave the group when all is done."""
    if world_size() > 1:
        import torch

        torch.distributed.destroy_process_group()


def wait() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        import torch

        torch.distributed.barrier()


def share(values: "Sliced") -> "Sliced":
    """This rank's contiguous part of `values`; the lengths of the parts differ by one at most."""
    return values[len(values) * rank() // world_size() : len(values) * (rank() + 1) // world_size()]


def all_gather(part: "torch.Tensor") -> "torch.Tensor":
    """The parts of all ranks, concatenated in the order of ranks."""
    if world_size() == 1:
        return part
    import torch

    parts: list[torch.Tensor] = [part] * world_size()
    torch.distributed.all_gather_object(parts, part)
    return torch.cat(parts)


def mean(values: "torch.Tensor") -> "torch.Tensor":
    """The mean over all ranks."""
    if world_size() > 1:
        import torch

        torch.distributed.all_reduce(values)
    return values / world_size()


def data_parallel(model: "torch.nn.Module") -> "torch.nn.Module":
    """Wrap a network so that gradients are averaged over all ranks; wrap it again after unfreezing
    more weights."""
    if world_size() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, forward_sync_buffers=False)


def check(split: str, pictures: int) -> None:
    """Raise unless each process gets a picture."""
    if pictures < world_size():
        raise InputError(
            f"resources.processes is {world_size()}, but {split} has {pictures} pictures: use at most {pictures}"
        )
