"""git and DVC: run git in the workspace, and build DVC commands."""

import io
import subprocess
import sys

from thaw.project import workspace


def git(*arguments: str) -> str:
    """The output of a git command; empty if it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=workspace.root(), text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def contents(names: list[str]) -> list[str]:
    """The texts of files at commits, each named `COMMIT:./PATH`, in one call; empty for files that
    do not exist."""
    if not names:
        return []
    request = "".join(f"{name}\n" for name in names).encode()
    done = subprocess.run(["git", "cat-file", "--batch"], cwd=workspace.root(), input=request, capture_output=True)
    answer, texts = io.BytesIO(done.stdout), []
    for _ in names:
        head = answer.readline().split()  # hash, kind and size; or the name and "missing"
        texts.append(answer.read(int(head[2]) + 1)[:-1].decode() if len(head) == 3 else "")
    return texts


def dvc(*arguments: str) -> list[str]:
    """A command of the DVC installed with this Python; it waits for a lock that another DVC
    command holds.

    Without `--wait-for-lock` DVC gives up after three seconds, and the stage that has just been
    trained fails.
    """
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
