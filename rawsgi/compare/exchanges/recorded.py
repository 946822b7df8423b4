"""The user's own requests as exchanges: raw text, a HAR export, an access log, recordings.

Four sources, told apart by what they hold. The rule: bytes that were recorded raw are sent as
they are; what comes from a higher level (HAR, log) is written down as plainly as HTTP/1.1 allows,
and only what can be repeated without harm is taken from a log, which has no content.

- a folder: every `NAME.request` in it holds the raw bytes of what one client sent (the format of
  `rawsgi --record`); other files are left alone;
- a HAR file: JSON, as browsers export it;
- an access log in the common or combined format: GET, HEAD and OPTIONS, each target once, with
  the escapes of the log undone;
- text: requests as one writes them, parted by lines that begin with `###` (the rest of such a
  line is the title). Line ends become CRLF, a missing Host becomes `localhost`, and content gets
  its Content-Length. A file whose first line ends in CRLF is one raw recording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from rawsgi.compare.exchanges import Alternatives, Exchange, Expectation, Step
from rawsgi.compare.exchanges.outline import outline_requests

SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_SIZE_LIMIT_BYTES: Final = 256 << 20
_LOG_LINE: Final = re.compile(
    r'\S+ \S+ .*?\[[^\]]*\] "(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+" \d{3} \S+'
    r'(?: "(?P<referer>(?:[^"\\]|\\.)*)" "(?P<agent>(?:[^"\\]|\\.)*)")?'
)
# How rawsgi, nginx and Apache write bytes that would spoil the line.
_LOG_ESCAPE: Final = re.compile(rb'\\(?:x([0-9A-Fa-f]{2})|(["\\]))')
_NO_TARGET_BYTE: Final = re.compile(rb"[^!#-\[\]-~]")
_NO_VALUE_BYTE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TITLE: Final = re.compile(r"^###[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_REQUEST_LINE: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ \S.*")
# They belong to the recorded connection, or are made anew.
_DROPPED_FIELDS: Final = frozenset(
    {"host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
    | {"content-length", "http2-settings", "te", "expect"}
)


class RecordedError(Exception):
    """The requests cannot be read. The message is one line for the user."""


def read_requests(path: Path) -> tuple[list[Exchange], list[str]]:
    """Read the user's requests; return the exchanges and notes on what was left out.

    Raises RecordedError.
    """
    try:
        if path.is_dir():
            return _read_folder(path), []
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise RecordedError(f"{path}: larger than {_SIZE_LIMIT_BYTES >> 20} MiB")
        raw = path.read_bytes()
    except OSError as error:
        raise RecordedError(f"{path}: {error.strerror}") from error
    notes: list[str] = []
    text = raw.decode("utf-8", "surrogateescape")
    if text.lstrip("\ufeff \t\r\n").startswith("{"):
        found = list(_read_har(path, text, notes))
    elif _LOG_LINE.match(text):
        found = list(_read_log(text, notes))
    else:
        found = list(_read_text(path, raw, text))
    if not found:
        raise RecordedError(f"{path}: no request in it that can be sent. {' '.join(notes)}".strip())
    return _make_unique(found), notes


def make_exchange(name: str, title: str, raw: bytes) -> Exchange:
    """Make an exchange of raw bytes: as many answers are awaited as they plainly hold requests."""
    outline = outline_requests(raw)
    awaited: tuple[Alternatives, ...] = ((),) * max(1, len(outline.requests))
    expectation = Expectation(
        responses=awaited,
        interim=None,
        connection="any",
        complete=True,
        reason=None,
        content=None,
        fields=MappingProxyType({}),
        present_fields=frozenset(),
        absent_fields=frozenset(),
        environ=MappingProxyType({}),
        absent_environ=frozenset(),
    )
    return Exchange(
        id=f"yours/{name}",
        title=title,
        rfc="",
        demand="",
        level="MAY",
        security=False,
        steps=(Step("send", data=raw),),
        heads=outline.heads,
        expect=expectation,
        rfc_expect=None,
        allow=None,
        allow_expect=None,
    )


def generic_exchanges() -> list[Exchange]:
    """A few requests that any application can be asked without harm."""
    host = b"Host: localhost\r\n"
    again = b"GET / HTTP/1.1\r\n" + host + b"\r\n"
    requests = {
        "get": ("GET /", again),
        "head": ("HEAD /", b"HEAD / HTTP/1.1\r\n" + host + b"\r\n"),
        "options": ("OPTIONS /", b"OPTIONS / HTTP/1.1\r\n" + host + b"\r\n"),
        "options-asterisk": ("OPTIONS *", b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n"),
        "get-http-1.0": ("GET / by HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n"),
        "get-twice": ("GET / twice on one connection, the second sent at once", again + again),
        "get-query": ("GET / with a query", b"GET /?a=1&b=%20%C3%A9 HTTP/1.1\r\n" + host + b"\r\n"),
        "get-not-found": (
            "a path that is hardly there",
            b"GET /rawsgi-compare-not-found HTTP/1.1\r\n" + host + b"\r\n",
        ),
        "get-encoded-path": (
            "a percent-encoded path",
            b"GET /rawsgi%20compare/%C3%A9%2Fx HTTP/1.1\r\n" + host + b"\r\n",
        ),
        "get-browser": (
            "GET / as a browser asks",
            b"GET / HTTP/1.1\r\n" + host + b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
            b"Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en\r\n"
            b"Accept-Encoding: gzip, deflate, br\r\nCookie: a=1; b=2\r\n"
            b"Upgrade-Insecure-Requests: 1\r\n\r\n",
        ),
        "get-range": (
            "GET / for its first bytes",
            b"GET / HTTP/1.1\r\n" + host + b"Range: bytes=0-9\r\n\r\n",
        ),
    }
    return [make_exchange(name, title, raw) for name, (title, raw) in requests.items()]


def _read_folder(path: Path) -> list[Exchange]:
    files = sorted(path.rglob("*.request"))
    if not files:
        raise RecordedError(f"{path}: no file called NAME.request is in it")
    found = []
    for file in files:
        parts = file.relative_to(path).with_suffix("").parts
        name = "/".join(_make_name(part, "unnamed") for part in parts)
        raw = file.read_bytes()
        found.append(make_exchange(name, _first_line(raw), raw))
    return _make_unique(found)


def _read_har(path: Path, text: str, notes: list[str]) -> Iterator[Exchange]:
    try:
        entries = json.loads(text.lstrip("\ufeff"))["log"]["entries"]
        requests = [entry["request"] for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordedError(f"{path}: it is JSON, but no HAR export") from error
    left_out = 0
    for number, request in enumerate(requests, 1):
        try:
            raw = _write_har_request(request)
        except (KeyError, TypeError, ValueError):
            left_out += 1
            continue
        yield make_exchange(f"{number:04d}", _first_line(raw), raw)
    if left_out:
        notes.append(f"{left_out} entries of the HAR file are no http requests and were left out.")


def _write_har_request(request: dict[str, Any]) -> bytes:
    parts = urlsplit(request["url"])
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError("not http")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    content = str((request.get("postData") or {}).get("text") or "").encode("utf-8")
    fields = [("Host", parts.netloc.rpartition("@")[2])]
    for field in request.get("headers", ()):
        name, value = str(field["name"]), str(field["value"])
        if not name.startswith(":") and name.lower() not in _DROPPED_FIELDS:
            fields.append((name, value))
    return _write_request(str(request["method"]), target, fields, content)


def _write_request(
    method: str, target: str, fields: Iterable[tuple[str, str]], content: bytes
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if content or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(content)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a line end inside a line")
    head = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return head.encode("utf-8", "surrogateescape") + content


def _read_log(text: str, notes: list[str]) -> Iterator[Exchange]:
    seen: set[tuple[str, str]] = set()
    other_methods, unread = 0, 0
    for line in text.splitlines():
        match = _LOG_LINE.match(line)
        if match is None:
            unread += bool(line.strip())
            continue
        method, target = match["method"], _undo_target(match["target"])
        if method not in SAFE_METHODS:
            other_methods += 1
            continue
        if (method, target) in seen or not (target.startswith("/") or target == "*"):
            continue
        seen.add((method, target))
        fields = [("Host", "localhost")]
        for name, value in (("Referer", match["referer"]), ("User-Agent", match["agent"])):
            if value and value != "-":
                fields.append((name, _undo_value(value)))
        raw = _write_request(method, target, fields, b"")
        yield make_exchange(f"{len(seen):04d}", f"{method} {target}", raw)
    if other_methods:
        notes.append(
            f"{other_methods} requests of the log are neither GET, HEAD nor OPTIONS: "
            "a log has no content, so they were left out."
        )
    if unread:
        notes.append(f"{unread} lines of the log are not in the common or combined format.")


def _undo_escapes(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return _LOG_ESCAPE.sub(lambda m: m[2] if m[1] is None else bytes.fromhex(m[1].decode()), raw)


def _undo_target(text: str) -> str:
    """Return the target that the client sent, but percent-encode what is not printable ASCII,
    quotes and backslashes."""
    raw = _NO_TARGET_BYTE.sub(lambda m: b"%%%02X" % m[0][0], _undo_escapes(text))
    return raw.decode("ascii")


def _undo_value(text: str) -> str:
    """Return the value that the client sent, or the log's text where no field may hold it."""
    raw = _undo_escapes(text)
    return text if _NO_VALUE_BYTE.search(raw) else raw.decode("utf-8", "surrogateescape")


def _read_text(path: Path, raw: bytes, text: str) -> Iterator[Exchange]:
    if raw.partition(b"\n")[0].endswith(b"\r"):
        yield make_exchange(_make_name(path.stem, "0001"), _first_line(raw), raw)
        return
    titles = [match[1] for match in _TITLE.finditer(text)]
    blocks = _TITLE.split(text)[0::2]
    if titles and not blocks[0].strip():
        blocks = blocks[1:]
    else:
        titles.insert(0, "")
    number = 0
    for title, block in zip(titles, blocks, strict=True):
        if not block.strip():
            continue
        number += 1
        request = _write_text_request(path, number, block)
        name = _make_name(title, f"{number:04d}")
        yield make_exchange(name, title or _first_line(request), request)


def _write_text_request(path: Path, number: int, block: str) -> bytes:
    head, _, content = block.lstrip("\n").partition("\n\n")
    lines = [line.rstrip() for line in head.splitlines()]
    if not lines or not _REQUEST_LINE.fullmatch(lines[0]):
        raise RecordedError(
            f"{path}: request {number} begins with {lines[0][:50] if lines else ''!r}, "
            "which is no request-line like GET / HTTP/1.1"
        )
    if " HTTP/" not in lines[0]:
        lines[0] += " HTTP/1.1"
    names = {line.partition(":")[0].strip().lower() for line in lines[1:]}
    if "host" not in names:
        lines.insert(1, "Host: localhost")
    body = content.removesuffix("\n").encode("utf-8", "surrogateescape")
    if body and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    text = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return text.encode("utf-8", "surrogateescape") + body


def _make_name(text: str, otherwise: str) -> str:
    """Make one word of a title or file name, that --diff and a line of --accept can hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or otherwise


def _first_line(raw: bytes) -> str:
    line = raw.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r").decode("latin-1")
    return re.sub(r"[^\x20-\x7e\xa1-\xff]", "?", line)[:200] or "(nothing)"


def _make_unique(exchanges: Iterable[Exchange]) -> list[Exchange]:
    """Give exchanges that have one name several names: an id must name one."""
    seen: dict[str, int] = {}
    unique = []
    for exchange in exchanges:
        id_, number = exchange.id, seen.get(exchange.id, 0) + 1
        while number > 1 and (id_ := f"{exchange.id}-{number}") in seen:
            number += 1
        seen[exchange.id] = number
        seen.setdefault(id_, 1)
        unique.append(replace(exchange, id=id_))
    return unique
