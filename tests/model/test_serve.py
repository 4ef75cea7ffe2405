"""Laws of serve: answers are the model's, refusals give a reason, and no request is lost."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import cast

import httpx
import pytest
from packages import Packaged

from thaw.errors import InputError
from thaw.model import serve
from thaw.model.model import Model, Prediction
from thaw.model.serve import InUse, Limits, Together, application
from thaw.model.sources import Picture

LIMITS = Limits(files=20, megabytes=1)


@pytest.fixture(scope="module")
def model(packaged: Packaged) -> Model:
    return Model.load(packaged.folder)


@contextmanager
def client_of(in_use: InUse, token: str | None = None, look_every: float = 60) -> Iterator[httpx.Client]:
    """A client of a server in a thread of its own."""
    listening = serve.listen("127.0.0.1", 0)
    server = serve.server(application(in_use, LIMITS, token, look_every), "127.0.0.1")
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(model: Model) -> Iterator[httpx.Client]:
    with client_of(InUse(lambda: "v1.0.0", lambda _: model)) as client:
        yield client


def sent(paths: list[Path]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (path.name, path.read_bytes())) for path in paths]


def files(packaged: Packaged) -> list[Path]:
    return sorted(packaged.pictures.rglob("*.png"))


def test_the_answers_are_those_of_the_model_on_the_same_files(
    client: httpx.Client, model: Model, packaged: Packaged
) -> None:
    paths = files(packaged)
    answer = client.post("/predict", files=sent(paths))
    assert answer.status_code == 200
    assert answer.json()["model"] == "v1.0.0"
    for path, got, output in zip(paths, answer.json()["predictions"], model.predict(paths), strict=True):
        assert got["file"] == path.name
        assert got["prediction"] == output.label
        assert got["probabilities"] == pytest.approx(dict(output.probabilities), abs=1e-6)
        assert (got["decision"], got["unsure"], got["error"]) == (output.decision, output.unsure, None)


def test_a_file_that_is_no_picture_is_an_answer_with_the_reason(client: httpx.Client, packaged: Packaged) -> None:
    path = files(packaged)[0]
    mixed = [("files", ("../../etc/passwd", b"no picture")), *sent([path])]
    broken, whole = client.post("/predict", files=mixed).json()["predictions"]
    assert broken["file"] == "../../etc/passwd"
    assert "no picture of an allowed format" in broken["error"]
    assert broken["prediction"] is None
    assert whole["error"] is None


def test_what_is_refused_is_one_sentence(client: httpx.Client) -> None:
    small, large = [("files", (f"{number}.png", b"x")) for number in range(21)], [("files", ("a.png", bytes(2**20)))]

    def in_parts() -> Iterator[bytes]:
        yield b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(20):
            yield bytes(2**16)
        yield b"\r\n--edge--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    answers = {
        serve.NO_FILES: client.post("/predict"),
        f"{serve.NO_FILES} ": client.post("/predict", files=[("files", (None, "a.jpg"))]),
        "there are 21 files; allowed in one request are 20": client.post("/predict", files=small),
        "the request is too large: allowed are 1 MB, of all its files together": client.post("/predict", files=large),
        "the request is too large: allowed are 1 MB, of all its files together ": client.post(
            "/predict", content=in_parts(), headers=kind
        ),
    }
    assert {output.strip(): answer.json()["detail"] for output, answer in answers.items()} == {
        output.strip(): output.strip() for output in answers
    }
    assert [answer.status_code for answer in answers.values()] == [400, 422, 413, 413, 413]


def test_with_a_token_only_health_answers_without_it(model: Model, packaged: Packaged) -> None:
    pictures = sent(files(packaged)[:1])
    with client_of(InUse(lambda: "v1.0.0", lambda _: model), token="sésame") as client:
        for header in ({}, {"Authorization": "Bearer sesame"}, {"Authorization": "Basic x"}):
            for answer in (
                client.post("/predict", files=pictures, headers=header),
                client.get("/model", headers=header),
            ):
                assert answer.status_code == 401
                assert "the token is wrong or missing" in answer.json()["detail"]
        assert client.get("/health").json() == {"model": "v1.0.0", "problem": None}
        right = {"Authorization": "Bearer sésame".encode()}
        assert client.post("/predict", files=pictures, headers=right).status_code == 200


def test_it_says_which_model_answers_and_what_it_answers_to(client: httpx.Client, packaged: Packaged) -> None:
    about = client.get("/model").json()
    assert (about["model"], about["classes"], about["threshold"]) == ("v1.0.0", ["noise", "stripes"], 0.4)
    assert about["meta"]["temperature"] == 1.5
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/model", "/health"}
    page = client.get("/").text
    assert all(path in page for path in paths)
    assert not re.search(r"(src|href)=.(https?:)?//", page)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "some.machine"])
def test_nothing_that_other_machines_reach_starts_without_a_token(host: str) -> None:
    with pytest.raises(InputError, match="can be reached from other machines, and there is no token"):
        serve.check(host, None)
    with pytest.raises(InputError, match="the token is empty"):
        serve.check(host, "")
    serve.check(host, "long and random")
    for loopback in ("127.0.0.1", "localhost", "::1"):
        serve.check(loopback, None)


def test_model_changes_in_mid_traffic_lose_no_request_and_mix_no_answer(model: Model, packaged: Packaged) -> None:
    other = Model(replace(model.about, classes=["rustle", "bars"]), model.predictor, model.neighbours)
    models = {"v1.0.0": model, "v2.0.0": other}
    names = cycle(models)
    pictures, answers = sent(files(packaged)[:3]), []
    with client_of(InUse(lambda: next(names), models.__getitem__), look_every=0.002) as client:

        def ask(_: int) -> None:
            answers.append(client.post("/predict", files=pictures))

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(ask, range(60)))
    assert [answer.status_code for answer in answers] == [200] * 60
    assert {answer.json()["model"] for answer in answers} == set(models)
    for answer in answers:
        for prediction in answer.json()["predictions"]:
            assert list(prediction["probabilities"]) == models[answer.json()["model"]].classes


def test_requests_that_wait_are_answered_together_each_with_its_own_and_a_failure_is_told_to_all() -> None:
    batches: list[list[str]] = []
    begun, go_on = threading.Event(), threading.Event()

    class Slow:
        def stream(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
            batches.append([str(picture.path) for picture in pictures])
            begun.set()
            assert go_on.wait(10)
            for name in batches[-1]:
                if name == "broken":
                    raise MemoryError(name)
                yield Prediction(name)

    together = Together(InUse(lambda: "v1.0.0", lambda _: cast(Model, Slow())))
    requests = [["a"], ["b", "c"], ["d"], ["broken"], ["e"]]
    with ThreadPoolExecutor(5) as threads:
        pending = []
        for place, names in enumerate(requests):
            pending.append(threads.submit(together.ask, [Picture(Path(name)) for name in names]))
            if names == ["a"]:
                assert begun.wait(10)  # the others wait for it
            else:
                wait_until(lambda place=place: len(together.waiting) == place)
        go_on.set()
    assert batches == [["a"], ["b", "c", "d", "broken", "e"]]
    for names, answer in zip(requests[:3], pending[:3], strict=True):
        name, predictions = answer.result()
        assert (name, [prediction.path for prediction in predictions]) == ("v1.0.0", names)
    for answer in pending[3:]:
        with pytest.raises(MemoryError):
            answer.result()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_model_that_cannot_be_loaded_leaves_the_one_before_in_use_and_is_told(model: Model) -> None:
    def load(name: str) -> Model:
        if name == "v2.0.0":
            raise InputError("its files are not there")
        return model

    now = ["v1.0.0"]
    in_use = InUse(lambda: now[0], load)
    now[0] = "v2.0.0"
    in_use.look()
    assert in_use.loaded.name == "v1.0.0"
    assert in_use.problem == "the model in use could not be loaded: its files are not there"
    now[0] = "v1.0.0"
    in_use.look()
    assert in_use.problem is None


def test_on_loopback_only_its_own_names_are_answered(client: httpx.Client) -> None:
    port = client.base_url.port
    assert client.get("/health", headers={"Host": f"localhost:{port}"}).status_code == 200
    assert client.get("/health", headers={"Host": f"evil.example:{port}"}).status_code == 400
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
        serve.listen("127.0.0.1", port or 0)
