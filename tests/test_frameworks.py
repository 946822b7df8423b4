"""The same small application in five frameworks, driven over real sockets.

Each runs twice: as it is, and with wsgiref.validate between it and the server.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.serving import Reader, Server, serve

FRAMEWORKS = ["flask", "django", "bottle", "falcon", "pyramid"]


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 3 MB, more than any socket buffer takes at once."""
    path = tmp_path_factory.mktemp("download") / "data.bin"
    path.write_bytes(random.Random(1).randbytes(3_000_000))
    return path


@pytest.fixture(
    scope="module",
    params=[(name, way) for name in FRAMEWORKS for way in ("plain", "validated")],
    ids="-".join,
)
def server(request: pytest.FixtureRequest, download: Path) -> Iterator[Server]:
    name, way = request.param
    path = f"tests/applications/with_{name}.py"
    env = {"DOWNLOAD": str(download), "VALIDATED_APPLICATION": path}
    spec = "tests/applications/validated.py" if way == "validated" else path
    # Pyramid's WebOb keeps a content of more than 10 KiB in a temporary file and never closes it.
    with serve(spec, env=env, application_leaks=name == "pyramid") as running:
        yield running
        errors = running.stderr()
        assert "AssertionError" not in errors
        assert "garbage collected without being closed" not in errors


def test_hello(server: Server) -> None:
    answer = server.request("GET", "/hello")
    assert (answer.status, answer.text) == (200, "Hello, World!")
    assert answer.field("Content-Length") == "13"
    head = server.request("HEAD", "/hello")
    assert head.content == b""
    assert server.request("GET", "/nowhere").status == 404


def test_path_in_utf_8(server: Server) -> None:
    assert server.request("GET", "/greet/J%C3%BCrgen").text == "Hello, Jürgen"
    with server.connect() as connection, Reader(connection) as reader:
        connection.sendall("GET /greet/Jürgen HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
        assert reader.read_response().text == "Hello, Jürgen"


def test_form(server: Server) -> None:
    answer = requests.post(
        f"{server.url}/form", data={"name": "Jürgen & Co", "city": "São Paulo"}, timeout=10
    )
    assert (answer.status_code, answer.text) == (200, "Jürgen & Co from São Paulo")


def test_json_with_a_length(server: Server) -> None:
    value: Any = {"id": 1092, "name": "Jürgen", "list": list(range(10_000))}
    answer = requests.post(f"{server.url}/json", json=value, timeout=10)
    assert answer.json() == {"received": value}


def test_json_in_chunks(server: Server) -> None:
    value = {"id": 1092, "name": "Jürgen", "list": list(range(5000))}
    content = json.dumps(value).encode()
    answer = requests.post(
        f"{server.url}/json",
        data=(content[start : start + 1000] for start in range(0, len(content), 1000)),
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    assert answer.json() == {"received": value}


def test_cookies(server: Server) -> None:
    answer = server.request("GET", "/set-cookies")
    assert {value.partition(";")[0] for value in answer.values("Set-Cookie")} == {
        "first=1",
        "second=2",
    }
    with requests.Session() as session:
        session.get(f"{server.url}/set-cookies", timeout=10)
        assert session.get(f"{server.url}/get-cookies", timeout=10).text == "1 and 2"


def test_redirect(server: Server) -> None:
    answer = server.request("GET", "/redirect")
    assert answer.status in (302, 303)
    followed = requests.get(f"{server.url}/redirect", timeout=10)
    assert followed.text == "Hello, World!"
    assert followed.url == f"{server.url}/hello"


def test_stream(server: Server) -> None:
    answer = server.request("GET", "/stream")
    assert answer.field("Transfer-Encoding") == "chunked"
    assert answer.chunks == [b"block 0\n", b"block 1\n", b"block 2\n"]


def test_download(server: Server, download: Path) -> None:
    answer = server.request("GET", "/download")
    assert answer.field("Content-Length") == "3000000"
    assert "data.bin" in (answer.field("Content-Disposition") or "")
    digest = hashlib.sha256(answer.content).hexdigest()
    assert digest == hashlib.sha256(download.read_bytes()).hexdigest()


def test_failure_is_answered_and_survived(server: Server) -> None:
    with server.connect() as connection, Reader(connection) as reader:
        for _ in range(2):
            connection.sendall(b"GET /fail HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert reader.read_response().status == 500
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert reader.read_response().text == "Hello, World!"


def test_one_connection_for_all(server: Server) -> None:
    """Whatever the framework answers, the connection goes on."""
    with server.connect() as connection, Reader(connection) as reader:
        for target in ("/hello", "/redirect", "/nowhere", "/stream", "/set-cookies", "/hello"):
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())
            assert reader.read_response().status in (200, 302, 303, 404)
