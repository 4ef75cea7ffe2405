"""The paths of a project.

A project is a folder with params.yaml and dvc.yaml. Like git, thaw looks for it from the current
folder upward.
"""

from pathlib import Path

from thaw.errors import InputError

MARKS = ("params.yaml", "dvc.yaml")


def find(start: Path) -> Path | None:
    """The project that a folder belongs to, if there is one."""
    folders = (start, *start.parents)
    return next((folder for folder in folders if all((folder / name).is_file() for name in MARKS)), None)


def root() -> Path:
    """The project of the current folder; the folder itself if it belongs to none."""
    folder = _current_folder()
    return find(folder) or folder


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        sentence = "the current folder has been deleted: go to a project, or name it with `thaw -C FOLDER`"
        raise InputError(sentence) from None


def data() -> Path:
    """The folder of the pictures."""
    return root() / "data"


def artifacts(name: str) -> Path:
    """What a phase wrote, such as `head` or `head/model`."""
    return root() / "artifacts" / name


def scratch() -> Path:
    """The folder for what thaw keeps between runs and may lose."""
    return root() / ".dvc" / "tmp" / "thaw"


def check() -> None:
    """Raise if the current folder belongs to no project."""
    folder = _current_folder()
    if find(folder) is None:
        raise InputError(
            f"{folder} is not in a project, which is a folder with {' and '.join(MARKS)}: go into one, name it with "
            "`thaw -C FOLDER`, or make one with `thaw init FOLDER`"
        )


def has_content(folder: Path) -> bool:
    """Whether there is such a folder with anything in it."""
    return folder.is_dir() and any(folder.iterdir())


def check_data() -> None:
    """Raise if the project has neither pictures nor a pin that says which to get."""
    if not (root() / "data.dvc").is_file() and not has_content(data()):
        raise InputError(
            "there is neither data/ nor data.dvc: put your pictures into data/, in a folder for each class or with a "
            "labels.csv (see the README)"
        )
