"""environments: the Python with the thaw and the packages that a project's recipe names.

It is this Python if the versions match, else one in an environment that uv makes and that is kept
for the next time.
"""

import hashlib
import json
import shutil
import sys
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import thaw
from thaw.errors import InputError
from thaw.project import pipeline, recipe
from thaw.project.stage import OnLine, finish

DISTRIBUTION = "thaw-vision"
COMPLETE = "thaw-complete"  # written last: it exists only in an environment that has everything


def python_for(project: Path, source: str | None = None, on_line: OnLine = print) -> Path:
    """The Python to run `project` with; `source` is what to install thaw from: a wheel, a folder,
    or what else uv takes."""
    thaw_yaml = pipeline.load(project / recipe.NAME)
    made_with = str(thaw_yaml.get("thaw"))
    versions: dict[str, str] = {name: value for name, value in (thaw_yaml.get("versions") or {}).items() if value}
    is_source = (project / "thaw" / "__init__.py").is_file()  # thaw's own repository
    if source is None and not is_source and thaw.__version__ == made_with and not _differ(versions):
        return Path(sys.executable)
    if shutil.which("uv") is None:
        raise InputError(
            f"{project} was made with thaw {made_with} and other packages than are installed, and there is no uv to "
            "install them: install uv, or use an environment that has them"
        )
    if source:
        requirement = str(Path(source).absolute()) if Path(source).exists() else source
    else:
        requirement = str(project) if is_source else _installed_from(made_with)
    arguments = [requirement, *(f"{package}=={version}" for package, version in versions.items())]
    if (constraints := project / "constraints.txt").is_file():
        arguments += ["--constraint", str(constraints)]
    digest = hashlib.sha256(json.dumps([made_with, arguments]).encode()).hexdigest()[:16]
    folder = project / ".dvc" / "tmp" / "thaw" / "environments" / digest
    python = folder / "bin" / "python"
    if not (folder / COMPLETE).is_file():
        on_line(f"making {folder} with thaw {made_with}, {', '.join(arguments[1:])}")
        shutil.rmtree(folder, ignore_errors=True)
        finish("environment", ["uv", "venv", "--quiet", "--python", sys.executable, str(folder)], on_line)
        finish("environment", ["uv", "pip", "install", "--quiet", "--python", str(python), *arguments], on_line)
        (folder / COMPLETE).touch()
    return python


def _differ(versions: dict[str, str]) -> bool:
    return any(recipe.installed(package) != version for package, version in versions.items())


def _installed_from(version: str) -> str:
    """Where thaw was installed from, according to PEP 610; raises if that is another version."""
    if thaw.__version__ != version:
        raise InputError(
            f"the project was made with thaw {version}, and {thaw.__version__} is installed: name the wheel of "
            f"{version} with --from"
        )
    direct_url = distribution(DISTRIBUTION).read_text("direct_url.json")
    if direct_url is None:
        return f"{DISTRIBUTION}=={version}"
    url = json.loads(direct_url)["url"]
    return url2pathname(urlparse(url).path) if url.startswith("file:") else str(url)
