"""What a person sees in the Prefect UI after a run, in a real browser."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from children import git, until
from flow_runs import execute

pytestmark = [pytest.mark.server, pytest.mark.browser]

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 60_000  # milliseconds until a page shows what it should
SCHEDULE = "At 03:00 AM, only on Monday"
# Sends requests as a page can; the texts that it gets back. A body without a type is sent without
# Content-Type.
SEND = """requests => Promise.all(requests.map(async ([mode, method, url, type, body]) => {
    try {
        const answer = await fetch(url, {mode, method, body: body === null ? null : new Blob([body], {type})})
        return await answer.text()
    } catch {
        return ""
    }
}))"""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed on this machine")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def weekly(server: str) -> UUID:
    """The deployment of prefect.yaml."""
    from prefect import get_client

    environment = os.environ | {"PREFECT_API_URL": server}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for command in (["work-pool", "create", "here", "--type", "process", "--overwrite"], ["deploy", "--all"]):
        subprocess.run([*prefect, *command], cwd=ROOT, env=environment, check=True, capture_output=True)
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name("retrain elpv/weekly").id


@pytest.fixture
def foreign() -> Iterator[str]:
    """The address of a page of another origin."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another site</title>")

    with HTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{site.server_port}/"
        site.shutdown()


def _open_run(page: Any, ui: str, name: str) -> None:
    """From the list of runs to the newest with such a name."""
    page.goto(f"{ui}/v2/runs")
    page.get_by_role("link", name=name).first.click()
    page.wait_for_url("**/flow-run/**")
    page.get_by_role("tab", name="Artifacts").wait_for()  # until then it shows the list, with a tab Task Runs too


def _open_artifact(page: Any, key: str) -> None:
    """From a run to one of its artifacts, to the history of the key, to its newest version."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text(key, exact=True).first.click()
    page.locator('a[href*="/artifacts/artifact/"]').first.click()
    page.get_by_text("Show Raw Data").wait_for()


def _artifacts(flow_run_id: UUID) -> dict[str, UUID]:
    """Key and id of what a run has left."""
    from prefect import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return {artifact.key: artifact.id for artifact in client.read_artifacts(artifact_filter=of_run)}


def test_a_person_finds_states_reasons_and_results_of_a_run(
    page: Any, server: str, trained_toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    from flows.retrain import retrain

    git(trained_toy, "add", "--all")
    git(trained_toy, "commit", "-qm", "start")
    changed = retrain(["unfreeze.ratio=25"], record=True, return_state=True)
    assert changed.is_completed(), changed.message
    ui = server.removesuffix("/api")
    _open_run(page, ui, "efficientnet_lite0 ratio 25")
    page.get_by_role("tab", name="Task Runs").click()
    for task in ("data", "head", "unfreeze", "report", "promote", "record"):
        expect(page.get_by_text(task, exact=True).first).to_be_visible()
    for state in ("Cached", "Completed", "Promoted"):
        expect(page.get_by_text(state, exact=True).first).to_be_visible()

    left = _artifacts(changed.state_details.flow_run_id)
    _open_artifact(page, "phases")
    assert page.url.partition("?")[0].endswith(f"/artifacts/artifact/{left['phases']}")
    for key, text, pictures in (
        ("phases", "unfreeze.ratio went from 10 to 25", 0),
        ("metrics", "head only", 0),
        ("summary", "Worst mistakes", 2),
        ("learning-curves-unfreeze", "Learning curves after unfreeze", 1),
        ("progress-unfreeze", "pictures/s", 0),
        ("promotion", "Promoted", 0),
    ):
        if key != "phases":
            page.goto(f"{ui}/v2/artifacts/artifact/{left[key]}")
        expect(page.get_by_text(text).first).to_be_visible()
        shown = page.locator('img[src^="data:image/png"]')
        expect(shown).to_have_count(pictures)
        for picture in shown.all():
            assert picture.evaluate("async picture => { await picture.decode(); return picture.naturalWidth }")

    monkeypatch.setenv("TOY_BREAK", "head")
    assert retrain(["head.patience=9"], return_state=True).is_failed()
    _open_run(page, ui, "(head.patience=9)")
    _open_artifact(page, "failure")
    expect(page.get_by_text("KeyError: 'a mistake of ours'").first).to_be_visible()


def test_a_person_puts_a_version_in_use_with_the_form(page: Any, server: str, trained_toy: Path) -> None:
    from playwright.sync_api import expect
    from prefect import get_client

    from flows.approve import approve
    from thaw.orchestration import asking
    from thaw.project import registry

    git(trained_toy, "add", "--all")
    git(trained_toy, "commit", "-qm", "start")
    registry.register("HEAD", "good enough")
    registry.assign("v1.0.0", registry.WAITING, "good enough")
    flow = approve.with_options(name=asking.flow_name())
    # playwright's loop runs in this one
    with get_client(sync_client=True) as client, ThreadPoolExecutor(1) as beside:
        beside.submit(lambda: flow.to_deployment("asked-in-the-ui").apply()).result()
        assert beside.submit(asking.ask, "v1.0.0", "asked-in-the-ui", 14).result()
        (run,) = (run for run in asking._open(client, "v1.0.0") if run.name == "approve v1.0.0")
        assert beside.submit(execute, flow, client, run.id).result().name == "Suspended"
        page.goto(f"{server.removesuffix('/api')}/v2/runs/flow-run/{run.id}")
        expect(page.get_by_text("Suspended").first).to_be_visible()
        page.locator("button[aria-haspopup=menu]").last.click()  # the three dots beside the title
        page.get_by_role("menuitem", name="Resume").click()
        form = page.get_by_role("dialog")
        expect(form.get_by_text("Is v1.0.0 put in use?")).to_be_visible()
        form.get_by_label("Select Answer").click()
        page.get_by_role("option", name="yes").click()
        form.get_by_role("textbox").fill("seen by a person")
        form.get_by_role("button", name="Resume").click()
        until(lambda: client.read_flow_run(run.id).state.name == "Resuming")
        assert beside.submit(execute, flow, client, run.id).result().message == "v1.0.0 is in use"
    assert registry.find("v1.0.0").in_use
    assert "approved: seen by a person" in git(trained_toy, "for-each-ref", "--format=%(contents)", "refs/tags")


def test_a_person_finds_the_deployment_with_its_schedule(page: Any, server: str, weekly: UUID) -> None:
    from playwright.sync_api import expect

    page.goto(f"{server.removesuffix('/api')}/v2/deployments")
    # other projects have a schedule of this name too
    page.locator(f"a[href*='{weekly}']").first.click()
    expect(page.get_by_text(SCHEDULE).first).to_be_visible()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_person_can_pause_a_schedule_under_either_name_of_the_server(
    page: Any, server: str, weekly: UUID, host: str
) -> None:
    from prefect import get_client

    ui = server.removesuffix("/api").replace("127.0.0.1", host)
    page.goto(f"{ui}/v2/deployments/deployment/{weekly}")
    switch = page.get_by_role("switch", name=f"toggle {SCHEDULE}")
    was = switch.get_attribute("aria-checked")
    switch.click()
    with get_client(sync_client=True) as client:
        until(lambda: client.read_deployment(weekly).schedules[0].active is (was == "false"))


def test_a_page_of_another_site_reads_nothing_from_the_server_and_changes_nothing(
    page: Any, server: str, weekly: UUID, foreign: str
) -> None:
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

    deployment = f"{server}/deployments/{weekly}"
    writes = [
        ("POST", f"{deployment}/create_flow_run", '{"name": "foreign"}'),
        ("POST", f"{server}/variables/", '{"name": "foreign", "value": 1}'),
        ("POST", f"{deployment}/pause_deployment", None),
        ("DELETE", f"{server}/work_pools/here", None),
    ]
    reads = [("GET", deployment), ("GET", f"{server}/csrf-token?client=foreign"), ("GET", f"{server}/admin/version")]
    requests = [
        (mode, *request)
        for mode in ("cors", "no-cors")
        for request in (
            *((method, url, "", None) for method, url in reads),
            *(
                (method, url, kind, body)
                for kind in ("application/json", "text/plain", "")
                for method, url, body in writes
            ),
        )
        if mode == "cors" or request[0] != "DELETE"  # which a browser does not even send
    ]
    page.goto(foreign)
    answers = page.evaluate(SEND, requests)
    assert set(answers) == {""}
    with get_client(sync_client=True) as client:
        assert not client.read_deployment(weekly).paused
        assert not client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["foreign"])))
        assert client.read_variable_by_name("foreign") is None
        assert client.read_work_pool("here").name == "here"
