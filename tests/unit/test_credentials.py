"""Passwords in addresses reach the request and nothing else."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from opdlab import credentials
from opdlab.configuration import loader
from opdlab.errors import ConfigError, ServerError
from opdlab.serving.access import Access
from opdlab.serving.client import Client
from opdlab.serving.engine import OpenAIEngine

PLANTED = "s3cret-planted"


@pytest.mark.parametrize(
    ("address", "bare"),
    [
        (f"http://alice:{PLANTED}@127.0.0.1:5077/", "http://127.0.0.1:5077/"),
        (f"https://{PLANTED}@host/v1", "https://host/v1"),
        (f"http://host/v1?api_key={PLANTED}&api-version=2", "http://host/v1?api-version=2"),
        (f"http://a:{PLANTED}/x@host/v1", "http://host/v1"),
        (f"postgresql+psycopg://me:{PLANTED}@host:5432/db", "postgresql+psycopg://me@host:5432/db"),
        (
            f"postgresql://me:p@/{PLANTED}@host/db?sslmode=require",
            "postgresql://me@host/db?sslmode=require",
        ),
        (f"postgresql://host/db?user=me&password={PLANTED}", "postgresql://host/db?user=me"),
        (f"mysql+pymysql://me:{PLANTED}@host/db", "mysql+pymysql://me@host/db"),
        (f"http://host/v1?auth={PLANTED}&a=1;code={PLANTED}", "http://host/v1?a=1"),
        (f"http://host/v1#access={PLANTED}", "http://host/v1"),
        (f"mssql+pyodbc:///?odbc_connect=UID%3Da%3BPWD%3D{PLANTED}", "mssql+pyodbc:///"),
    ],
)
def test_an_address_loses_its_password_until_it_is_asked_for(address: str, bare: str) -> None:
    assert credentials.cut(address) == bare
    assert credentials.whole(bare) == address
    assert PLANTED not in credentials.hide(f"could not connect to {address}")
    assert credentials.cut(bare) == bare


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8000/v1",
        "http://[::1]:8000/v1",
        "http://host/@user/x",
        "postgresql://me@host/db",
        "sqlite:////data/p@x/mlflow.db",
        "Qwen/Qwen3-1.7B",
        "see http://a:b@host for more",
        "",
    ],
)
def test_what_holds_no_password_stays_as_it_is(address: str) -> None:
    assert credentials.cut(address) == address
    assert credentials.VARIABLE not in os.environ


@pytest.mark.parametrize("address", [f"a:{PLANTED}@host/x", f"//a:{PLANTED}@host/x"])
def test_an_address_without_a_scheme_loses_its_password_too(address: str) -> None:
    assert credentials.cut(address) == "host/x"
    assert PLANTED not in credentials.cut_argument(f"tracking.uri={address}")


def test_no_configuration_holds_a_password(tmp_path: Path) -> None:
    values = [
        f"tracking.uri=http://alice:{PLANTED}@host:5000",
        f"rollout={{type: openai, url: 'http://key:{PLANTED}@other/v1'}}",
        "sweep={space: {training.learning_rate: {type: float, low: 0.1, high: 0.2}}, trials: 1, "
        f"storage: 'postgresql://me:{PLANTED}@host/db'}}",
    ]
    # A sweep trains students, whose weights a server must get.
    values[1] = values[1].replace("'}", f"', weights_folder: {tmp_path}}}")
    config = loader.load_experiment("quickstart", ["runs=[]", *values])
    loader.save_resolved(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert PLANTED not in text
    assert "postgresql://me@host/db" in text
    assert credentials.login("http://host:5000") == ("alice", PLANTED)
    for value in map(credentials.cut_argument, values):
        assert PLANTED not in value
    # What was saved is loaded again, by a trial's process, and still finds its way in.
    again = loader.load_experiment(tmp_path / "config.yaml")
    assert again == config
    assert again.tracking.uri is not None
    assert PLANTED in credentials.whole(again.tracking.uri)


def test_a_fault_beside_a_password_is_told_without_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        f"name: a\ntracking: {{url: 'http://a:{PLANTED}@h', uri: ['http://a:{PLANTED}@h']}}\n"
    )
    with pytest.raises(ConfigError, match=r"tracking.url") as told:
        loader.load(file)
    assert PLANTED not in str(told.value)


def test_two_passwords_for_one_address_are_refused_by_their_keys() -> None:
    given = ["tracking.uri=postgresql://me:one@h/db"]
    given += ["sweep={space: {seed: [1, 2]}, trials: 1, storage: 'postgresql://me:two@h/db'}"]
    with pytest.raises(ConfigError, match=r"tracking.uri and sweep.storage give .* two passwords"):
        loader.load_experiment("quickstart", given)
    # One address written in two ways.
    loader.load_experiment(
        "quickstart", ["rollout={type: openai, url: ['http://h:1', 'http://h:1/']}"]
    )


@pytest.mark.parametrize("key", [PLANTED, "sk 1", ""])
def test_a_key_in_place_of_the_name_of_its_variable_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match=r"^key_variable") as told:
        OpenAIEngine(key_variable=key)
    assert not key or key not in str(told.value)


class _Strict(BaseHTTPRequestHandler):
    """Lets in who has the password, and repeats what was sent to others."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        sent = self.headers.get("Authorization", "")
        wanted = "Basic " + base64.b64encode(f"a:{PLANTED}/1".encode()).decode()
        ok = sent == wanted and self.path == f"/v1/x?v=2&api_key={PLANTED}"
        body = b'{"fine": 1}' if ok else f"no: {sent} {self.path}".encode()
        self.send_response(200 if ok else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Strict)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def _client(url: str) -> Client:
    return Client(Access(url, "NO_SUCH_KEY", 1, 0.0, 10.0))


def test_a_request_carries_what_was_cut_and_a_refusal_does_not(server: str) -> None:
    client = _client(f"http://a:{PLANTED}%2F1@{server}//v1/?v=2&api_key={PLANTED}")
    assert PLANTED not in client.access.url
    assert client.post(client.access.api("/x"), {}) == {"fine": 1}
    with pytest.raises(ServerError, match="403") as told:
        client.post(client.access.api("/y"), {})
    assert PLANTED not in str(told.value)
    assert "Basic ***" in str(told.value)


def test_a_key_that_a_server_repeats_is_not_shown(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_SUCH_KEY", PLANTED)
    client = _client(f"http://{server}/v1")
    with pytest.raises(ServerError, match=r"Bearer \*\*\*") as told:
        client.post(client.access.api("/y"), {})
    assert PLANTED not in str(told.value)
