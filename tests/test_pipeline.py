"""The pipeline of this project on a few drawn pictures. Every project of thaw has this test.

python -m pytest tests/test_pipeline.py
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

PROJECT = Path(__file__).resolve().parents[1]
QUICK = {"resolution": "32", "max_epochs": "2", "epochs": "1", "smallest_class": "3"}


def draw(folder: Path, count: int) -> None:
    """Discs and squares of random size and place, `count` of each, in a folder for each class."""
    chance = random.Random(0)
    for shape in ("disc", "square"):
        (folder / shape).mkdir(parents=True)
        for number in range(count):
            picture = Image.new("L", (40, 40), chance.randrange(60))
            left, top, side = chance.randrange(18), chance.randrange(18), chance.randrange(10, 20)
            pen = ImageDraw.Draw(picture)
            outline = pen.ellipse if shape == "disc" else pen.rectangle
            outline((left, top, left + side, top + side), fill=chance.randrange(150, 256))
            picture.save(folder / shape / f"{number:02d}.png")


def call(folder: Path, *command: str) -> None:
    """Run a command in a folder to its good end, with the programs of this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pipeline_runs_from_pictures_to_report(tmp_path: Path) -> None:
    folder = tmp_path / "a project with drawn pictures"
    folder.mkdir()
    for name in ("tasks", "flows"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "thaw.yaml", ".dvcignore"):
        shutil.copy(PROJECT / name, folder)
    settings = (PROJECT / "params.yaml").read_text()
    for key, value in QUICK.items():
        settings = re.sub(rf"^(  {key}:) +\S+", rf"\1 {value}", settings, flags=re.MULTILINE)
    settings = re.sub(r"^(  name:) \S+(.*\n  weights:) \S+", r"\1 squeezenet1_1\2 random", settings, flags=re.MULTILINE)
    (folder / "params.yaml").write_text(settings)
    draw(folder / "data", 20)
    dvc = (sys.executable, "-m", "dvc")
    call(folder, *dvc, "init", "--quiet", "--no-scm")
    call(folder, *dvc, "add", "--quiet", "data")
    call(folder, *dvc, "repro", "--quiet")
    metrics = json.loads((folder / "artifacts/evaluate/metrics.json").read_text())
    assert {"head", "finetuned", "gain"} <= metrics.keys()
    assert "<html" in (folder / "artifacts/report/report.html").read_text()
