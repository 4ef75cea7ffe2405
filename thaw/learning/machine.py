"""The machine: keep freed memory in the process; half precision and compiling where they pay."""

import ctypes
import platform
from types import MethodType

import torch

from thaw.learning.backbones import Classifier

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; otherwise each layer gets its memory from the kernel again,
    page by page.

    Forward passes and training steps become up to twice as fast. With other C libraries nothing
    changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):  # before 2.35 no more than 32 MB were allowed
            libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_ARENA_MAX, 1)  # arenas of single threads are small and return their memory


def bfloat16_pays(precision: str, device: torch.device) -> bool:
    """Whether `precision` (auto, float32, bfloat16) means bfloat16; `auto` means it on GPUs with
    units for it."""
    has_units = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16" or (precision == "auto" and has_units)


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16 (avx512_bf16, AMX and their like)."""
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def compiling_pays(compiling: str, device: torch.device, pictures: int) -> bool:
    """Whether `compiling` (auto, always, never) means torch.compile for a training on this number
    of pictures.

    Compiling takes about a minute. `auto` compiles on GPUs from 1,000,000 pictures on.
    """
    return compiling == "always" or (compiling == "auto" and device.type == "cuda" and pictures >= 1_000_000)


def use_bfloat16(model: Classifier, device: torch.device) -> None:
    """Make the network multiply in bfloat16; its weights stay as they are."""
    for module in (model, model.backbone):
        # A bound method follows a deep copy, such as a moving average, to the copy. A closure
        # would not.
        module.forward = MethodType(torch.autocast(device.type, torch.bfloat16)(type(module).forward), module)
