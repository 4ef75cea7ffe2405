"""unsend: takes objects out of the DVC remote.

python -m thaw.project.unsend HASH ...
"""

import sys

from dvc.repo import Repo

from thaw.project import workspace
from thaw.project.stage import answer


def main(digests: list[str]) -> None:
    """Delete these where the remote has them; the answer is how many it had."""
    with Repo(str(workspace.root()), _wait_for_lock=True) as repo:
        store = repo.cloud.get_remote_odb(hash_name="md5")
        there = [digest for digest in digests if store.exists(digest)]
        for digest in there:
            store.delete(digest)
    answer(len(there))


if __name__ == "__main__":
    main(sys.argv[1:])
