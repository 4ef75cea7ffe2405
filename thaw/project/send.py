"""send: puts what stages made into the DVC remote, so that any other machine restores it instead of computing it.

    python -m thaw.project.send head      the outputs of head, and the run cache; all stages where none is named

`dvc push --run-cache` leaves out metrics and plots, which git keeps; but DVC restores a stage only as a whole.
"""

import sys

from dvc.repo import Repo

from thaw.project.workspace import ROOT


def main(names: list[str]) -> None:
    """Send the outputs of these stages."""
    with Repo(str(ROOT)) as repo:
        repo.push(names or None, run_cache=True)
        stages = [stage for stage in repo.index.stages if not names or stage.addressing in names]
        made = {out.hash_info for stage in stages for out in stage.outs if not out.use_cache and out.hash_info}
        here = {each for each in made if repo.cache.local.exists(each.value)}
        if here:
            repo.cloud.push(here)


if __name__ == "__main__":
    main(sys.argv[1:])
