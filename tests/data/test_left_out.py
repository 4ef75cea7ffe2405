"""Laws of what is left out: each file is used or named with a reason; none stops the phase."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks import prepare
from thaw.data import manifest, splits
from thaw.data.pictures import SUFFIXES, Shape, decode
from thaw.errors import InputError
from thaw.project.settings import Settings, override, read

ROOT = Path(__file__).resolve().parents[2]


def picture(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value % 256).save(path, {".jfif": "JPEG"}.get(path.suffix))


def text(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no picture")


def reasons_in(root: Path) -> dict[str, str]:
    table = manifest.left_out(root, manifest.read_folder(root))
    return dict(zip(table["path"], table["reason"], strict=True))


PARTS = st.sampled_from(["train", "test", "notes", "cat", "dog", "__MACOSX", "@eaDir", ".git", "deep er"])
NAMES = st.sampled_from(
    ["1.png", "2.JPG", "._1.png", "3.heic", "4", "5.txt", "6.jfif", "7.tga", "labels.csv", "splits.csv"]
)


@given(st.lists(st.tuples(st.lists(PARTS, max_size=3), NAMES), max_size=12), st.booleans())
@settings(deadline=None)
def test_every_file_is_used_or_named_once_with_a_reason(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[list[str], str]], listed: bool
) -> None:
    root = tmp_path_factory.mktemp("data")
    picture(root / "cat/0.png")
    for folders, name in files:
        if folders or name not in ("labels.csv", "splits.csv"):
            text(root.joinpath(*folders) / name)
    if listed:
        (root / "labels.csv").write_text("path,label\ncat/0.png,cat\n")
    try:
        rows = manifest.read_folder(root)
    except InputError:  # cat/ lies beside train/ and test/, which have no class
        return
    table = manifest.left_out(root, rows)
    every = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {"labels.csv"}
    assert sorted([*rows["path"], *table["path"]]) == sorted(every)
    assert (table["reason"] != "").all()


def test_pictures_with_less_common_endings_are_used_and_others_named_with_their_reason(tmp_path: Path) -> None:
    for number, name in enumerate(["1.jfif", "2.avif", "3.jp2", "4.ppm", "5.pgm", "6.png"]):
        picture(tmp_path / "cat" / name, number)
    picture(tmp_path / "dog/1.png")
    picture(tmp_path / "dog/@eaDir/1.png/thumb.png")
    picture(tmp_path / "__MACOSX/1.png")
    picture(tmp_path / "loose.png")
    for name in ("dog/2.heic", "dog/3.tga", "dog/4.DCM", "dog/._1.png", "dog/notes.txt", "@eaDir/x.db", "fox/1.dcm"):
        text(tmp_path / name)
    rows = manifest.read_folder(tmp_path)
    assert rows["label"].value_counts().to_dict() == {"cat": 6, "dog": 1}
    assert reasons_in(tmp_path) == {
        "@eaDir/x.db": manifest.SYSTEM,
        "__MACOSX/1.png": manifest.SYSTEM,
        "dog/._1.png": manifest.HIDDEN,
        "dog/2.heic": "thaw does not read .heic: save it as PNG, TIFF or JPEG",
        "dog/3.tga": "thaw does not read .tga: save it as PNG, TIFF or JPEG",
        "dog/4.DCM": "thaw does not read .dcm: save it as PNG, TIFF or JPEG",
        "dog/@eaDir/1.png/thumb.png": manifest.SYSTEM,
        "dog/notes.txt": manifest.NO_PICTURE,
        "fox/1.dcm": "thaw does not read .dcm: save it as PNG, TIFF or JPEG",
        "loose.png": manifest.NO_CLASS,
    }
    assert manifest.warnings_of_layout(tmp_path, rows) == ["the folder fox holds no picture and is no class"]
    assert manifest.warnings_of_left_out(manifest.left_out(tmp_path, rows)) == [
        "1 picture left out, such as loose.png: in no class folder",
        "2 pictures left out, such as dog/4.DCM: thaw does not read .dcm: save it as PNG, TIFF or JPEG",
        "1 picture left out, such as dog/2.heic: thaw does not read .heic: save it as PNG, TIFF or JPEG",
        "1 picture left out, such as dog/3.tga: thaw does not read .tga: save it as PNG, TIFF or JPEG",
    ]


def test_the_documents_name_every_ending_and_every_reason() -> None:
    text = (ROOT / "docs/data.md").read_text()
    listed = text.split("ending of its name: `")[1].split("`")[0].split()
    assert sorted(listed) == sorted(SUFFIXES)
    rows = text.split("| reason | a warning |")[1].split("\n\n")[0]
    for reason in (*manifest.HARMLESS, manifest.NOT_LISTED, manifest.NO_CLASS, manifest.BESIDE):
        line = next(line for line in rows.splitlines() if line.startswith(f"| {reason}"))
        assert line.endswith("| no |" if reason in manifest.HARMLESS else "| yes |")
    assert not SUFFIXES & manifest.OTHER_FORMATS


def test_pictures_that_labels_csv_does_not_name_are_left_out_and_told(tmp_path: Path) -> None:
    picture(tmp_path / "a/1.png")
    picture(tmp_path / "a/2.png")
    (tmp_path / "labels.csv").write_text("path,label\na/1.png,cat\n")
    assert reasons_in(tmp_path) == {"a/2.png": manifest.NOT_LISTED}


def test_loose_pictures_alone_are_told_where_they_belong(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    picture(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"no pictures found under .* \(2 in no class folder\); allowed are a folder"):
        manifest.read_folder(tmp_path)


def test_a_file_name_that_is_no_text_can_be_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "cat/1.png")
    text(tmp_path / os.fsdecode(b"caf\xe9.txt"))
    assert reasons_in(tmp_path) == {"caf\\udce9.txt": manifest.NO_PICTURE}


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Settings]:
    """Twenty cats, twenty dogs, and settings of a small network."""
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        picture(tmp_path / f"data/{('cat', 'dog')[number % 2]}/{number:02d}.png", 3 * number)
    file = tmp_path / "params.yaml"
    file.write_bytes((ROOT / "params.yaml").read_bytes())
    override(["backbone.name=shufflenet_v2_x0_5", "backbone.weights=random", "prepare.resolution=32"], file)
    return tmp_path, read(file)


def break_pictures(root: Path, count: int) -> list[str]:
    names = [f"cat/{2 * number:02d}.png" for number in range(count)]
    for name in names:
        (root / "data" / name).write_bytes(b"no picture " + name.encode())
    return names


@pytest.mark.parametrize("kept", [True, False])
def test_broken_pictures_are_set_aside_and_told_and_pixels_stay_beside_their_rows(
    space: tuple[Path, Settings], capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    root, config = space
    config = config.model_copy(update={"prepare": config.prepare.model_copy(update={"cache_gb": 1.0 if kept else 0.0})})
    whole = (root / "data/cat/04.png").read_bytes()
    broken = break_pictures(root, 2)
    (root / "data/cat/04.png").write_bytes(whole[:-30])  # its header is whole
    text(root / "data/cat/notes.txt")
    picture(root / "data/loose.png")
    prepare.prepare(config)
    made = root / "artifacts/prepare"
    quarantine = pd.read_csv(made / "quarantine.csv")
    assert quarantine["path"].tolist() == [*broken, "cat/04.png"]
    assert quarantine["reason"].str.startswith("it is no picture of an allowed format").tolist() == [True, True, False]
    left_out = manifest.read_table(made / "left_out.csv")
    assert left_out.to_numpy().tolist() == [["cat/notes.txt", manifest.NO_PICTURE], ["loose.png", manifest.NO_CLASS]]
    rows = manifest.read_manifest(made / "manifest.csv")
    assert len(rows) == 37
    meta = json.loads((made / "meta.json").read_text())
    assert meta["counts"] == {
        "used": 37,
        "unreadable": 3,
        "left_out": {manifest.NO_CLASS: 1, manifest.NO_PICTURE: 1},
        "pixels": {"as they are": 37},
    }
    assert meta["warnings"][0] == "1 picture left out, such as loose.png: in no class folder"
    assert meta["warnings"][1].startswith("3 unreadable pictures set aside, such as cat/00.png (it is no picture")
    output = capsys.readouterr().out
    assert all(f"warning: {warning}" in output for warning in meta["warnings"])
    assert "3 unreadable pictures set aside, 2 other files left out: 1 in no class folder, 1 not a" in output
    shape = Shape(**meta["shape"])
    assert (made / "pictures.npy").is_file() == kept
    if kept:
        pixels = np.load(made / "pictures.npy", mmap_mode="r")
        assert len(pixels) == 37
        for row, pixel in zip(rows["path"], pixels, strict=True):
            assert np.array_equal(pixel, decode(root / "data" / row, shape))


def test_more_broken_pictures_than_a_share_and_than_three_stop_the_run(space: tuple[Path, Settings]) -> None:
    root, config = space
    break_pictures(root, 4)
    sentence = (
        r"\A4 of 40 pictures in [^\n]*data cannot be read: cat/00.png \([^\n]*\), cat/02.png \([^\n]*\), cat/04.png "
        r"\([^\n]*\) and others; 3 or a share of 0.01 may be set aside: [^\n]* or raise prepare.unreadable\Z"
    )
    with pytest.raises(InputError, match=sentence):
        prepare.prepare(config)
    assert not (root / "artifacts/prepare").exists()
    more = config.prepare.model_copy(update={"unreadable": 0.1})
    prepare.prepare(config.model_copy(update={"prepare": more}))
    assert len(manifest.read_table(root / "artifacts/prepare/quarantine.csv")) == 4


def test_a_broken_picture_moves_no_other_to_another_split(space: tuple[Path, Settings]) -> None:
    """`thaw add` draws a split over all files, before it knows which of them can be read."""
    root, config = space
    broken = break_pictures(root, 3)
    rows = manifest.read_folder(root / "data")
    rows["hash"] = [manifest.content_hash(root / "data" / path) for path in rows["path"]]
    rows["split"] = splits.assign_splits(rows, config.prepare.val, config.prepare.test, config.prepare.seed)
    prepare.prepare(config)
    made = manifest.read_manifest(root / "artifacts/prepare/manifest.csv")
    expected = rows[~rows["path"].isin(broken)]
    assert made[["path", "split"]].to_numpy().tolist() == expected[["path", "split"]].to_numpy().tolist()


def test_a_class_that_is_too_small_without_its_broken_pictures_is_refused(space: tuple[Path, Settings]) -> None:
    root, config = space
    for number in range(18, 40, 2):
        (root / f"data/cat/{number}.png").unlink()
    picture(root / "data/cat/98.png")
    break_pictures(root, 1)
    with pytest.raises(InputError, match="class 'cat' has 9 pictures, too few"):
        prepare.prepare(config)


def test_a_fault_of_the_machine_sets_nothing_aside(
    space: tuple[Path, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, config = space
    opened = Image.open

    def fails(path: Path, **arguments: object) -> object:
        if path.name == "07.png":
            raise OSError(5, "Input/output error")
        return opened(path, **arguments)

    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(InputError, match=r"07.png cannot be opened \(Input/output error\); mend that and try again"):
        prepare.prepare(config)
    assert not (root / "artifacts/prepare").exists()


def test_deep_pictures_whose_white_differs_are_a_warning(space: tuple[Path, Settings]) -> None:
    root, config = space
    for number, white in (("00", 4000), ("02", 4000), ("04", 9000)):
        Image.fromarray(np.full((8, 8), white, np.uint16)).save(root / f"data/cat/{number}.png")
    prepare.prepare(config)
    meta = json.loads((root / "artifacts/prepare/meta.json").read_text())
    assert meta["counts"]["pixels"] == {"as they are": 37, "white is 16383": 1, "white is 4095": 2}
    assert meta["warnings"] == [
        "grey pictures of more than 8 bits differ in what white is (1 of them white is 16383, 2 of them white is "
        "4095): save them as 8 bits if that is wrong",
        "2 pictures have an identical twin",
    ]
