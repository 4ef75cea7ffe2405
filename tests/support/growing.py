"""For tests of new pictures: a workspace whose data grow, and a process killed at a chosen step."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from thaw.project import workspace

ROOT = Path(__file__).resolve().parents[2]


def picture(path: Path, content: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (content % 251, content // 251, 7)).save(path)


def fill(folder: Path, layout: str, contents: range, start: int = 0) -> Path:
    """Pictures of cats (even contents) and dogs (odd ones)."""
    rows = []
    for content in contents:
        label = ("cat", "dog")[content % 2]
        split = ("train", "train", "train", "valid", "test")[content // 2 % 5]
        name = {"classes": label, "splits": f"{split}/{label}", "table": "images"}[layout]
        picture(folder / name / f"{start + content}.png", content)
        rows.append(f'images/{start + content}.png,{label},"day {content // 4}"')
    if layout == "table":
        # no newline at the end
        (folder / "labels.csv").write_text("\n".join(["path,label,group", *rows]))
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    """The files and folders of a folder, except under .dvc/tmp, where an add may leave traces."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"a folder"
        for path in folder.rglob("*")
        if not path.is_relative_to(folder / ".dvc")
    }


def put_back(copy: Path, folder: Path) -> None:
    """Make a folder equal to its copy without deleting it: it may be the current folder."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(copy, folder, dirs_exist_ok=True)


def pin(stage: str, command: list[str], on_line: Callable[[str], None]) -> list[str]:
    """A stand-in for `dvc add`, as far as these tests can see."""
    assert command[1:3] == ["-m", "dvc"]
    tree = everything(workspace.root() / "data")
    (workspace.root() / "data.dvc").write_text(hashlib.sha256(repr(sorted(tree.items())).encode()).hexdigest())
    return []


def make_space(root: Path, layout: str) -> Path:
    fill(root / "data", layout, range(40))
    shutil.copy(ROOT / "params.yaml", root)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "data.dvc").write_text("the pin of the old data")
    return root


def killed_before_change(number: int, body: Callable[[], object]) -> bool:
    """Run `body` in a process that dies, as by kill -9, just before file change `number`."""
    if not (child := os.fork()):
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile"):
                seen += 1
                if seen == number:
                    os._exit(9)

        sys.addaudithook(watch)
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9
