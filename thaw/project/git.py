"""git and DVC: what git answers in the workspace, and how DVC is called there."""

import io
import subprocess
import sys

from thaw.project import workspace


def git(*arguments: str) -> str:
    """What git prints; nothing where it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=workspace.ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def contents(names: list[str]) -> list[str]:
    """The texts of files as they are at commits, each named `COMMIT:./PATH`, in one go; empty where there is none."""
    if not names:
        return []
    asked = "".join(f"{name}\n" for name in names).encode()
    done = subprocess.run(["git", "cat-file", "--batch"], cwd=workspace.ROOT, input=asked, capture_output=True)
    told, texts = io.BytesIO(done.stdout), []
    for _ in names:
        head = told.readline().split()  # hash, kind and size; or the name and "missing"
        texts.append(told.read(int(head[2]) + 1)[:-1].decode() if len(head) == 3 else "")
    return texts


def dvc(*arguments: str) -> list[str]:
    """A command of the DVC that is installed with this Python; where another one is at work, it waits for that.

    DVC itself gives up after three seconds, and with it the stage whose training has just ended.
    """
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
