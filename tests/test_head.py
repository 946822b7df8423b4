"""Request heads: what is accepted and as what, what is refused and how, however it is cut."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import pytest

from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import HTTP1
from rawsgi.protocol.message import CHUNKED, Limits, ProtocolError, Request
from rawsgi.protocol.response import HeadEncoder
from tests.conversation import choose_seed, cut_in_every_way

ATTRIBUTES = (
    "method", "target", "path", "query", "version", "minor", "fields", "content_length",
    "keep_alive", "expects_continue", "relaxed",
)  # fmt: skip
HOST = b"Host: a.example\r\n"
END = b"\r\n"
GET = b"GET / HTTP/1.1\r\n"


def describe(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in ATTRIBUTES}


def read(parser: HeadParser, pieces: list[bytes]) -> Request | ProtocolError | None:
    """Give a head to a new connection, piece by piece, until something is decided."""
    connection = HTTP1(parser, HeadEncoder())
    for piece in pieces:
        try:
            request = connection.receive(piece)
        except ProtocolError as error:
            return error
        if request is not None:
            assert not connection.buffer, "bytes were left over"
            return request
    return None


# What is sent, and what of the request must be as said.
ACCEPTED: dict[str, tuple[bytes, dict[str, object]]] = {
    "the least": (
        GET + b"Host: a\r\n\r\n",
        {
            "method": "GET", "target": "/", "path": "/", "query": "", "version": "HTTP/1.1",
            "minor": 1, "fields": {"HTTP_HOST": "a"}, "content_length": 0, "keep_alive": True,
            "expects_continue": False, "relaxed": (),
        },
    ),
    "HTTP/1.0 without anything": (
        b"GET / HTTP/1.0\r\n\r\n",
        {"minor": 0, "version": "HTTP/1.0", "fields": {}, "keep_alive": False},
    ),
    "a higher minor version": (
        b"GET / HTTP/1.7\r\n" + HOST + END, {"minor": 1, "version": "HTTP/1.7", "keep_alive": True},
    ),
    "any method, as it is": (b"fOo-1 / HTTP/1.1\r\n" + HOST + END, {"method": "fOo-1"}),
    "path and query": (
        b"GET /a%20b/?x=1?y HTTP/1.1\r\n" + HOST + END,
        {"target": "/a%20b/?x=1?y", "path": "/a%20b/", "query": "x=1?y"},
    ),
    "bytes above 0x7F": (
        b"GET /\xc3\xa9 HTTP/1.1\r\n" + HOST + b"X: \xff\r\n\r\n",
        {"path": "/\u00c3\u00a9", "fields": {"HTTP_HOST": "a.example", "HTTP_X": "\u00ff"}},
    ),
    "two slashes are no authority": (
        b"GET //b/c HTTP/1.1\r\n" + HOST + END,
        {"path": "//b/c", "fields": {"HTTP_HOST": "a.example"}},
    ),
    "absolute-form": (
        b"GET http://b:8/c?d HTTP/1.1\r\n" + HOST + END,
        {
            "target": "http://b:8/c?d", "path": "/c", "query": "d",
            "fields": {"HTTP_HOST": "b:8"},
        },
    ),
    "absolute-form in HTTP/1.0 without Host": (
        b"GET HTTPS://[::1] HTTP/1.0\r\n\r\n", {"path": "/", "fields": {"HTTP_HOST": "[::1]"}},
    ),
    "absolute-form without a path": (
        b"GET http://b?d HTTP/1.1\r\n" + HOST + END, {"path": "/", "query": "d"},
    ),
    "OPTIONS of the server": (
        b"OPTIONS * HTTP/1.1\r\n" + HOST + END, {"target": "*", "path": ""},
    ),
    "OPTIONS of the server through a proxy": (
        b"OPTIONS http://b HTTP/1.1\r\n" + HOST + END,
        {"path": "", "fields": {"HTTP_HOST": "b"}},
    ),
    "empty lines before": (b"\r\n\r\n\r\n\r\n" + GET + HOST + END, {"method": "GET"}),
    "an empty Host": (GET + b"Host:\r\n\r\n", {"fields": {"HTTP_HOST": ""}}),
    "white space around a value": (
        GET + b"Host: \t a.example \t \r\nX:\t\r\n\r\n",
        {"fields": {"HTTP_HOST": "a.example", "HTTP_X": ""}},
    ),
    "repeated fields": (
        GET + HOST + b"X: 1\r\nx:2\r\nCookie: a\r\nX:\r\nCookie: b\r\n\r\n",
        {"fields": {"HTTP_HOST": "a.example", "HTTP_X": "1, 2, ", "HTTP_COOKIE": "a; b"}},
    ),
    "an underscore drops the field": (
        GET + HOST + b"X_A: 1\r\nX-B: 2\r\nTransfer_Encoding: chunked\r\nContent_Length: 7\r\n\r\n",
        {"fields": {"HTTP_HOST": "a.example", "HTTP_X_B": "2"}, "content_length": 0},
    ),
    "names that CGI has without HTTP_": (
        GET + HOST + b"Content-Type: t\r\nContent-Length: 0\r\nContent: c\r\n\r\n",
        {
            "fields": {
                "HTTP_HOST": "a.example", "CONTENT_TYPE": "t", "CONTENT_LENGTH": "0",
                "HTTP_CONTENT": "c",
            },
        },
    ),
    "a length with zeros before it": (
        GET + HOST + b"Content-Length: 0000000000000000000000013\r\n\r\n", {"content_length": 13},
    ),
    "the longest length": (
        GET + HOST + b"Content-Length: 1073741824\r\n\r\n", {"content_length": 1 << 30},
    ),
    "chunked": (
        GET + HOST + b"Transfer-Encoding: \tChunKed \r\n\r\n", {"content_length": CHUNKED},
    ),
    "close": (GET + HOST + b"Connection: a, CLOSE,b\r\n\r\n", {"keep_alive": False}),
    "close and keep-alive": (
        GET + HOST + b"Connection: keep-alive\r\nConnection: close\r\n\r\n", {"keep_alive": False},
    ),
    "close is a word": (GET + HOST + b"Connection: closed\r\n\r\n", {"keep_alive": True}),
    "keep-alive in HTTP/1.0": (
        b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", {"keep_alive": True},
    ),
    "100-continue": (
        GET + HOST + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
        {"expects_continue": True},
    ),
    "100-continue, chunked and twice": (
        GET + HOST + b"Expect: 100-continue\r\nExpect: 100-continue\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        {"expects_continue": True},
    ),
    "100-continue without content": (
        GET + HOST + b"Expect: 100-continue\r\n\r\n", {"expects_continue": False},
    ),
    "100-continue in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        {"expects_continue": False, "content_length": 1},
    ),
    "no expectation": (GET + HOST + b"Expect:\r\n\r\n", {"expects_continue": False}),
    "as many fields as may be": (
        GET + HOST + b"".join(b"X%d: 1\r\n" % number for number in range(99)) + END, {},
    ),
    "a request-line as long as may be": (
        b"GET /" + b"a" * (8190 - 14) + b" HTTP/1.1\r\n" + HOST + END, {"method": "GET"},
    ),
    "a head as long as may be": (
        GET + HOST + b"X: " + b"a" * (65536 - len(GET + HOST) - 7) + b"\r\n\r\n", {},
    ),
}  # fmt: skip

# What is sent, the status, words of the reason, and the byte where it is wrong (None: not told).
REFUSED: dict[str, tuple[bytes, int, str, int | None]] = {
    "a person types": (b"This is a sample\n", 400, "no request-line", None),
    "a person types HTTP": (b"GET / HTTP/1.1\n", 400, "bare line feed", 14),
    "a person asks for help": (b"help\n", 400, "no request-line", None),
    "three words": (b"this is it\r\n", 400, "no request-line", None),
    "two words": (b"hello world\r\n", 400, "no request-line", None),
    "a sentence with a comma": (b"hello, world\r\n", 400, "no request-line", None),
    "HTTP/0.9": (b"GET /\r\n", 400, "without the HTTP version", 5),
    "TLS": (b"\x16\x03\x01\x02\x00", 400, "looks like a TLS handshake", 0),
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n", 505, "HTTP/1.0 and HTTP/1.1", 6),
    "a NUL": (b"\x00", 400, "first byte", 0),
    "a space first": (b" GET", 400, "first byte", 0),
    "a bare line feed first": (b"\n", 400, "bare line feed", 0),
    "a bare line feed, and a carriage return last": (b"\n\r", 400, "bare line feed", 0),
    "a bare line feed after an empty line": (b"\r\n\n", 400, "bare line feed", 0),
    "a bare carriage return first": (b"\r" + GET, 400, "no request-line", None),
    "five empty lines": (b"\r\n" * 5, 400, "no request-line", None),
    "a method alone": (b"GET\r\n", 400, "one space between", 3),
    "a method and a space": (b"GET \r\n", 400, "one space between", 3),
    "no version, but a space": (b"GET / \r\n", 400, "without the HTTP version", 6),
    "two spaces": (b"GET  / HTTP/1.1\r\n", 400, "one space between", 4),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\n", 400, "one space between", 6),
    "a space after the version": (b"GET / HTTP/1.1 \r\n", 400, "a space follows", 14),
    "spaces after the version": (b"GET / HTTP/1.1  \r\n", 400, "a space follows", 14),
    "a word after the version": (b"GET / HTTP/1.1 now\r\n", 400, "one space between", 14),
    "words and no version": (b"GET /a b c\r\n", 400, "one space between", 6),
    "a space in the target": (b"GET /in fo HTTP/1.1\r\n", 400, "target holds a space", 7),
    "spaces in the target": (b"GET /a b  c HTTP/1.1 \r\n", 400, "target holds a space", 6),
    "a fragment, then a space": (b"GET /#a b HTTP/1.1\r\n", 400, "# or a control", 5),
    "a method that is no token": (b"G(T / HTTP/1.1\r\n", 400, "one space between", 1),
    "a tab": (b"GET\t/\tHTTP/1.1\r\n", 400, "no request-line", 3),
    "a fragment": (b"GET /a#b HTTP/1.1\r\n", 400, "# or a control", 6),
    "a control in the target": (b"GET /a\x01 HTTP/1.1\r\n", 400, "# or a control", 6),
    "DEL in the target": (b"GET /\x7f HTTP/1.1\r\n", 400, "# or a control", 5),
    "a carriage return in the target": (b"GET /\r HTTP/1.1\r\n", 400, "# or a control", 5),
    "a carriage return after the version": (b"GET / HTTP/1.1\r\r\n", 400, "HTTP version", 6),
    "a version in lower case": (b"GET / http/1.1\r\n", 400, "HTTP version", 6),
    "a version of two digits": (b"GET / HTTP/1.10\r\n", 400, "HTTP version", 6),
    "HTTP/2": (b"GET / HTTP/2.0\r\n", 505, "only HTTP/1.0 and HTTP/1.1", 6),
    "HTTP/0.9 in words": (b"GET / HTTP/0.9\r\n", 505, "only HTTP/1.0 and HTTP/1.1", 6),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n", 501, "CONNECT", 0),
    "no slash": (b"GET a HTTP/1.1\r\n", 400, "begin with a slash", 4),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\n", 400, "begin with a slash", 4),
    "an asterisk with GET": (b"GET * HTTP/1.1\r\n", 400, "begin with a slash", 4),
    "an authority that is none": (b"GET http://a:x/ HTTP/1.1\r\n", 400, "no valid host", 4),
    "no authority": (b"GET http:/// HTTP/1.1\r\n", 400, "no valid host", 4),
    "an authority with a port only": (b"GET http://:80/ HTTP/1.1\r\n", 400, "no valid host", 4),
    "a user in the authority": (b"GET http://u@a/ HTTP/1.1\r\n", 400, "no valid host", 4),
    "a port too high": (b"GET http://a:65536/ HTTP/1.1\r\n", 400, "no valid host", 4),
    "a request-line too long": (b"GET /" + b"a" * 8177 + b" HTTP/1.1\r\n", 414, "8190", 8190),
    "a request-line without end": (b"A" * 8192, 414, "8190", 8190),
    "no colon": (GET + b"Host\r\n", 400, "no colon", 20),
    "no name": (GET + b": a\r\n", 400, "no name", 16),
    "a space before the colon": (GET + b"Host : a\r\n", 400, "white space", 20),
    "a tab before the colon": (GET + b"Host\t: a\r\n", 400, "white space", 20),
    "a space in the name": (GET + b"Ho st: a\r\n", 400, "no colon", 18),
    "a fold": (GET + HOST + b"X: 1\r\n 2\r\n", 400, "folded", 39),
    "a fold first": (GET + b" Host: a\r\n", 400, "folded", 16),
    "a NUL in a value": (GET + b"X: a\x00b\r\n", 400, "control", 20),
    "a carriage return in a value": (GET + b"X: a\rb\r\n", 400, "control", 20),
    "DEL in a value": (GET + b"X: \x7f\r\n", 400, "control", 19),
    "a bare line feed after a field": (GET + b"Host: a\n", 400, "bare line feed", 23),
    "a bare line feed at the end": (GET + HOST + b"\n", 400, "bare line feed", 33),
    "no Host": (GET + END, 400, "needs a Host", None),
    "two Hosts": (GET + HOST + HOST + END, 400, "Host stands there twice", 33),
    "two Hosts, one empty": (GET + HOST + b"Host:\r\n\r\n", 400, "Host stands there twice", 33),
    "two Hosts and more": (
        GET + HOST + b"X: Host: b\r\nHOST:b\r\nX: 2\r\n\r\n", 400, "Host stands there twice", 45,
    ),
    "two Hosts in one line": (GET + b"X: 1\r\nHost: a, b\r\n\r\n", 400, "Host is not one", 22),
    "two empty Hosts": (GET + b"Host:\r\nHost:\r\n\r\n", 400, "Host stands there twice", 23),
    "a Host that is none": (GET + b"Host: a/b\r\n\r\n", 400, "Host is not one", 16),
    "a Host with a port only": (GET + b"Host: :80\r\n\r\n", 400, "Host is not one", 16),
    "a bad Host in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a b\r\n\r\n", 400, "Host", 16),
    "a bad Host beside absolute-form": (
        b"GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "Host is not one", 24,
    ),
    "no Host beside absolute-form": (b"GET http://b/ HTTP/1.1\r\n\r\n", 400, "needs a Host", None),
    "a length with a sign": (GET + HOST + b"Content-Length: +1\r\n\r\n", 400, "one number", 33),
    "an empty length": (GET + HOST + b"Content-Length:\r\n\r\n", 400, "one number", 33),
    "a length with an underscore": (
        GET + HOST + b"Content-Length: 1_0\r\n\r\n", 400, "one number", 33,
    ),
    "two equal lengths": (
        GET + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400, "one number", 52,
    ),
    "a list of lengths": (GET + HOST + b"Content-Length: 1, 1\r\n\r\n", 400, "one number", 33),
    "a length too long": (GET + HOST + b"Content-Length: 1073741825\r\n\r\n", 413, "", 33),
    "a length of many digits": (
        GET + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, "longer", 33,
    ),
    "a length and a coding": (
        GET + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
        400, "together", 61,
    ),
    "a coding in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0", 17,
    ),
    "gzip alone": (
        GET + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "only transfer coding", 33,
    ),
    "gzip and chunked in two lines": (
        GET + HOST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
        501, "only transfer coding", 33,
    ),
    "chunked not last": (
        GET + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400, "not the last", 33,
    ),
    "chunked twice": (
        GET + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        400, "twice", 61,
    ),
    "gzip and chunked": (
        GET + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "only transfer coding", 33,
    ),
    "an empty coding": (GET + HOST + b"Transfer-Encoding:\r\n\r\n", 400, "not a list", 33),
    "an empty coding in a list": (
        GET + HOST + b"Transfer-Encoding: , chunked\r\n\r\n", 400, "not a list", 33,
    ),
    "chunked with a parameter": (
        GET + HOST + b"Transfer-Encoding: chunked;a=b\r\n\r\n", 400, "no parameters", 33,
    ),
    "chunked in quotes": (
        GET + HOST + b'Transfer-Encoding: "chunked"\r\n\r\n', 400, "not a list", 33,
    ),
    "another expectation": (GET + HOST + b"Expect: tea\r\n\r\n", 417, "100-continue", 33),
    "another expectation, too": (
        GET + HOST + b"Expect: 100-continue, tea\r\n\r\n", 417, "100-continue", 33,
    ),
    "another expectation first": (
        GET + HOST + b"Expect: tea\r\nExpect: 100-continue\r\n\r\n", 417, "100-continue", 33,
    ),
    "another expectation second": (
        GET + HOST + b"Expect: 100-Continue\r\nexpect:tea\r\nExpect:\r\n\r\n", 417,
        "100-continue", 55,
    ),
    "too many fields": (
        GET + HOST + b"X: 1\r\n" * 100, 431, "more than 100", len(GET + HOST) + 99 * 6,
    ),
    "a head too long": (
        GET + HOST + b"X: " + b"a" * (65536 - len(GET + HOST) - 6) + b"\r\n\r\n", 431, "65536",
        65536,
    ),
    "a head without end": (GET + b"X: " + b"a" * 70_000, 431, "longer than 65536", 65536),
}  # fmt: skip

# Beyond the limits of this table nothing is looked at.
SMALL = Limits(request_line_bytes=20, fields=2, head_bytes=60, content_bytes=9, blank_lines=0)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str) -> None:
    data, expected = ACCEPTED[name]
    generator = random.Random(choose_seed())
    first: dict[str, object] | None = None
    parser = HeadParser(Limits())
    for way, pieces in [("again", [data]), *cut_in_every_way(data, generator), ("again", [data])]:
        request = read(parser, pieces)
        assert isinstance(request, Request), (way, request)
        found = describe(request)
        assert {key: found[key] for key in expected} == expected, way
        assert found == (first := first or found), way


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, status, words, offset = REFUSED[name]
    generator = random.Random(choose_seed())
    parser = HeadParser(Limits())
    for way, pieces in [*cut_in_every_way(data, generator), ("again", [data])]:
        error = read(parser, pieces)
        assert isinstance(error, ProtocolError), (way, error)
        assert (error.status, error.offset) == (status, offset), (way, str(error))
        assert words in error.reason, way
        assert error.content_offset is None
        assert not error.reason.endswith("."), "a clause, for the log"
    assert not parser.sections[0] and not parser.sections[1], "what was refused is not kept"
    rest = HeadParser(Limits())
    assert isinstance(read(rest, [data + b"\r\n\r\n" + GET + HOST + END]), ProtocolError), "glued"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /2345 HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /234567 HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"GET /2345678 HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (GET + b"Host: a\r\nX:\r\n\r\n", None),
        (GET + b"Host: a\r\nX:\r\nY:\r\n\r\n", 431),
        (GET + b"Host: a\r\nX: " + b"a" * 28 + b"\r\n\r\n", None),
        (GET + b"Host: a\r\nX: " + b"a" * 29 + b"\r\n\r\n", 431),
        (GET + b"Host: a\r\nContent-Length:9\r\n\r\n", None),
        (GET + b"Host: a\r\nContent-Length:10\r\n\r\n", 413),
        (b"\r\n" + GET + b"Host: a\r\n\r\n", 400),
    ],
)
def test_limits_hold_to_the_byte_and_for_what_is_cached(data: bytes, status: int | None) -> None:
    generator = random.Random(choose_seed())
    parser = HeadParser(SMALL)
    for way, pieces in [("again", [data]), *cut_in_every_way(data, generator), ("again", [data])]:
        result = read(parser, pieces)
        if status is None:
            assert isinstance(result, Request), (way, result)
        else:
            assert isinstance(result, ProtocolError), way
            assert result.status == status, way


# The relaxation, what is sent, the fields under it; without it the head is refused or reads else.
RELAXED: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "bare line feeds": ("bare-lf", b"GET / HTTP/1.1\nHost: a\n\n", {"HTTP_HOST": "a"}),
    "one bare line feed": (
        "bare-lf", b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", {"HTTP_HOST": "a", "HTTP_X": "1"},
    ),
    "a bare line feed at the end": ("bare-lf", GET + b"Host: a\r\n\n", {"HTTP_HOST": "a"}),
    "bare line feeds before": ("bare-lf", b"\n\n" + GET + b"Host: a\r\n\r\n", {"HTTP_HOST": "a"}),
    "no Host": ("missing-host", GET + b"X: 1\r\n\r\n", {"HTTP_X": "1"}),
    "a fold": (
        "obs-fold", GET + b"Host: a\r\nX: 1 \r\n \t2\t\r\n\t3\r\n\r\n",
        {"HTTP_HOST": "a", "HTTP_X": "1  2 3"},
    ),
    "a fold of nothing": (
        "obs-fold", GET + b"Host: a\r\nX:\r\n \r\n\r\n", {"HTTP_HOST": "a", "HTTP_X": ""},
    ),
    "a fold after a field that is dropped": (
        "obs-fold", GET + b"Host: a\r\nX_A: 1\r\n 2\r\n\r\n", {"HTTP_HOST": "a"},
    ),
    "an underscore": (
        "underscores", GET + b"Host: a\r\nX_A: 1\r\nX-A: 2\r\n\r\n",
        {"HTTP_HOST": "a", "HTTP_X_A": "1, 2"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELAXED)
def test_relaxed(name: str) -> None:
    relaxation, data, fields = RELAXED[name]
    generator = random.Random(choose_seed())
    strict = HeadParser(Limits())
    parser = HeadParser(Limits(), frozenset([relaxation]))
    for way, pieces in [("again", [data]), *cut_in_every_way(data, generator), ("again", [data])]:
        refused = read(strict, pieces)
        assert not isinstance(refused, Request) or refused.fields != fields, way
        request = read(parser, pieces)
        assert isinstance(request, Request), (way, request)
        assert request.fields == fields, way
        assert request.relaxed == (relaxation,), way
    section = data.partition(b"\r\n")[2][:-4]
    assert section not in parser.sections[1], "it would not be told the next time"


@pytest.mark.parametrize(
    ("relaxation", "data", "status"),
    [
        ("bare-lf", b"GET / HTTP/1.1\n\n", 400),
        ("bare-lf", b"GET / HTTP/1.1\rHost: a\n\n", 400),
        ("bare-lf", b"GET / HTTP/1.1\nHost: a\r\r\n\n", 400),
        ("bare-lf", b"GET /" + b"a" * 8177 + b" HTTP/1.1\n", 414),
        ("bare-lf", b"\n" * 5, 400),
        ("missing-host", GET + HOST + HOST + END, 400),
        ("missing-host", GET + b"Host: a b\r\n\r\n", 400),
        ("obs-fold", GET + b" X: 1\r\n", 400),
        ("obs-fold", GET + HOST + b"X: 1\r\n \x00\r\n", 400),
        ("obs-fold", GET + b"Host: a\r\n b\r\n\r\n", 400),
        ("obs-fold", GET + b"Host: a\r\nX: 1\r\n Host: c\r\nHost: b\r\n\r\n", 400),
        ("obs-fold", GET + HOST + b" 1\r\n" * 100, 431),
        ("obs-fold", GET + HOST + b"Content-Length: 1\r\n 2\r\n\r\n", 400),
        ("underscores", GET + HOST + b"_: 1\r\n: 2\r\n", 400),
    ],
)
def test_relaxation_relaxes_nothing_else(relaxation: str, data: bytes, status: int) -> None:
    generator = random.Random(choose_seed())
    parser = HeadParser(Limits(), frozenset([relaxation]))
    for way, pieces in cut_in_every_way(data, generator):
        error = read(parser, pieces)
        assert isinstance(error, ProtocolError), (way, error)
        assert error.status == status, way


@pytest.mark.parametrize("name", [b"Content_Length", b"Transfer_Encoding", b"content_LENGTH"])
@pytest.mark.parametrize("value", [b"5", b"chunked"])
def test_underscore_never_frames_a_message(name: bytes, value: bytes) -> None:
    """A proxy that does not know the name would see another end of the message."""
    parser = HeadParser(Limits(), frozenset(["underscores"]))
    for pieces in ([GET + HOST + name + b": " + value + b"\r\n\r\n"],) * 2:
        request = read(parser, pieces)
        assert isinstance(request, Request)
        assert request.content_length == 0
        assert request.fields == {"HTTP_HOST": "a.example"}


def test_cached_heads_read_as_they_did() -> None:
    """The caches are keyed by raw bytes: what a hit gives is what the first reading gave."""
    parser = HeadParser(Limits())
    heads = [data for data, _ in ACCEPTED.values()]
    generator = random.Random(choose_seed())
    expected = {data: describe(read(HeadParser(Limits()), [data])) for data in heads}  # type: ignore[arg-type]
    for _ in range(2000):
        data = generator.choice(heads)
        request = read(parser, [data])
        assert isinstance(request, Request)
        assert describe(request) == expected[data]


def test_same_section_under_both_versions() -> None:
    """Keep-alive, Host and Expect depend on the version; so must what is kept."""
    parser = HeadParser(Limits())
    section = b"Host: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    for version, kept in [(b"1.1", True), (b"1.0", False), (b"1.1", True), (b"1.0", False)]:
        request = read(parser, [b"GET / HTTP/" + version + b"\r\n" + section])
        assert isinstance(request, Request)
        assert (request.keep_alive, request.expects_continue) == (kept, kept)


def list_caches(parser: HeadParser) -> dict[str, dict[bytes, Any]]:
    """Every dict that a parser keeps."""
    found = {}
    for name in HeadParser.__slots__:
        kept = getattr(parser, name)
        for number, cache in enumerate(kept if isinstance(kept, tuple) else [kept]):
            if isinstance(cache, dict):
                found[f"{name}[{number}]"] = cache
    return found


def read_thrice(parser: HeadParser, data: bytes) -> None:
    """A section is kept once its lines are known: the second time. The third time it is found."""
    for _ in range(3):
        assert isinstance(read(parser, [data]), Request)


def test_caches_are_bounded() -> None:
    """The keys come from strangers: no cache grows without limit, and each is one in use."""
    parser = HeadParser(Limits())
    most = dict.fromkeys(list_caches(parser), 0)
    assert len(most) == 5
    head = b"GET /%d HTTP/%b\r\nHost: a\r\nX-%d: %d\r\n\r\n"
    for number in range(2500):
        for version in (b"1.0", b"1.1"):
            read_thrice(parser, head % (number, version, number, number))
        for name, cache in list_caches(parser).items():
            most[name] = max(most[name], len(cache))
    assert all(400 <= count <= 2048 for count in most.values()), most


@pytest.mark.parametrize(
    ("name", "longest", "before", "key", "after"),
    [
        ("start_lines[0]", 512, b"", b"GET /%b HTTP/1.1", b"\r\n" + HOST + END),
        ("_field_lines[0]", 512, GET + HOST, b"X: %b", b"\r\n\r\n"),
        ("_variables[0]", 64, GET + HOST, b"X%b", b":\r\n\r\n"),
        ("sections[0]", 2048, b"GET / HTTP/1.0\r\n", b"X: %b", b"\r\n\r\n"),
        ("sections[1]", 2048, GET, HOST + b"X: %b", b"\r\n\r\n"),
    ],
    ids=["start line", "field line", "name", "section of 1.0", "section of 1.1"],
)
def test_what_is_cached_is_short(
    name: str, longest: int, before: bytes, key: bytes, after: bytes
) -> None:
    parser = HeadParser(Limits())
    for size in (longest, longest + 1):
        room = size - len(key % b"")
        filling = b"a" * room
        if name.startswith("sections"):  # of lines that are kept themselves
            filling = (b"a" * 300 + b"\r\nX: ") * 6
            filling += b"a" * (room - len(filling))
        raw = key % filling
        assert len(raw) == size
        read_thrice(parser, before + raw + after)
        assert (raw in list_caches(parser)[name]) is (size == longest)


def test_fields_of_one_request_are_not_those_of_another() -> None:
    """An absolute-form replaces Host in its own request only, although the section is shared."""
    parser = HeadParser(Limits())
    for _ in range(2):
        for target, host in [(b"http://b/", "b"), (b"/", "a.example")]:
            request = read(parser, [b"GET " + target + b" HTTP/1.1\r\n" + HOST + END])
            assert isinstance(request, Request)
            assert request.fields["HTTP_HOST"] == host


@pytest.mark.parametrize("allow", [(), ("obs-fold", "bare-lf", "underscores", "missing-host")])
@pytest.mark.parametrize(
    "line", [b"X: " + b"a" * 700 + b"\r\n", b"X: 1\r\n", b" 1\r\n", b"X_" + b"a" * 90 + b":\r\n"]
)
def test_work_is_linear_in_the_bytes(allow: tuple[str, ...], line: bytes) -> None:
    """64 KiB byte by byte, and whole: no byte costs more because others came before it."""
    limits = replace(Limits(), fields=20_000)
    data = (GET + HOST + line * (65_000 // len(line)))[:65_000] + END
    parser = HeadParser(limits, frozenset(allow))
    if line[:1] == b" ":
        data = data[:6000]  # a fold reads its line again: the limit on lines bounds it
    for pieces in ([data], [data[index : index + 1] for index in range(len(data))]):
        started = time.process_time()
        read(parser, pieces)
        assert time.process_time() - started < 1.0
