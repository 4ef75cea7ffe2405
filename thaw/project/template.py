"""template: the files of a new project. They are files of thaw's own repository, which the wheel
contains too."""

from pathlib import Path

import thaw

LIBRARY = Path(thaw.__file__).parent
# Files that have another path in thaw's repository.
ELSEWHERE = {"README.md": "docs/project.md"}
FILES = ("params.yaml", "dvc.yaml", "thaw.yaml", "prefect.yaml", ".gitignore", ".dvcignore", "README.md")
FOLDERS = ("tasks", "flows")
TEST = "tests/test_pipeline.py"
DEMO = "data.dvc"  # the pin of the demo's data


def texts(demo: bool = False) -> dict[str, str]:
    """The text of each file of a project, by its path."""
    root = LIBRARY / "template"
    installed = root.is_dir()
    if not installed:
        root = LIBRARY.parent
    code = [path.relative_to(root).as_posix() for folder in FOLDERS for path in sorted((root / folder).glob("*.py"))]
    names = [*FILES, *code, TEST, *([DEMO] if demo else [])]
    return {
        name: (root / (name if installed else ELSEWHERE.get(name, name))).read_text(encoding="utf-8") for name in names
    }
