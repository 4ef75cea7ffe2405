"""Laws of upgrades: values stay, new settings come with comments, both sides' edits merge."""

import signal
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from thaw.errors import InputError
from thaw.project import phase, recipe, settings, template
from thaw.project.create import create
from thaw.project.upgrade import merge, merge_settings, upgrade

ROOT = Path(__file__).resolve().parents[2]
PARAMS = (ROOT / "params.yaml").read_text()
NEW_KEY = "  jitter: 0.0                 # augmentation"
NEW = PARAMS.replace(NEW_KEY, f"  sharpen: 0.5                # how much edges count\n{NEW_KEY}")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project as the present thaw makes it, and its thaw.yaml says that an earlier one did."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "tiles"
    create(folder)
    monkeypatch.chdir(folder)
    recipe.write({"thaw": "0.0.1"})
    return folder


def newer(monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Let thaw have other texts of some files than the project was made with."""
    there = template.texts()
    monkeypatch.setattr(
        template, "texts", lambda demo=False: there | {name.replace("__", "/"): text for name, text in texts.items()}
    )


def test_a_new_setting_comes_with_default_and_comment_and_values_and_comments_stay() -> None:
    ours = PARAMS.replace("ratio: 10  ", "ratio: 30  # ours\n  #").replace("seed: 0 ", "seed: 7 ", 1)
    merged = merge_settings(ours, PARAMS, NEW)
    assert "\n  sharpen: 0.5                # how much edges count\n  jitter: 0.0 " in merged
    assert merged.replace("  sharpen: 0.5                # how much edges count\n", "") == ours


def test_a_new_section_and_the_first_and_last_key_of_a_section_find_their_places() -> None:
    ours = "a:\n  two: 2 # why\n\n# about c\nc: {inner: 1}\n"
    theirs = "a:\n  one: 1\n  two: 0 # why\n  three: 3 # new\n\nb: # whole\n  key: 5\n\n# about c\nc: {inner: 1}\n"
    merged = merge_settings(ours, ours, theirs)
    assert YAML(typ="safe").load(merged) == {"a": {"one": 1, "two": 2, "three": 3}, "b": {"key": 5}, "c": {"inner": 1}}
    assert merged.index("b: # whole") < merged.index("# about c")
    assert "  three: 3 # new\n" in merged


def test_what_thaw_dropped_goes_what_it_renamed_keeps_its_value_and_own_sections_stay() -> None:
    base = PARAMS.replace("resolution: 160 ", "size: 160 ").replace("  keep: last", "  patience: 4\n  keep: last")
    ours = base.replace("size: 160 ", "size: 96 ") + "\ndenoise:\n  strength: 2\n"
    values = YAML(typ="safe").load(merge_settings(ours, base, PARAMS))
    assert values["prepare"]["resolution"] == 96
    assert "size" not in values["prepare"]
    assert "patience" not in values["unfreeze"]
    assert values["denoise"] == {"strength": 2}


def test_what_is_merged_can_be_read(tmp_path: Path) -> None:
    ours = "\n".join(line for line in PARAMS.splitlines() if "mixup" not in line and "retries" not in line)
    (tmp_path / "params.yaml").write_text(merge_settings(ours, ours, PARAMS))
    assert settings.read(tmp_path / "params.yaml") == settings.read(ROOT / "params.yaml")


def test_changes_in_different_places_are_merged_and_in_the_same_marked() -> None:
    base = "one\ntwo\nthree\nfour\nfive\n"
    assert merge(base.replace("one", "ours"), base, base.replace("five", "theirs")) == (
        "ours\ntwo\nthree\nfour\ntheirs\n",
        False,
    )
    text, conflict = merge(base.replace("one", "ours"), base, base.replace("one", "theirs"))
    assert conflict
    assert "<<<<<<< yours\nours\n" in text


def test_an_upgrade_is_shown_first_and_then_done(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "tasks/report.py").read_text()
    newer(monkeypatch, **{"params.yaml": NEW, "tasks/report.py": text + "\n# changed\n"})
    (project / "params.yaml").write_text(PARAMS.replace("ratio: 10 ", "ratio: 30 "))
    files = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    shown = "\n".join(upgrade(apply=False))
    assert "+  sharpen: 0.5" in shown
    assert "+# changed" in shown
    assert "run again: unfreeze, evaluate, package, report" in shown
    assert "`thaw upgrade --apply` does it" in shown
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == files
    list(upgrade(apply=True))
    assert (project / "tasks/report.py").read_text() == text + "\n# changed\n"
    values = YAML(typ="safe").load(project / "params.yaml")["unfreeze"]
    assert (values["ratio"], values["sharpen"]) == (30, 0.5)
    assert list(upgrade(apply=False)) == [
        f"nothing to do: this project is up to date with thaw {recipe.thaw.__version__}"
    ]
    recipe.require_same()


def test_a_file_that_its_owner_took_away_stays_away_and_one_that_thaw_dropped_goes_unless_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "prefect.yaml").unlink()
    for name in ("old.py", "changed.py"):
        (project / f".thaw/made/tasks/{name}").write_text("old\n")
        (project / f"tasks/{name}").write_text("old\n" if name == "old.py" else "ours\n")
    list(upgrade(apply=True))
    assert not (project / "prefect.yaml").exists()
    assert not (project / "tasks/old.py").exists()
    assert (project / "tasks/changed.py").read_text() == "ours\n"


def test_a_conflict_is_marked_and_the_project_is_not_called_upgraded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer(monkeypatch, **{"tasks/head.py": "theirs\n"})
    (project / "tasks/head.py").write_text("ours\n")
    with pytest.raises(InputError, match=r"tasks/head.py: both you and thaw changed the same lines"):
        list(upgrade(apply=True))
    assert "<<<<<<< yours\nours\n" in (project / "tasks/head.py").read_text()
    with pytest.raises(InputError, match="thaw upgrade"):
        recipe.require_same()
    with pytest.raises(InputError, match=r"tasks/head\.py cannot be read as Python: .* in line 1"):
        list(upgrade(apply=True))
    (project / "tasks/head.py").write_text("mended = 1\n")
    list(upgrade(apply=True))
    recipe.require_same()


def test_a_phase_of_another_thaw_says_so_before_it_reads_settings_that_the_other_one_knows(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    recipe.write({"thaw": "0.0.1"})
    (project / "params.yaml").write_text("{}\n")
    with pytest.raises(SystemExit) as ended:
        phase.start(lambda config: pytest.fail("it ran"))
    assert ended.value.code == 2
    assert "this project was made with thaw 0.0.1, and" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made_with", "sentence"),
    [("99.0", "made with thaw 99.0, which is newer than"), ("soon", "says thaw: soon, which is not a version")],
)
def test_a_project_of_a_newer_thaw_is_refused(project: Path, made_with: str, sentence: str) -> None:
    recipe.write({"thaw": made_with})
    with pytest.raises(InputError, match=sentence):
        list(upgrade(apply=True))


def test_a_clone_from_before_there_were_projects_is_told_what_to_do_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="make a new one beside it with `thaw init`, and bring over"):
        list(upgrade(apply=False))
