"""`--wire`: what is shown is what was on the wire, harmless to any terminal, and explained.

The scanner and the transcript are fed by hand; the rest is a real server, whose stderr is read.
"""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawsgi.compare.exchanges import load_corpus
from rawsgi.compare.replay.replayer import Replayer
from rawsgi.config import Settings
from rawsgi.protocol.http1 import COMPLETE
from rawsgi.protocol.message import RELAXATIONS, ProtocolError
from rawsgi.wire.conversation import Conversation
from rawsgi.wire.facts import Facts, Link
from rawsgi.wire.observation import plan_observation
from rawsgi.wire.scanner import (
    CHUNK_DATA,
    CHUNK_END,
    CHUNK_SIZE,
    CONTENT,
    EMPTY_LINE,
    FIELD_LINE,
    HEAD_END,
    START_LINE,
    TRAILER_END,
    TRAILER_LINE,
    Part,
    Scanner,
)
from rawsgi.wire.transcript.printer import Printer
from rawsgi.wire.transcript.style import Style
from rawsgi.wire.transcript.writer import Transcript
from rawsgi.wire.visible import show_bytes, show_text
from tests.conversation import choose_seed, cut_at_random, make_connection
from tests.serving import ROOT, Server, serve, wait_until
from tests.test_corpus import CORPUS, Running

APPLICATION = str(ROOT / "tests/applications/pep3333.py")
INFO = str(ROOT / "examples/info.py")
GET = b"GET /info HTTP/1.1\r\nHost: a.example\r\n\r\n"

# Bytes that look like HTTP more often than not.
FRAGMENTS = [
    b"GET / HTTP/1.1\r\n", b"POST /a HTTP/1.1\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 \r\n",
    b"Host: a\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Cookie: a=b;c",
    b"Set-Cookie: a=b; Path=/\n", b"\r\n", b"\n", b"abc", b"3\r\n", b"0\r\n", b" fold\r\n", b":",
    b"\x00\x1b", b"\xff", b"Content-Type: application/json\r\n", b'"token": "', b"password=", b"&",
    b"Upgrade: a\r\n",
]  # fmt: skip
streams = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=5), max_size=30).map(b"".join)


def scan(pieces: list[bytes], answers: str | None = None, shows: bool = True) -> list[Part]:
    """Scan messages, one after the other, to the end of the bytes."""
    parts: list[Part] = []
    scanner = Scanner(answers, shows)
    for piece in pieces:
        rest = piece
        while rest:
            parts += scanner.feed(rest)
            rest, scanner.rest = scanner.rest, b""
            if scanner.finished:
                scanner = Scanner(answers, shows)
    return parts + scanner.drain()


def join_content(parts: list[Part]) -> list[Part]:
    """Put pieces of content together: where they were cut says nothing."""
    joined: list[Part] = []
    for kind, data in parts:
        if joined and kind in (CONTENT, CHUNK_DATA) and joined[-1][0] == kind:
            joined[-1] = kind, joined[-1][1] + data
        else:
            joined.append((kind, data))
    return joined


# -- The scanner ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(streams, st.sampled_from([None, "GET", "HEAD"]), st.randoms())
def test_no_byte_is_lost_and_cutting_changes_nothing(
    data: bytes, answers: str | None, generator: random.Random
) -> None:
    whole = scan([data], answers)
    assert b"".join(part[1] for part in whole) == data
    cut = scan(cut_at_random(data, generator), answers)
    assert join_content(cut) == join_content(whole)
    masked = scan([data], answers, shows=False)
    assert [(kind, len(text)) for kind, text in masked] == [(k, len(text)) for k, text in whole]


def find_ends(data: bytes, *allow: str) -> tuple[list[int], bool]:
    """Where the server's own protocol finds the ends of the requests; was one refused?"""
    protocol = make_connection(None, *allow)
    ends = []
    rest = data
    try:
        while (request := protocol.receive(rest)) is not None:
            rest = b""
            if protocol.state != COMPLETE:
                protocol.receive_content(b"")
            if protocol.state != COMPLETE:
                break
            ends.append(len(data) - len(protocol.buffer or b""))
            request.keep_alive = True
            protocol.send_head(protocol.encode_head("200 OK", []), None, b"")
            if not protocol.finish():
                break
    except ProtocolError:
        return ends, True
    return ends, False


ALLOWED = ["bare-lf", "missing-host", "obs-fold", "underscores"]


@pytest.mark.parametrize("allow", [[], ALLOWED])
def test_it_finds_the_requests_that_the_server_accepts(allow: list[str]) -> None:
    """On every exchange of the corpus, in both settings."""
    requests = 0
    for exchange in load_corpus():
        data = exchange.sent()
        ends, _ = find_ends(data, *allow)
        at = 0
        for end in ends:
            scanner = Scanner()
            scanner.feed(data[at:])
            assert scanner.finished, exchange.id
            at = len(data) - len(scanner.rest)
            assert at == end, exchange.id
            requests += 1
    assert requests > 200


@settings(max_examples=300, deadline=None)
@given(streams)
def test_it_finds_the_requests_in_any_bytes(data: bytes) -> None:
    ends, _ = find_ends(data, *ALLOWED)
    at = 0
    for end in ends:
        scanner = Scanner()
        scanner.feed(data[at:])
        at = len(data) - len(scanner.rest)
        assert scanner.finished and at == end


def test_the_parts_of_a_request() -> None:
    head = b"\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = scan([head + b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\nGET"])
    assert [kind for kind, _ in parts] == [
        EMPTY_LINE, START_LINE, FIELD_LINE, HEAD_END, CHUNK_SIZE, CHUNK_DATA, CHUNK_END,
        CHUNK_SIZE, TRAILER_LINE, TRAILER_END, START_LINE,
    ]  # fmt: skip


def test_zeros_may_stand_in_front_of_a_chunk_size() -> None:
    parts = scan([b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                  b"%021x\r\nabc\r\n0\r\n\r\n" % 3])  # fmt: skip
    assert (CHUNK_DATA, b"abc") in parts
    assert parts[-1] == (TRAILER_END, b"\r\n")


def test_an_endless_line_is_not_kept() -> None:
    scanner = Scanner()
    scanner.feed(b"GET / HTTP/1.1\r\nCookie: secret=")
    parts = []
    for _ in range(40):
        parts += scanner.feed(b"s3cret! " * 1024)
        assert len(scanner._buffer) <= 1 << 17
    parts += scanner.feed(b"\r\n\r\n")
    assert sum(len(text) for _, text in parts) == 9 + 40 * 8192 + 4 + 6
    assert b"s3cret" not in b"".join(text for _, text in parts)
    assert scanner.head_complete


# -- Secrets --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(["Cookie", "cookie", "Set-Cookie", "Authorization", "Proxy-Authorization"]),
       st.from_regex(r"[a-z]{0,3}(=|; |,| |\t|\"|: ?)?", fullmatch=True))  # fmt: skip
def test_a_secret_never_gets_through(name: str, before: str) -> None:
    line = f"{name}: {before}=S3CRET; S3CRET, S3CRET\r\n".encode()
    folded = b"GET / HTTP/1.1\r\n" + line + b" S3CRET\r\n\tS3CRET\r\nHost: a\r\n\r\n"
    parts = scan([folded], shows=False)
    assert b"S3CRET" not in b"".join(text for _, text in parts).replace(b"S3CRET=", b"")
    assert parts[-2][1] == b"Host: a\r\n"


# -- Visible bytes --------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(), st.binary())
def test_every_byte_is_shown_and_different_bytes_differ(one: bytes, other: bytes) -> None:
    text = show_bytes(one)
    assert text.isascii() and (text.isprintable() or not text)
    assert (text == show_bytes(other)) == (one == other)


@settings(deadline=None)
@given(st.text())
def test_a_sentence_is_harmless(text: str) -> None:
    shown = show_text(text)
    assert shown.isascii() and (shown.isprintable() or not shown)


# -- The transcript -------------------------------------------------------------------------------


class Client:
    """A conversation without a server: what it says comes out as text."""

    def __init__(self, **style: Any) -> None:
        self.texts: list[str] = []
        self.transcript = Transcript(self.texts.append, Style(**style))
        link = Link(1, ("127.0.0.1", "5"), ("127.0.0.1", "80"))
        self.conversation = Conversation(link, [self.transcript])

    def exchange(self, request: bytes, response: bytes, reason: str = "") -> None:
        self.conversation.received(request)
        self.conversation.sent(response)
        self.conversation.finish(reason, [], True)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def lines(self, mark: str) -> list[str]:
        """What follows `#1.1 MARK `, without the notes on time."""
        found = re.findall(rf"^#1\S* \{mark} (.*)$", self.text, re.MULTILINE)
        return [line for line in found if not line.startswith("times in ms")]


def test_a_whole_exchange() -> None:
    client = Client()
    client.exchange(GET, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none\ntw")
    client.conversation.close("the server is stopping")
    text = re.sub(r"(accept|head|byte) \d+\.\d", r"\1 0.1", client.text)
    assert (
        text
        == r"""#1 * 127.0.0.1:5 connected to 127.0.0.1:80
#1.1 > GET /info HTTP/1.1\r\n
#1.1 > Host: a.example\r\n
#1.1 > \r\n
#1.1 < HTTP/1.1 200 OK\r\n
#1.1 < Content-Length: 6\r\n
#1.1 < \r\n
#1.1 < one\n
#1.1 < tw
#1.1 * framed by Content-Length because all content was there when the head was sent
#1.1 * kept alive because nobody said close in HTTP/1.1 (RFC 9112 section 9.3)
#1.1 * times in ms: accept 0.1, head 0.1, first byte 0.1, last byte 0.1
#1 * the server closed the connection: the server is stopping
"""
    )


def respond(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content


def respond_in_chunks(chunks: list[bytes]) -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def test_long_content_is_shortened_to_its_ends() -> None:
    client = Client()
    content = b"".join(b"line %05d\n" % number for number in range(10_000))
    client.exchange(GET, respond(content))
    shown = client.lines("<")[3:]
    assert shown[0] == r"line 00000\n"
    assert shown[-1].endswith(r"line 09999\n")
    assert "... 108,848 bytes not shown (--wire-full shows all) ..." in shown
    assert len(client.text) < 4000


def test_all_content_is_shown_if_asked_for() -> None:
    client = Client(full=True)
    content = random.Random(3).randbytes(300_000)
    client.exchange(GET, respond(content))
    shown = "".join(client.lines("<")[3:])
    assert shown == show_bytes(content)
    # It was not kept until the end.
    assert max(map(len, client.texts)) < 200_000


def test_chunks_are_shown_with_their_framing() -> None:
    client = Client()
    client.exchange(GET, respond_in_chunks([b"one", b"two\n"]))
    assert client.lines("<")[3:] == [
        r"3\r\n  (chunk of 3 bytes)", "one", r"\r\n",
        r"4\r\n  (chunk of 4 bytes)", r"two\n", r"\r\n",
        r"0\r\n  (last chunk)", r"\r\n",
    ]  # fmt: skip
    assert "framed in chunks because" in client.text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["received", "sent", "finish", "refuse", "call"]), streams)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 10, 60]),
)
def test_whatever_happens_is_told_in_printable_lines(
    events: list[tuple[str, bytes]], full: bool, errors_only: bool, columns: int
) -> None:
    client = Client(full=full, errors_only=errors_only, columns=lambda: columns)
    conversation = client.conversation
    for event, data in events:
        if event == "received":
            conversation.received(data)
        elif event == "sent":
            conversation.sent(data or b"x")
        elif event == "finish":
            conversation.finish("", [data.decode("latin-1")], True)
        elif event == "call":
            conversation.call(SimpleNamespace(relaxed=(), minor=1, content_length=0))  # type: ignore[arg-type]
        else:
            error = ProtocolError(400, "no", "RFC 9112", "Not so.", len(data))
            error.content_offset = len(data) if len(data) % 2 else None
            conversation.refuse(error)
    conversation.close("")
    assert conversation._sinks == [client.transcript]  # it has not given up
    for line in client.text.splitlines():
        assert line.isascii() and line.isprintable() and line.startswith("#1"), line


def test_many_chunks_are_counted() -> None:
    client = Client()
    client.exchange(GET, respond_in_chunks([b"abc"] * 50))
    shown = client.lines("<")[3:]
    assert shown[-3:] == ["... 42 more chunks, not shown ...", r"0\r\n  (last chunk)", r"\r\n"]
    assert shown.count("abc") == 8
    full = Client(full=True)
    full.exchange(GET, respond_in_chunks([b"abc"] * 50))
    assert full.lines("<").count("abc") == 50


def test_a_long_line_is_shortened() -> None:
    client = Client()
    request = b"GET / HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\n\r\n"
    client.exchange(request, respond(b""))
    assert client.lines(">")[1].endswith(r"x ... 3,979 bytes not shown ... \r\n")


def test_a_pipelined_request_waits_for_its_turn() -> None:
    client = Client()
    client.conversation.received(GET + GET.replace(b"info", b"next"))
    client.conversation.sent(respond(b"one"))
    assert "next" not in client.text
    client.conversation.finish("", [], True)
    client.conversation.sent(respond(b"two"))
    client.conversation.finish("", [], True)
    numbers = re.findall(r"^#1\.(\d)", client.text, re.MULTILINE)
    assert numbers == sorted(numbers) and set(numbers) == {"1", "2"}


def test_a_refusal_points_at_its_byte() -> None:
    client = Client()
    client.conversation.received(b"\r\nGET / HTTP/1.1\r\nHost\x1b: a\r\n")
    error = ProtocolError(400, "no colon", "RFC 9112 section 5", "Write: Host: a", 20)
    client.conversation.refuse(error)
    client.conversation.sent(respond(b"no"))
    client.conversation.shut()
    notes = client.lines("*")
    assert r"refused with 400 by RFC 9112 section 5: no colon" in notes
    mark = notes.index(r"  Host\x1b: a\r\n")
    assert notes[mark + 1] == r"      ^ byte 20 of the request, \x1b"
    assert notes[mark + 2] == "  Write: Host: a"
    client.conversation.received(b"more")
    client.conversation.close("")
    assert "4 bytes that came after the last request were ignored" in client.lines("*")


def test_a_mistake_in_chunks_is_pointed_at_in_the_content() -> None:
    client = Client()
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.conversation.received(head + b"5\r\nHello!\r\n")
    error = ProtocolError(400, "a chunk is too long", "RFC 9112 section 7.1", "Count it.", None)
    error.content_offset = 8
    client.conversation.refuse(error)
    client.conversation.close("")
    notes = client.lines("*")
    mark = notes.index(r"  Hello!\r\n")
    assert notes[mark + 1 : mark + 3] == ['       ^ byte 8 of the content, "!"', "  Count it."]


def test_a_mistake_in_a_secret_is_pointed_at_and_not_shown() -> None:
    client = Client()
    client.conversation.received(b"GET / HTTP/1.1\r\nCookie: a=s3\x00cret\r\n")
    error = ProtocolError(400, "a control character", "RFC 9110 section 5.5", "", 28)
    client.conversation.refuse(error)
    client.conversation.close("")
    assert " " * 14 + "^ byte 28 of the request, masked" in client.lines("*")
    assert "x00" not in client.text


@pytest.mark.parametrize(
    ("method", "status", "note"),
    [
        ("HEAD", "200 OK", "no content because the request was HEAD (RFC 9110 section 9.3.2)"),
        ("GET", "204 No Content", "no content because a 204 has none (RFC 9110 section 15.3.5)"),
        ("GET", "304 Not Modified", "no content because a 304 has none (RFC 9110 section 15.4.5)"),
    ],
)
def test_a_response_without_content(method: str, status: str, note: str) -> None:
    client = Client()
    response = f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n".encode()
    for _ in range(2):  # what follows is the next response, not content
        client.exchange(GET.replace(b"GET", method.encode()), response)
    assert client.lines("*").count(note) == 2
    assert "#1.2 < HTTP/1.1 " in client.text and "failed" not in client.text


def test_an_upgrade_is_not_taken() -> None:
    client = Client()
    request = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    client.exchange(request, respond(b"one"))
    client.exchange(GET, respond(b"one"))
    assert client.text.count("* no upgrade: this server speaks HTTP/1.1 and goes on so") == 1


def test_a_relaxation_is_explained_once_on_a_connection() -> None:
    client = Client()
    for relaxed in (("bare-lf",), ("bare-lf", "missing-host"), ("bare-lf", "missing-host")):
        request: Any = SimpleNamespace(relaxed=relaxed, minor=1, content_length=0)
        client.conversation.received(GET)
        client.conversation.call(request)
        client.conversation.sent(respond(b"one"))
        client.conversation.finish("", [], True)
    told = [line for line in client.lines("*") if line.startswith("relaxed")]
    assert told == [
        f"relaxed by --allow bare-lf: {RELAXATIONS['bare-lf']}",
        f"relaxed by --allow missing-host: {RELAXATIONS['missing-host']}",
        "relaxed by --allow bare-lf, as before",
        "relaxed by --allow bare-lf, missing-host, as before",
    ]


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_ms(self, duration: float) -> None:
        self.now += duration / 1000


def test_the_times_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    for module in ("conversation", "facts"):
        monkeypatch.setattr(f"rawsgi.wire.{module}.monotonic", clock)
    client = Client()
    conversation = client.conversation
    request: Any = SimpleNamespace(relaxed=(), minor=1, content_length=5)
    clock.pass_ms(10)
    conversation.received(b"POST / HTTP/1.1\r\nContent-")
    clock.pass_ms(20)
    conversation.received(b"Length: 5\r\n\r\nhe")
    clock.pass_ms(30)
    conversation.received(b"llo" + GET)
    clock.pass_ms(40)
    conversation.call(request)
    clock.pass_ms(50)
    head, content = respond(b"one")[:-3], b"one"
    conversation.sent(head)
    clock.pass_ms(60)
    conversation.give_back(request)
    clock.pass_ms(70)
    conversation.sent(content)
    conversation.finish("", [], True)
    times = "accept 10.0, head 20.0, content 30.0, wait 40.0, application 110.0, "
    times += "first byte 140.0, last byte 270.0"
    assert f"#1.1 * times in ms: {times}\n" in client.text
    # A request that came early begins when it is its turn.
    clock.pass_ms(5)
    conversation.sent(respond(b""))
    conversation.finish("", [], True)
    assert "#1.2 * times in ms: head 0.0, first byte 5.0, last byte 5.0\n" in client.text


def test_notes_are_broken_between_words_at_a_terminal() -> None:
    client = Client(columns=lambda: 60)
    client.exchange(GET, respond_in_chunks([b"x" * 100]))
    lines = client.text.splitlines()
    assert all(len(line) <= 60 for line in lines if " * " in line)
    assert "#1.1 * framed in chunks because the length was not known\n#1.1 *   when " in client.text
    assert re.search(r"accept \d+\.\d, head \d+\.\d, first byte\n", client.text) is None
    # Bytes are shown in one line, however long: the terminal breaks it.
    assert "x" * 100 in client.text


def test_only_errors() -> None:
    client = Client(errors_only=True)
    client.exchange(GET, respond(b"one"))
    client.exchange(GET, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    assert client.text == ""
    client.exchange(GET, b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    assert "#1.3 < HTTP/1.1 500 Oops" in client.text
    assert "#1.3 > GET /info" in client.text
    client.conversation.received(GET[:30])
    client.conversation.received(b"")
    client.conversation.close("")
    assert "failed: the client left within the head of the request" in client.text


def test_only_the_pipelined_request_that_failed_is_shown() -> None:
    client = Client(errors_only=True)
    upload = b"POST /b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    client.conversation.received(GET + upload)
    client.conversation.sent(respond(b"one"))
    client.conversation.finish("", [], True)
    client.conversation.sent(b"HTTP/1.1 100 Continue\r\n\r\n")
    client.conversation.received(b"two" + GET)
    client.conversation.sent(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")
    assert client.text == ""  # it is not over
    client.conversation.finish("", [], True)
    client.conversation.sent(respond(b"three"))
    client.conversation.finish("", [], True)
    marks = re.findall(r"^#1\.(\d) (\S) (.*)$", client.text, re.MULTILINE)
    assert {number for number, _, _ in marks} == {"2"}
    shown = [text for _, mark, text in marks if mark in "<>"]
    assert shown[-6:] == [
        r"HTTP/1.1 100 Continue\r\n", r"\r\n", "two",
        r"HTTP/1.1 500 Oops\r\n", r"Content-Length: 0\r\n", r"\r\n",
    ]  # fmt: skip


def test_errors_keep_a_bounded_text() -> None:
    client = Client(errors_only=True, full=True)
    client.conversation.received(GET)
    client.conversation.sent(b"HTTP/1.1 500 A\r\nContent-Length: 4000000\r\n\r\n")
    for _ in range(400):
        client.conversation.sent(b"x" * 10_000)
    client.conversation.finish("", [], True)
    assert len(client.text) < 800_000
    assert "bytes were not kept" in client.text


def test_what_looks_on_does_not_disturb(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("broken")

    texts: list[str] = []
    link = Link(1, ("", ""), ("a", ""))
    sinks: list[Any] = [Broken(), Transcript(texts.append, Style())]
    conversation = Conversation(link, sinks)
    conversation.received(GET)
    assert len(conversation._sinks) == 1
    conversation.close("")
    assert "GET /info" in "".join(texts)


def test_a_printer_whose_reader_is_gone_is_silent() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    printer = Printer(writer)
    printer.write("a")
    os.close(writer)
    printer.write("b")
    Printer(None).write("c")


def test_a_pipe_gets_whole_lines_in_pieces_that_do_not_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """POSIX: others who write to a pipe cannot come between the bytes of a small write."""
    writes: list[bytes] = []

    def write(descriptor: int, data: bytes) -> int:
        writes.append(data)
        return len(data)

    monkeypatch.setattr("rawsgi.wire.transcript.printer.os.write", write)
    generator = random.Random(choose_seed())
    lines = ["x" * generator.randrange(200) + "\n" for _ in range(500)]
    Printer(1).write("".join(lines))
    assert b"".join(writes) == "".join(lines).encode()
    assert all(len(data) <= select.PIPE_BUF and data.endswith(b"\n") for data in writes)
    assert len(writes) < 20
    writes.clear()
    Printer(1).write("y" * 10_000 + "\n")  # no piece of it ends a line
    assert b"".join(writes) == b"y" * 10_000 + b"\n"


def test_threads_do_not_mix_their_lines() -> None:
    reader, writer = os.pipe()
    printer = Printer(writer)

    def write(name: str) -> None:
        for number in range(200):
            printer.write("".join(f"{name} {number} {part}\n" for part in range(9)))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    with open(reader, "rb", buffering=0) as file:
        data = b""
        while data.count(b"\n") < 4 * 200 * 9:
            data += file.read(1 << 16)
    for thread in threads:
        thread.join()
    os.close(writer)
    groups = re.findall(r"(?:^[a-d] \d+ \d\n){9}", data.decode(), re.MULTILINE)
    assert len(groups) == 800
    assert all(len(set(re.findall(r"^(\w \d+)", group, re.MULTILINE))) == 1 for group in groups)


def test_colours_change_nothing_but_colours() -> None:
    plain, coloured = Client(), Client(coloured=True)
    for client in (plain, coloured):
        client.exchange(GET, respond_in_chunks([b"one\x1b[2J", b"two"]))
    strip = re.compile("\x1b\\[[0-9;]*m")
    times = re.compile(r"times in ms.*")
    assert "\x1b" not in plain.text
    texts = [times.sub("", strip.sub("", client.text)) for client in (plain, coloured)]
    assert texts[0] == texts[1]
    assert "\x1b[" in coloured.text


def test_who_asked_for_nothing_is_not_observed() -> None:
    assert plan_observation(Settings(application="x")) is None
    assert plan_observation(Settings(application="x", wire_secrets=True)) is None
    for name in ("wire", "wire_full", "wire_errors"):
        changes: dict[str, Any] = {name: True}
        assert plan_observation(Settings(application="x", **changes)) is not None


def list_recorded(folder: Path, **changes: Any) -> dict[str, list[bytes]]:
    """What is in a folder of recordings after four exchanges, by the ends of the names."""
    begin = plan_observation(Settings(application="x", record=str(folder), **changes))
    assert begin is not None
    conversation = begin(("127.0.0.1", "5"), ("127.0.0.1", "80"))
    for number in range(4):
        status = b"500 Oops" if number == 1 else b"200 OK"
        conversation.received(GET.replace(b"info", b"%03d?token=S3CRET" % number))
        conversation.sent(b"HTTP/1.1 %b\r\nContent-Length: 200\r\n\r\n" % status + b"x" * 200)
        conversation.finish("", [], True)
    found: dict[str, list[bytes]] = {}
    for path in sorted(folder.iterdir()):
        found.setdefault("".join(path.suffixes[1:]), []).append(path.read_bytes())
    return found


def test_what_is_recorded_is_as_it_was_asked_for(tmp_path: Path) -> None:
    plain = list_recorded(tmp_path / "plain")
    assert [len(plain[ending]) for ending in (".request", ".response", ".json")] == [4, 4, 4]
    assert all(b"******" in each and b"S3CRET" not in each for each in plain[".request"])
    secrets = list_recorded(tmp_path / "secrets", wire_secrets=True)
    assert all(b"S3CRET" in each for each in secrets[".request"])
    newest = list_recorded(tmp_path / "newest", record_limit=2)
    assert newest[".request"] == plain[".request"][2:]
    failed = list_recorded(tmp_path / "failed", record_errors=True)
    assert failed[".request"] == plain[".request"][1:2]
    # A request that fits is whole; a response that does not is cut.
    size = len(plain[".request"][0])
    for limit, ending in ((size, ".request"), (size - 1, ".request.cut")):
        cut = list_recorded(tmp_path / str(limit), record_size_limit_bytes=limit)
        assert cut[ending] == [each[:limit] for each in plain[".request"]]
        assert cut[".response"] == [each[:limit] for each in plain[".response"]]
        assert set(cut) == {ending, ".response", ".json"}


def test_facts_of_failure() -> None:
    facts = Facts(Link(1, ("", ""), ("", "")), 1, False)
    assert not facts.failed
    facts.code = 499
    assert not facts.failed
    facts.code = 503
    assert facts.failed


# -- A server -------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(INFO, "--wire", "--threads", "4") as running:
        yield running


def wait_for(server: Server, *texts: str) -> str:
    """Return what the server wrote once all of `texts` are in it."""
    wait_until(lambda: all(text in server.stderr() for text in texts))
    return server.stderr()


def test_a_connection_that_is_kept_alive(server: Server) -> None:
    with server.connect() as client:
        for number in (1, 2):
            client.sendall(GET)
            text = wait_for(server, f"#1.{number} * times in ms: ")
        client.shutdown(socket.SHUT_WR)
        text = wait_for(server, "#1 * the client closed the connection")
    assert re.search(r"^#1 \* 127\.0\.0\.1:\d+ connected to 127\.0\.0\.1:\d+$", text, re.MULTILINE)
    assert text.count("kept alive because nobody said close in HTTP/1.1") == 2
    times = re.search(r"#1\.1 \* times in ms: (.*)", text)
    assert times is not None
    names = re.findall(r"([a-z][a-z ]+?) \d+\.\d", times[1])
    assert names == ["accept", "head", "wait", "application", "first byte", "last byte"]


def test_why_it_was_closed(server: Server) -> None:
    server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    server.exchange(b"GET /chunked?seconds=0 HTTP/1.0\r\n\r\n")
    text = wait_for(server, "#2.1 * times")
    assert "#1.1 * closed because the client asked for it (RFC 9112 section 9.3)" in text
    assert "#2.1 * framed by closing because the length was not known" in text
    assert "#2.1 * closed because this is HTTP/1.0 without keep-alive" in text


def test_an_upload_in_chunks_after_100(server: Server) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    with server.connect() as client:
        client.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"5\r\nhello\r\n0\r\n\r\n")
        text = wait_for(server, "#1.1 * times")
    lines = [line[5:] for line in text.splitlines() if line.startswith("#1.1 ")]
    assert lines[4:14] == [
        r"> \r\n",
        "* content in chunks: Transfer-Encoding says so (RFC 9112 section 6.3, item 4)",
        r"< HTTP/1.1 100 Continue\r\n",
        r"< \r\n",
        r"> 5\r\n  (chunk of 5 bytes)",
        "> hello",
        r"> \r\n",
        r"> 0\r\n  (last chunk)",
        r"> \r\n",
        r"< HTTP/1.1 200 OK\r\n",
    ]
    assert "* 100 (Continue) came first: Expect asked for it (RFC 9110 section 10.1.1)" in lines


def test_no_terminal_escape_gets_through(server: Server) -> None:
    hostile = "".join(map(chr, range(256))).encode("latin-1").replace(b"\n", b"")
    server.exchange(b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n")
    server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x9b31m\xff\r\n\r\n")
    length = b"Content-Length: %d\r\n\r\n" % len(hostile)
    server.exchange(b"POST /echo HTTP/1.1\r\nHost: a\r\n" + length + hostile)
    server.exchange(hostile)
    text = wait_for(server, "#4.1 * times")
    assert text.replace("\n", "").isprintable() and text.isascii()
    assert r"GET /\x1b[2J HTTP/1.1\r\n" in text
    assert r"\x00\x01\x02" in text


def test_the_byte_that_was_refused(server: Server) -> None:
    server.exchange(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
    text = wait_for(server, "#1.1 * times")
    assert "#1.1 * refused with 400 by RFC 9112 section 5.1: white space stands" in text
    assert "#1.1 *   Host : a\\r\\n\n#1.1 *       ^ byte 20 of the request, a space\n" in text


def test_typed_too_much(server: Server) -> None:
    server.exchange(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabcd\r\n")
    text = wait_for(server, "#1.2 * times")
    assert "The request before had 2 bytes of content by its length: was it more?" in text


SECRETS = [
    b"GET /?token=S3CRET HTTP/1.1\r\nHost: a\r\nCookie: id=S3CRET\r\nX-Api-Key: S3CRET\r\n"
    b"Proxy-Authorization: Basic S3CRET\r\nAuthorization: Bearer S3CRET\r\n"
    b"Referer: http://me:S3CRET@a.example/?api_key=S3CRET\r\n\r\n",
    b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b'a\r\n{"user": 1\r\ne\r\n, "password":"S\r\n7\r\n3CRET"}\r\n0\r\n\r\n',
    b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 23\r\n\r\nuser=me&password=S3CRET",
    b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nuser=me&password=S3CRET\r\n",
]
"""The last is refused: what stands in the place of a request-line was meant as content."""


@pytest.mark.parametrize("flags", [(), ("--wire-secrets",)], ids=["masked", "shown"])
def test_secrets_are_masked_unless_asked_for(flags: tuple[str, ...], tmp_path: Path) -> None:
    with serve(INFO, "--wire", "--record", f"{tmp_path}/r", *flags) as server:
        for request in SECRETS:
            with server.connect() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                middle = request.rindex(b"CRET") + 2
                client.sendall(request[:middle])
                client.sendall(request[middle:])
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        text = wait_for(server, *(f"#{number + 1} * the " for number in range(len(SECRETS))))
    kept = [path.read_bytes() for path in sorted((tmp_path / "r").iterdir())]
    assert len(kept) == 3 * (len(SECRETS) + 1)
    for word in ("S3", "3CRET"):
        assert (word in text) is (word in b"".join(kept).decode()) is bool(flags), text
    assert ("with all secrets" if flags else "only known secrets are masked") in text
    if not flags:
        assert "> GET /?token=****** HTTP/1.1" in text
        assert text.count("> user=me&password=******") == 2


def test_errors_only_of_a_server() -> None:
    with serve(APPLICATION, "--wire-errors") as server:
        server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server.exchange(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server.exchange(b"nonsense\r\n")
        text = wait_for(server, "* times")
    assert "#3.1 > nonsense" in text
    assert "#1" not in text and "#2" not in text


def test_the_request_is_shown_before_the_application_answers() -> None:
    with serve(INFO, "--wire") as server, server.connect() as client:
        client.sendall(b"GET /slow?seconds=1.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        text = wait_for(server, "GET /slow")
        assert "#1.1 <" not in text
        assert client.recv(100).startswith(b"HTTP/1.1 200")


def test_concurrent_requests_do_not_mix(server: Server) -> None:
    clients = [server.connect() for _ in range(8)]
    for _ in range(5):
        for client in clients:
            client.sendall(b"GET /slow?seconds=0.02 HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
    for client in clients:
        client.close()
    text = wait_for(server, *(f"#{number}.5 * times" for number in range(1, 9)))
    for number in range(1, 9):
        mine = [line for line in text.splitlines() if line.startswith(f"#{number}.")]
        assert sum("> GET" in line for line in mine) == sum("< HTTP" in line for line in mine) == 5
        marks = "".join(line.split(" ")[1] for line in mine)
        assert re.fullmatch(r"(>{3}<+\*{3})+", marks), marks


def test_a_file_is_sent_and_shown(tmp_path: Path) -> None:
    content = choose_content(2_000_000)
    (tmp_path / "data.bin").write_bytes(content)
    (tmp_path / "files.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return environ['wsgi.file_wrapper'](open('data.bin', 'rb'))\n"
    )
    with serve("files:app", "--wire", cwd=tmp_path) as server:
        assert server.request("GET", "/").content == content
        text = wait_for(server, "#1.1 * times")
    shown = re.findall(r"^#1\.1 < (.*)$", text, re.MULTILINE)
    body = shown[shown.index(r"\r\n") + 1 :]
    assert show_bytes(content).startswith(body[0])
    assert show_bytes(content).endswith(body[-1])


def choose_content(size: int) -> bytes:
    return random.Random(choose_seed()).randbytes(size)


def test_an_application_that_fails_after_its_head(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    yield b'one'\n"
        "    raise RuntimeError\n"
    )
    with serve("failing:app", "--wire-errors", cwd=tmp_path) as server:
        server.exchange(GET)
        text = wait_for(server, "#1.1 * times")
    assert "#1.1 * failed: the application failed after the head of its response" in text


def test_the_timeouts_are_named() -> None:
    flags = ("--keep-alive-timeout", "400ms", "--head-timeout", "400ms")
    with serve(INFO, "--wire", *flags) as server:
        with server.connect() as client:
            client.sendall(GET)
            text = wait_for(server, "#1 * the server closed")
        with server.connect() as client:
            client.sendall(b"GET / HT")
            text = wait_for(server, "#2.1 * refused with 408")
    assert re.search(r"#1 \* the server closed the connection: nothing came for \d s", text)
    assert "the head of the request did not arrive in time" in text


def test_a_pipe_that_nobody_reads_any_more() -> None:
    """A dead stderr is no reason not to serve."""
    command = [
        sys.executable,
        "-m",
        "rawsgi",
        INFO,
        "--port",
        "0",
        "--wire",
        "--log-level",
        "error",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert found is not None
        process.stderr.close()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(found[1])), timeout=10) as client:
                client.sendall(GET)
                assert client.recv(4096).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_a_reader_that_takes_nothing_is_waited_for_briefly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rawsgi.wire.transcript.printer._PATIENCE_S", 0.01)
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        Printer(writer).write("x" * 1_000_000)
        assert 0 < len(os.read(reader, 1 << 20)) < 1_000_000
    finally:
        os.close(reader)
        os.close(writer)


def test_a_pager_that_nobody_turns_costs_text_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pipe blocks whoever writes to it: nothing is written that it would not take."""
    monkeypatch.setattr("rawsgi.wire.transcript.printer._PATIENCE_S", 0.01)
    reader, writer = os.pipe()
    try:
        printer = Printer(writer)
        lines = [f"line {number}\n" for number in range(40_000)]
        for start in range(0, len(lines), 400):
            printer.write("".join(lines[start : start + 400]))  # returns
        first = os.read(reader, 1 << 20).decode().splitlines(keepends=True)
        assert first == lines[: len(first)]
        printer.write("again\n")
        lost = len(lines) - len(first)
        note = f"* {lost} lines of the transcript are lost: nobody read them\n"
        assert os.read(reader, 1 << 20).decode() == f"{note}again\n"
        printer.write("and on\n")
        assert os.read(reader, 1 << 20) == b"and on\n"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(("value", "coloured"), [("1", True), ("0", False)])
def test_colour_and_a_unix_socket(value: str, coloured: bool, tmp_path: Path) -> None:
    flags = ("--wire", "--bind", f"unix:{tmp_path}/s")
    with serve(INFO, *flags, env={"FORCE_COLOR": value}) as server:
        server.path = f"{tmp_path}/s"  # the start line is coloured, too
        server.exchange(GET)
        text = wait_for(server, "times in ms")
    assert ("\x1b[32m" in text) is coloured
    assert "a client connected" in text


@pytest.mark.parametrize("plain", [False, True])
def test_at_a_terminal_of_80_columns(plain: bool) -> None:
    screen, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "rawsgi", INFO, "--port", "0", "--by-hand", "--no-access-log"]
    environ = {**os.environ, "TERM": "xterm", "NO_COLOR": "1" if plain else ""}
    environ.pop("FORCE_COLOR", None)
    process = subprocess.Popen(command, stderr=stderr, stdout=stderr, cwd=ROOT, env=environ)
    os.close(stderr)
    text = ""

    def read_up_to(end: str) -> None:
        nonlocal text
        while end not in text:
            assert select.select([screen], [], [], 10)[0], text
            text += os.read(screen, 1 << 16).decode().replace("\r\n", "\n")

    try:
        read_up_to("docs/by-hand.md goes on from here.")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", text)
        assert found is not None
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=10) as client:
            client.sendall(b"GET /\x1b[31m\xc2\x9b\xe2\x80\xae HTTP/1.1\n\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
            read_up_to("times in ms")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(screen)
    bare = re.sub("\x1b\\[[0-9;]*m", "", text)
    assert (bare == text) is plain
    assert bare.replace("\n", "").isascii() and bare.replace("\n", "").isprintable()
    assert r"> GET /\x1b[31m\xc2\x9b\xe2\x80\xae HTTP/1.1\n" in bare
    assert [line for line in bare.splitlines() if "*" in line[:7] and len(line) > 80] == []


STREAMING = """\
import time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [])
        for block in iter(lambda: environ["wsgi.input"].readline(), b""):
            yield block
    elif path == "/large":
        start_response("200 OK", [("Content-Length", "8000000")])
        yield b"x" * 8_000_000
    elif path == "/late":
        time.sleep(0.5)
        start_response("200 OK", [])
        yield b"late"
    else:
        start_response("200 OK", [])
        for number in range(2000):
            yield b"%04d\\n" % number * 200
"""


@pytest.fixture
def streaming(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "streaming.py").write_text(STREAMING)
    flags = ("--wire", "--stream-request", "--threads", "3")
    with serve("streaming:app", *flags, cwd=tmp_path) as running:
        yield running


def test_content_that_arrives_while_the_application_runs(streaming: Server) -> None:
    with streaming.connect() as client:
        client.sendall(b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\none\n")
        text = wait_for(streaming, "> POST /stream")
        answer = b""
        while b"one\n" not in answer:  # the response has begun, and the content is not complete
            piece = client.recv(4096)
            assert piece, answer
            answer += piece
        client.sendall(b"two\n")
        text = wait_for(streaming, "#1.1 * times")
    sent = re.findall(r"^#1\.1 > (.*)$", text, re.MULTILINE)
    assert sent[-2:] == [r"one\n", r"two\n"]
    assert "closed because content of the request is unread" in text


def test_a_slow_reader(streaming: Server) -> None:
    with streaming.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        text = wait_for(streaming, "#1.1 >")
        assert "#1.1 * times" not in text
        received = 100
        while received < 8_000_000:
            received += len(client.recv(1 << 20))
        text = wait_for(streaming, "#1.1 * times", "#1.2 > GET /info")
    assert "... 7,998,848 bytes not shown (--wire-full shows all) ..." in text


@pytest.mark.parametrize("target", [b"/large", b"/blocks"])
def test_a_reader_who_leaves(streaming: Server, target: bytes) -> None:
    with streaming.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    text = wait_for(streaming, "#1.1 * times")
    assert "#1.1 * failed: the client left within the response" in text


def test_an_answer_that_comes_too_late(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(STREAMING)
    with serve("late:app", "--wire", "--request-timeout", "100ms", cwd=tmp_path) as server:
        answer = server.exchange(GET.replace(b"info", b"late"))
        assert answer.startswith(b"HTTP/1.1 504 ")
        text = wait_for(server, "#1.1 * times")
    assert "#1.1 * refused with 504 by RFC 9110 section 15.6.5: the application took" in text


PORTS = re.compile(rb'("(?:REMOTE|SERVER)_PORT": )"\d+"')
DATES = re.compile(rb"Date: [^\r]*\r\n")


def play_corpus(*flags: str) -> dict[str, bytes]:
    """What a client gets in each exchange of the corpus, but for dates and ports."""
    with serve("rawsgi.compare.probe:app", "--log-level", "critical", *flags) as server:
        replayer = Replayer(Running(server), True, 30.0, threading.Event())  # type: ignore[arg-type]
        transcripts = replayer.replay(CORPUS)
    return {
        name: DATES.sub(b"", PORTS.sub(rb"\1-", transcript.received()))
        for name, transcript in transcripts.items()
    }


def test_looking_on_changes_no_byte(tmp_path: Path) -> None:
    """The whole corpus, answered as it is without an observer; and all of it was seen."""
    flags = ("--wire", "--record", str(tmp_path), "--record-limit", "10000")
    observed, alone = play_corpus(*flags), play_corpus()
    assert observed.keys() == alone.keys()
    differing = [name for name in alone if alone[name] != observed[name]]
    assert differing == []
    requests = [path.read_bytes() for path in tmp_path.glob("*.request")]
    responses = [path.read_bytes() for path in tmp_path.glob("*.response")]
    assert len(requests) > len(CORPUS)
    assert len(responses) >= len(requests)
    for response in responses:
        scanner = Scanner("GET")
        scanner.feed(response)
        assert response == b"" or scanner.code or scanner.interim
