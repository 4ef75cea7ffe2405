"""Laws of `thaw explain`, `thaw export` and `thaw serve`: what they print and refuse."""

from pathlib import Path

import pytest
from packages import Packaged
from typer.testing import CliRunner, Result

from thaw.cli import app

pytestmark = pytest.mark.usefixtures("in_no_project")


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def test_explain_says_what_it_drew_and_where(packaged: Packaged, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.csv").write_text("path\nmissing.png\n")
    done = run("explain", packaged.pictures / "noise", "b.png", "c.csv", "--out", "maps", "--model", packaged.folder)
    assert done.exit_code == 0, done.output
    output = "8 of 10 pictures drawn into maps; maps.csv there lists them; 2 could not be read"
    assert done.stdout.splitlines()[-1] == output
    assert len(list((tmp_path / "maps").iterdir())) == 9
    assert (tmp_path / "maps/maps.csv").read_text().splitlines()[-1] == "missing.png,,,,there is no such file"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["explain", "--out", "maps", "--model", "PACKAGE"], "no pictures given"),
        (["explain", "PICTURES", "--out", "maps"], "is in none: name the folder of a package"),
        (["explain", "-", "--out", "maps", "--model", "PACKAGE"], "no pictures came in"),
        (["export", "--model", "model.onnx", "--out", "again"], "model.onnx is an export"),
        (["serve", "--model", "nowhere"], "there is no model 'nowhere'"),
        (["serve", "--model", "PACKAGE", "--host", "0.0.0.0"], "can be reached from other machines"),
        (["serve", "--model", "PACKAGE", "--host", "203.0.113.1", "--token", "x"], "cannot listen on 203.0.113.1:8000"),
    ],
)
def test_whatever_cannot_be_is_one_sentence_and_exit_code_two(
    packaged: Packaged, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "model.onnx").touch()
    names = {"PACKAGE": packaged.folder, "PICTURES": packaged.pictures}
    done = run(*(names.get(word, word) for word in words))
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
