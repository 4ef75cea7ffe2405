"""Laws of links: what lies elsewhere is no part of the data."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from thaw.errors import InputError
from thaw.project.links import check_links


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data that hold two files, beside a folder and a file that are elsewhere."""
    for name in ("data/cat/1.png", "data/cat/deeper/2.png", "elsewhere/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "data"


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("link", ["dog", "cat/deeper/dog", "train", ".hidden"])
@pytest.mark.parametrize("target", ["../elsewhere", "cat/deeper"])
def test_a_link_to_a_folder_is_refused_wherever_it_is(data: Path, link: str, target: str, copied: bool) -> None:
    (data / link).symlink_to((data / target).resolve())
    with pytest.raises(InputError, match=rf"/{link} is a link to the folder [^\n]*; copy the folder itself there\Z"):
        check_links(data, copied)


def test_data_that_are_a_link_themselves_are_refused(data: Path) -> None:
    data.with_name("linked").symlink_to(data)
    with pytest.raises(InputError, match=r"linked is a link to the folder .*/data, and DVC pins no linked folder"):
        check_links(data.with_name("linked"))
    check_links(data.with_name("linked"), copied=True)


def test_a_linked_file_may_be_within_the_data_or_is_copied(data: Path) -> None:
    (data / "cat/twin.png").symlink_to("1.png")
    check_links(data)
    (data / "cat/3.png").symlink_to("../../elsewhere/3.png")
    check_links(data, copied=True)
    with pytest.raises(InputError, match=r"cat/3.png is a link to .*elsewhere/3.png, outside of .*/data, where"):
        check_links(data)


@pytest.mark.parametrize("target", ["gone.png", "broken.png"])
@pytest.mark.parametrize("copied", [False, True])
def test_a_link_to_nothing_is_refused_and_not_passed_over(data: Path, target: str, copied: bool) -> None:
    (data / "cat/broken.png").symlink_to(target)
    with pytest.raises(InputError, match=rf"cat/broken.png is a link to .*{target}, which does not exist"):
        check_links(data, copied)


def test_the_links_that_dvc_makes_are_part_of_the_data_while_its_cache_has_them(data: Path) -> None:
    def dvc(*command: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *command, "-q"], cwd=data.parent, check=True)

    dvc("init", "--no-scm")
    dvc("config", "cache.type", "symlink")
    dvc("add", "data")
    shutil.rmtree(data)
    dvc("checkout")
    assert (data / "cat/1.png").is_symlink()
    assert (data / "cat/deeper/2.png").is_symlink()
    check_links(data)
    (data / "cat/1.png").resolve().unlink()
    with pytest.raises(
        InputError, match=r"1.png is a link to .*, which does not exist; bring the file, .* `dvc fetch`"
    ):
        check_links(data)
