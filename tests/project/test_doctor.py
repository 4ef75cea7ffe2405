"""Laws of `thaw doctor`: a healthy workspace is good in every line; a fault comes with a remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import git
from typer.testing import CliRunner

from thaw import cli
from thaw.errors import InputError
from thaw.project import doctor, provenance, settings
from thaw.project.stage import StageError

ROOT = Path(__file__).parents[2]
Break = Callable[[Path, pytest.MonkeyPatch], Any]


@pytest.fixture
def in_order(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    git(trained_toy, "add", "--all")
    git(trained_toy, "commit", "-qm", "start")
    settings.override(["retrain.disk_gb=0"], trained_toy / "params.yaml")
    return trained_toy


def test_a_workspace_in_order_is_good_in_every_line(in_order: Path) -> None:
    ended = CliRunner().invoke(cli.app, ["doctor"])
    assert ended.exit_code == 0, ended.output
    lines = ended.output.splitlines()
    assert all(line.startswith("good  ") for line in lines)
    assert [line[6:18].strip() for line in lines] == [*doctor.LOOKS, "server"]


def set_to(*changes: str) -> Break:
    return lambda root, patch: settings.override(list(changes), root / "params.yaml")


def remote_at(place: str) -> Break:
    return lambda root, patch: (root / ".dvc/config").write_text(
        f"[core]\n    remote = far\n['remote \"far\"']\n    url = {place}\n"
    )


def git_remote_away(root: Path, patch: pytest.MonkeyPatch) -> None:
    set_to("retrain.git_remote=origin")(root, patch)
    git(root, "remote", "add", "origin", "/no/such/origin.git")


def emptied_remote(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Versions were pushed to it, and its disk is not mounted."""
    patch.setattr(doctor.registry, "versions", lambda: ["v1.0.0"])
    remote_at(str(root.parent / "remote"))(root, patch)


@pytest.mark.parametrize(
    ("name", "broken", "text", "mend"),
    [
        ("packages", lambda root, patch: patch.setattr(doctor, "requires", lambda _: ["pytest<1", "no-such>=2"]),
         "pytest<1 is needed, and", "pip install 'pytest<1' 'no-such>=2'"),
        ("results", lambda root, patch: patch.setattr(provenance, "misfits", lambda: {"head": ["it is older"]}),
         "head: it is older", "thaw run"),
        ("git", lambda root, patch: shutil.rmtree(root / ".git"), "not in a git repository", "git init && "),
        ("git", set_to("retrain.git_remote=origin"), "origin, which does not answer", "git remote add origin ADDRESS"),
        ("git", git_remote_away, "origin, which does not answer", "git remote set-url origin ADDRESS"),
        ("data", lambda root, patch: (root / "data/picture.txt").write_text("another"),
         "0 new, 1 changed", "thaw data --accept"),
        ("data", lambda root, patch: shutil.rmtree(root / "data"), "data/ is empty", "thaw data"),
        ("DVC remote", remote_at("/no/such/share/thaw"), "far does not answer: not there yet at /no/such",
         "dvc remote modify far url ADDRESS"),
        ("DVC remote", emptied_remote, "mount it, or fill it again", "dvc push --all-commits"),
        ("DVC's files", lambda root, patch: (root / "dvc.lock").write_text(""), "dvc.lock is empty", "thaw data"),
        ("lock", lambda root, patch: patch.setattr(
            doctor.lock, "holder", lambda: "weekly was killed, and what it started lives on: process 7, 8"),
         "weekly was killed", "kill 7 8"),
        ("disk", set_to("retrain.disk_gb=1e9"), "GB are free; retrain.disk_gb asks for 1e+09", "thaw clean --apply"),
        ("device", set_to("resources.device=cuda"), "there is no GPU", "thaw run --set resources.device=auto"),
    ],
)  # fmt: skip
def test_what_is_not_in_order_is_named_with_the_command_that_mends_it(
    in_order: Path, monkeypatch: pytest.MonkeyPatch, name: str, broken: Break, text: str, mend: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.recipe, "is_kept", lambda: name == "results")
    monkeypatch.setattr(doctor.recipe, "changes", dict)
    monkeypatch.setattr(doctor.pipeline, "read", lambda file: {"thaw": doctor.thaw.__version__})
    broken(in_order, monkeypatch)
    finding = doctor.LOOKS[name](settings.read(in_order / "params.yaml"))
    assert text in finding.text
    assert finding.mend is not None
    assert mend in finding.mend
    assert str(finding).startswith(f"bad   {name}")


@pytest.mark.parametrize("error", [InputError("no"), StageError("data", 255, ["no"]), OSError("no")])
def test_what_cannot_be_looked_at_is_bad_and_the_rest_is_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: Any) -> Any:
        raise error

    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "LOOKS", {"data": broken, "disk": lambda _: doctor.Finding("disk", "much")})
    data, disk = doctor.examine()
    assert data.mend
    assert "no" in data.text
    assert not disk.mend


def test_a_remote_that_is_not_made_yet_is_good(in_order: Path, tmp_path: Path) -> None:
    remote_at(str(tmp_path / "remote"))(in_order, pytest.MonkeyPatch())
    finding = doctor.LOOKS["DVC remote"](settings.read(in_order / "params.yaml"))
    assert finding.mend is None
    assert finding.text.startswith("not there yet at ")


def test_a_server_that_is_named_and_does_not_answer_and_a_schedule_that_nobody_serves_are_bad(
    in_order: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thaw.orchestration import status
    from thaw.project.status import Schedule

    weekly = Schedule("weekly", "0 3 * * 1", False, None, "not served", [], None)  # type: ignore[arg-type]
    monkeypatch.setattr(status, "gather", lambda: type("Known", (), {"server": "", "schedules": [weekly]}))
    server, schedule = status.server_and_schedules()
    assert server.mend is None
    assert schedule.mend == "thaw schedule"
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    (server,) = status.server_and_schedules()
    assert server.mend == "unset PREFECT_API_URL"
