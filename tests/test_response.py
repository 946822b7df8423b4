"""Response heads: what an application may say, how the end of its content is told, refusals."""

from __future__ import annotations

import enum
import itertools
from typing import Any

import pytest

from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import CLOSED, HEAD, HTTP1
from rawsgi.protocol.message import Limits, ProtocolError, ResponseError
from rawsgi.protocol.response import HeadEncoder, explain_refusal, reason_phrase
from tests.conversation import DATE_LINE

SERVER_LINE = b"Server: rawsgi\r\n"


def make_encoder() -> HeadEncoder:
    encoder = HeadEncoder()
    encoder.date_line = DATE_LINE
    return encoder


# -- What the application gives ----------------------------------------------------------------


class Text(str):
    """What an application may use for str: it shows itself as something else."""

    def __str__(self) -> str:
        return "injected\r\nX-Evil: 1"

    def __format__(self, spec: str) -> str:
        return "injected\r\nX-Evil: 1"


class Colour(str, enum.Enum):  # noqa: UP042 (what applications have, and formats differently)
    RED = "red"


# the field list, the lines that are sent, the Content-Length, close, what was dropped
FIELDS: dict[str, tuple[Any, list[bytes], int | None, bool, list[str]]] = {
    "none": ([], [], None, False, []),
    "as they are": (
        [("Content-Type", "text/html"), ("x-a", ""), ("SET-COOKIE", "a"), ("Set-Cookie", "b")],
        [b"Content-Type: text/html\r\n", b"x-a: \r\n", b"SET-COOKIE: a\r\n", b"Set-Cookie: b\r\n"],
        None, False, [],
    ),
    "latin-1": ([("X", "\u00e9\t\u00ff")], [b"X: \xe9\t\xff\r\n"], None, False, []),
    "a tuple of them": ((("X", "1"),), [b"X: 1\r\n"], None, False, []),
    "lists instead of tuples": (
        [["X", "1"], ("Y", "2")], [b"X: 1\r\n", b"Y: 2\r\n"], None, False, [],
    ),
    "a str of another kind": (
        [(Text("X"), Text("1")), ("Y", Colour.RED)], [b"X: 1\r\n", b"Y: red\r\n"], None, False, [],
    ),
    "a length": ([("content-LENGTH", "013")], [], 13, False, []),
    "the same length twice": ([("Content-Length", "0"), ("content-length", "0")], [], 0, False, []),
    "close": ([("Connection", "Close")], [], None, True, []),
    "close in a list": ([("Connection", "x, close")], [], None, True, []),
    "keep-alive": ([("Connection", "keep-alive, closed")], [], None, False, []),
    "hop-by-hop": (
        [("Transfer-Encoding", "chunked"), ("Keep-Alive", "1"), ("Upgrade", "h2"), ("TE", "")],
        [], None, False, ["Transfer-Encoding", "Keep-Alive", "Upgrade", "TE"],
    ),
}  # fmt: skip

BROKEN_FIELDS: dict[str, Any] = {
    "a line feed in a value": [("X", "a\nb")],
    "a carriage return in a value": [("X", "a\rb")],
    "a NUL in a value": [("X", "\x00")],
    "an escape in a value": [("X", "\x1b[31m")],
    "beyond latin-1": [("X", "\u20ac")],
    "a colon in a name": [("X:", "a")],
    "a space in a name": [("X ", "a")],
    "a line end in a name": [("X\r\nY", "a")],
    "an empty name": [("", "a")],
    "a name beyond ASCII": [("\u00e9", "a")],
    "bytes for a name": [(b"X", "a")],
    "bytes for a value": [("X", b"a")],
    "a number": [("X", 1)],
    "None": [("X", None)],
    "three": [("X", "a", "b")],
    "one": [("X",)],
    "a str": ["ab"],
    "a dict": {"ab": "c"},
    "a list of numbers": [1],
    "a list in a list in a list": [[["X"], "a"]],
    "lists and a number": [["X", "a"], 5],
    "no list": 5,
    "nothing": None,
    "a length with letters": [("Content-Length", "x")],
    "a length with a sign": [("Content-Length", "+1")],
    "an empty length": [("Content-Length", "")],
    "a length of many digits": [("Content-Length", "1" * 19)],
    "two lengths": [("Content-Length", "1"), ("Content-Length", "2")],
    "a list of lengths": [("Content-Length", "1, 1")],
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    fields, lines, length, close, dropped = FIELDS[name]
    encoder = make_encoder()
    for _ in range(2):  # the second time from the cache
        found = encoder.encode("200 OK", fields)
        head = [b"HTTP/1.1 200 OK\r\n", *lines, DATE_LINE, SERVER_LINE]
        assert found == (200, head, length, close, dropped)


@pytest.mark.parametrize("name", BROKEN_FIELDS)
def test_broken_fields(name: str) -> None:
    encoder = make_encoder()
    for _ in range(2):
        with pytest.raises(ResponseError):
            encoder.encode("200 OK", BROKEN_FIELDS[name])
    assert all("\n" not in value for _, value in encoder._fields)


def test_application_may_say_date_and_server_itself() -> None:
    fields = [("Date", "today"), ("server", "mine")]
    lines = make_encoder().encode("200 OK", fields)[1]
    assert lines == [b"HTTP/1.1 200 OK\r\n", b"Date: today\r\n", b"server: mine\r\n"]
    assert HeadEncoder("").encode("200 OK", [])[1] == [b"HTTP/1.1 200 OK\r\n", b"", b""]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("200 OK", b"HTTP/1.1 200 OK\r\n"),
        ("200 ", b"HTTP/1.1 200 \r\n"),
        ("200", b"HTTP/1.1 200 \r\n"),
        ("599 My \u00e9\tway", b"HTTP/1.1 599 My \xe9\tway\r\n"),
        (Text("404 Not Found"), b"HTTP/1.1 404 Not Found\r\n"),
        # RFC 9110 section 15: no valid statuses, but the application's to say
        ("600 No", b"HTTP/1.1 600 No\r\n"),
        ("999 Message here", b"HTTP/1.1 999 Message here\r\n"),
        *(
            (status, None)
            for status in [
                "", "20", "2000", "OK", "200OK", "099 No", "100 Continue", "101 Switch",
                "200 O\r\nX: 1", "200 O\nK", "200 \x00", "200 \u20ac", "+200 OK",
                "\u0662\u0660\u0660", 200, None, b"200 OK", ["200 OK"], ("200 OK",), {},
            ]
        ),
    ],
    ids=repr,
)  # fmt: skip
def test_status(status: Any, line: bytes | None) -> None:
    encoder = make_encoder()
    for _ in range(2):
        if line is None:
            with pytest.raises(ResponseError):
                encoder.encode(status, [])
        else:
            code, lines, *_ = encoder.encode(status, [])
            assert (b"HTTP/1.1 %d" % code, lines[0]) == (line[:12], line)
    assert all("\n" not in text and type(text) is str for text in encoder._statuses)


def test_caches_are_bounded() -> None:
    """An application may give another value each time, and values of any length."""
    encoder = make_encoder()
    for number in range(3000):
        encoder.encode(f"200 {number}", [("X", str(number)), ("Y", "a" * 300)])
        encoder.encode("200 " + "b" * 300, [])
    assert len(encoder._fields) <= 1024
    assert len(encoder._statuses) <= 256
    assert all(len(name) + len(value) <= 256 for name, value in encoder._fields)
    assert all(len(status) <= 256 for status in encoder._statuses)


# -- How the end of the content is told --------------------------------------------------------


def respond(
    method: str,
    version: str,
    status: str,
    fields: list[tuple[str, str]],
    known: int | None,
    blocks: list[bytes],
) -> tuple[HTTP1, list[bytes], bytes]:
    """Return the connection, the lines of the response's head (but three), and what followed."""
    connection = HTTP1(HeadParser(Limits()), make_encoder())
    keep = b"" if version == "1.1" else b"Connection: keep-alive\r\n"
    request = f"{method} / HTTP/{version}\r\nHost: a\r\n".encode() + keep + b"\r\n"
    assert connection.receive(request) is not None
    data = connection.send_head(connection.encode_head(status, fields), known)
    for block in blocks:
        data += connection.send_data(block)
    data += connection.send_end()
    head, _, content = data.partition(b"\r\n\r\n")
    return connection, head.split(b"\r\n")[3:], content


CHUNKED_LINE = b"Transfer-Encoding: chunked"
KEEP_LINE = b"Connection: keep-alive"
CLOSE_LINE = b"Connection: close"
HELLO = [b"hel", b"", b"lo"]
CHUNKS = b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"

# method, version, status, declared and known length; then the lines about framing, the content,
# whether the connection stays.
FRAMING: list[tuple[str, str, str, int | None, int | None, list[bytes], bytes, bool]] = [
    ("GET", "1.1", "200 OK", None, None, [CHUNKED_LINE], CHUNKS, True),
    ("GET", "1.1", "200 OK", 5, None, [b"Content-Length: 5"], b"hello", True),
    ("GET", "1.1", "200 OK", None, 5, [b"Content-Length: 5"], b"hello", True),
    ("GET", "1.1", "200 OK", 5, 7, [b"Content-Length: 5"], b"hello", True),
    ("GET", "1.1", "200 OK", 3, None, [b"Content-Length: 3"], b"hel", True),
    ("GET", "1.1", "200 OK", 0, None, [b"Content-Length: 0"], b"", True),
    ("GET", "1.1", "200 OK", 7, None, [b"Content-Length: 7"], b"hello", False),
    ("GET", "1.0", "200 OK", None, None, [CLOSE_LINE], b"hello", False),
    ("GET", "1.0", "200 OK", 5, None, [b"Content-Length: 5", KEEP_LINE], b"hello", True),
    ("GET", "1.0", "200 OK", 7, None, [b"Content-Length: 7", KEEP_LINE], b"hello", False),
    ("HEAD", "1.1", "200 OK", None, None, [], b"", True),
    ("HEAD", "1.1", "200 OK", 5, None, [b"Content-Length: 5"], b"", True),
    ("HEAD", "1.1", "200 OK", 500, None, [b"Content-Length: 500"], b"", True),
    ("HEAD", "1.1", "200 OK", None, 5, [b"Content-Length: 5"], b"", True),
    ("HEAD", "1.0", "200 OK", None, None, [KEEP_LINE], b"", True),
    ("HEAD", "1.1", "304 Not Modified", 5, None, [b"Content-Length: 5"], b"", True),
    ("GET", "1.1", "204 No Content", None, None, [], b"", True),
    ("GET", "1.1", "204 No Content", 5, None, [], b"", True),
    ("GET", "1.1", "204 No Content", None, 5, [], b"", True),
    ("GET", "1.0", "204 No Content", None, None, [KEEP_LINE], b"", True),
    ("GET", "1.1", "205 Reset Content", None, None, [b"Content-Length: 0"], b"", True),
    ("GET", "1.1", "205 Reset Content", 5, 5, [b"Content-Length: 0"], b"", True),
    ("GET", "1.0", "205 Reset Content", 5, None, [b"Content-Length: 0", KEEP_LINE], b"", True),
    ("GET", "1.1", "304 Not Modified", None, None, [], b"", True),
    ("GET", "1.1", "304 Not Modified", 5, None, [b"Content-Length: 5"], b"", True),
    ("GET", "1.1", "304 Not Modified", None, 5, [], b"", True),
    ("GET", "1.1", "304 Not Modified", 0, None, [], b"", True),
    ("HEAD", "1.1", "304 Not Modified", 0, 0, [], b"", True),
    ("POST", "1.1", "404 Not Found", None, None, [CHUNKED_LINE], CHUNKS, True),
    ("GET", "1.1", "206 Partial Content", 5, None, [b"Content-Length: 5"], b"hello", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "version", "status", "declared", "known", "lines", "content", "stays"), FRAMING
)
def test_framing(
    method: str,
    version: str,
    status: str,
    declared: int | None,
    known: int | None,
    lines: list[bytes],
    content: bytes,
    stays: bool,
) -> None:
    fields = [] if declared is None else [("Content-Length", str(declared))]
    connection, head, sent = respond(method, version, status, fields, known, HELLO)
    assert head == lines
    assert sent == content
    assert connection.reusable == stays
    assert connection.finish() == stays
    assert connection.state == (HEAD if stays else CLOSED)
    cut_or_short = method == "GET" and status == "200 OK" and declared in (0, 3, 7)
    assert bool(connection.remarks) == cut_or_short
    assert bool(connection.reason_to_close) == (not stays)


def test_whole_response_is_what_its_parts_are() -> None:
    """A response of known content goes out in one piece, with the same bytes."""
    statuses = ["200 OK", "204 No Content", "205 Reset Content", "304 Not Modified", "500 No"]
    for method, version, status, declared, content in itertools.product(
        ["GET", "HEAD"], ["1.0", "1.1"], statuses, [None, 0, 3, 5, 9], [b"", b"hello"]
    ):
        fields = [] if declared is None else [("Content-Length", str(declared))]
        known = None if method == "HEAD" and not content else len(content)
        connection, head, sent = respond(method, version, status, fields, known, [content])
        other = HTTP1(HeadParser(Limits()), make_encoder())
        keep = "" if version == "1.1" else "Connection: keep-alive\r\n"
        other.receive(f"{method} / HTTP/{version}\r\nHost: a\r\n{keep}\r\n".encode())
        data = other.send_head(other.encode_head(status, fields), None, content)
        assert data.partition(b"\r\n\r\n")[0].split(b"\r\n")[3:] == head
        assert data.partition(b"\r\n\r\n")[2] == sent
        assert (other.reusable, other.remarks) == (connection.reusable, connection.remarks)


@pytest.mark.parametrize(
    ("method", "version", "status", "declared", "count", "expected"),
    [
        ("GET", "1.1", "200 OK", None, 5, -1),
        ("GET", "1.1", "200 OK", 5, 5, 5),
        ("GET", "1.1", "200 OK", 5, 9, 5),
        ("GET", "1.1", "200 OK", 5, 3, 3),
        ("GET", "1.0", "200 OK", None, 5, 5),
        ("HEAD", "1.1", "200 OK", 5, 5, 0),
        ("GET", "1.1", "204 No Content", None, 5, 0),
        ("GET", "1.1", "304 Not Modified", 5, 5, 0),
    ],
)
def test_claimed_data(
    method: str, version: str, status: str, declared: int | None, count: int, expected: int
) -> None:
    """What goes out by sendfile is counted as what goes out by send_data is."""
    connection = HTTP1(HeadParser(Limits()), make_encoder())
    connection.receive(f"{method} / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    fields = [] if declared is None else [("Content-Length", str(declared))]
    connection.send_head(connection.encode_head(status, fields), None)
    assert connection.claim_data(count) == expected
    assert not connection.remarks, "PEP 3333 lets a file be longer than its Content-Length"
    if declared is not None and method == "GET" and status == "200 OK":
        assert connection.wants_content == (expected < declared)
        connection.send_end()
        assert connection.reusable == (expected == declared)


@pytest.mark.parametrize(
    ("line", "fields", "reason"),
    [
        ("GET / HTTP/1.1", [], ""),
        ("GET / HTTP/1.1\r\nConnection: close", [], "the client asked for it"),
        ("GET / HTTP/1.0", [], "HTTP/1.0 without keep-alive"),
        ("GET / HTTP/1.1", [("Connection", "close")], "the application asked for it"),
        ("POST / HTTP/1.1\r\nContent-Length: 5", [], "content of the request is unread"),
    ],
)
def test_reuse(line: str, fields: list[tuple[str, str]], reason: str) -> None:
    """One decision, and the response says it."""
    connection = HTTP1(HeadParser(Limits()), make_encoder())
    connection.receive(f"{line}\r\nHost: a\r\n\r\n".encode())
    head = connection.send_head(
        connection.encode_head("200 OK", [("Content-Length", "0"), *fields])
    )
    assert connection.reason_to_close == reason
    assert connection.reusable == (not reason)
    assert (CLOSE_LINE in head) == bool(reason)
    assert connection.finish() == (not reason)


def test_broken_head_changes_nothing() -> None:
    """The 500 that follows is an answer like any other, and the connection goes on."""
    connection = HTTP1(HeadParser(Limits()), make_encoder())
    connection.receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for status, fields in [("200 OK", [("X", "\n")]), ("nonsense", []), ("200 OK", 5)]:
        with pytest.raises(ResponseError):
            connection.send_head(connection.encode_head(status, fields), None, b"secret")  # type: ignore[arg-type]
        assert (connection.code, connection.reusable) == (0, False)
    assert connection.send_head(connection.encode_head("500 No", []), None, b"x").endswith(
        b"\r\n\r\nx"
    )
    assert connection.reusable


# -- Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 408, 413, 414, 417, 431, 500, 501, 503, 504, 505, 507])
@pytest.mark.parametrize("with_content", [True, False])
def test_refusal(status: int, with_content: bool) -> None:
    error = ProtocolError(status, "it was \u00e9 wrong", "RFC 9112 section 3", "Do it right.", 7)
    data = make_encoder().encode_refusal(error, with_content)
    head, _, content = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == f"HTTP/1.1 {status} {reason_phrase(status)}".encode()
    text = (
        f"{status} {reason_phrase(status)}\nIt was \u00e9 wrong (byte 7 of the request).\n"
        "Do it right.\nSee RFC 9112 section 3.\n"
    )
    assert lines[1:] == [
        DATE_LINE.strip(), SERVER_LINE.strip(), *([b"Retry-After: 1"] if status == 503 else []),
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Length: %d" % len(text.encode()), b"Connection: close",
    ]  # fmt: skip
    assert content.decode() == (text if with_content else "")


def test_refusal_with_little_to_say() -> None:
    data = make_encoder().encode_refusal(ProtocolError(799, "why", "our own rule"), True)
    assert data.startswith(b"HTTP/1.1 799 \r\n")
    assert data.endswith(b"\r\n\r\n799 \nWhy.\n")


def test_refusal_of_content_tells_its_byte() -> None:
    error = ProtocolError(400, "a chunk is wrong", "RFC 9112 section 7.1")
    error.content_offset = 5
    assert "\nA chunk is wrong (byte 5 of the content).\n" in explain_refusal(error)
    assert str(error) == "400: a chunk is wrong at byte 5 of the content (RFC 9112 section 7.1)"


@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        (200, "OK"), (413, "Content Too Large"), (414, "URI Too Long"),
        (416, "Range Not Satisfiable"), (418, "I'm a Teapot"), (422, "Unprocessable Content"),
        (431, "Request Header Fields Too Large"), (505, "HTTP Version Not Supported"), (799, ""),
    ],
)  # fmt: skip
def test_reason_phrase_is_the_same_under_every_python(code: int, phrase: str) -> None:
    assert reason_phrase(code) == phrase
