"""Any bytes give requests, a wait for more, or one refusal; and nothing else, however they arrive.

What holds for every input is in `check`. The short run is part of the tests; the long one is

    RAWSGI_FUZZ_INPUTS=200000 python -m pytest tests/test_fuzz.py -s

and RAWSGI_TEST_SEED repeats either.

h11 is the oracle: where both accept a request, both must have read the same. They differ in what
they accept, and each difference is one that is listed here: what h11 takes and we refuse in
`STRICTER`, by the reason that we give; what we take and h11 refuses in `_ask_oracle`.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawsgi.compare.exchanges import load_corpus
from rawsgi.protocol.framing import CHUNK, LAST_CHUNK
from rawsgi.protocol.head import HeadParser, HeadReader
from rawsgi.protocol.http1 import COMPLETE, CONTENT, HEAD, HTTP1
from rawsgi.protocol.message import RELAXATIONS, Limits, ProtocolError, Request
from rawsgi.protocol.response import HeadEncoder
from tests.conversation import Conversation, choose_seed, cut_at_random

INPUTS = int(os.environ.get("RAWSGI_FUZZ_INPUTS", "0"))
SHORT_RUN_S = 8.0
SEED_LIMIT_BYTES = 3000

STATUS_LINE = re.compile(rb"^HTTP/1\.1 ([0-9]{3}) ", re.MULTILINE)

LIMITS = [
    Limits(),
    Limits(request_line_bytes=60, fields=6, head_bytes=300, content_bytes=40, chunk_line_bytes=20),
    Limits(request_line_bytes=30, fields=3, head_bytes=90, content_bytes=9, blank_lines=1),
]
ALLOWED = [frozenset[str](), *(frozenset([name]) for name in RELAXATIONS), frozenset(RELAXATIONS)]

STRICTER = (
    "Content-Length is not one number",  # h11 takes a list of equal ones
    "Host is not one host and port",  # h11 takes anything
    "Transfer-Encoding and Content-Length together",  # h11 lets the first win
    "Transfer-Encoding in an HTTP/1.0 request",
    "a chunk does not begin with its size",  # h11 takes any extension, and 20 digits
    "a field value holds a control character",  # h11 refuses only some of them
    "a line begins with white space",
    "a line ends in a bare line feed",
    "a line of the chunk framing ends in a bare line feed",
    "a line of the trailer section is no field line",
    "an HTTP/1.1 request needs a Host field",  # h11 asks for it in exactly 1.1, and not in 1.2
    "only HTTP/1.0 and HTTP/1.1 are spoken here",
    "the only expectation understood here is 100-continue",
    "the request-target",  # h11 takes any visible characters
    "this server is no proxy",
    # Limits that h11 has not.
    "a chunk's line is longer",
    "the content is longer",
    "the head is longer",
    "the header section has more than",
    "the request-line is longer",
    "the trailer section has more than",
    "the trailer section is longer",
    "there are more chunk extensions",
)

# One request, as far as it can be told.
Message = tuple[object, ...]
# All requests, the refusal if there is one, and what is waited for.
Outcome = tuple[tuple[Message, ...], tuple[int, str, str] | None, int, bool]


# -- Running -----------------------------------------------------------------------------------


class LongWay(HTTP1):
    """A connection that reads every head line by line. Only for the tests' comparison."""

    __slots__ = ()

    def receive(self, data: bytes) -> Request | None:
        if self._reader is None and (data or self.buffer):
            self._reader = HeadReader(self._parser)
        return super().receive(data)


def describe(request: Request) -> Message:
    return (
        request.method, request.target, request.path, request.query, request.version,
        request.minor, tuple(request.fields.items()), request.content_length, request.keep_alive,
        request.expects_continue, request.relaxed,
    )  # fmt: skip


def run(connection: HTTP1, pieces: list[bytes]) -> Outcome:
    """Receive all pieces and answer each request, as the server does."""
    messages: list[Message] = []
    content = bytearray()
    try:
        for piece in pieces:
            data = piece
            while True:
                if connection.state == HEAD:
                    if connection.receive(data) is None:
                        break
                    data = b""
                if connection.state == CONTENT:
                    content += connection.receive_content(data)
                    data = b""
                if connection.state != COMPLETE:
                    break
                request = connection.request
                assert request is not None
                messages.append((*describe(request), bytes(content)))
                content.clear()
                head = connection.send_head(connection.encode_head("200 OK", []), None, b"")
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                if not connection.finish():
                    return tuple(messages), None, connection.state, False
                if not connection.buffer:
                    break
    except ProtocolError as error:
        answer = connection.refuse(error)
        assert answer.startswith(b"HTTP/1.1 %d " % error.status)
        assert error.status in (400, 413, 414, 417, 431, 501, 505), error
        return tuple(messages), (error.status, error.reason, error.place), connection.state, False
    return tuple(messages), None, connection.state, connection.begun


def serialise(message: Message) -> bytes:
    """Write a request that was accepted again, from what was understood of it."""
    method, target, _, _, version, _, fields, length, *_, content = message
    assert isinstance(fields, tuple) and isinstance(content, bytes)
    lines = [f"{method} {target} {version}"]
    for variable, value in fields:
        name = variable.removeprefix("HTTP_").replace("_", "-").title()
        lines.append(f"{name}: {value}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if length == -1:
        return head + (CHUNK % (len(content), content) if content else b"") + LAST_CHUNK
    return head + content


def strip_values(message: Message) -> Message:
    """Repeated fields of which the last is empty are joined to "1, ": it cannot be sent so."""
    fields = message[6]
    assert isinstance(fields, tuple)
    return (*message[:6], [(name, value.strip(" \t")) for name, value in fields], *message[7:])


def answer_plainly(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Read everything, and look at what an application looks at."""
    content = environ["wsgi.input"].read()
    assert len(content) == int(environ.get("CONTENT_LENGTH") or 0)
    for name, value in environ.items():
        if name.isupper():
            assert type(value) is str and value.encode("latin-1") is not None, name
    start_response("200 OK", [])
    return [b"answered\n"]


# -- What holds for every input ----------------------------------------------------------------


class Checker:
    """Parsers that have seen every input before: their caches take part."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator
        self.encoder = HeadEncoder()
        self.counts: Counter[str] = Counter()
        self.parsers = {
            (limits, allow): HeadParser(limits, allow) for limits in LIMITS for allow in ALLOWED
        }

    def check(self, data: bytes) -> Outcome:
        """Play one input in every way, and compare."""
        generator = self.generator
        limits = LIMITS[0] if generator.random() < 0.7 else generator.choice(LIMITS)
        allow = ALLOWED[0] if generator.random() < 0.7 else generator.choice(ALLOWED)
        seasoned = self.parsers[limits, allow]
        fresh = HeadParser(limits, allow)
        whole = run(HTTP1(seasoned, self.encoder), [data])
        self._check_work(data, limits, allow)
        by_byte = [data[index : index + 1] for index in range(len(data))]
        cuts = {
            "with empty caches": (HTTP1, fresh, [data]),
            "at random": (HTTP1, seasoned, cut_at_random(data, generator)),
            "at random, line by line": (LongWay, fresh, cut_at_random(data, generator)),
            "line by line": (LongWay, fresh, [data]),
        }
        if len(data) < 400 or generator.random() < 0.1:
            cuts["by byte"] = HTTP1, fresh, by_byte
        for way, (kind, parser, pieces) in cuts.items():
            found = run(kind(parser, self.encoder), pieces)
            assert found == whole, f"{way}: {found} is not {whole}"
        self._count(whole)
        if generator.random() < 0.2:
            self._check_answers(data, whole, limits, allow)
        if allow == ALLOWED[0]:
            self._check_accepted(whole)
            if limits == LIMITS[0]:
                self._ask_oracle(data, whole)
        return whole

    def _check_work(self, data: bytes, limits: Limits, allow: frozenset[str]) -> None:
        """Work is linear: ten microseconds a byte are many, once the machine looked elsewhere."""
        for attempt in range(5):
            started = time.process_time()
            run(HTTP1(HeadParser(limits, allow), self.encoder), [data])
            if time.process_time() - started < 0.01 + len(data) * 1e-5:
                return
            assert attempt < 4, "work is not linear"

    def _check_answers(
        self, data: bytes, outcome: Outcome, limits: Limits, allow: frozenset[str]
    ) -> None:
        """With an application behind it: one answer for each request, one for the refusal."""
        talk = Conversation(answer_plainly, limits, *allow)
        talk.feed(data)
        talk.end()
        codes = [int(code) for code in STATUS_LINE.findall(bytes(talk.output))]
        finals = [code for code in codes if code != 100]
        refusals = [error.status for error in talk.refusals]
        assert finals[: len(finals) - len(refusals)] == [200] * len(outcome[0])
        assert finals[len(outcome[0]) :] == refusals
        assert len(refusals) <= 1

    def _check_accepted(self, outcome: Outcome) -> None:
        """What was understood, written again, is understood as the same."""
        for message in outcome[0]:
            target, fields = message[1], dict(message[6])  # type: ignore[call-overload]
            assert isinstance(target, str)
            if not target.startswith("/") and "HTTP_HOST" not in fields:
                continue  # an absolute-form in HTTP/1.0 gives a Host
            names = {name.replace("_", "-") for name in fields}
            assert len(names) == len(fields)
            if message[-1] == b"" and message[7] not in (0, -1):
                raise AssertionError("content is missing")
            again = run(HTTP1(HeadParser(Limits()), self.encoder), [serialise(message)])
            assert again[1] is None, again
            assert [strip_values(m) for m in again[0]] == [strip_values(message)]

    def _ask_oracle(self, data: bytes, outcome: Outcome) -> None:
        """Where h11 accepts the first request and so do we, both have read the same."""
        found = ask_h11(data)
        ours = outcome[0][0] if outcome[0] else None
        if found is None and ours is None:
            self.counts["accepted by neither"] += 1
            return
        if ours is None:
            self.counts["accepted by h11 alone"] += 1
            refusal = outcome[1]
            assert refusal is not None and refusal[1].startswith(STRICTER), outcome
            return
        if found is None:
            self.counts["accepted by us alone"] += 1
            empty_line_first = data[:1] == b"\r"
            raw_target = not str(ours[1]).isascii()
            chunked = ours[7] == -1  # white space in an extension; nonsense in the trailer section
            # zeros in front: h11 wants no more than 20 digits
            long_length = len(dict(ours[6]).get("CONTENT_LENGTH", "")) > 20  # type: ignore[call-overload]
            assert empty_line_first or raw_target or chunked or long_length, outcome
            return
        self.counts["accepted by both"] += 1
        method, target, version, fields, content = found
        assert (method, target, version, content) == (*ours[:2], ours[4], ours[-1])
        if str(target).startswith("/"):
            ours_by_name = dict(ours[6])  # type: ignore[call-overload]
            coding = ours_by_name.get("HTTP_TRANSFER_ENCODING")
            if coding is not None:  # h11 has it in lower case
                ours_by_name["HTTP_TRANSFER_ENCODING"] = coding.lower()
            assert fields == ours_by_name

    def _count(self, outcome: Outcome) -> None:
        self.counts["inputs"] += 1
        self.counts["requests"] += len(outcome[0])
        refusal = outcome[1]
        self.counts[f"refused with {refusal[0]}" if refusal else "not refused"] += 1


def ask_h11(data: bytes) -> tuple[str, str, str, dict[str, str], bytes] | None:
    """Return the first request of `data` with its content as h11 reads it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(data)
    try:
        request = connection.next_event()
        if not isinstance(request, h11.Request):
            return None
        content = b""
        while isinstance(event := connection.next_event(), h11.Data):
            content += event.data
        if not isinstance(event, h11.EndOfMessage):
            return None
    except h11.RemoteProtocolError:
        return None
    fields: dict[str, str] = {}
    for name, value in request.headers:
        if b"_" in name:
            continue
        variable = name.decode().upper().replace("-", "_")
        if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = "HTTP_" + variable
        joint = "; " if variable == "HTTP_COOKIE" else ", "
        text = value.decode("latin-1")
        fields[variable] = fields[variable] + joint + text if variable in fields else text
    return (
        request.method.decode(), request.target.decode("latin-1"),
        "HTTP/" + request.http_version.decode(), fields, content,
    )  # fmt: skip


# -- Inputs ------------------------------------------------------------------------------------

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b";", b",", b'"', b"\\", b"=",
    b"\x00", b"\x7f", b"\x80", b"\xff", b"\x0b", b"\x0c", b"\x1c", b"\x85", b"_", b"-", b"+", b"#",
    b"?", b"%", b"/", b"*", b"[", b"]", b"@", b"0", b"1", b"5", b"f", b"10", b"0x5", b"1_0", b"+5",
    b"GET ", b"HEAD ", b"POST ", b"OPTIONS ", b"CONNECT ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"HTTP/2.0", b"http://b", b"https://u@b:1", b"Host: a\r\n", b"Host: a:80\r\n", b"Host:\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: ",
    b"Content_Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"chunked",
    b"Transfer_Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n", b"Expect: x\r\n", b"X-A: 1\r\n", b"X_A: 1\r\n", b"Cookie: a=b\r\n",
    b"\r\n folded", b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;a=b\r\nhello\r\n", b"ffffffffffffffff\r\n",
    b"A" * 100, b"0" * 20, b"hello", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip
FIELD_LINES = [token for token in TOKENS if b": " in token and token.count(b"\r\n") == 1]


class Mutator:
    """Makes inputs of others: the corpus, pieces of requests, and what was made before."""

    def __init__(self, generator: random.Random) -> None:
        self.generator = generator
        sent = {exchange.sent() for exchange in load_corpus()}
        self.seeds = sorted(data for data in sent if len(data) <= SEED_LIMIT_BYTES)

    def make(self) -> bytes:
        generator = self.generator
        kind = generator.random()
        if kind < 0.05:
            return generator.randbytes(generator.randrange(60))
        if kind < 0.15:
            return b"".join(generator.choices(TOKENS, k=generator.randrange(1, 14)))
        if kind < 0.35:
            data = self.compose()
        else:
            data = generator.choice(self.seeds)
        for _ in range(generator.choice([0, 1, 1, 1, 2, 2, 3, 5])):
            data = self.mutate(data)
        return data[:20_000]

    def compose(self) -> bytes:
        """A request that is whole and plausible."""
        generator = self.generator
        method = generator.choice([b"GET", b"HEAD", b"POST", b"OPTIONS", b"PUT", b"X-1"])
        target = generator.choice(
            [b"/", b"/a?b", b"*", b"http://b/c", b"//x", b"/\xc3\xa9", b"/%41"]
        )
        version = generator.choice([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2"])
        content = generator.randbytes(generator.randrange(20))
        fields = [b"Host: a\r\n"]
        fields += generator.sample(FIELD_LINES, k=generator.randrange(4))
        framing = generator.randrange(3)
        if framing == 1:
            fields.append(b"Content-Length: %d\r\n" % len(content))
        elif framing == 2:
            fields.append(b"Transfer-Encoding: chunked\r\n")
            middle = len(content) // 2
            halves = [half for half in (content[:middle], content[middle:]) if half]
            content = b"".join(CHUNK % (len(half), half) for half in halves) + LAST_CHUNK
        else:
            content = b""
        generator.shuffle(fields)
        return b" ".join([method, target, version]) + b"\r\n" + b"".join(fields) + b"\r\n" + content

    def mutate(self, data: bytes) -> bytes:
        generator = self.generator
        at = generator.randrange(len(data) + 1)
        end = min(len(data), at + generator.choice([1, 1, 2, 4, 16]))
        lines = data.splitlines(keepends=True)
        kind = generator.randrange(11)
        if kind == 0:
            return data[:at] + generator.randbytes(1) + data[at + 1 :]
        if kind == 1:
            return data[:at] + generator.choice(TOKENS) + data[at:]
        if kind == 2:
            return data[:at] + generator.choice(TOKENS) + data[end:]
        if kind == 3:
            return data[:at] + data[end:]
        if kind == 4:
            return data[:at] + data[at:end] * generator.choice([2, 3, 40]) + data[end:]
        if kind == 5 and lines:
            line = generator.choice(lines)
            place = generator.randrange(len(lines) + 1)
            return b"".join([*lines[:place], line, *lines[place:]])
        if kind == 6 and lines:
            generator.shuffle(lines)
            return b"".join(lines)
        if kind == 7:
            return data[:at] + data[at:end].swapcase() + data[end:]
        if kind == 8:
            other = generator.choice(self.seeds)
            return data[:at] + other[generator.randrange(len(other) + 1) :]
        if kind == 9:
            return data + generator.choice([data, self.compose()])
        return data.replace(*generator.choice([
            (b"\r\n", b"\n"), (b": ", b":"), (b"\r\n", b"\r\n "), (b" ", b"  "), (b"-", b"_"),
        ]))  # fmt: skip


def repeat(seconds: float, inputs: int) -> Callable[[], bool]:
    """Return what says whether to go on: for `inputs` inputs if they are told, else for a time."""
    deadline = time.monotonic() + seconds
    done = 0

    def go_on() -> bool:
        nonlocal done
        done += 1
        return done <= inputs if inputs else time.monotonic() < deadline

    return go_on


def test_mutated_input() -> None:
    generator = random.Random(choose_seed())
    mutator, checker = Mutator(generator), Checker(generator)
    for data in mutator.seeds:
        checker.check(data)
    go_on = repeat(SHORT_RUN_S, INPUTS)
    while go_on():
        data = mutator.make()
        try:
            checker.check(data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise
    print(dict(sorted(checker.counts.items())))
    # It must not pass by trying nothing.
    counts = checker.counts
    assert counts["inputs"] > 1000
    assert counts["requests"] > counts["inputs"] // 10
    assert counts["accepted by both"] > counts["inputs"] // 20
    for status in (400, 413, 431, 501, 505):
        assert counts[f"refused with {status}"] > 0, status


@settings(
    max_examples=max(300, INPUTS // 20),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=3)), max_size=30))
def test_any_sequence_of_tokens(pieces: list[bytes]) -> None:
    """Hypothesis finds the smallest of the sequences that break something."""
    Checker(random.Random(0)).check(b"".join(pieces))


@pytest.mark.parametrize("cut", range(4))
def test_every_byte_in_every_place_of_a_request(cut: int) -> None:
    """All 256 bytes, inserted and substituted at each place of a request: nothing else happens."""
    data = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    checker = Checker(random.Random(choose_seed()))
    for place in range(cut, len(data), 4):
        for byte in range(0, 256, 1 if INPUTS else 5):
            piece = bytes([byte])
            checker.check(data[:place] + piece + data[place:])
            checker.check(data[:place] + piece + data[place + 1 :])
