"""unsend: says which objects the DVC remote has, or takes them out of it.

python -m thaw.project.unsend [--look] HASH ...
"""

import sys

from dvc.repo import Repo

from thaw.project import workspace
from thaw.project.stage import answer

LOOK = "--look"


def main(digests: list[str], deletes: bool) -> None:
    """Delete these where the remote has them, or only look; the answer is which it had, or None if
    there is no remote where it should be, such as on a disk that is not mounted."""
    with Repo(str(workspace.root()), _wait_for_lock=True) as repo:
        store = repo.cloud.get_remote_odb(hash_name="md5")
        if not store.fs.exists(store.path):
            return answer(None)
        there = [digest for digest in digests if store.exists(digest)]
        for digest in there if deletes else []:
            store.delete(digest)
    return answer(there)


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if argument != LOOK], LOOK not in sys.argv)
