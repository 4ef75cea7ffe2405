"""create: make a project (`thaw init`), a git and DVC repository with the pipeline, ready to run.

No existing file is overwritten. `.thaw/made` keeps the files as they were made, for the merges of
`thaw upgrade`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import thaw
from thaw.errors import InputError
from thaw.project import recipe, template, workspace
from thaw.project.git import dvc

MADE = ".thaw/made"
IGNORES = (".gitignore", ".dvcignore")  # missing lines are added to existing files


def create(folder: Path, name: str | None = None, demo: bool = False) -> list[str]:
    """Make `folder` a project; returns sentences that say what was done."""
    if shutil.which("git") is None:
        raise InputError("thaw keeps projects in git, which is not installed: install it and run this again")
    folder = folder.absolute()
    name = name or folder.name
    if not name or set(name) & set("/%"):
        raise InputError(f"'{name}' cannot be the name of a project on a Prefect server: give one without / and %")
    if outer := workspace.find(folder):
        kind = "is a project already" if outer == folder else f"lies in the project {outer}"
        raise InputError(f"{folder} {kind}; `thaw upgrade` brings one up to date, `thaw init FOLDER` makes another")
    texts = template.texts(demo)
    _refuse_foreign(folder)
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        lines = _repository(folder)
        lines += _write(folder, texts)
        lines += _dvc_repository(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot become a project: {error.strerror} ({error.filename})") from None
    recipe.write({"project": name, "thaw": thaw.__version__} | recipe.current(folder), folder)
    _call(folder, "git", "add", "--force", "--", *texts, MADE, ".dvc/config", ".dvc/.gitignore")
    return lines


def write_made(folder: Path, texts: dict[str, str]) -> None:
    """Keep a copy of the project's files as they were made; the recipe is not merged."""
    shutil.rmtree(folder / MADE, ignore_errors=True)
    for path, text in texts.items():
        if path == recipe.NAME:
            continue
        place = folder / MADE / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def _refuse_foreign(folder: Path) -> None:
    """Raise if the folder has files of a DVC pipeline that is not thaw's."""
    for name in ("dvc.yaml", "params.yaml", "thaw.yaml", "dvc.lock"):
        if (folder / name).exists():
            raise InputError(
                f"{folder / name} exists and does not belong to a thaw project: make the project in a folder of "
                f"its own, such as `thaw init {folder.name}/classifier`"
            )


def _repository(folder: Path) -> list[str]:
    """Make the folder a git repository, unless it lies in one."""
    if _top(folder):
        return []
    _call(folder, "git", "init", "--quiet")
    return [f"made a git repository in {folder}"]


def _dvc_repository(folder: Path) -> list[str]:
    """Make the folder a DVC repository of its own, unless it is one."""
    if (folder / ".dvc").is_dir():
        return []
    inside = [] if _top(folder) == folder.resolve() else ["--subdir"]
    _call(folder, *dvc("init", "--quiet", *inside))
    _call(folder, *dvc("config", "core.analytics", "false"))
    return [f"made a DVC repository in {folder}" + " (--subdir)" * bool(inside)]


def _write(folder: Path, texts: dict[str, str]) -> list[str]:
    """Write missing files, and add missing lines to ignore files."""
    written, existing, lines = [], [], []
    for path, text in texts.items():
        place = folder / path
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
            written.append(path)
        elif path in IGNORES:
            old = place.read_text(encoding="utf-8")
            missing = [line for line in text.splitlines() if line and line not in old.splitlines()]
            if any(not line.startswith("#") for line in missing):
                place.write_text("\n".join([old.rstrip("\n"), "", *missing, ""]).lstrip("\n"), encoding="utf-8")
                lines.append(f"added {len(missing)} lines to {path}")
        else:
            existing.append(path)
    write_made(folder, texts)
    lines.append(f"wrote {', '.join(written)}")
    if existing:
        lines.append(f"kept {', '.join(existing)} as {'it is' if len(existing) == 1 else 'they are'}")
    return lines


def _top(folder: Path) -> Path | None:
    """The top folder of the git repository that a folder belongs to."""
    result = subprocess.run(
        ["git", "rev-parse", "--show-toplevel"], cwd=folder, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return Path(result.stdout.strip()).resolve() if result.returncode == 0 else None


def _call(folder: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=folder, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    if result.returncode:
        shown = " ".join(argument for argument in command if argument not in (sys.executable, "-m"))
        raise InputError(
            f"`{shown}` failed in {folder}: {(result.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
