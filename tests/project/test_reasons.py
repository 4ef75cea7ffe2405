"""Laws of reasons: whatever makes DVC run a phase is put in words, and nothing else is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from thaw.project import reasons


def _set(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / "params.yaml").read_text()
        assert old in text
        (root / "params.yaml").write_text(text.replace(old, new))

    return change


def test_nothing_changed_gives_no_reason(trained_toy: Path) -> None:
    assert reasons.changed() == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_set("  ratio: 10 ", "  ratio: 30 "), {"unfreeze": ["unfreeze.ratio went from 10 to 30"]}),
        (_set("  resolution: 160 ", "  resolution: null "), {"prepare": ["prepare.resolution went from 160 to null"]}),
        (_set("  margin: 0.01 ", "  margin: 0.02 "), {}),  # decides nothing of what a phase makes
        (
            lambda root: (root / "data" / "b.txt").write_text("b"),
            {"data": ["data changed"], "prepare": ["data changed"]},
        ),
        (
            lambda root: shutil.rmtree(root / "artifacts" / "embed"),
            {"embed": ["artifacts/embed is gone"], "head": ["artifacts/embed is gone"]},
        ),
        (lambda root: (root / "data.dvc").unlink(), {"data": ["data.dvc is gone"]}),
    ],
)
def test_each_change_is_told_by_its_name(
    trained_toy: Path, change: Callable[[Path], None], expected: dict[str, list[str]]
) -> None:
    change(trained_toy)
    assert reasons.changed() == expected


def test_what_was_asked_early_is_asked_again_once_something_was_written(trained_toy: Path) -> None:
    reasons.ask_early()
    assert reasons.changed() == {}
    reasons.ask_early()
    _set("  ratio: 10 ", "  ratio: 30 ")(trained_toy)
    assert reasons.changed() == {"unfreeze": ["unfreeze.ratio went from 10 to 30"]}


def test_an_early_answer_is_given_once(trained_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons.ask_early()
    with monkeypatch.context() as patch:
        patch.setattr(reasons, "_ask_dvc", lambda: pytest.fail("DVC was asked again"))
        assert reasons.changed() == {}
    (trained_toy / "data" / "b.txt").write_text("b")  # tells by itself nothing of when
    assert "data" in reasons.changed()


@pytest.mark.parametrize(("size", "is_told"), [("64", True), ("160", False), ("null", True)])
def test_a_lock_of_an_earlier_version_that_names_another_size_than_its_pictures_have_is_told(
    trained_toy: Path, size: str, is_told: bool
) -> None:
    lock = (trained_toy / "dvc.lock").read_text()
    assert "resolution: 160" in lock
    (trained_toy / "dvc.lock").write_text(lock.replace("resolution: 160", f"size: {size}"))
    meta = '{"shape": {"size": 160}, "preprocessing": {"size": 224}}'
    (trained_toy / "artifacts/prepare/meta.json").write_text(meta)
    resolution = {"64": 64, "null": 224}.get(size)
    sentence = f"dvc.lock says {resolution} pixels, but DVC restored pictures of 160, and the later phases used them"
    assert (sentence in reasons.changed()["prepare"]) is is_told


def test_a_phase_that_never_ran_says_so(toy: Path) -> None:
    result = reasons.changed()
    assert result["data"] == ["data is not in the cache"]
    assert result["head"] == ["dvc.lock has no run of it"]


def test_files_that_dvc_cannot_read_are_a_reason_to_ask_dvc(trained_toy: Path) -> None:
    (trained_toy / "dvc.yaml").write_text("stages: 3\n")
    assert reasons.changed()["data"]


def test_a_dvc_that_answers_nothing_does_not_mean_that_nothing_changed(
    trained_toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasons, "run", lambda command, on_line: 255)
    assert reasons.changed() == {"data": ["DVC did not answer"]}
