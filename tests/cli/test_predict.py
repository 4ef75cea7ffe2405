"""Laws of `thaw predict`: rows, and one sentence for everything that cannot be."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packages import Packaged
from PIL import Image
from typer.testing import CliRunner, Result

from thaw.cli import app

pytestmark = pytest.mark.usefixtures("in_no_project")


def predict(*words: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, words)], input=stdin)


def well(*words: str | Path, stdin: str = "") -> Result:
    done = predict(*words, stdin=stdin)
    assert done.exit_code == 0, done.output
    return done


def test_a_table_lines_of_json_and_standard_output_say_the_same(packaged: Packaged, tmp_path: Path) -> None:
    words = (packaged.pictures, "--model", packaged.folder)
    shown = well(*words)
    well(*words, "--out", "said.csv")
    well(*words, "--out", "said.jsonl")
    assert shown.stdout == (tmp_path / "said.csv").read_text()
    assert shown.stderr.splitlines()[-1].startswith("16 pictures: ")
    table = pd.read_csv("said.csv")
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert list(table) == [
        *("path", "prediction", "p_noise", "p_stripes", "decision", "unsure", "unlike", "distance", "error")
    ]
    for row, line in zip(table.to_dict("records"), lines, strict=True):
        shares = line.pop("probabilities")
        assert [row.pop("p_noise"), row.pop("p_stripes")] == pytest.approx([shares["noise"], shares["stripes"]])
        assert np.isnan(row.pop("error"))
        assert line.pop("error") is None
        assert row.pop("distance") == pytest.approx(line.pop("distance"))
        assert row == line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["said.csv", "said.jsonl"]


def test_what_cannot_be_read_is_a_row_with_its_reason_and_not_the_end(packaged: Packaged, tmp_path: Path) -> None:
    whole = packaged.pictures / "noise/0.png"
    (tmp_path / "broken.png").write_bytes(whole.read_bytes()[:100])
    (tmp_path / "huge.png").write_bytes(header_of(20_000, 20_000))
    (tmp_path / "list.csv").write_text(f"path\nbroken.png\nmissing.png\nhuge.png\n{whole}\n")
    well("list.csv", "--model", packaged.folder, "--out", "said.csv")
    reasons = pd.read_csv("said.csv", keep_default_na=False)["error"].tolist()
    assert "truncated" in reasons[0]
    assert reasons[1] == "there is no such file"
    assert "400000000 pixels" in reasons[2]
    assert reasons[3] == ""


def header_of(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size."""
    import io
    import struct
    import zlib

    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    size = b"IHDR" + struct.pack(">II", width, height) + b"\x08\0\0\0\0"
    content = file.getvalue()
    return content[:12] + size + struct.pack(">I", zlib.crc32(size)) + content[33:]


def test_paths_come_in_and_views_can_be_others(packaged: Packaged) -> None:
    path = packaged.pictures / "noise/0.png"
    by_default, one_view = (
        pd.read_csv(pd.io.common.StringIO(well("-", "--model", packaged.folder, *views, stdin=f"{path}\n").stdout))
        for views in ((), ("--views", "none"))
    )
    assert by_default["path"].tolist() == one_view["path"].tolist() == [str(path)]
    assert by_default["p_noise"].tolist() != one_view["p_noise"].tolist()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing.png", "--model", "PACKAGE"], "there is no nothing.png"),
        (["empty", "--model", "PACKAGE"], "empty holds no pictures"),
        ([], "no pictures given"),
        (["PICTURES", "--model", "nowhere"], "there is no model 'nowhere'"),
        (["PICTURES", "--model", "empty"], "meta.json is missing"),
        (["PICTURES", "--model", "NETWORK"], "does not say how to use it"),
        (["PICTURES", "--model", "prod"], "is in none: name the folder of a package"),
        (["PICTURES"], "is in none: name the folder of a package"),
        (["PICTURES", "--model", "v1.0.0"], "is in none: name the folder of a package"),
        (["PICTURES", "--model", "PACKAGE", "--out", "said.txt"], "a file in .csv or .jsonl"),
        (["PICTURES", "--model", "PACKAGE", "--out", "nowhere/said.csv"], "cannot be written"),
        (["PICTURES", "--model", "PACKAGE", "--views", "all"], "allowed are none, flip, flips, square"),
        (["PICTURES", "--model", "PACKAGE", "--device", "tpu"], "this machine has"),
        (["-", "--model", "PACKAGE"], "no pictures came in"),
    ],
)
def test_whatever_cannot_be_is_one_sentence_and_exit_code_two(
    packaged: Packaged, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"PACKAGE": packaged.folder, "PICTURES": packaged.pictures, "NETWORK": packaged.network}
    done = predict(*(names.get(word, word) for word in words))
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stdout == "" or words[0] == "-"
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
