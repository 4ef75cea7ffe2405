"""Laws of several processes: they train like one, and end together, with one sentence."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from warm import environment

from thaw.errors import InputError
from thaw.learning import processes

ROOT = Path(__file__).resolve().parents[2]
TRAIN_SHARED = """
import sys
from functools import partial
import numpy as np, torch
from thaw.learning import processes
from thaw.learning.backbones import create
from thaw.learning.freezing import unfreeze
from thaw.data.pictures import Normaliser, Pictures, Preprocessing, Shape
from tuning import fine_tuning, tune

preprocessing = Preprocessing(32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3)
device = torch.device("cpu")
torch.set_num_threads(1)
processes.join(device)
torch.manual_seed(0)
model = create("resnet18", "random", 2)
decoded = np.random.default_rng(0).integers(0, 120, (24, 32, 32, 1), dtype=np.uint8)
decoded[1::2, :, :16] += 100
pictures = Pictures([], Shape(32, 32, "bilinear", "whole", 1), decoded, 1)
targets = torch.eye(2)[torch.arange(24) % 2]
config = fine_tuning(batch_size=5, epochs=2, views=8, jitter=0.3, **eval(sys.argv[2]))
split = [(rows, targets[rows]) for rows in (np.arange(17), np.arange(17, 24))]
before = partial(unfreeze, model, "gradual", "frozen", epochs=2)
trained = tune(model, pictures, *split, Normaliser(preprocessing, device), config, None, before)
trained.history.to_csv(f"{sys.argv[1]}/history{processes.rank()}of{processes.world_size()}.csv", index=False)
torch.save(model.state_dict(), f"{sys.argv[1]}/weights{processes.rank()}of{processes.world_size()}.pt")
processes.leave()
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mixup": 0.4, "cutmix": 1.0}], ids=["recipe", "mixed"])
def test_three_processes_train_as_one_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, float]
) -> None:
    """Batches of 5, 5, 5 and 2: shares are uneven, one is empty. Blocks are unfrozen gradually."""
    for name, value in environment(ROOT, ROOT / "tests/support").items():
        monkeypatch.setenv(name, value)
    for count in (1, 3):
        assert processes.start(count, [sys.executable, "-c", TRAIN_SHARED, str(tmp_path), str(options)]) == 0
    alone, together = (pd.read_csv(tmp_path / f"history0of{count}.csv") for count in (1, 3))
    pd.testing.assert_frame_equal(alone, together, rtol=1e-4)
    weights = torch.load(tmp_path / "weights0of1.pt")
    for number in range(3):
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"history{number}of3.csv"), together, check_exact=True)
        for name, value in torch.load(tmp_path / f"weights{number}of3.pt").items():
            torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4)


AGREE = """
import sys
from pathlib import Path
import torch
from thaw.learning import processes, scratch

cpu = torch.device("cpu")
processes.join(cpu)
found = []
for case, ours in (("same", [1, 1]), ("missing", [1, None]), ("other", [1, 2]), ("damaged", [1, "?"])):
    path = Path(sys.argv[1], str(processes.rank()), f"{case}.pt")
    content = ours[processes.rank()]
    path.parent.mkdir(exist_ok=True)
    if content == "?":
        path.write_bytes(b"no state")
    elif content:
        scratch.write(path, {"history": [content]})
    found.append(scratch.read(path, cpu) is not None)
Path(sys.argv[1], f"found{processes.rank()}").write_text(str(found))
processes.leave()
"""


@pytest.mark.slow
def test_all_processes_go_on_from_a_state_or_none_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a folder of its own, as on several machines."""
    for name, value in environment(ROOT, ROOT / "tests/support").items():
        monkeypatch.setenv(name, value)
    assert processes.start(2, [sys.executable, "-c", AGREE, str(tmp_path)]) == 0
    assert [(tmp_path / f"found{number}").read_text() for number in (0, 1)] == [str([True, False, False, False])] * 2


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 12])
def test_shares_are_the_whole_in_order_and_differ_by_one_at_most(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for number in range(3):
        monkeypatch.setenv("RANK", str(number))
        shares.append(processes.share(np.arange(rows)))
    assert np.concatenate(shares).tolist() == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_pictures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"resources\.processes is 3, but val has 2 pictures: use at most 2"):
        processes.check("val", 2)


def test_the_mistake_that_one_finds_ends_all_and_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"""
import os, sys, time
open("{tmp_path}/" + os.environ["RANK"], "w").write(f"{{os.getpid()}} {{os.getpgrp()}}")
if os.environ["RANK"] == "1":
    while len(os.listdir("{tmp_path}")) < 3: time.sleep(0.01)
    sys.exit(print("error: this is wrong", file=sys.stderr) or 2)
if os.environ["RANK"] == "2":
    while True: time.sleep(1)
time.sleep(30)
"""
    assert processes.start(3, [sys.executable, "-c", code]) == 2
    assert capfd.readouterr().err == "error: this is wrong\n"
    for number in range(3):
        pid, group = map(int, (tmp_path / str(number)).read_text().split())
        assert group == os.getpgrp()  # so that whoever ends the group of a phase ends these too
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_ending_the_first_ends_the_others(tmp_path: Path) -> None:
    inner = f"""
import os, time
open("{tmp_path}/" + os.environ["RANK"], "w").write(str(os.getpid()))
time.sleep(60)
"""
    outer = f"""
import signal, sys
from thaw.learning import processes
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
processes.start(2, [sys.executable, "-c", {inner!r}])
"""
    child = subprocess.Popen([sys.executable, "-c", outer], cwd=ROOT)
    deadline = time.monotonic() + 60
    while sum(path.read_text() != "" for path in tmp_path.iterdir()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.terminate()
    assert child.wait(30) == 143
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
