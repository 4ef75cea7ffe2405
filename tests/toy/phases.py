"""A toy of every phase: prints like the real one, writes files of the same shape, trains nothing.

`TOY_FAIL=head` makes a phase fail by the user's fault, `TOY_BREAK=head` by its own,
`TOY_SLOW=head` makes it last until it is ended, with a child that does not listen to SIGTERM; the
ids of both are written first. The same does `head` in the file .dvc/tmp/slow, for runs that a
worker starts. `TOY_LOG` names a file that gets a line from every phase that ran.
"""

import base64
import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

from ruamel.yaml import YAML

HISTORY = "epoch,learning_rate,train_loss,val_loss,val_accuracy\n"
PREDICTIONS = """\
path,label,group,head_prediction,finetuned_prediction,head_p_bad,head_p_good,finetuned_p_bad,finetuned_p_good
1.png,bad,,bad,bad,0.8,0.2,0.9,0.1
2.png,bad,,good,bad,0.4,0.6,0.7,0.3
3.png,good,,good,bad,0.3,0.7,0.6,0.4
4.png,good,,good,good,0.2,0.8,0.1,0.9
"""
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"


def main(phase: str) -> None:
    folder = Path("artifacts") / phase
    folder.mkdir(parents=True, exist_ok=True)
    values = YAML(typ="safe").load(Path("params.yaml"))
    settings, seed, ratio = values.get(phase, {}), values["seed"], values["unfreeze"]["ratio"]
    learned = {key: values[key] for key in ("seed", "labels", "class_weights", "backbone")}
    print("bar 1\rbar 2\rbar 3")
    if os.environ.get("TOY_FAIL") == phase:
        print("error: the toy has no pictures", file=sys.stderr)
        raise SystemExit(2)
    if os.environ.get("TOY_BREAK") == phase:
        raise KeyError("a mistake of ours")
    slow = Path(".dvc") / "tmp" / "slow"
    if (slow.read_text() if slow.exists() else os.environ.get("TOY_SLOW")) == phase:
        deaf = subprocess.Popen([sys.executable, "-c", STUBBORN])
        (Path(".dvc") / "tmp" / "pids").write_text(f"{os.getpid()} {deaf.pid}")
        time.sleep(600)
    for percent in (0, 50, 100):
        print(
            f"[{percent:3d}%] {phase} {percent}/100, 36 pictures/s, 0:0{(100 - percent) // 20} left",
            flush=True,
        )
        time.sleep(float(os.environ.get("TOY_PACE", 0)))
    if phase in ("head", "unfreeze"):
        (folder / "model").mkdir(exist_ok=True)
        before = (folder.parent / "head" / "model" / "weights.safetensors").read_text() if phase == "unfreeze" else ""
        (folder / "model" / "weights.safetensors").write_text(f"{before}{phase} {learned} {settings}\n")
        (folder / "metrics.json").write_text(json.dumps({"val_loss": 0.3 + abs(ratio - 30) / 1000 + seed / 100}))
        first = "0,,,0.5,0.8\n" if phase == "unfreeze" else ""
        (folder / "history.csv").write_text(f"{HISTORY}{first}1,0.001,0.6,0.5,0.8\n2,0.0005,0.5,0.4,0.9\n")
    elif phase == "evaluate":
        better, keep = (ratio - 10) / 1000 + seed / 100, values["unfreeze"]["keep"]
        network = {"accuracy": 0.8, "balanced_accuracy": 0.8, "auc": 0.85, "f1": 0.8, "ece": 0.1}
        gain = {"accuracy": better, "low": -0.01, "high": 0.01, "auc": 0.0, "auc_low": -0.01, "auc_high": 0.01}
        metrics = {
            "test_pictures": 4,
            "phase_2": {"keep": keep, "kept_epoch": 2 if keep == "last" else 0, "same": keep == "best"},
            "head": network,
            "finetuned": network | {"accuracy": 0.8 + better},
            "gain": gain,
        }
        details = {"forgetting": {"distance": 1 / (1 + ratio), "cka": 1 - 0.5 / (1 + ratio)}}
        (folder / "details.json").write_text(json.dumps(details))
        (folder / "metrics.json").write_text(json.dumps(metrics))
        trained = zlib.crc32(Path("artifacts/unfreeze/model/weights.safetensors").read_bytes()) % 100
        header, *rows = PREDICTIONS.replace("0.9,0.1\n", f"0.9,0.1{trained}\n").splitlines(keepends=True)
        test = json.loads(Path("artifacts/prepare/meta.json").read_text())
        rows = [row for number, row in enumerate(rows) if number % test["folds"] == test["fold"]]
        (folder / "predictions.csv").write_text(header + "".join(rows))
    elif phase == "prepare":
        (folder / "manifest.csv").write_text("path,label,target,split,group,hash\npicture.txt,good,,train,,\n")
        test = {"folds": settings["folds"] or 1, "fold": settings["fold"], "classes": ["good"]}
        (folder / "meta.json").write_text(json.dumps(test))
    elif phase == "embed":
        (folder / "features.txt").write_text(Path("artifacts/prepare/meta.json").read_text())
    else:
        (folder / "report.html").write_text(phase)
    if phase == "report":
        for name in ("curves.png", "confusion.png", "mistakes.png"):
            (folder / name).write_bytes(base64.b64decode(PICTURE))
    if log := os.environ.get("TOY_LOG"):
        with open(log, "a") as lines:
            lines.write(f"{phase} ratio {ratio} seed {seed}\n")


if __name__ == "__main__":
    main(sys.argv[1])
