"""Laws of the command line: light, one sentence where something is wrong, honest exit codes."""

import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from children import alive, slow_phase, thaw
from rich.console import Console
from typer.testing import CliRunner

from thaw import __version__
from thaw.cli import app, tables
from thaw.project import results

ROOT = Path(__file__).parents[2]


def _thaw(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return thaw(Path.cwd(), *arguments, **{"COLUMNS": "120"} | environment)


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "prefect", "dvc", "pandas", "matplotlib", "rich.progress", "pydantic"}
    script = f"import sys, thaw.cli; print({heavy!r} & set(sys.modules) or 'light')"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "light"


def test_every_command_explains_itself() -> None:
    assert {"run", "ui", "data"} <= set(_thaw("--help").stdout.split())
    assert "unfreeze.ratio=10" in _thaw("run", "--help").stdout
    assert _thaw("--version").stdout.strip() == f"thaw {__version__}"


def test_unknown_setting_is_one_sentence_before_anything_starts(toy: Path) -> None:
    ended = _thaw("run", "--set", "unfreeze.ratoi=10")
    assert ended.returncode == 2
    assert re.fullmatch(r"error: .*'unfreeze\.ratoi'.*'unfreeze\.ratio'\n", ended.stderr)
    assert ended.stdout == ""
    assert not (toy / ".prefect").exists()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A project with a mistake in params.yaml, so that every command names its project."""
    folder = tmp_path / "broken"
    (folder / "data" / "deep").mkdir(parents=True)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "params.yaml").write_text("colour: blue\n")
    return folder


def test_a_command_works_on_the_project_of_the_current_folder_or_of_any_above(broken: Path) -> None:
    for folder in (broken, broken / "data" / "deep"):
        ended = thaw(folder, "run")
        assert ended.returncode == 2
        assert "params.yaml: unknown key 'colour'" in ended.stderr


def test_another_project_can_be_named(broken: Path, toy: Path) -> None:
    ended = thaw(toy, "-C", "../broken", "run")
    assert ended.returncode == 2
    assert "params.yaml: unknown key 'colour'" in ended.stderr
    ended = thaw(broken, "-C", str(toy), "models")
    assert ended.returncode == 0
    assert "no model has a version yet" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "is not in a project, which is a folder with params.yaml and dvc.yaml: go into one, name it with"),
        (["models"], "is not in a project"),
        (["-C", "nowhere", "run"], "-C nowhere: No such file or directory; name the folder of a project"),
    ],
)
def test_outside_of_a_project_a_command_ends_with_one_sentence_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    ended = thaw(tmp_path, *arguments)
    assert ended.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", ended.stderr)
    assert sentence in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_in_a_folder_that_has_been_deleted_a_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ended = CliRunner().invoke(app, ["models"])
    assert ended.exit_code == 2
    assert (
        ended.output
        == "error: the current folder has been deleted: go to a project, or name it with `thaw -C FOLDER`\n"
    )


@pytest.mark.parametrize(("terminal", "width"), [(True, 40), (True, 20), (True, 200), (False, 40)])
def test_a_table_shows_whole_columns_and_names_those_without_room(
    terminal: bool, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = {name: f"{name} of a row" for name in ("arm", "accuracy", "gain")}
    monkeypatch.setattr(tables, "console", lambda: Console(width=width, force_terminal=terminal, color_system=None))
    tables.print_table("arms", [cells])
    table, _, named = capsys.readouterr().out.partition("No room here for: ")
    if not terminal:
        assert not named
    else:
        assert max(map(len, table.splitlines())) <= width
    left_out = named.strip().split(", ") if named else []
    assert [name for name, cell in cells.items() if cell not in table] == left_out


@pytest.mark.server
def test_run_shows_states_table_report_and_address(server: str, trained_toy: Path) -> None:
    ended = _thaw("run", PREFECT_API_URL=server)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    for phase in ("data", "prepare", "embed", "head", "unfreeze", "evaluate", "report"):
        assert re.search(rf"^{phase}: Cached after 0:\d\d$", ended.stdout, re.MULTILINE)
    assert "fine-tuned" in ended.stdout
    assert "0.0 [−1.0, +1.0] points" in ended.stdout
    assert f"Report: {trained_toy / 'artifacts' / 'report' / 'report.html'}" in ended.stdout
    assert re.search(
        rf"^Run: +{re.escape(server.removesuffix('/api'))}/v2/runs/flow-run/[0-9a-f-]{{36}}$", ended.stdout, re.M
    )


@pytest.mark.parametrize(
    ("gain", "phase_2", "shown", "sentence"),
    [
        (0.0, {"keep": "best", "kept_epoch": 0, "same": True}, "phase 2 not kept", "Phase 2 was not kept: no epoch"),
        (
            -0.017,
            {"keep": "last", "kept_epoch": 8, "same": False},
            "−1.7 [",
            "Phase 2 made accuracy on the test pictures",
        ),
        (0.05, {"keep": "last", "kept_epoch": 8, "same": False}, "+5.0 [", ""),
        (0.05, None, "+5.0 [", ""),  # of an older version
    ],
)
def test_the_end_of_a_run_says_whether_phase_2_was_kept_and_did_good(
    gain: float,
    phase_2: dict[str, object] | None,
    shown: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = {"accuracy": 0.8, "auc": 0.8}
    span = {"low": gain - 0.01, "high": gain + 0.01, "auc": 0.1, "auc_low": 0.1, "auc_high": 0.1}
    metrics = {"test_pictures": 4, "head": network, "finetuned": network, "gain": {"accuracy": gain, **span}}
    monkeypatch.setattr(results, "metrics", lambda: metrics | ({"phase_2": phase_2} if phase_2 else {}))
    tables.show_outcome()
    table, last = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert shown in table
    assert last.startswith(sentence or "└")


@pytest.mark.server
@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        ("TOY_FAIL", 2, "error: the toy has no pictures\n"),
        ("TOY_BREAK", 1, "error: prepare failed with exit code 1: KeyError: 'a mistake of ours'\n"),
    ],
)
def test_failing_phase_ends_with_its_sentence_in_a_folder_that_dvc_deletes_too(
    server: str, toy: Path, fault: str, code: int, sentence: str
) -> None:
    output = toy / "artifacts/prepare"
    output.mkdir(parents=True)
    ended = thaw(output, "run", PREFECT_API_URL=server, **{fault: "prepare"})
    assert ended.returncode == code
    assert ended.stderr == sentence


@pytest.mark.server
def test_ctrl_c_ends_the_phase_and_says_one_line(server: str, toy: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "thaw", "run"],
        cwd=toy,
        env=os.environ | {"PREFECT_API_URL": server, "TOY_SLOW": "prepare"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        pids = slow_phase(toy)
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=300)
    assert child.returncode == 130
    assert complaint.count("\n") == 1
    assert complaint.startswith("Stopped")
    assert not any(alive(pid) for pid in pids)


@pytest.mark.server
def test_at_a_terminal_a_run_asks_whether_data_that_differ_count(server: str, trained_toy: Path) -> None:
    def answered(answer: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "thaw", "run"]
        environment = os.environ | {"PREFECT_API_URL": server, "COLUMNS": "300"}
        with subprocess.Popen(
            command, cwd=trained_toy, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
        ) as child:
            os.close(theirs)
            shown = ""
            with suppress(OSError):  # what a closed terminal gives
                while more := os.read(ours, 4096).decode(errors="replace"):
                    shown += more
                    if answer and shown.endswith("[y/N]: "):
                        os.write(ours, answer.encode())
                        answer = ""
        os.close(ours)
        return child.returncode, shown

    before = (trained_toy / "data.dvc").read_bytes()
    (trained_toy / "data" / "new.txt").write_text("a new picture")
    code, shown = answered("\n")
    assert code == 2
    assert "error: data/ differs from data.dvc: 1 new (data/new.txt), 0 changed, 0 missing; `thaw data --acc" in shown
    assert (trained_toy / "data.dvc").read_bytes() == before
    code, shown = answered("y\n")
    assert code == 0, shown
    assert "1 new (data/new.txt), 0 changed, 0 missing. Pin it as it is? [y/N]: " in shown
    assert "Done:   did prepare" in shown
    assert (trained_toy / "data.dvc").read_bytes() != before


def test_data_that_differ_are_pinned_where_the_user_says_so(trained_toy: Path) -> None:
    before = (trained_toy / "data.dvc").read_bytes()
    (trained_toy / "data" / "new.txt").write_text("a new picture")
    ended = _thaw("data")
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: data/ differs from data.dvc: 1 new (data/new.txt), 0 changed, 0 missing; `thaw data --accept` "
        "pins data/ as it is, `dvc checkout --force data.dvc` throws the difference away\n"
    )
    assert (trained_toy / "data.dvc").read_bytes() == before
    ended = _thaw("data", "--accept")
    assert ended.returncode == 0, ended.stderr
    assert "data/ differs from data.dvc: 1 new (data/new.txt), 0 changed, 0 missing\n" in ended.stdout
    assert (trained_toy / "data.dvc").read_bytes() != before
    assert _thaw("data").stdout.endswith("data: Cached\n")


def test_data_alone_can_be_brought(toy: Path) -> None:
    ended = _thaw("data")
    assert ended.returncode == 0
    assert ended.stdout.endswith("data: Completed\n")
    assert (toy / "data" / "picture.txt").exists()
