"""Addresses at which no server can answer are told at once, and statuses of whoever stands before one."""

from __future__ import annotations

import datetime
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from opdlab.errors import RefusedError, ServerError
from opdlab.serving.access import Access
from opdlab.serving.client import Client
from opdlab.serving.transport import Answered


def client(port: int, scheme: str = "http") -> Client:
    return Client(Access(f"{scheme}://127.0.0.1:{port}/v1", "NO_SUCH_KEY", 1, 600.0, 5.0))


@contextmanager
def answering(answers: list[bytes], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A port that gives one answer after another, and the last one from then on."""

    class Talk(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if context is not None:
                with (
                    suppress(OSError),
                    context.wrap_socket(self.request, server_side=True) as talk,
                ):
                    talk.recv(1)
                return
            self.request.recv(65536)
            self.request.sendall(answers.pop(0) if len(answers) > 1 else answers[0])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talk) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def status(number: int, body: bytes = b"{}", head: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return b"HTTP/1.1 %d x\r\n" % number + head + length + body


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """With a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
    built = built.public_key(key.public_key()).not_valid_before(now)
    signed = built.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    file.write_bytes(key.private_bytes(pem, pkcs8, plain) + signed.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def test_an_encrypted_server_is_not_waited_for_without_encryption(
    encrypted: ssl.SSLContext,
) -> None:
    with (
        answering([], encrypted) as port,
        pytest.raises(ServerError, match=r"begins with https://"),
    ):
        client(port).ask("/version")


def test_what_speaks_no_http_is_not_waited_for() -> None:
    with answering([b"SSH-2.0-OpenSSH_9\r\n"]) as port, pytest.raises(ServerError, match="no HTTP"):
        client(port).ask("/version")


@pytest.mark.parametrize("content", [None, "garbage"])
def test_a_file_that_holds_no_certificates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    place = tmp_path / "authorities.pem"
    if content is not None:
        place.write_text(content)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(place))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with pytest.raises(ServerError, match=r"CURL_CA_BUNDLE names .*authorities\.pem"):
        client(9, "https").ask("/version")
    # Only where there is encryption, which an address without it may lead to.
    plain = client(9).transport
    assert plain._session().verify == str(place)
    leads = requests.Response()
    leads.status_code, leads.headers["Location"] = 308, "https://localhost/v1/models"
    with pytest.raises(ServerError, match=r"CURL_CA_BUNDLE names .*authorities\.pem"):
        plain._redirected("http://localhost/v1/models", leads)


def test_statuses_of_whoever_stands_before_a_server_pass() -> None:
    squeezed = status(200, b"{}x", b"Content-Encoding: gzip\r\n")
    for first in (status(520), status(529), squeezed):
        with answering([first, status(200, b'{"version": "1"}')]) as port:
            asked = client(port)
            assert asked.ask("/version") == {"version": "1"}
            assert asked.interruptions == 1


@pytest.mark.parametrize("number", [304, 999])
def test_a_status_that_is_no_success_is_no_answer(number: int) -> None:
    body: dict[str, Any] = {"prompt": [1]}
    with answering([status(number, b"")]) as port:
        with pytest.raises(RefusedError, match=f"status {number}"):
            client(port).post_all(f"http://127.0.0.1:{port}/v1/completions", [body], print)
        with pytest.raises(Answered):
            client(port).transport.once("GET", f"http://127.0.0.1:{port}/version", None)
