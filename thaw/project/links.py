"""Symbolic links in the data: which of them DVC can pin."""

import os
import re
from pathlib import Path

from thaw.errors import Refused

CACHED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}\Z")  # in DVC's cache


def check_links(root: Path, copied: bool = False) -> None:
    """Raise if a link leads out of the data: DVC does not pin linked folders, nor files outside of
    the data.

    Links that DVC made lead into its cache and are fine. If the files are going to be `copied`,
    links to files are fine too.
    """
    links = [root] if root.is_symlink() and not copied else []
    for folder, folders, files in os.walk(root):
        links += [path for name in [*folders, *files] if (path := Path(folder, name)).is_symlink()]
    wrong = {link.relative_to(root).as_posix(): why for link in links if (why := _why_wrong(link, root, copied))}
    if wrong:
        raise Refused(wrong)


def _why_wrong(link: Path, root: Path, copied: bool) -> str:
    target = Path(os.path.realpath(link))  # unlike resolve() it does not raise where links go round
    if not target.exists():
        return (
            f"{link} is a link to {target}, which does not exist; bring the file, where DVC made the link with "
            "`dvc fetch`, or take the link out"
        )
    if target.is_dir():
        return f"{link} is a link to the folder {target}, and DVC pins no linked folder; copy the folder itself there"
    if not copied and not target.is_relative_to(root.resolve()) and not CACHED.search(target.as_posix()):
        return (
            f"{link} is a link to {target}, outside of {root}, where no version of the data keeps it; copy the "
            "file itself there"
        )
    return ""
