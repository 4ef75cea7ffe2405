"""Laws of which model is meant, on a real git and DVC repository: a version from before packages,
and one with."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packages import Packaged, make, make_project

from thaw import load
from thaw.errors import InputError
from thaw.model.serve import InUse
from thaw.project import models, registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    return make(tmp_path_factory.mktemp("packaged"))


@pytest.fixture(scope="module")
def template(packaged: Packaged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("project"), packaged)


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(shutil.copytree(template, tmp_path / "project", symlinks=True))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def versions(project: Path) -> None:
    registry.register("HEAD~1", "from before there were packages")
    registry.register("HEAD", "a package")
    registry.promote("v2.0.0", "by hand")


def test_the_model_in_use_a_version_and_a_folder_say_the_same(
    project: Path, packaged: Packaged, versions: None
) -> None:
    output = load(str(packaged.folder)).predict([packaged.pictures])
    assert load().predict([packaged.pictures]) == output
    shutil.rmtree(project / "artifacts/package")  # so that they come from DVC's cache
    assert load("prod").predict([packaged.pictures]) == output
    assert load("2.0.0").predict([packaged.pictures]) == output
    assert list((project / ".dvc/tmp/thaw").iterdir()) == []


def test_a_server_follows_which_version_is_in_use(versions: None) -> None:
    in_use = InUse(lambda: models.meant("prod"), models.load)
    assert (in_use.loaded.name, models.meant("artifacts/package")) == ("v2.0.0", "artifacts/package")
    registry.promote("v1.0.0", "by hand")
    with ThreadPoolExecutor(1) as threads:  # as the server looks
        threads.submit(in_use.look).result()
    assert (in_use.loaded.name, in_use.problem) == ("v1.0.0", None)


def test_a_changed_folder_is_not_taken_for_the_model_in_use(project: Path, packaged: Packaged, versions: None) -> None:
    file = project / "artifacts/package/meta.json"
    file.chmod(0o644)
    file.write_text(file.read_text().replace('"temperature": 1.5', '"temperature": 3.0'))
    assert load("prod").about.temperature == 1.5
    assert load("artifacts/package").about.temperature == 3.0


def test_a_version_from_before_there_were_packages_says_the_same_except_what_nobody_knew_then(
    packaged: Packaged, versions: None
) -> None:
    now, then = (load(name).predict([packaged.pictures]) for name in ("v2.0.0", "v1.0.0"))
    views = load("v1.0.0").about.views
    assert views == "square"
    shares = [prediction.probabilities for prediction in load("v2.0.0", views=views).predict([packaged.pictures])]
    assert [prediction.probabilities for prediction in then] == shares
    assert {prediction.unlike for prediction in then} == {None}
    assert {prediction.unlike for prediction in now} == {False}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("prod", "no model has a version yet"),
        ("v1.0.0", "no model has a version yet"),
        ("nowhere", "there is no model 'nowhere'; name prod"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(project: Path, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        models.load(name)


def test_a_version_that_is_not_there_and_none_in_use_are_one_sentence(project: Path) -> None:
    registry.register("HEAD", "a package")
    with pytest.raises(InputError, match=r"there is no version 'v7\.0\.0'; there are v1\.0\.0"):
        models.load("v7.0.0")
    with pytest.raises(InputError, match="no model is in use yet"):
        models.load("prod")


def test_lost_files_of_a_version_are_one_sentence(project: Path, versions: None) -> None:
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "artifacts/package")
    with pytest.raises(InputError, match=r"the files of v2\.0\.0 are neither in DVC's cache"):
        models.load("prod")
