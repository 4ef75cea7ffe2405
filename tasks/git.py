"""git: what git answers in the workspace."""

import subprocess

from tasks import workspace


def git(*arguments: str) -> str:
    """What git prints; nothing where it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=workspace.ROOT, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return done.stdout.strip() if done.returncode == 0 else ""
