"""Law of memory: what a network frees stays with its process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import resource, torch
from thaw.learning.machine import keep_freed_memory
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**23)
before = faults()
for _ in range(5):
    torch.ones(2**23)  # of 8,192 pages
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives each freed array back at once")
@pytest.mark.slow
def test_an_array_is_made_in_the_memory_of_the_one_freed_before() -> None:
    # a process of its own: the memory of a fork varies
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, text=True, capture_output=True, check=True)
    assert int(done.stdout) < 3 * 8192  # of five times as many without
