"""The patterns of the grammar: what each takes, what it refuses, and that none can be made slow."""

from __future__ import annotations

import ipaddress
import random
import re
import time
from typing import Any

import pytest

from rawsgi.protocol import grammar
from tests.conversation import choose_seed

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
OBS_TEXT = "".join(map(chr, range(0x80, 0x100)))

# pattern, what it takes, what it refuses
TABLE: list[tuple[str, list[str], list[str]]] = [
    (
        "token",
        [TOKEN_CHARACTERS, "a", "-", "GET"],
        ["", "a b", "a:", "a\n", "\u00e9", "\u0660", *"\"(),/:;<=>?@[\\]{}\x7f\x00\t "],
    ),
    (
        "http_version",
        ["HTTP/1.1", "HTTP/0.0", "HTTP/9.9"],
        ["", "http/1.1", "HTTP/1", "HTTP/1.10", "HTTP/11", " HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1\r"],
    ),
    (
        "request_line",
        [
            "GET / HTTP/1.1",
            "get * HTTP/0.0",
            f"{TOKEN_CHARACTERS} {VISIBLE.replace('#', '')}{OBS_TEXT} HTTP/9.9",
        ],
        [
            "",
            "GET /",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET\t/ HTTP/1.1",
            "GET /\x0b HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /#a HTTP/1.1",
            "GET /\x7f HTTP/1.1",
            "GET /\x00 HTTP/1.1",
            "GET / http/1.1",
            "GET / HTTP/1.10",
            "GET / HTTP/1",
            "GET / HTTP/11",
            "GET / HTTP/+1.1",
            "GET / HTTP/1.1\n",
            "GET / HTTP/1.1\r",
            "GE(T / HTTP/1.1",
            "GET / HTTP/\u00b9.\u00b9",
        ],
    ),
    (
        "field_line",
        ["A:", "A: b", "A:\tb\t", f"{TOKEN_CHARACTERS}: \t{VISIBLE}{OBS_TEXT}", "A:::"],
        [
            "",
            ":",
            ": a",
            "A",
            "A : b",
            " A: b",
            "A\t: b",
            "A: b\r",
            "A: b\n",
            "A: b\x00",
            "A: \x7f",
            "A: \x1f",
            "A: \x0b",
            "(A: b",
            "\u00e9: b",
        ],
    ),
    (
        "content_length",
        ["0", "00", "13", "9" * 5000],
        ["", "+1", "-1", "1 ", " 1", "1,1", "0x1", "1_0", "1.0", "1e3", "\u00b2", "\u0661", "1\n"],
    ),
    (
        "host",
        [
            "",
            "a",
            "a.example",
            "a.example:80",
            "a.example:",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:80",
            "[::ffff:127.0.0.1]",
            "[v1.fe80::a+en1]",
            "%C3%A9.example",
            "under_score",
            "a,b",
            "!$&'()*+,;=~",
        ],
        [
            ":",
            ":80",
            "a:80:80",
            "a:123456",
            "a:8x",
            "a b",
            "a, a",
            " a",
            "a\t",
            "u@a",
            "a/",
            "a?",
            "a#",
            "a\\",
            "<a>",
            "[::1",
            "::1",
            "[]",
            "[:]",
            "[::1]a",
            "[::g]",
            "[1:2:3:4:5:6:7]",
            "[1:2:3:4:5:6:7:8:9]",
            "[1::2::3]",
            "[::256.0.0.1]",
            "[::01.0.0.1]",
            "[12345::]",
            "[fe80::1%25en0]",
            "%",
            "%C",
            "%GG",
            "\u00e9",
            "a:\u0661",
        ],
    ),
    (
        "absolute_form",
        ["http://a", "HTTP://a/b?c", "https://a:1?c", "http://", "http:///"],
        ["http:/a", "//a", "ftp://a", "/http://a", "ws://a", "http:a", "httpss://a"],
    ),
    (
        "chunk_line",
        [
            "0",
            "d",
            "D",
            "0" * 16,
            "f" * 16,
            "5;a",
            "5;a=b",
            "5 ; a = b",
            "5;a;b=c;d",
            '5;a="b c"',
            '5;a="\\"\\\\"',
            '5;a=""',
            '5;a="\u00e9"',
        ],
        [
            "",
            "g",
            "0x5",
            "5_0",
            "+5",
            "-5",
            " 5",
            "5 ",
            "5;",
            "5;;a",
            "5;=b",
            "5;a=",
            "5;a b",
            '5;a="b',
            '5;a="b"c',
            "5;a=\x00",
            "5;a\n",
            "\u0665",
        ],
    ),
    (
        "status",
        ["200 OK", "200 ", "200", "599 \u00e9", "204 No\tContent"],
        ["", "20 OK", "2000 OK", "020 OK", "200OK", " 200 OK", "200 O\r\nK", "200 \x00", "\u20ac"],
    ),
    (
        "response_value",
        ["", " a ", f"\t{VISIBLE}{OBS_TEXT}"],
        ["\n", "a\r", "\x00", "\x7f", "\x1b", "\u20ac"],
    ),
]  # fmt: skip


def is_taken(pattern: re.Pattern[Any], text: str) -> bool:
    if isinstance(pattern.pattern, bytes):
        try:
            return pattern.fullmatch(text.encode("latin-1")) is not None
        except UnicodeEncodeError:
            return False
    return pattern.fullmatch(text) is not None


@pytest.mark.parametrize(("name", "taken", "refused"), TABLE, ids=[row[0] for row in TABLE])
def test_pattern(name: str, taken: list[str], refused: list[str]) -> None:
    pattern = getattr(grammar, name)
    assert [text for text in taken if not is_taken(pattern, text)] == []
    assert [text for text in refused if is_taken(pattern, text)] == []


@pytest.mark.parametrize("name", ["token", "field_line", "request_line", "response_value"])
def test_each_byte_is_taken_or_refused_as_the_rfc_has_it(name: str) -> None:
    rules = {
        "token": ("{}", TOKEN_CHARACTERS),
        "field_line": ("A:{}", "\t " + VISIBLE + OBS_TEXT),
        "request_line": ("GET {} HTTP/1.1", VISIBLE.replace("#", "") + OBS_TEXT),
        "response_value": ("{}", "\t " + VISIBLE + OBS_TEXT),
    }
    frame, allowed = rules[name]
    pattern = getattr(grammar, name)
    taken = "".join(c for c in map(chr, range(256)) if is_taken(pattern, frame.format(c)))
    assert sorted(taken) == sorted(allowed)


def test_ipv6_addresses_are_those_of_the_standard_library() -> None:
    generator = random.Random(choose_seed())
    texts = []
    for _ in range(20_000):
        count = generator.randrange(1, 10)
        parts = [f"{generator.randrange(1 << 16):x}" for _ in range(count)]
        for _ in range(generator.choice([0, 0, 1, 1, 2])):
            parts[generator.randrange(count)] = generator.choice(["", "", "", "1.2.3.4", "12345"])
        if generator.random() < 0.3:
            parts[-1] = ".".join(str(generator.choice([0, 9, 99, 255, 256])) for _ in range(4))
        texts.append(
            generator.choice(["", "", ":"]) + ":".join(parts) + generator.choice(["", ":"])
        )
    valid = 0
    for text in texts:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            expected = False
        else:
            expected = True
        valid += expected
        assert is_taken(grammar.host, f"[{text}]") == expected, text
    assert 500 < valid < 19_500


HOSTILE = {
    "token": ["a", "a-"],
    "request_line": ["A", "A ", "A /", "A / HTTP/1."],
    "field_line": ["A", "A:", "A: ", "A:\t "],
    "host": ["a", "%41", "[:", "1:", "a.", "[v1."],
    "absolute_form": ["http://", "http:", "h"],
    "chunk_line": [";a", " ", "1;", "1;a ", '1;a="', '1;a="\\"', "1 ;\t"],
    "status": ["2", "200 "],
    "response_value": ["a", " "],
    "content_length": ["1"],
    "control": ["a"],
    "not_in_target": ["a"],
}


def test_no_pattern_can_be_made_slow() -> None:
    """Time linear in the input: forty thousand characters in far less than a second."""
    for name, pieces in HOSTILE.items():
        pattern = getattr(grammar, name)
        for piece in pieces:
            for text in (
                piece * (40_000 // len(piece)) + "\x00",
                "1" + piece * 10_000 + "\x00",
                "A:" + piece * 10_000 + "\x00",
            ):
                started = time.process_time()
                is_taken(pattern, text)
                assert time.process_time() - started < 1.0, (name, piece)  # it takes 5 ms at most


def test_every_pattern_is_tested() -> None:
    patterns = {name for name, value in vars(grammar).items() if isinstance(value, re.Pattern)}
    assert patterns == {row[0] for row in TABLE} | {"token_bytes", "control", "not_in_target"}
