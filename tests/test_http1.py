"""One connection: its states and events, its messages in turn, its bounds, its end."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from rawsgi.protocol.http1 import CLOSED, COMPLETE, CONTENT, HEAD, HTTP1
from rawsgi.protocol.message import CHUNKED, Limits, ProtocolError
from tests.conversation import (
    Conversation,
    choose_seed,
    cut_at_random,
    cut_in_every_way,
    make_connection,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 [0-9]{3} ")
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the method, the target and the content."""
    start_response("200 OK", [])
    text = f"{environ['REQUEST_METHOD']} {environ['REQUEST_URI']} ".encode("latin-1")
    return [text + environ["wsgi.input"].read()]


# -- States and events -------------------------------------------------------------------------

# How each state is reached: with nothing, with part of a message, and with more than a message.
SITUATIONS: dict[str, tuple[list[bytes], int, bool]] = {
    # what was received, the state then, whether a head has begun
    "new": ([], HEAD, False),
    "an empty line": ([b"\r\n"], HEAD, False),
    "part of an empty line": ([b"\r"], HEAD, True),
    "part of a request-line": ([b"GE"], HEAD, True),
    "part of a head": ([GET[:20]], HEAD, True),
    "a head": ([POST], CONTENT, False),
    "part of the content": ([POST + b"he"], CONTENT, False),
    "part of a chunk": ([CHUNKED_POST + b"5\r\nhe"], CONTENT, False),
    "a request": ([GET], COMPLETE, False),
    "a request and its content": ([POST + b"hello"], COMPLETE, False),
    "a request and part of the next": ([GET + b"GET"], COMPLETE, False),
    "two requests": ([GET + GET], COMPLETE, False),
}


def reach(situation: str) -> HTTP1:
    connection = make_connection()
    for data in SITUATIONS[situation][0]:
        feed(connection, data)
    return connection


def feed(connection: HTTP1, data: bytes) -> bytes:
    """Receive as `net.connection` does, up to one whole request; return its content."""
    content = b""
    if connection.state == HEAD:
        connection.receive(data)
        data = b""
    if connection.state == CONTENT:
        content = connection.receive_content(data)
    return content


@pytest.mark.parametrize("situation", SITUATIONS)
def test_situation(situation: str) -> None:
    _, state, begun = SITUATIONS[situation]
    connection = reach(situation)
    assert (connection.state, connection.begun) == (state, begun)
    assert (connection.request is not None) == (state != HEAD)
    assert connection.content_unread == (state == CONTENT)
    assert not connection.reusable


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_received_changes_nothing(situation: str) -> None:
    _, state, begun = SITUATIONS[situation]
    connection = reach(situation)
    if state == HEAD:
        assert connection.receive(b"") is None
    elif state == CONTENT:
        assert connection.receive_content(b"") == b""
    assert (connection.state, connection.begun) == (state, begun)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_end_of_input(situation: str) -> None:
    """Silence between requests is an end; within a request it is a mistake."""
    _, state, begun = SITUATIONS[situation]
    connection = reach(situation)
    if state == COMPLETE:
        return  # the peer half-closed: it is looked for when the response is out
    if begun or state == CONTENT:
        with pytest.raises(ProtocolError) as caught:
            connection.receive_eof()
        assert caught.value.status == 400
        assert connection.refuse(caught.value).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    else:
        connection.receive_eof()
    assert connection.state == CLOSED


@pytest.mark.parametrize("situation", SITUATIONS)
def test_refused_in_any_state(situation: str) -> None:
    """A timeout or a full queue refuses, too; what was received is forgotten."""
    connection = reach(situation)
    data = connection.refuse(ProtocolError(408, "too late", "RFC 9110 section 15.5.9"))
    assert data.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in data
    assert (connection.state, connection.code) == (CLOSED, 408)
    assert not connection.reusable
    assert connection.buffer is None
    assert "too late" in connection.reason_to_close


@pytest.mark.parametrize("situation", SITUATIONS)
def test_shut_down_in_any_state(situation: str) -> None:
    """What was begun is answered, and the answer says that it is the last."""
    _, state, _ = SITUATIONS[situation]
    connection = reach(situation)
    connection.shutdown()
    rest = {HEAD: GET, CONTENT: b"hello", COMPLETE: b""}[state]
    if situation in ("part of a request-line", "part of a head", "part of an empty line"):
        rest = (b"\r\n" + GET if situation[-4:] == "line" and "empty" in situation else GET)[
            len(SITUATIONS[situation][0][0]) :
        ]
    if "chunk" in situation:
        rest = b"llo\r\n0\r\n\r\n"
    feed(connection, rest)
    assert connection.state == COMPLETE
    head = connection.send_head(connection.encode_head("200 OK", []), 0)
    assert b"\r\nConnection: close\r\n" in head
    assert connection.reason_to_close == "the server is stopping"
    assert not connection.finish()
    assert connection.state == CLOSED


def test_shut_down_after_the_head_went_out() -> None:
    """The client was told that it may go on: its next request has an answer, the last one."""
    connection = reach("two requests")
    assert b"Connection" not in connection.send_head(connection.encode_head("200 OK", []), 0)
    connection.shutdown()
    assert connection.finish()
    assert connection.receive(b"") is not None
    assert b"\r\nConnection: close\r\n" in connection.send_head(
        connection.encode_head("200 OK", []), 0
    )
    assert not connection.finish()


def test_response_that_was_abandoned_closes() -> None:
    connection = reach("a request")
    connection.send_head(connection.encode_head("200 OK", []), 5)
    connection.send_data(b"he")
    connection.abandon("the application failed")
    assert (connection.reusable, connection.reason_to_close) == (False, "the application failed")
    assert not connection.finish()


def test_request_without_a_response_closes() -> None:
    """The decision of the last response must not speak for the next."""
    connection = reach("two requests")
    connection.send_head(connection.encode_head("200 OK", []), 0)
    assert connection.finish()
    assert connection.receive(b"") is not None
    assert not connection.finish()


# -- Messages in turn --------------------------------------------------------------------------

STREAM = b"".join(
    [
        b"\r\n",
        GET,
        POST + b"hello",
        b"\r\n\r\n\r\n\r\n",
        CHUNKED_POST + b"5\r\nhello\r\n1;a\r\n!\r\n0\r\nX: y\r\n\r\n",
        b"HEAD /3 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n",
        b"PUT /4 HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
        b"GET /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
)


def test_stream_of_requests_is_answered_alike_however_it_is_cut() -> None:
    generator = random.Random(choose_seed())
    expected = [b"GET / ", b"POST / hello", b"POST / hello!", None, b"PUT /4 x", b"GET /5 "]
    whole: bytes | None = None
    ways = [*cut_in_every_way(STREAM, generator)]
    ways += [("at random", cut_at_random(STREAM, generator)) for _ in range(200)]
    for way, pieces in ways:
        talk = Conversation(echo, Limits())
        for piece in pieces:
            talk.feed(piece)
        assert talk.closed
        output = bytes(talk.output)
        if whole is None:
            heads = [part.partition(b"\r\n\r\n") for part in output.split(b"HTTP/1.1 200 OK\r\n")]
            contents = [content for _, _, content in heads[1:]]
            assert contents == [content or b"" for content in expected]
            whole = output
        assert output == whole, way


@pytest.mark.parametrize(
    "parts", [[b"\r\n", GET], [b"\r", b"\n" + GET], [b"\r\n", GET[:5], GET[5:]]]
)
def test_empty_line_that_comes_alone_is_soon_forgotten(parts: list[bytes]) -> None:
    """Some clients end their content with one. It counts for the next request, and not for all."""
    talk = Conversation(echo, Limits())
    for _ in range(20):
        for part in parts:
            talk.feed(part)
        assert not talk.closed
        assert talk.idle
    assert talk.output.count(b"HTTP/1.1 200 OK") == 20


def test_bytes_of_the_next_request_stay_in_the_buffer() -> None:
    """The socket will not announce them: `buffer` is how the loop knows."""
    connection = reach("a request and part of the next")
    assert bytes(connection.buffer or b"") == b"GET"
    connection.send_head(connection.encode_head("200 OK", []), 0)
    assert connection.finish()
    assert connection.receive(GET[3:]) is not None
    connection.send_head(connection.encode_head("200 OK", []), 0)
    assert connection.finish()
    assert connection.buffer is None, "an idle connection holds no memory"


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    "rest",
    [
        b" / HTTP/1.1\r\n\r\n",
        b" / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        b" / HTTP/3.0\r\n",
        b" /#x HTTP/1.1\r\n",
        b" /" + b"a" * 9000,
        b" / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b" / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b" / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"a" * 70000,
    ],
    ids=lambda rest: repr(rest[:40]),
)
@pytest.mark.parametrize("before", [b"", b"\r\n", GET])
def test_refusal_of_head_has_no_content(method: bytes, rest: bytes, before: bytes) -> None:
    generator = random.Random(choose_seed())
    for way, pieces in cut_in_every_way(before + method + rest, generator):
        talk = Conversation(echo, Limits())
        for piece in pieces:
            talk.feed(piece)
        assert talk.closed, way
        start = [match.start() for match in STATUS_LINE.finditer(talk.output)][-1]
        head, _, content = bytes(talk.output[start:]).partition(b"\r\n\r\n")
        assert b"Content-Length: " in head, way
        assert (content == b"") == (method == b"HEAD"), way


def test_nothing_is_read_after_a_refusal() -> None:
    talk = Conversation(echo, Limits())
    talk.feed(GET + b"GET / HTTP/1.1\r\n\r\n" + GET)
    talk.feed(GET)
    assert len(STATUS_LINE.findall(talk.output)) == 2
    assert talk.protocol.state == CLOSED
    assert talk.protocol.buffer is None


def test_relaxation_that_the_content_needs_is_told_with_the_request() -> None:
    for data, relaxed in [
        (CHUNKED_POST + b"1\na\n0\n\n", ("bare-lf",)),
        (CHUNKED_POST.replace(b"\r\n", b"\n") + b"1\na\n0\n\n", ("bare-lf",)),
        (CHUNKED_POST + b"1\r\na\r\n0\r\n\r\n", ()),
    ]:
        connection = make_connection(None, "bare-lf")
        feed(connection, data)
        assert connection.state == COMPLETE
        assert connection.request is not None
        assert connection.request.relaxed == relaxed


# -- Bounds ------------------------------------------------------------------------------------


def test_content_is_passed_on_and_not_gathered() -> None:
    connection = make_connection()
    connection.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    piece = b"a" * 1000
    for _ in range(999):
        assert connection.receive_content(piece) is piece, "the bulk of an upload is not copied"
        assert not connection.buffer
    assert connection.receive_content(piece + b"GET") == piece
    assert connection.state == COMPLETE
    assert bytes(connection.buffer or b"") == b"GET"


@pytest.mark.parametrize(
    ("beginning", "endless"),
    [
        (b"", b"A"),
        (b"", b"\r\n"),
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\n", b"X: 1\r\n"),
        (b"GET / HTTP/1.1\r\nX: ", b"a"),
        (CHUNKED_POST, b"0"),
        (CHUNKED_POST, b"1\r\nx\r\n"),
        (CHUNKED_POST + b"1", b";a=b"),
        (CHUNKED_POST, b"1;a=b\r\nx\r\n"),
        (CHUNKED_POST + b"0\r\n", b"X: 1\r\n"),
        (CHUNKED_POST + b"0\r\nX: ", b"a"),
    ],
    ids=lambda data: repr(data[-16:]),
)
@pytest.mark.parametrize("read_bytes", [1, 1000, 65536])
def test_buffer_stays_within_the_limits_and_one_read(
    beginning: bytes, endless: bytes, read_bytes: int
) -> None:
    """Whatever a peer repeats without end is refused, and held in memory only so far."""
    limits = Limits(content_bytes=1 << 16)
    connection = make_connection(limits)
    bound = limits.head_bytes + read_bytes
    stream = beginning + endless * (800_000 // len(endless))
    for start in range(0, len(stream), read_bytes):
        try:
            feed(connection, stream[start : start + read_bytes])
        except ProtocolError as error:
            assert error.status in (400, 413, 414, 431)
            return
        assert len(connection.buffer or b"") <= bound
    raise AssertionError("it was never refused")


def measure(function: Callable[[], None]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


@pytest.mark.parametrize("allow", [(), ("bare-lf", "missing-host")])
@pytest.mark.parametrize(
    "request_bytes",
    [
        GET,
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        POST + b"hello",
        CHUNKED_POST + b"1\r\na\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\n\n",
    ],
    ids=repr,
)
def test_many_requests_in_one_buffer_are_linear_work(
    request_bytes: bytes, allow: tuple[str, ...]
) -> None:
    """A request costs the same, however many wait behind it."""
    if request_bytes.endswith(b"\n\n") and not allow:
        return

    def run(count: int) -> None:
        connection = make_connection(None, *allow)
        data = request_bytes * count
        for _ in range(count):
            feed(connection, data)
            assert connection.state == COMPLETE
            connection.send_head(connection.encode_head("200 OK", []), None, b"")
            assert connection.finish()
            data = b""
        assert not connection.buffer

    run(10)
    small = min(measure(lambda: run(500)) for _ in range(3))
    large = min(measure(lambda: run(8000)) for _ in range(3))
    assert large < 16 * small * 4 + 0.02


def test_endless_chunks_cost_no_memory() -> None:
    """Content in chunks of one byte, in reads of 64 KiB."""
    connection = make_connection()
    request = connection.receive(CHUNKED_POST)
    assert request is not None and request.content_length == CHUNKED
    piece = b"\r\na\r\n1" * 10_922
    assert connection.receive_content(b"1") == b""
    total = 0
    while total < 1_000_000:
        total += len(connection.receive_content(piece))
        assert len(connection.buffer or b"") < 10
    assert total % 10_922 == 0
