"""Laws of packages: a model is one folder, and knows when it is the same one."""

from pathlib import Path
from typing import Any

import pytest
from packages import Packaged, meta_of

from thaw.errors import InputError
from thaw.model import package, unlike


def identity(folder: Path, packaged: Packaged, card: str = "", **changes: Any) -> str:
    neighbours = unlike.load(packaged.folder)
    package.write(folder, packaged.network, neighbours, meta_of(packaged.network, **changes), card)
    return package.identity(folder)


def test_a_package_holds_the_very_bytes_of_the_network(packaged: Packaged) -> None:
    name = "weights.safetensors"
    assert (packaged.folder / name).read_bytes() == (packaged.network / name).read_bytes()


def test_a_reworded_card_and_other_results_are_the_same_model(packaged: Packaged, tmp_path: Path) -> None:
    first = package.identity(packaged.folder)
    assert identity(tmp_path, packaged, card="# another card\n") == first
    assert identity(tmp_path, packaged, test_pictures=9) == first
    assert f'"{first}"' in (tmp_path / "identity.json").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"views": "none"},
        {"sure": 0.8},
        {"far": 0.4},
        {"finetuned": {"accuracy": 0.75, "temperature": 1.6}},
        {"operating": {}},
        {"operating": {"finetuned": {"threshold": 0.5}}},
    ],
    ids=str,
)
def test_whatever_changes_a_prediction_makes_another_model(
    packaged: Packaged, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert identity(tmp_path, packaged, **changes) != package.identity(packaged.folder)


def test_a_network_that_is_no_package_is_one_sentence(packaged: Packaged) -> None:
    with pytest.raises(InputError, match="does not say how to use it"):
        package.read(packaged.network)
    with pytest.raises(InputError, match=r"meta\.json is missing"):
        package.read(packaged.pictures)


def test_no_package_says_when_it_was_made(packaged: Packaged, tmp_path: Path) -> None:
    identity(tmp_path, packaged, "# a card\n")
    for file in packaged.folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()
