"""send: puts what stages made into the DVC remote, so that any other machine restores it instead of computing it.

    python -m thaw.project.send head      the outputs of head, and the run cache; all stages where none is named
    python -m thaw.project.send --quick   the outputs of all stages alone

`dvc push --run-cache` leaves out metrics and plots, which git keeps; but DVC restores a stage only as a whole.
"""

import sys

from dvc.exceptions import UploadError
from dvc.repo import Repo

from thaw.project.experiment import QUICK
from thaw.project.stage import answer
from thaw.project.workspace import ROOT


def main(names: list[str], quick: bool) -> None:
    """Send the outputs of these stages, and answer how many files were sent."""
    with Repo(str(ROOT), _wait_for_lock=True) as repo:
        sent = repo.push(names or None, run_cache=not quick)
        if not quick:
            stages = [stage for stage in repo.index.stages if not names or stage.addressing in names]
            made = {out.hash_info for stage in stages for out in stage.outs if not out.use_cache and out.hash_info}
            if here := {each for each in made if repo.cache.local.exists(each.value)}:
                result = repo.cloud.push(here)
                sent += len(result.transferred)
                if result.failed:
                    raise UploadError(len(result.failed))
    answer(sent)


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != QUICK], QUICK in sys.argv)
