"""`thaw phase`: the command of the stages in dvc.yaml."""

import runpy
import sys
from typing import Annotated

import typer

from thaw.cli.endings import user_mistakes
from thaw.errors import InputError


def phase(name: Annotated[str, typer.Argument(help="The name of its file in tasks/, without .py.")]) -> None:
    """Run one phase as DVC does: tasks/NAME.py of this project, with the Python of this thaw."""
    from thaw.project import workspace

    with user_mistakes():
        workspace.check()
        if not (file := workspace.root() / "tasks" / f"{name}.py").is_file():
            phases = ", ".join(sorted(path.stem for path in file.parent.glob("[!_]*.py")))
            raise InputError(f"there is no {file}; this project has the phases {phases or 'none'}")
    sys.path.insert(0, str(workspace.root()))
    runpy.run_module(f"tasks.{name}", run_name="__main__", alter_sys=True)
