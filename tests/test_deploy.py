"""Laws of deploy/: units that systemd takes, only loopback without TLS, no root, small logs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd on this machine")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_units(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    name = unit.name.replace("@.", "@tiles.")
    (tmp_path / name).write_text(text.replace("ExecStart=/srv/thaw/venv/bin/", "ExecStart=/usr/bin/env "))
    if name != unit.name:
        shutil.copy(tmp_path / name, tmp_path / unit.name)
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)], text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def _has_compose() -> bool:
    """Whether docker is here with its plugin."""
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    )


@pytest.mark.skipif(not _has_compose(), reason="there is no `docker compose` on this machine")
def test_docker_takes_the_compose_file_and_asks_for_every_secret(tmp_path: Path) -> None:
    command = ["docker", "compose", "--file", str(DEPLOY / "compose.yaml"), "config", "--quiet"]
    secrets = {"POSTGRES_PASSWORD": "a", "PREFECT_AUTH": "thaw:b", "PREFECT_HOST": "prefect.example.org"}
    done = subprocess.run(command, env=os.environ | secrets, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    for name in secrets:
        lacking = os.environ | {key: value for key, value in secrets.items() if key != name}
        assert subprocess.run(command, env=lacking, cwd=tmp_path, capture_output=True).returncode


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_run_without_root_and_listen_on_loopback(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert "User=thaw" in lines
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert "0.0.0.0" not in start


def test_only_the_proxy_with_tls_is_reachable_and_logs_stay_small() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    assert services["caddy"]["ports"] == ["80:80", "443:443"]
    assert services["prefect"]["user"] not in ("0", "root")
    assert "USER thaw" in (DEPLOY / "Dockerfile").read_text().splitlines()
    for service in services.values():
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    for name in ("PREFECT_SERVER_UI_API_URL", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"):
        assert services["prefect"]["environment"][name].startswith("https://")
