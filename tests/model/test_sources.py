"""Laws of sources: pictures of files, folders, archives and tables, one at a time."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from packages import draw

from thaw.errors import InputError
from thaw.model import sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures, and files that are none."""
    root = draw(tmp_path / "pictures", 3)
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden").mkdir()
    (root / ".hidden/1.png").write_bytes((root / "noise/0.png").read_bytes())
    return root


def names(*paths: str | Path, lines: str = "") -> list[str]:
    return [str(picture.path) for picture in sources.pictures(map(str, paths), io.StringIO(lines))]


def test_a_folder_gives_its_pictures_in_order_and_nothing_else(folder: Path) -> None:
    expected = [f"{folder}/{label}/{number}.png" for label in ("noise", "stripes") for number in range(3)]
    assert names(folder) == expected
    assert sources.count([str(folder), expected[0]]) == 7


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_an_archive_gives_the_bytes_of_its_pictures_and_unpacks_nothing(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    archive = tmp_path / f"archive.{kind}"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, f"w:{kind.partition('.')[2]}") as packed_tar:
            for path in files:
                packed_tar.add(path, path.relative_to(folder))
    result = list(sources.pictures([str(archive)]))
    assert [str(picture.path.relative_to(archive)) for picture in result] == [
        str(Path(name).relative_to(folder)) for name in names(folder)
    ]
    for picture, path in zip(result, names(folder), strict=True):
        assert picture.file
        assert picture.file.read() == Path(path).read_bytes()
    assert sorted(tmp_path.iterdir()) == [archive, folder]


def test_half_an_archive_gives_what_is_whole_and_a_reason_for_the_rest(folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tar"
    with tarfile.open(whole, "w") as packed:
        packed.add(folder, "")
    half = tmp_path / "half.tar"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = list(sources.pictures([str(half), names(folder)[0]]))
    assert result[0].file
    assert result[-2].path == half
    assert "cannot be read from here on" in result[-2].error
    assert str(result[-1].path) == names(folder)[0]


def test_columns_of_a_table_come_along_and_paths_start_at_the_table(folder: Path) -> None:
    table = folder / "week.csv"
    table.write_text('﻿site, Path ,note\na,noise/0.png,"x, y"\nb,,\nc,/elsewhere/1.png\n', encoding="utf-8")
    assert sources.check([str(table)]) == ["site", "note"]
    first, empty, last = sources.pictures([str(table)])
    assert (first.path, first.columns) == (folder / "noise/0.png", {"site": "a", "note": "x, y"})
    assert empty.error == "line 3 of the table has no path"
    assert (last.path, last.columns) == (Path("/elsewhere/1.png"), {"site": "c", "note": ""})


def test_a_list_that_comes_in_is_read_line_by_line() -> None:
    assert names("-", lines="a.png\n\n  b c.jpg \n") == ["a.png", "b c.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("nothing", None, "there is no"),
        ("empty", "", "holds no pictures"),
        ("notes.txt", "text", "is no picture by its name"),
        ("a.zip", "text", "is no archive that can be read"),
        ("a.tar.gz", "text", "is no archive that can be read"),
        ("a.csv", "file,note\n1.png,x\n", "it needs one"),
        ("a.csv", "path,Path\n", "it needs one"),
        ("a.csv", "path,decision\n", "rename it"),
        ("a.csv", "path,a,a\n", "rename it"),
        ("a.csv", "", "it needs one"),
    ],
)
def test_what_gives_no_pictures_is_one_sentence(tmp_path: Path, name: str, text: str | None, sentence: str) -> None:
    if name == "empty":
        (tmp_path / name).mkdir()
    elif text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"\A[^\n]+\Z") as raised:
        sources.check([str(tmp_path / name)])
    assert sentence in str(raised.value)
    with pytest.raises(InputError, match="no pictures given"):
        sources.check([])
