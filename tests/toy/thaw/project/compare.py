"""A toy of `python -m thaw.project.compare`: promotes unless `TOY_KEEP` is set. An import gets
the real one.
"""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    promoted = not os.environ.get("TOY_KEEP")
    reason = "the toy is better" if promoted else "the toy is worse"
    assert Path(sys.argv[1], "weights.safetensors").is_file()
    answer = {"state": "compared", "champion": sys.argv[2], "promoted": promoted, "reason": reason}
    Path("artifacts/promotion/decision.json").write_text(json.dumps(answer | {"gain": {}, "falls": [], "inputs": {}}))
else:
    exec(Path(os.environ["TOY_REAL"], "project", "compare.py").read_text())
