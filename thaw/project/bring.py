"""data: get the pictures that `data.dvc` pins, and let DVC verify every byte.

    python -m thaw.project.bring      cache, DVC remote or the package elpv-dataset -> data/

The default data are ELPV: photographs of solar cells under electroluminescence, each with a defect
probability. The list does not name modules, but cells of one module are neighbours in it, so each
block of 60 rows is a group.
"""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from thaw.errors import InputError
from thaw.project import phase, workspace
from thaw.project.git import dvc
from thaw.project.settings import Settings
from thaw.project.stage import CACHE, answer

ROWS_IN_A_GROUP = 60


def data(_: Settings) -> None:
    """Get the data unless they are in place."""
    data, pin = workspace.data(), workspace.root() / "data.dvc"
    if data.is_symlink():
        raise InputError(
            f"data/ is a link to {data.resolve()}, and DVC pins no linked folder; copy the folder itself here"
        )
    if workspace.has_content(data):
        print("data/ is there")
        if not pin.is_file():
            added = _dvc("add", "data")
            if added.returncode:
                sys.exit(f"error: DVC cannot pin data/: {_reason(added)}")
            print("data.dvc pins it from now on")
        return
    workspace.check_data()
    if _dvc("checkout", "data.dvc").returncode == 0 and data.is_dir():
        print("data/ restored from the cache")
        answer(CACHE)
    elif _dvc("remote", "list").stdout.strip():
        print("pulling data/ from the DVC remote", flush=True)
        pulled = _dvc("pull", "data.dvc")
        if pulled.returncode:
            # Exit code 1, not 2: the user has nothing to correct, and a retry may help.
            sys.exit(
                f"error: the DVC remote did not give data/: {_reason(pulled)}; see `dvc remote list` and `dvc pull -v`"
            )
        print("data/ brought from the DVC remote")
    else:
        print("making data/ from the package elpv-dataset", flush=True)
        make_elpv(data)
        before = pin.read_text(encoding="utf-8")
        committed = _dvc("commit", "--force", "data.dvc")  # hashes every byte and writes data.dvc
        if committed.returncode or pin.read_text(encoding="utf-8") != before:
            pin.write_text(before, encoding="utf-8")
            shutil.rmtree(data)
            raise InputError(
                "data.dvc pins other data than the package elpv-dataset has: where they are, set a DVC remote "
                "(`dvc remote add -d NAME URL`) and run `dvc push`; here, set the same remote and run `thaw data`"
            )
        print("data/ brought, every byte as data.dvc pins it")


def make_elpv(folder: Path) -> None:
    """Copy ELPV's pictures out of its package, with a labels.csv made from its list."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise InputError("the package elpv-dataset is not installed; run `make setup`")
    import pandas as pd

    source = Path(spec.origin).parent / "data"
    rows = pd.read_csv(source / "labels.csv", sep=r"\s+", names=["path", "target", "wafer"])
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source / "images", partial / "images")
    labels = pd.DataFrame(
        {
            "path": rows["path"],
            "label": rows["target"].gt(0.5).map({True: "defective", False: "functional"}),
            "target": rows["target"],
            "group": [f"rows-{row // ROWS_IN_A_GROUP:02d}" for row in range(len(rows))],
            "wafer": rows["wafer"],
        }
    )
    labels.to_csv(partial / "labels.csv", index=False, lineterminator="\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _dvc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a DVC command in the workspace."""
    return subprocess.run(dvc(*arguments), cwd=workspace.root(), text=True, capture_output=True)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1]


if __name__ == "__main__":
    phase.start(data)
