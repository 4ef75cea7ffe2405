"""Laws of the fleet on one machine: PostgreSQL, a bare git repository, a DVC remote, two workers.

The phases are toys; git, DVC, Prefect and the worker that is killed are real. SQLite where
PostgreSQL is missing.
"""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from children import alive, call, git, thaw, until
from workspaces import with_our_code

pytestmark = pytest.mark.server

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
LOGIN = ("thaw", "secret")
ARMS = [(ratio, seed) for ratio in (10, 30) for seed in (0, 1)]
PHASES = ["data", "prepare", "embed", "head", "unfreeze", "evaluate", "report"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------- server, repository and workers


@contextmanager
def _postgres() -> Iterator[str]:
    """The address of a throw-away PostgreSQL cluster."""
    assert POSTGRES
    # PostgreSQL refuses to run as root
    user = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="thaw-postgres-"))
    port = _free_port()
    options: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    if user:
        shutil.chown(folder, *user.values())
    try:
        subprocess.run(
            [POSTGRES / "initdb", "-D", folder, "-U", "thaw", "-A", "trust", "-E", "UTF8", "-N"], check=True, **options
        )
        listen = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder), "-F"]
        with subprocess.Popen([POSTGRES / "postgres", "-D", folder, *listen], **options) as child:
            try:
                ready = [POSTGRES / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"]
                until(lambda: subprocess.run(ready).returncode == 0)
                yield f"postgresql+asyncpg://thaw@127.0.0.1:{port}/postgres"
            finally:
                child.send_signal(signal.SIGINT)  # its fast shutdown
    finally:
        shutil.rmtree(folder)


@contextmanager
def _process(folder: Path, *arguments: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python module that runs in a folder of its own for as long as the block lasts."""
    folder.mkdir(exist_ok=True)
    own = {"PREFECT_HOME": str(folder / "prefect"), "TMPDIR": str(folder), "DVC_SITE_CACHE_DIR": str(folder / "dvc")}
    with open(folder / "printed", "w") as printed:
        child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=os.environ | own | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prefect server of its own, on PostgreSQL, with the settings that docs/fleet.md names."""
    port = _free_port()
    with ExitStack() as stack:
        settings = {
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_SERVER_API_AUTH_STRING": ":".join(LOGIN),
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",
        }
        if POSTGRES:
            settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = stack.enter_context(_postgres())
        command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        stack.enter_context(_process(tmp_path_factory.mktemp("server"), *command, **settings))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}/api", auth=LOGIN, trust_env=False))

        def answers() -> bool:
            try:
                return client.get("/health").is_success
            except httpx.TransportError:
                return False

        until(answers)
        token = client.get("/csrf-token", params={"client": "tests"}).json()["token"]
        client.headers.update({"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token})
        yield client


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A committed workspace with toy phases, a git remote and a DVC remote."""
    folder = with_our_code(tmp_path / "workspace")
    module = folder / "thaw" / "orchestration" / "fleet.py"
    assert module.read_text().count("3.0 * BEAT") == 2
    # counts as dead sooner
    module.write_text(module.read_text().replace("3.0 * BEAT", "2.0 * BEAT"))
    call(folder, "dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "storage"))
    call(folder, "git", "add", ".")
    git(folder, "commit", "-qm", "start")
    call(tmp_path, "git", "init", "-q", "--bare", "origin.git")
    call(folder, "git", "remote", "add", "origin", "../origin.git")
    call(folder, "git", "push", "-q", "origin", "HEAD")
    return folder


def _environment(api: httpx.Client, log: Path) -> dict[str, str]:
    url = str(api.base_url).rstrip("/")
    return {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": ":".join(LOGIN), "TOY_LOG": str(log), "COLUMNS": "160"}


def _sweep(workspace: Path, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return thaw(workspace, "sweep", *options, patience=600, **environment)


# --------------------------------------------------------------------- what is known from elsewhere


def _runs(api: httpx.Client, kind: str, **filters: Any) -> list[dict[str, Any]]:
    result = api.post(f"/{kind}/filter", json=filters)
    assert result.is_success, result.text
    return list(result.json())


def _arm_runs(api: httpx.Client, sweep: str) -> list[dict[str, Any]]:
    return _runs(api, "flow_runs", flow_runs={"tags": {"all_": [sweep]}})


def _states(api: httpx.Client, run_id: str) -> dict[str, str]:
    return {run["name"]: run["state_name"] for run in _runs(api, "task_runs", flow_runs={"id": {"any_": [run_id]}})}


def _alone(workspace: Path, folder: Path, ratio: int, seed: int) -> dict[str, bytes]:
    """The files of an arm that runs alone, phase by phase, without DVC, Prefect or caches."""
    shutil.copytree(workspace / "data", folder / "data")
    shutil.copy(workspace / "phases.py", folder)
    text = (workspace / "params.yaml").read_text()
    text = re.sub(r"^  ratio: \d+", f"  ratio: {ratio}", text, flags=re.M)
    (folder / "params.yaml").write_text(re.sub(r"^seed: \d+", f"seed: {seed}", text, flags=re.M))
    call(folder, sys.executable, "-c", f"import phases; [phases.main(phase) for phase in {PHASES[1:]}]")
    files = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _in_fleet(workspace: Path, experiment: str) -> dict[str, bytes]:
    """The files of an arm: small ones from the git remote, large ones from the DVC remote."""
    origin, storage = workspace.parent / "origin.git", workspace.parent / "storage" / "files" / "md5"
    commit = call(origin, "git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{experiment}")
    in_git = call(origin, "git", "ls-tree", "-r", "--name-only", commit).splitlines()
    files = {}
    for stage in yaml.safe_load(call(origin, "git", "show", f"{commit}:dvc.lock"))["stages"].values():
        for path, md5 in ((out["path"], out["md5"]) for out in stage["outs"]):
            content = (storage / md5[:2] / md5[2:]).read_bytes()
            if md5.endswith(".dir"):
                inner = {f"{path}/{entry['relpath']}": entry["md5"] for entry in json.loads(content)}
                files |= {name: (storage / digest[:2] / digest[2:]).read_bytes() for name, digest in inner.items()}
            elif path in in_git:
                files[path] = subprocess.check_output(["git", "show", f"{commit}:{path}"], cwd=origin)
            else:
                files[path] = content
    return files


def _processes(variable: str, value: str) -> list[int]:
    """The processes that were started with this in their environment."""
    results = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"{variable}={value}".encode() in environment.read_bytes().split(b"\0"):
                results.append(int(environment.parent.name))
    return results


def _hanging(folder: Path, known: list[int]) -> list[int]:
    """The processes of a phase that hangs in some clone of this worker."""
    pids = [[int(pid) for pid in file.read_text().split()] for file in folder.glob("tmp*/*/.dvc/tmp/pids")]
    return next((pair for pair in pids if len(pair) == 2 and pair != known), [])


def _flow_process(phase: int) -> int:
    """The process of the flow run that a phase belongs to."""
    (run_id,) = re.findall(rb"\0PREFECT__FLOW_RUN_ID=([^\0]+)", Path(f"/proc/{phase}/environ").read_bytes())
    of_run = _processes("PREFECT__FLOW_RUN_ID", run_id.decode())
    return next(pid for pid in of_run if b"prefect.engine" in Path(f"/proc/{pid}/cmdline").read_bytes())


# ----------------------------------------------------------------------------------------- the laws


def test_a_fleet_computes_each_phase_once_and_loses_nothing_when_a_worker_dies(
    api: httpx.Client, workspace: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = _environment(api, log)
    assert api.post("/work_pools/", json={"name": "fleet", "type": "process"}).is_success
    options = ["--set", "unfreeze.ratio=10,30", "--seeds", "2"]
    unknown = _sweep(workspace, *options, "--pool", "flaet", **environment)
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "there is no work pool flaet (there are: fleet" in unknown.stderr

    start = ["prefect", "worker", "start", "--pool", "fleet", "--limit"]
    quick = environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with (
        # hangs in this phase
        _process(tmp_path / "one", *start, "1", TOY_SLOW="unfreeze", **quick),
        _process(workspace, "thaw", "sweep", *options, "--pool", "fleet", **environment) as command,
        ExitStack() as later,
    ):
        phase, deaf = until(lambda: _hanging(tmp_path / "one", []))
        os.kill(_flow_process(phase), signal.SIGKILL)
        until(lambda: _hanging(tmp_path / "one", [phase, deaf]))
        for pid in _processes("TMPDIR", str(tmp_path / "one")):  # its machine is gone
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # had it started earlier, no arm would be left to lose
        later.enter_context(_process(tmp_path / "two", *start, "2", **quick))
        command.wait(600)
        printed = (workspace / "printed").read_text()
        assert command.returncode == 0, printed
    name = re.findall(r"sweep-[0-9a-f]{6}", printed)[0]

    ran = log.read_text().splitlines()
    assert len(ran) == len(set(ran))
    counts = Counter(line.split()[0] for line in ran)
    assert counts == {"prepare": 1, "embed": 1, "head": 2, "unfreeze": 4, "evaluate": 4, "report": 4}

    runs = _arm_runs(api, name)
    assert Counter(run["state_name"] for run in runs) == {"Completed": 4 + 3, "Crashed": 2}
    for ratio, seed in ARMS:
        arm = f"ratio{ratio}-seed{seed}"
        (done,) = [run for run in runs if run["name"] == arm and run["state_name"] == "Completed"]
        states = _states(api, done["id"])
        assert {states[phase] for phase in ("prepare", "embed", "head")} == {"Restored"}
        assert {states[phase] for phase in ("unfreeze", "evaluate", "report")} == {"Completed"}
        made = _in_fleet(workspace, f"{name}-{arm}")
        alone = _alone(workspace, tmp_path / f"alone-{arm}", ratio, seed)
        assert made == {path: alone[path] for path in made}
        assert {"artifacts/unfreeze/model/weights.safetensors", "artifacts/evaluate/metrics.json"} <= made.keys()

    with (workspace / "artifacts" / "sweeps" / name / "table.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["arm"] for row in rows] == [f"ratio{ratio}-seed{seed}" for ratio, seed in ARMS]
    assert "Best on validation: ratio30, on test 82.5 ± 0.7 %" in printed
    apply = [sys.executable, "-m", "dvc", "exp", "apply", f"{name}-ratio30-seed1"]
    # it complains that the files are not here yet
    subprocess.run(apply, cwd=workspace, capture_output=True)
    assert "  ratio: 30 " in (workspace / "params.yaml").read_text()
    call(workspace, "dvc", "pull")
    assert "up to date" in call(workspace, "dvc", "status")


def test_without_a_pool_arms_run_here_and_a_command_that_was_stopped_goes_on(
    api: httpx.Client, workspace: Path, tmp_path: Path
) -> None:
    environment = _environment(api, tmp_path / "log")
    call(workspace, "git", "remote", "remove", "origin")
    options = ["sweep", "--set", "unfreeze.ratio=10,30", "--parallel", "2"]
    (tmp_path / "one").mkdir()
    with _process(tmp_path / "one", "thaw", "-C", str(workspace), *options, TOY_SLOW="head", **environment) as child:
        pids = until(lambda: _hanging(tmp_path / "one", []))
        child.send_signal(signal.SIGINT)
        assert child.wait(300) == 130
    printed = (tmp_path / "one" / "printed").read_text()
    # On a busy machine prefect has the last word: "… | WARNING | EventsWorker - Still processing
    # items".
    lines = [line for line in printed.splitlines() if " | WARNING | EventsWorker - " not in line]
    assert lines[-1].startswith("Stopped, with all its trainings")
    assert not any(alive(pid) for pid in pids)
    assert not list((tmp_path / "one").glob("tmp*prefect"))  # no clone stays

    again = _sweep(workspace, *options[1:], **environment)
    assert again.returncode == 0, again.stdout + again.stderr
    name = re.findall(r"sweep-[0-9a-f]{6}", again.stdout)[0]
    assert Counter(run["state_name"] for run in _arm_runs(api, name)) == {"Cancelled": 1, "Completed": 3}
    ran = Counter(line.split()[0] for line in (tmp_path / "log").read_text().splitlines())
    assert ran == {"prepare": 1, "embed": 1, "head": 1, "unfreeze": 2, "evaluate": 2, "report": 2}
    assert "Best on validation: ratio30" in again.stdout
    assert f"{name}-ratio10-seed0" in call(workspace, "dvc", "exp", "list")
    assert call(workspace, "git", "status", "--porcelain") == ""

    done = _sweep(workspace, *options[1:], **environment)
    assert (done.returncode, done.stdout.count("done before")) == (0, 2)
    assert len(_arm_runs(api, name)) == 4
