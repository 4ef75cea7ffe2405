"""unsend: says which objects the DVC remote has, brings them, or takes them out of it.

python -m thaw.project.unsend [--look | --bring] HASH ...
"""

import sys

from dvc.repo import Repo

from thaw.project import workspace
from thaw.project.stage import answer

LOOK, BRING = "--look", "--bring"


def main(arguments: list[str]) -> None:
    """Delete these where the remote has them, or bring them into the cache, or only look.

    The answer is which it had, or None if there is no remote where it should be, such as on a disk
    that is not mounted.
    """
    with Repo(str(workspace.root()), _wait_for_lock=True) as repo:
        store = repo.cloud.get_remote_odb(hash_name="md5")
        if not store.fs.exists(store.path):
            return answer(None)
        there = [digest for digest in arguments if digest not in (LOOK, BRING) and store.exists(digest)]
        for digest in there:
            if BRING in arguments:
                repo.cache.local.add(store.oid_to_path(digest), store.fs, digest)
            elif LOOK not in arguments:
                store.delete(digest)
    return answer(there)


if __name__ == "__main__":
    main(sys.argv[1:])
