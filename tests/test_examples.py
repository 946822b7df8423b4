"""The examples, driven over real sockets in the way the tutorials of examples/README.md do it.

Each runs twice: as it is, and with wsgiref.validate between it and the server.
"""

from __future__ import annotations

import json
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.serving import ROOT, Reader, Server, serve

EXAMPLES = ROOT / "examples"
COMMAND_TIMEOUT_S = 30


@pytest.fixture(scope="module", params=["plain", "validated"])
def mode(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def serve_example(name: str, mode: str, folder: Path | None = None) -> Iterator[Server]:
    """Serve one example and check afterwards that it wrote no traceback."""
    path = f"examples/{name}.py"
    env = {"VALIDATED_APPLICATION": path} if mode == "validated" else {}
    if folder is not None:
        env["FOLDER"] = str(folder)
    with serve(
        "tests/applications/validated.py" if env.get("VALIDATED_APPLICATION") else path, env=env
    ) as server:
        yield server
        assert "Traceback" not in server.stderr()
        assert "garbage collected without being closed" not in server.stderr()


@pytest.fixture(scope="module")
def hello(mode: str) -> Iterator[Server]:
    yield from serve_example("hello", mode)


@pytest.fixture(scope="module")
def pages(mode: str) -> Iterator[Server]:
    yield from serve_example("pages", mode)


@pytest.fixture(scope="module")
def info(mode: str) -> Iterator[Server]:
    yield from serve_example("info", mode)


@pytest.fixture(scope="module")
def calculator(mode: str) -> Iterator[Server]:
    yield from serve_example("calculator", mode)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the folder example serves."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "notes.txt").write_text("Some notes\n")
    (folder / "site").mkdir()
    (folder / "site" / "index.html").write_text("<h1>The index</h1>\n")
    (folder / "papers").mkdir()
    (folder / "papers" / "a & b.txt").write_text("a and b\n")
    (folder / "escape").symlink_to("/etc")
    return folder


@pytest.fixture(scope="module")
def folder(mode: str, shelf: Path) -> Iterator[Server]:
    yield from serve_example("folder", mode, shelf)


def run_curl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["curl", "--silent", "--max-time", "20", "--path-as-is", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=True,
    )


class Netcat:
    """`nc`, and a person who types into it and does not go away."""

    def __init__(self, server: Server) -> None:
        program = shutil.which("nc") or shutil.which("ncat")
        assert program is not None, "install netcat to run this test"
        self.process = subprocess.Popen(
            [program, server.host, str(server.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.shown = b""

    def __enter__(self) -> Netcat:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def type_line(self, line: str, end: str = "\r\n") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((line + end).encode())

    def wait_for(self, text: bytes, timeout_s: float = 10) -> bytes:
        """Return all that it has shown once `text` is among it."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            left_s = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(0, left_s))
            assert readable, f"{text!r} did not come; so far: {self.shown!r}"
            block = self.process.stdout.read(65536)
            assert block, f"netcat ended without {text!r}: {self.shown!r}"
            self.shown += block
        return self.shown


# 1. Flask by netcat


def test_flask_answers_requests(hello: Server) -> None:
    with requests.Session() as session:
        answer = session.get(f"{hello.url}/hello", timeout=10)
        assert (answer.status_code, answer.text) == (200, "Hello, World!")
        answer = session.get(f"{hello.url}/user", params={"name": "arpit"}, timeout=10)
        assert answer.text == "Requested for name = arpit"
        form = {"username": "arpit", "password": "s e&c"}
        answer = session.post(f"{hello.url}/login", data=form, timeout=10)
        assert answer.text == "Login successful for arpit:s e&amp;c"
        user: Any = {"id": 1092, "name": "Arpit"}
        answer = session.post(f"{hello.url}/save", json=user, timeout=10)
        assert answer.text == "Saving user with id = 1092"
        assert session.get(f"{hello.url}/nowhere", timeout=10).status_code == 404
        assert session.get(f"{hello.url}/save", timeout=10).status_code == 405
        answer = session.post(f"{hello.url}/save", json=["no", "user"], timeout=10)
        assert answer.status_code == 400


def test_flask_escapes_what_a_stranger_wrote(hello: Server) -> None:
    answer = hello.request("GET", "/user?name=%3Cscript%3E")
    assert answer.text == "Requested for name = &lt;script&gt;"


def test_flask_typed_into_netcat(hello: Server) -> None:
    with Netcat(hello) as netcat:
        netcat.type_line("GET /user?name=arpit HTTP/1.1")
        netcat.type_line("Host: localhost")
        netcat.type_line("")
        netcat.wait_for(b"Requested for name = arpit")
        # The connection stays, and a second request may be typed into it.
        netcat.type_line("POST /save HTTP/1.1")
        netcat.type_line("Host: localhost")
        netcat.type_line("Content-Type: application/json")
        netcat.type_line("Content-Length: 29")
        netcat.type_line("")
        netcat.type_line('{"id": 1092, "name": "Arpit"}', end="")
        shown = netcat.wait_for(b"Saving user with id = 1092")
        assert shown.count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_that_is_no_http_typed_into_netcat(hello: Server, end: str) -> None:
    """The answer comes while the person's side is open: nobody types end-of-file."""
    with Netcat(hello) as netcat:
        netcat.type_line("This is a sample", end)
        shown = netcat.wait_for(b"\r\n\r\n")
        assert shown.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nConnection: close\r\n" in shown


def test_the_server_closes_after_what_is_no_http(hello: Server) -> None:
    with hello.connect() as connection, Reader(connection) as reader:
        connection.sendall(b"This is a sample\r\n")
        assert reader.read_response().status == 400
        assert reader.file.read() == b""


def test_flask_by_curl(hello: Server) -> None:
    done = run_curl("--verbose", "-d", "username=arpit&password=secret", f"{hello.url}/login")
    assert done.stdout == "Login successful for arpit:secret"
    assert "> POST /login HTTP/1.1" in done.stderr
    assert "> Content-Type: application/x-www-form-urlencoded" in done.stderr
    assert "< HTTP/1.1 200 OK" in done.stderr


def test_two_urls_in_one_curl_call_use_one_connection(hello: Server) -> None:
    done = run_curl(
        "--verbose",
        "--write-out",
        " %{num_connects}\n",
        f"{hello.url}/hello",
        f"{hello.url}/user?name=arpit",
    )
    assert done.stdout == "Hello, World! 1\nRequested for name = arpit 0\n"
    assert "Re-using existing connection" in done.stderr


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: a.example\r\n\r\n", b"Hello, World!"),
        (
            b"POST /login HTTP/1.1\r\nHost: a.example\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 35\r\n\r\n"
            b"username=arpit&password=a%26b%20c+d",
            b"Login successful for arpit:a&amp;b c d",
        ),
        (
            b"POST /save HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
            b'a\r\n{"id": 109\r\n13\r\n2, "name": "Arpit"}\r\n0\r\n\r\n',
            b"Saving user with id = 1092",
        ),
    ],
    ids=["get", "form", "chunked"],
)
def test_a_request_cut_at_any_byte(hello: Server, request_bytes: bytes, answer: bytes) -> None:
    """Many connections at once: while the others are fed, each first part has arrived alone."""
    cuts = range(1, len(request_bytes))
    connections = [hello.connect() for _ in cuts]
    try:
        for cut, connection in zip(cuts, connections, strict=True):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request_bytes[:cut])
        for cut, connection in zip(cuts, connections, strict=True):
            connection.sendall(request_bytes[cut:])
        for cut, connection in zip(cuts, connections, strict=True):
            with Reader(connection) as reader:
                response = reader.read_response()
            assert (response.status, response.content) == (200, answer), f"cut at {cut}"
    finally:
        for connection in connections:
            connection.close()


def test_flask_by_module_name() -> None:
    """As the tutorial starts it: from its folder, as MODULE:ATTRIBUTE."""
    with serve("hello:app", cwd=EXAMPLES) as server:
        assert server.request("GET", "/hello").text == "Hello, World!"


# 2. Two pages


def test_pages(pages: Server) -> None:
    home = pages.request("GET", "/")
    assert home.status == 200
    assert home.field("Content-Type") == "text/html; charset=utf-8"
    assert "<h1>Home</h1>" in home.text
    assert "<h1>About</h1>" in pages.request("GET", "/about").text
    assert "<h1>Home</h1>" in pages.request("GET", "/?q=hello%20world").text
    head = pages.request("HEAD", "/")
    assert head.content == b""
    assert head.field("Content-Length") == home.field("Content-Length")
    refused = pages.request("POST", "/", b"x")
    assert (refused.status, refused.field("Allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/nowhere", "/nowhere"),
        ("/about/", "/about/"),
        ("/a%20b", "/a b"),
        ("/caf%C3%A9", "/café"),
        ("/%FF", "/\ufffd"),
        ("/<b>", "/<b>"),
    ],
)
def test_a_page_that_is_not_there(pages: Server, target: str, shown: str) -> None:
    answer = pages.request("GET", target)
    assert (answer.status, answer.text) == (404, f"There is no page at {shown}\n")
    # Shown as text, so that the path cannot bring a page of its own.
    assert answer.field("Content-Type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "line", [b"GET /", b"GET", b"GET  / HTTP/1.1", b"GET / HTTP/1", b"/ GET HTTP/1.1 extra"]
)
def test_a_malformed_request_line(pages: Server, line: bytes) -> None:
    answer = pages.exchange(line + b"\r\nHost: a.example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer


def test_pages_in_reverse_by_curl(pages: Server) -> None:
    done = run_curl("--verbose", f"{pages.url}/about")
    sent = [line[2:] for line in done.stderr.splitlines() if line.startswith("> ")]
    received = [line[2:] for line in done.stderr.splitlines() if line.startswith("< ")]
    assert sent[0] == "GET /about HTTP/1.1"
    assert received[0] == "HTTP/1.1 200 OK"
    assert any(line.startswith("Date: ") for line in received)


def test_pipelined_pages(pages: Server) -> None:
    targets = ["/", "/about", "/nowhere"] * 5
    requests_bytes = b"".join(
        f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode() for target in targets
    )
    with pages.connect() as connection, Reader(connection) as reader:
        connection.sendall(requests_bytes)
        statuses = [reader.read_response().status for _ in targets]
    assert statuses == [200, 200, 404] * 5


# 3. Info, echo, JSON, slow, chunked


def test_info_tells_about_the_request_and_the_connection(info: Server) -> None:
    with info.connect() as connection, Reader(connection) as reader:
        connection.sendall(
            b"GET /info?a=1&b=%20 HTTP/1.1\r\nHost: a.example\r\nX-Two: 1\r\nX-Two: 2\r\n\r\n"
        )
        own_port = connection.getsockname()[1]
        facts = json.loads(reader.read_response().content)
    assert facts["request"]["method"] == "GET"
    assert facts["request"]["path"] == "/info"
    assert facts["request"]["query"] == "a=1&b=%20"
    assert facts["request"]["version"] == "HTTP/1.1"
    assert facts["request"]["fields"]["Host"] == "a.example"
    assert re.fullmatch("1, ?2", facts["request"]["fields"]["X-Two"])
    assert facts["connection"]["scheme"] == "http"
    assert facts["connection"]["client"] == ["127.0.0.1", str(own_port)]
    assert facts["connection"]["server"][1] == str(info.port)


def test_echo(info: Server) -> None:
    content = bytes(range(256)) * 100
    answer = info.request("POST", "/echo", content, {"Content-Type": "text/html"})
    assert (answer.status, answer.content) == (200, content)
    assert answer.field("Content-Type") == "text/plain; charset=utf-8"
    assert info.request("POST", "/echo", b"").content == b""
    refused = info.request("GET", "/echo")
    assert (refused.status, refused.field("Allow")) == (405, "POST")


def test_echo_of_chunks(info: Server) -> None:
    answer = requests.post(f"{info.url}/echo", data=iter([b"one ", b"two "] * 50), timeout=10)
    assert answer.content == b"one two " * 50


def test_echo_waits_for_the_word_to_go_on(info: Server) -> None:
    done = run_curl("--verbose", "-H", "Expect: 100-continue", "-d", "content", f"{info.url}/echo")
    assert done.stdout == "content"
    assert "< HTTP/1.1 100 Continue" in done.stderr


def test_too_much_to_echo(info: Server) -> None:
    answer = info.request("POST", "/echo", bytes((1 << 20) + 1))
    assert answer.status == 413


def test_json(info: Server) -> None:
    value: Any = {"name": "Jürgen", "list": [1, 2.5, None, True], "deep": {"a": {}}}
    answer = requests.post(f"{info.url}/json", json=value, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == value


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{'a': 1}", b"\xff", b"[" * 200_000, b"1" * 10_000]
)
def test_bad_json(info: Server, content: bytes) -> None:
    answer = info.request("POST", "/json", content)
    assert answer.status == 400
    assert answer.text.startswith("This is not JSON: ")


def test_slow_keeps_nobody_waiting(info: Server) -> None:
    slow = [info.connect() for _ in range(3)]
    try:
        for connection in slow:
            connection.sendall(b"GET /slow?seconds=2 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        for _ in range(10):
            assert info.request("GET", "/info").status == 200
        answered, _, _ = select.select(slow, [], [], 0)
        assert not answered, "ten quick requests had to wait for the slow ones"
        for connection in slow:
            with Reader(connection) as reader:
                assert reader.read_response().text.startswith("Slept for 2 s.")
    finally:
        for connection in slow:
            connection.close()


def test_slow_refuses_what_is_no_time(info: Server) -> None:
    for seconds in ("100", "-1", "1e9", "nan", "%D9%A3", "0.0001"):
        assert info.request("GET", f"/slow?seconds={seconds}").status == 400
    assert info.request("GET", "/slow?seconds=0").status == 200


def test_chunked(info: Server) -> None:
    answer = info.request("GET", "/chunked?chunks=4&seconds=0.01")
    assert answer.field("Transfer-Encoding") == "chunked"
    assert answer.field("Content-Length") is None
    assert answer.chunks == [f"chunk {n} of 4\n".encode() for n in range(1, 5)]


def test_chunks_come_when_they_are_made(info: Server) -> None:
    with info.connect() as connection:
        begun = time.monotonic()
        connection.sendall(b"GET /chunked?chunks=3&seconds=1 HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = b""
        arrived_s: dict[int, float] = {}
        while b"0\r\n\r\n" not in seen:
            seen += connection.recv(65536)
            for number in (1, 2, 3):
                if f"chunk {number} of 3\n".encode() in seen:
                    arrived_s.setdefault(number, time.monotonic() - begun)
    assert arrived_s[1] < arrived_s[2] < arrived_s[3], arrived_s
    assert arrived_s[3] >= 1.9, "the chunks were not spread over time"
    assert arrived_s[1] < arrived_s[3] - 1.0, "the first chunk was held back"


def test_chunked_for_an_http_1_0_client(info: Server) -> None:
    answer = info.exchange(b"GET /chunked?chunks=2&seconds=0 HTTP/1.0\r\n\r\n")
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert content == b"chunk 1 of 2\nchunk 2 of 2\n"


def test_info_finds_nothing_elsewhere(info: Server) -> None:
    for target in ("/../../../etc/passwd", "/%2e%2e/etc/passwd", "/nowhere"):
        answer = info.request("GET", target)
        assert answer.status in (400, 404)
        assert b"root:" not in answer.content
    assert b"/chunked" in info.request("GET", "/").content


# 4. The calculator


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        ("/add/2/3", "5"),
        ("/subtract/2/3", "-1"),
        ("/multiply/6/7", "42"),
        ("/divide/7/2", "3.5"),
        ("/divide/1/3", "0.3333333333333333"),
        ("/add/0.1/0.2", "0.3"),
        ("/add/-1/1", "0"),
        ("/multiply/99999999999999999999/99999999999999999999", "9" * 19 + "8" + "0" * 19 + "1"),
    ],
)
def test_calculator(calculator: Server, target: str, answer: str) -> None:
    response = calculator.request("GET", target)
    assert (response.status, response.text) == (200, f"{answer}\n")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/divide/1/0", 400),
        ("/divide/1/0.00", 400),
        ("/add/two/3", 400),
        ("/add/2", 400),
        ("/add/2/3/4", 400),
        ("/add//3", 400),
        ("/add/2/", 400),
        ("/add/1e9/1", 400),
        ("/add/nan/1", 400),
        ("/add/1_0/1", 400),
        ("/add/%D9%A3/1", 400),
        ("/add/2/3%0A", 400),
        ("/power/2/3", 404),
        ("/favicon.ico", 404),
    ],
)
def test_calculator_refuses(calculator: Server, target: str, status: int) -> None:
    response = calculator.request("GET", target)
    assert response.status == status
    assert response.text.endswith("\n")
    assert len(response.text) > 10, "the answer says what is wrong"


def test_calculator_api(calculator: Server) -> None:
    question: Any = {"operation": "divide", "operands": [7, 2]}
    answer = requests.post(f"{calculator.url}/calc", json=question, timeout=10)
    assert answer.status_code == 200
    assert answer.json() == {**question, "result": 3.5}
    exact = requests.post(
        f"{calculator.url}/calc",
        data='{"operation": "subtract", "operands": [10000000000000000000000.5, 0.5]}',
        timeout=10,
    )
    assert exact.json()["result"] == 10**22


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 4000, "not JSON"),
        (b"[]", "write {"),
        (b'{"operation": "add"}', "write {"),
        (b'{"operation": "power", "operands": [1, 2]}', "operation is one of add"),
        (b'{"operation": ["add"], "operands": [1, 2]}', "operation is one of add"),
        (b'{"operation": "add", "operands": "12"}', "list of numbers"),
        (b'{"operation": "add", "operands": [1, "2"]}', "list of numbers"),
        (b'{"operation": "add", "operands": [true, 2]}', "list of numbers"),
        (b'{"operation": "add", "operands": [1]}', "takes 2 operands, not 1"),
        (b'{"operation": "add", "operands": [NaN, 1]}', "is not a number"),
        (b'{"operation": "multiply", "operands": [1e999999999, 1]}', "is not a number"),
        (b'{"operation": "divide", "operands": [1, 0]}', "divided by zero"),
    ],
)
def test_calculator_api_refuses(calculator: Server, content: bytes, says: str) -> None:
    response = calculator.request("POST", "/calc", content)
    assert response.status == 400
    assert response.field("Content-Type") == "application/json"
    assert says in json.loads(response.content)["error"]


def test_calculator_methods(calculator: Server) -> None:
    refused = calculator.request("GET", "/calc")
    assert (refused.status, refused.field("Allow")) == (405, "POST")
    refused = calculator.request("POST", "/add/2/3", b"")
    assert (refused.status, refused.field("Allow")) == (405, "GET, HEAD")
    assert calculator.request("POST", "/calc", bytes(5000)).status == 413


def test_many_people_calculate_at_once(calculator: Server) -> None:
    connections = [calculator.connect() for _ in range(50)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(
                f"GET /multiply/{number}/{number} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode()
            )
        for number, connection in enumerate(connections):
            with Reader(connection) as reader:
                assert reader.read_response().text == f"{number * number}\n"
    finally:
        for connection in connections:
            connection.close()


# 5. The folder


def test_folder(folder: Server) -> None:
    listing = folder.request("GET", "/")
    assert listing.status == 200
    assert 'href="notes.txt"' in listing.text
    assert 'href="papers/"' in listing.text
    assert "escape" not in listing.text
    assert folder.request("GET", "/notes.txt").text == "Some notes\n"
    assert folder.request("GET", "/site/").text == "<h1>The index</h1>\n"
    assert 'href="a%20%26%20b.txt"' in folder.request("GET", "/papers/").text
    assert folder.request("GET", "/papers/a%20%26%20b.txt").text == "a and b\n"


def test_folder_by_curl(folder: Server) -> None:
    done = run_curl("--verbose", "--location", f"{folder.url}/site")
    assert "< HTTP/1.1 301 Moved Permanently" in done.stderr
    assert "< Location: /site/" in done.stderr
    assert done.stdout == "<h1>The index</h1>\n"
    done = run_curl("--head", f"{folder.url}/notes.txt")
    assert "Content-Length: 11" in done.stdout
    assert "Accept-Ranges: bytes" in done.stdout
    assert run_curl("--range", "5-9", f"{folder.url}/notes.txt").stdout == "notes"


def test_a_download_is_resumed(folder: Server, shelf: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (shelf / "big.bin").write_bytes(content)
    half = tmp_path / "big.bin"
    half.write_bytes(content[:500_000])
    run_curl("--continue-at", "-", "--output", str(half), f"{folder.url}/big.bin")
    assert half.read_bytes() == content


@pytest.mark.parametrize(
    "target",
    [
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/%252e%252e/%252e%252e/etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "/..%5c..%5cetc%5cpasswd",
        "/..\\..\\etc\\passwd",
        "/papers/../../etc/passwd",
        "//etc/passwd",
        "/escape/passwd",
        "/notes.txt%00.html",
        "/notes.txt/",
        "/notes.txt/..",
        "/./notes.txt",
    ],
)
def test_no_way_out_of_the_folder(folder: Server, target: str) -> None:
    done = run_curl("--write-out", "\n%{http_code}", folder.url + target)
    content, _, status = done.stdout.rpartition("\n")
    assert status in ("400", "404")
    assert "root:" not in content
    assert "Some notes" not in content


@pytest.mark.parametrize(
    "target",
    ["//evil.example/..", "//site", "/%2fsite", "/\\site", "///site/..%2f", "/site/../site"],
)
def test_no_redirect_to_another_host(folder: Server, target: str) -> None:
    answer = folder.request("GET", target)
    location = answer.field("Location")
    assert answer.status in (301, 400, 404)
    assert location is None or re.match("/[^/\\\\]", location), location


def test_nothing_can_be_written(folder: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = folder.request(method, "/notes.txt", b"x")
        assert (answer.status, answer.field("Allow")) == (405, "GET, HEAD")


def test_the_current_folder_is_the_default(shelf: Path) -> None:
    with serve(str(EXAMPLES / "folder.py"), cwd=shelf) as server:
        assert server.request("GET", "/notes.txt").text == "Some notes\n"


# The README


def read_sections() -> dict[str, str]:
    """Return what examples/README.md says about each example, by the name of its file."""
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^## `(\w+\.py)`.*$", readme, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def read_commands(text: str) -> list[tuple[str, str]]:
    """Return each curl command of the console blocks, with what is shown below it."""
    commands = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            if command.startswith("curl "):
                commands.append((command.partition("  #")[0].strip(), shown.strip()))
    return commands


def test_every_example_is_explained() -> None:
    assert set(read_sections()) == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", ["hello", "pages", "info", "calculator"])
def test_the_commands_of_the_readme(name: str) -> None:
    commands = read_commands(read_sections()[f"{name}.py"])
    assert len(commands) >= 2
    with serve(f"{name}:app", cwd=EXAMPLES) as server:
        for command, shown in commands:
            # The person may watch it sleep; the test need not.
            quick = re.sub(r"seconds=\d+", "seconds=0", command)
            done = subprocess.run(
                ["sh", "-c", quick.replace("127.0.0.1:3000", f"127.0.0.1:{server.port}")],
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=True,
            )
            assert done.stdout, command
            if shown:
                assert done.stdout.strip() == shown, command
