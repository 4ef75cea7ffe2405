"""A toy of every phase: prints like the real one, writes files of the same shape, trains nothing.

`TOY_FAIL=head` makes a phase fail by the user's fault, `TOY_BREAK=head` by its own, `TOY_SLOW=head` makes it
last until it is ended, with a child that does not listen to SIGTERM; the ids of both are written first.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HISTORY = "epoch,learning_rate,train_loss,val_loss,val_accuracy\n"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(600)"


def main(phase: str) -> None:
    folder = Path("artifacts") / phase
    folder.mkdir(parents=True, exist_ok=True)
    print("bar 1\rbar 2\rbar 3")
    if os.environ.get("TOY_FAIL") == phase:
        print("error: the toy has no pictures", file=sys.stderr)
        raise SystemExit(2)
    if os.environ.get("TOY_BREAK") == phase:
        raise KeyError("a mistake of ours")
    if os.environ.get("TOY_SLOW") == phase:
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
        (folder / "model" / "weights.safetensors").write_text(Path("params.yaml").read_text() + phase)
        first = "0,,,0.5,0.8\n" if phase == "unfreeze" else ""
        (folder / "history.csv").write_text(f"{HISTORY}{first}1,0.001,0.6,0.5,0.8\n2,0.0005,0.5,0.4,0.9\n")
    elif phase == "evaluate":
        network = {"accuracy": 0.8, "balanced_accuracy": 0.8, "auc": 0.85, "f1": 0.8, "ece": 0.1}
        gain = {"accuracy": 0.0, "low": -0.01, "high": 0.01, "auc": 0.0, "auc_low": -0.01, "auc_high": 0.01}
        metrics = {
            "test_pictures": 4,
            "head": network,
            "finetuned": network,
            "gain": gain | {"mcnemar_p": 1.0},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
    else:
        (folder / "report.html").write_text(phase)


if __name__ == "__main__":
    main(sys.argv[1])
