"""Law of memory: what a network frees stays with its process."""

import platform
from pathlib import Path

import pytest
from warm import python

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
def test_an_array_is_made_in_the_memory_of_the_one_freed_before(tmp_path: Path) -> None:
    done = python(tmp_path, CODE, path=ROOT)
    assert int(done.stdout) < 3 * 8192  # of five times as many without
