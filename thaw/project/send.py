"""send: push the outputs of stages to the DVC remote, so that other machines can restore them.

    python -m thaw.project.send head      outputs of head, and the run cache; no name: all stages
    python -m thaw.project.send --quick   only the outputs of all stages

`dvc push --run-cache` leaves out metrics and plots that are kept in git, but DVC restores a stage
only as a whole.
"""

import sys

from dvc.exceptions import UploadError
from dvc.repo import Repo

from thaw.project import workspace
from thaw.project.experiment import QUICK
from thaw.project.stage import answer


def main(names: list[str], quick: bool) -> None:
    """Push the outputs of these stages; the answer is the number of files sent."""
    with Repo(str(workspace.root()), _wait_for_lock=True) as repo:
        sent = repo.push(names or None, run_cache=not quick)
        if not quick:
            stages = [stage for stage in repo.index.stages if not names or stage.addressing in names]
            uncached = {out.hash_info for stage in stages for out in stage.outs if not out.use_cache and out.hash_info}
            if available := {hash_info for hash_info in uncached if repo.cache.local.exists(hash_info.value)}:
                result = repo.cloud.push(available)
                sent += len(result.transferred)
                if result.failed:
                    raise UploadError(len(result.failed))
    answer(sent)


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != QUICK], QUICK in sys.argv)
