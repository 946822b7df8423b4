"""The user's own requests: raw text, HAR exports, access logs, folders of recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rawsgi.compare.exchanges.outline import outline_requests
from rawsgi.compare.exchanges.recorded import (
    RecordedError,
    generic_exchanges,
    make_exchange,
    read_requests,
)
from rawsgi.compare.replay.replayer import repeatable

CHUNKED = b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
COMBINED = (
    '127.0.0.1 - - [21/Nov/2026:06:00:00 +0000] "GET /a?b=1 HTTP/1.1" 200 5 "-" "curl/8"\n'
    '127.0.0.1 - - [21/Nov/2026:06:00:01 +0000] "GET /a?b=1 HTTP/1.1" 200 5 "-" "curl/8"\n'
    '127.0.0.1 - joe [21/Nov/2026:06:00:02 +0000] "HEAD / HTTP/1.0" 304 0 "/from" "\\"x\\""\n'
    '127.0.0.1 - - [21/Nov/2026:06:00:03 +0000] "POST /pay HTTP/1.1" 200 5 "-" "-"\n'
    "nonsense\n"
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def har(*requests: Any) -> str:
    return json.dumps({"log": {"entries": [{"request": request} for request in requests]}})


def sent(path: Path) -> list[bytes]:
    return [exchange.sent() for exchange in read_requests(path)[0]]


def test_text(tmp_path: Path) -> None:
    text = (
        "GET /first\n\n### The second one\nPOST /b HTTP/1.1\nHost: b.example\nX: 1\n\nname=joe\n"
        "### The second one\nGET /c HTTP/1.0\n"
    )
    exchanges, notes = read_requests(write(tmp_path, "mine.txt", text))
    assert [exchange.id for exchange in exchanges] == [
        "yours/0001", "yours/The-second-one", "yours/The-second-one-2",
    ]  # fmt: skip
    assert exchanges[0].sent() == b"GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert exchanges[1].sent() == (
        b"POST /b HTTP/1.1\r\nHost: b.example\r\nX: 1\r\nContent-Length: 8\r\n\r\nname=joe"
    )
    assert exchanges[1].title == "The second one"
    assert notes == []


def test_text_with_crlf_is_one_raw_recording(tmp_path: Path) -> None:
    raw = b"GET / HTTP/1.1\r\nHost : odd\r\n\r\nleft \xff over"
    assert sent(write(tmp_path, "raw.txt", raw)) == [raw]


def test_text_that_is_no_request_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "bad.txt", "GET /\n### two\nhello\n")
    with pytest.raises(RecordedError, match=r"request 2 begins with 'hello', which is no request"):
        read_requests(path)


def test_har(tmp_path: Path) -> None:
    get = {
        "method": "GET",
        "url": "https://user@shop.example:8443/a%20b?c=1#d",
        "headers": [
            {"name": ":authority", "value": "shop.example"},
            {"name": "Accept", "value": "*/*"},
            {"name": "connection", "value": "keep-alive"},
            {"name": "Content-Length", "value": "99"},
        ],
    }
    post = {
        "method": "POST",
        "url": "http://shop.example",
        "headers": [],
        "postData": {"text": "é"},
    }
    other = {"method": "GET", "url": "data:text/plain,x", "headers": []}
    split = {"method": "GET", "url": "http://a/", "headers": [{"name": "X", "value": "a\r\nB: c"}]}
    path = write(tmp_path, "export.har", har(get, post, other, split, "nonsense"))
    exchanges, notes = read_requests(path)
    assert [exchange.sent() for exchange in exchanges] == [
        b"GET /a%20b?c=1 HTTP/1.1\r\nHost: shop.example:8443\r\nAccept: */*\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 2\r\n\r\n\xc3\xa9",
    ]
    assert notes == ["3 entries of the HAR file are no http requests and were left out."]
    assert [repeatable(exchange) for exchange in exchanges] == [True, False]


@pytest.mark.parametrize("text", ["{}", '{"log": 5}', '{"log": {"entries": [1]}}', "{broken"])
def test_json_that_is_no_har(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecordedError, match="no HAR export"):
        read_requests(write(tmp_path, "x.har", text))


def test_access_log(tmp_path: Path) -> None:
    exchanges, notes = read_requests(write(tmp_path, "access.log", COMBINED))
    assert [exchange.sent() for exchange in exchanges] == [
        b"GET /a?b=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8\r\n\r\n",
        b'HEAD / HTTP/1.1\r\nHost: localhost\r\nReferer: /from\r\nUser-Agent: "x"\r\n\r\n',
    ]
    assert exchanges[1].heads == {0}
    assert "1 requests of the log are neither GET, HEAD nor OPTIONS" in notes[0]
    assert notes[1] == "1 lines of the log are not in the common or combined format."


@pytest.mark.parametrize(
    ("logged", "target"),
    [
        (r"/caf\xC3\xA9?q=\x22a\x22", b"/caf%C3%A9?q=%22a%22"),
        (r"/caf\xe9", b"/caf%E9"),
        ("/café", b"/caf%C3%A9"),
        (r"/\"a\"\\x41", b"/%22a%22%5Cx41"),
        (r"/\x41\x20b\x0D\x0Ac", b"/A%20b%0D%0Ac"),
        (r"/a\b\x4", b"/a%5Cb%5Cx4"),
        ("/a%20b?c={d}|[e]~", b"/a%20b?c={d}|[e]~"),
    ],
)
def test_escapes_of_a_log_are_undone_in_the_target(
    tmp_path: Path, logged: str, target: bytes
) -> None:
    line = f'1.2.3.4 - - [21/Nov/2026:06:00:00 +0000] "GET {logged} HTTP/1.1" 200 1 "-" "-" 0.1\n'
    (exchange,) = read_requests(write(tmp_path, "access.log", line * 2))[0]
    assert exchange.sent() == b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target
    assert exchange.title == f"GET {target.decode()}"


def test_escapes_of_a_log_are_undone_in_fields(tmp_path: Path) -> None:
    line = (
        '1.2.3.4 - - [21/Nov/2026:06:00:00 +0000] "GET / HTTP/1.1" 200 1 '
        r'"/caf\xC3\xA9?\x22\x5C\\" "a\x09\"b\xFF" 0.1' + "\n"
    )
    assert sent(write(tmp_path, "access.log", line)) == [
        b'GET / HTTP/1.1\r\nHost: localhost\r\nReferer: /caf\xc3\xa9?"\\\\\r\n'
        b'User-Agent: a\t"b\xff\r\n\r\n'
    ]
    split = line.replace(r"\xFF", r"\x0D\x0AX: 1")
    assert sent(write(tmp_path, "access.log", split))[0].endswith(
        rb"User-Agent: a\x09\"b\x0D\x0AX: 1" + b"\r\n\r\n"
    )


def test_names_of_recordings_become_words(tmp_path: Path) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    folder = tmp_path / "of mine"
    (folder / "my shop").mkdir(parents=True)
    for name in ("a b", "a-b", "a-b-2", "my shop/#1", "日本"):
        write(folder, f"{name}.request", raw)
    assert [exchange.id for exchange in read_requests(folder)[0]] == [
        "yours/a-b", "yours/a-b-2", "yours/a-b-3", "yours/my-shop/1", "yours/unnamed",
    ]  # fmt: skip
    assert read_requests(folder / "a b.request")[0][0].id == "yours/a-b"


def test_every_id_names_one_exchange(tmp_path: Path) -> None:
    text = "".join(f"### {title}\nGET /\n" for title in ("a b", "a-b", "a-b-2", "a b"))
    assert [exchange.id for exchange in read_requests(write(tmp_path, "mine.txt", text))[0]] == [
        "yours/a-b", "yours/a-b-2", "yours/a-b-2-2", "yours/a-b-3",
    ]  # fmt: skip


def test_folder_of_recordings(tmp_path: Path) -> None:
    raw = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
    write(tmp_path, "2.request", raw + raw)
    write(tmp_path, "1.request", raw)
    write(tmp_path, "1.response", b"HTTP/1.1 200 OK\r\n\r\n")
    exchanges, _ = read_requests(tmp_path)
    assert [(each.id, each.sent()) for each in exchanges] == [
        ("yours/1", raw), ("yours/2", raw + raw),
    ]  # fmt: skip
    assert len(exchanges[1].expect.responses) == 2


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "empty", "no file called NAME.request"),
        (tmp_path / "none", "No such file"),
        (write(tmp_path, "blank.txt", "\n\n"), "no request in it"),
        (write(tmp_path, "empty.har", har()), "no request in it"),
    ):
        with pytest.raises(RecordedError, match=message):
            read_requests(path)


def test_generic_requests_are_harmless_and_plain() -> None:
    exchanges = generic_exchanges()
    assert len({exchange.id for exchange in exchanges}) == len(exchanges) > 8
    assert all(repeatable(exchange) and exchange.part == "yours" for exchange in exchanges)
    assert all(outline_requests(exchange.sent()).tail == "none" for exchange in exchanges)


@pytest.mark.parametrize(
    ("raw", "requests", "tail"),
    [
        (b"", 0, "none"),
        (b"GET / HTTP/1.1\r\n", 0, "incomplete"),
        (b"GET / HTTP/1.1\r\n\r\n", 1, "none"),
        (b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", 0, "incomplete"),
        (b"GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab" * 2, 2, "none"),
        (CHUNKED + b"Content-Length: 2\r\n\r\n", 0, "unclear"),
        (CHUNKED + b"\r\n2;a\r\nab\r\n0\r\nT: 1\r\n\r\n", 1, "none"),
        (CHUNKED + b"\r\n2\r\nabc\r\n0\r\n\r\n", 0, "unclear"),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", 0, "unclear"),
        (b"\x16\x03\x01\n", 0, "unclear"),
        (b"\r\n\r\nHEAD / HTTP/1.0\r\n\r\nGET", 1, "incomplete"),
    ],
)  # fmt: skip
def test_outline_counts_what_is_plain(raw: bytes, requests: int, tail: str) -> None:
    outline = outline_requests(raw)
    assert (len(outline.requests), outline.tail) == (requests, tail)


def test_made_exchange_knows_its_heads() -> None:
    raw = b"GET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n"
    exchange = make_exchange("x", "", raw)
    assert exchange.heads == {1}
    assert len(exchange.expect.responses) == 2
