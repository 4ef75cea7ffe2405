"""Where everything of a workspace lies; `THAW_ROOT` names another workspace than the folder of this file."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("THAW_ROOT") or Path(__file__).resolve().parents[2])
DATA = ROOT / "data"
ARTIFACTS = ROOT / "artifacts"
PREPARE, EMBED, HEAD, UNFREEZE, EVALUATE, REPORT = (
    ARTIFACTS / phase for phase in ("prepare", "embed", "head", "unfreeze", "evaluate", "report")
)
SCRATCH = ROOT / ".dvc" / "tmp" / "thaw"
