"""Where content ends: the one decision, the decoders under every cut, and the chunk encoder."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import replace

import pytest

from rawsgi.protocol.framing import (
    CHUNK,
    LAST_CHUNK,
    ChunkedDecoder,
    LengthDecoder,
    find_content_length,
)
from rawsgi.protocol.message import CHUNKED, Limits, ProtocolError
from tests.conversation import choose_seed, cut_at_random, cut_in_every_way

LIMITS = Limits()


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize(
    ("length", "coding", "expected"),
    [
        # the length or the status, for HTTP/1.1
        (None, None, 0),
        ("0", None, 0),
        ("13", None, 13),
        ("0" * 5000 + "13", None, 13),
        (str(1 << 30), None, 1 << 30),
        (str((1 << 30) + 1), None, -413),
        ("9" * 18, None, -413),
        ("9" * 19, None, -413),
        ("9" * 5000, None, -413),
        *(
            (text, None, -400)
            for text in ["", "+1", "-1", "1 1", "1, 1", "1_0", "0x1", "1.", "\xb2"]
        ),
        (None, "chunked", CHUNKED),
        (None, "CHUNKED", CHUNKED),
        *(
            (None, text, -400)
            for text in [
                "",
                ",",
                "chunked,",
                ",chunked",
                "chunked, chunked",
                "chunked, gzip",
                "chunked;a=b",
                "chunked gzip",
                "gzip;a, chunked;b",
                '"chunked"',
                "chunked\xa0",
                "\x0bchunked",
            ]
        ),
        *(
            (None, text, -501)
            for text in ["gzip", "xchunked", "gzip, chunked", "identity,chunked", "a;b=c , chunked"]
        ),
        ("0", "chunked", -400),
        ("5", "gzip", -400),
        ("x", "chunked", -400),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_decision(length: str | None, coding: str | None, minor: int, expected: int) -> None:
    fields = {"CONTENT_LENGTH": length, "HTTP_TRANSFER_ENCODING": coding}
    present = {name: value for name, value in fields.items() if value is not None}
    if coding is not None and minor == 0:
        expected = -400
    if expected >= CHUNKED:
        assert find_content_length(present, minor, LIMITS) == expected
        return
    with pytest.raises(ProtocolError) as caught:
        find_content_length(present, minor, LIMITS)
    assert caught.value.status == -expected
    names = {"CONTENT_LENGTH": "Content-Length", "HTTP_TRANSFER_ENCODING": "Transfer-Encoding"}
    assert caught.value.field in [names[name] for name in present]


# -- Decoding ----------------------------------------------------------------------------------

Result = tuple[bytes, bytes, int]
"""The content, what is left over, and 0 for a whole message, 1 for an unfinished one, or the
status."""


def decode(
    pieces: Iterable[bytes], limits: Limits = LIMITS, bare_lf: bool = False
) -> tuple[Result, str]:
    """Feed a decoder as `HTTP1` does; return the result, and the reason and place of a refusal."""
    decoder = ChunkedDecoder(limits, bare_lf)
    buffer = bytearray()
    content = bytearray()
    for piece in pieces:
        buffer += piece
        if decoder.finished:
            continue
        try:
            content += decoder.decode(buffer)
        except ProtocolError as error:
            # How much came before the mistake depends on the cut, and nobody looks at it.
            return (b"", b"", error.status), f"{error.reason}, {error.place}"
        assert len(buffer) <= len(piece) + limits.chunk_line_bytes + limits.head_bytes
    return (bytes(content), bytes(buffer), int(not decoder.finished)), ""


TRAILER_LINE = b"X: " + b"a" * 700 + b"\r\n"
SMALL = Limits(content_bytes=20, chunk_line_bytes=8, head_bytes=30, fields=3)

DECODED: dict[str, tuple[bytes, bytes, bytes]] = {
    "empty": (b"0\r\n\r\n", b"", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    "something follows": (b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1", b"hello", b"GET / HTTP/1.1"),
    "a line end follows": (b"0\r\n\r\n\r\n", b"", b"\r\n"),
    "several": (b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", b"abcdef", b""),
    "hexadecimal": (b"a\r\n0123456789\r\nB\r\nABCDEFGHIJK\r\n0\r\n\r\n",
        b"0123456789ABCDEFGHIJK", b""),
    "zeros before": (b"0005\r\nhello\r\n0000000000000000\r\n\r\n", b"hello", b""),
    "data like framing": (b"9\r\n0\r\n\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n\r\n", b""),
    "all bytes": (b"100\r\n" + bytes(range(256)) + b"\r\n0\r\n\r\n", bytes(range(256)), b""),
    "extensions": (b'5;a;b=c ; d = "e;\\"f"\r\nhello\r\n0;z\r\n\r\n', b"hello", b""),
    "a trailer section": (b"1\r\na\r\n0\r\nA: 1\r\nB:\r\nContent-Length: 5\r\n\r\n", b"a", b""),
    "the longest line": (b"1;" + b"a" * 4094 + b"\r\na\r\n0\r\n\r\n", b"a", b""),
    "the longest trailer": (
        b"0\r\n" + TRAILER_LINE * 92 + b"X: " + b"a" * (65536 - 92 * 705 - 7) + b"\r\n\r\n",
        b"", b"",
    ),
    "as many trailer fields as may be": (b"0\r\n" + b"A:\r\n" * 100 + b"\r\n", b"", b""),
}  # fmt: skip

UNFINISHED = [
    b"", b"5", b"5\r", b"5\r\n", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r", b"5\r\nhello\r\n",
    b"5\r\nhello\r\n0", b"5\r\nhello\r\n0\r\n", b"0\r\nA: 1", b"0\r\nA: 1\r\n", b"0\r\nA: 1\r\n\r",
    b"5;" + b"a" * 4094, b"ffffff\r\n" + b"a" * 100_000,
]  # fmt: skip

# What is sent, the status, words of the reason, and the byte where it is wrong.
BROKEN: dict[str, tuple[bytes, int, str, int]] = {
    "no size": (b"\r\n", 400, "begin with its size", 0),
    "a bare line feed": (b"\n", 400, "bare line feed", 0),
    "letters": (b"xyz\r\n", 400, "begin with its size", 0),
    "a prefix": (b"0x5\r\n", 400, "begin with its size", 0),
    "a sign": (b"+5\r\n", 400, "begin with its size", 0),
    "an underscore": (b"1_0\r\n", 400, "begin with its size", 0),
    "space before": (b" 5\r\n", 400, "begin with its size", 0),
    "space after": (b"5 \r\n", 400, "begin with its size", 0),
    "17 digits": (b"10000000000000005\r\n", 413, "longer than 1073741824", 0),
    "an extension without name": (b"5;\r\n", 400, "begin with its size", 0),
    "a quote that does not end": (b'5;a="b\r\n', 400, "begin with its size", 0),
    "a carriage return after the size": (b"5\r\r\n", 400, "begin with its size", 0),
    "a bare carriage return after the size": (b"5\rhello\r\n", 400, "begin with its size", 0),
    "a line feed after the size": (b"5\nhello\r\n", 400, "bare line feed", 1),
    "a line feed after the data": (b"5\r\nhello\n", 400, "bare line feed", 8),
    "data too long": (b"5\r\nhellos", 400, "longer than its chunk-size", 8),
    "data much too long": (b"5\r\nhello world\r\n", 400, "longer than its chunk-size", 8),
    "a bare carriage return after the data": (b"5\r\nhello\r0", 400, "longer than its", 9),
    "no line end after the data": (b"5\r\nhello0\r\n\r\n", 400, "longer than its chunk-size", 8),
    "too large at once": (b"40000001\r\n", 413, "longer than 1073741824", 0),
    "too large for 64 bits": (b"ffffffffffffffff\r\n", 413, "longer than 1073741824", 0),
    "too large in sum": (b"1\r\na\r\n40000000\r\n", 413, "longer than 1073741824", 6),
    "a line too long": (b"1;" + b"a" * 4095 + b"\r\n", 400, "longer than 4096", 4096),
    "a line without end": (b"1;" + b"a" * 4096, 400, "longer than 4096", 4096),
    "zeros without end": (b"0" * 4098, 400, "longer than 4096", 4096),
    "extensions without end": (
        (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 17, 400, "more chunk extensions than content", 64112,
    ),
    "a trailer too long": (b"0\r\n" + TRAILER_LINE * 93, 431, "longer than 65536", 65539),
    "a trailer line without end": (b"0\r\nA:" + b"a" * 65534, 431, "longer than 65536", 65539),
    "too many trailer fields": (b"0\r\n" + b"A:\r\n" * 101, 431, "more than 100", 403),
    "a trailer line without colon": (b"0\r\nA\r\n", 400, "trailer section is no field line", 3),
    "a fold in the trailer": (b"0\r\nA: 1\r\n 2\r\n", 400, "trailer section is no field line", 9),
    "a NUL in the trailer": (b"0\r\nA: \x00\r\n", 400, "trailer section is no field line", 3),
    "a space before the colon": (b"0\r\nA : 1\r\n", 400, "trailer section is no field line", 3),
    "a carriage return in the trailer": (b"0\r\nA: 1\r2\r\n", 400, "is no field line", 3),
    "a line feed in the trailer": (b"0\r\nA: 1\n", 400, "bare line feed", 7),
    "a line feed at the end": (b"0\r\n\n", 400, "bare line feed", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", DECODED)
def test_decoded(name: str) -> None:
    data, content, rest = DECODED[name]
    generator = random.Random(choose_seed())
    for way, pieces in cut_in_every_way(data, generator):
        assert decode(pieces) == ((content, rest, 0), ""), way
        assert decode(pieces, bare_lf=True) == ((content, rest, 0), ""), way
    for way, pieces in cut_in_every_way(data + b"GET", generator):
        assert decode(pieces) == ((content, rest + b"GET", 0), ""), way


@pytest.mark.parametrize("data", UNFINISHED, ids=lambda data: repr(data[-20:]))
def test_unfinished(data: bytes) -> None:
    generator = random.Random(choose_seed())
    expected = decode([data])[0]
    assert expected[2] == 1
    for way, pieces in cut_in_every_way(data, generator):
        assert decode(pieces)[0] == expected, way


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str) -> None:
    data, status, words, offset = BROKEN[name]
    generator = random.Random(choose_seed())
    reasons = set()
    for way, pieces in cut_in_every_way(data, generator):
        (_, _, found), reason = decode(pieces)
        assert found == status, way
        reasons.add(reason)
    assert len(reasons) == 1
    reason, _, place = reasons.pop().rpartition(", ")
    assert words in reason
    assert place == f"byte {offset} of the content"
    assert decode([data + b"0\r\n\r\n"])[0][2] == status, "glued"


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"5\nhello\n0\n\n", (b"hello", b"", 0)),
        (b"5\r\nhello\n0\r\n\n", (b"hello", b"", 0)),
        (b"5\r\nhello\r\n0\r\nA: 1\n\r\n", (b"hello", b"", 0)),
        (b"0\n\n\n", (b"", b"\n", 0)),
        (b"\n", (b"", b"", 400)),
        (b"5\n\nhello", (b"", b"", 400)),
        (b"5\rhello\n", (b"", b"", 400)),
        (b"0\nA: 1\r2\n", (b"", b"", 400)),
    ],
)
def test_bare_line_feeds_where_they_are_allowed(data: bytes, result: Result) -> None:
    generator = random.Random(choose_seed())
    for way, pieces in cut_in_every_way(data, generator):
        assert decode(pieces, bare_lf=True)[0] == result, way
        assert decode(pieces)[0][2] == 400, way
    if result[2] == 0:
        decoder = ChunkedDecoder(LIMITS, bare_lf=True)
        decoder.decode(bytearray(data))
        assert decoder.relaxed == ("bare-lf",)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"14\r\n" + b"a" * 20 + b"\r\n0\r\n\r\n", 0),
        (b"15\r\n", 413),
        (b"14\r\n" + b"a" * 20 + b"\r\n1\r\n", 413),
        (b"1;456789\r\n", 1),
        (b"1;4567890\r\n", 400),
        ((b"1;456789\r\na\r\n") * 5, 1),
        ((b"1;456789\r\na\r\n") * 6, 400),
        (b"0\r\nA: 4567890\r\nA: 4567\r\n\r\n", 0),
        (b"0\r\nA: 4567890\r\nA: 4567890\r\nA: 45", 1),
        (b"0\r\nA: 4567890\r\nA: 4567890\r\nA: 456", 431),
        (b"0\r\nA:\r\nA:\r\nA:\r\n\r\n", 0),
        (b"0\r\nA:\r\nA:\r\nA:\r\nA:\r\n", 431),
    ],
)
def test_limits_hold_to_the_byte(data: bytes, status: int) -> None:
    generator = random.Random(choose_seed())
    for way, pieces in cut_in_every_way(data, generator):
        assert decode(pieces, SMALL)[0][2] == status, way


def test_any_content_survives_encoding_and_decoding() -> None:
    generator = random.Random(choose_seed())
    for _ in range(300):
        blocks = [generator.randbytes(generator.randrange(1, 400)) for _ in range(5)]
        data = b"".join(CHUNK % (len(block), block) for block in blocks) + LAST_CHUNK
        pieces = cut_at_random(data, generator)
        assert decode(pieces) == ((b"".join(blocks), b"", 0), "")


def test_work_is_linear_in_the_bytes() -> None:
    """Chunks of one byte, 64 KiB of trailer and of extensions, in one piece and many."""
    chunks = b"1\r\na\r\n" * 400_000 + LAST_CHUNK
    started = time.process_time()
    pieces = [chunks[start : start + 65536] for start in range(0, len(chunks), 65536)]
    (content, _, unfinished), _ = decode(pieces)
    assert (len(content), unfinished) == (400_000, 0)
    assert time.process_time() - started < 4.0  # 0.4 s when it was written
    limits = replace(LIMITS, fields=20_000)
    for data in (
        b"0\r\n" + b"A:\r\n" * 16_000,
        b"0\r\nA:" + b"a" * 65_000,
        (b"1;" + b"a" * 4090 + b"\r\nx\r\n") * 15,
        (b"1;a\r\nx\r\n") * 8_000,
    ):
        started = time.process_time()
        assert decode([data], limits)[0][2] == 1
        assert decode([data[index : index + 1] for index in range(len(data))], limits)[0][2] == 1
        assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    ("length", "data"), [(1, b"a"), (5, b"hello"), (5, b"helloGET"), (300, b"a" * 100), (3, b"")]
)
def test_length(length: int, data: bytes) -> None:
    generator = random.Random(choose_seed())
    for _, pieces in cut_in_every_way(data, generator):
        decoder = LengthDecoder(length)
        buffer, content = bytearray(), b""
        for piece in pieces:
            buffer += piece
            content += decoder.decode(buffer)
        assert content == data[:length]
        assert bytes(buffer) == data[length:]
        assert decoder.finished == (len(data) >= length)
