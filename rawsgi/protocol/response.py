"""Response heads: what the application gave, checked and made bytes.

The rule of this file: nothing that would end a line early, or that only the server may say,
gets into a head. Lines that were made once are kept, bounded like the parser's.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from rawsgi.protocol import grammar
from rawsgi.protocol.message import ProtocolError, ResponseError

Fields = Sequence[tuple[str, str]]

Head = tuple[int, list[bytes], int | None, bool, list[str]]
"""What `HeadEncoder.encode` returns, for one response: `HTTP1.send_head` completes its lines."""

# What a field means to the server. Most are ORDINARY and only copied.
ORDINARY, CONTENT_LENGTH, CONNECTION, HOP_BY_HOP, DATE, SERVER = range(6)

_MEANINGS = {
    "content-length": CONTENT_LENGTH,
    "connection": CONNECTION,
    "date": DATE,
    "server": SERVER,
    # RFC 9110 section 7.6.1: about this connection, which is the server's affair.
    "keep-alive": HOP_BY_HOP,
    "proxy-connection": HOP_BY_HOP,
    "te": HOP_BY_HOP,
    "transfer-encoding": HOP_BY_HOP,
    "upgrade": HOP_BY_HOP,
}

_CACHED_FIELDS = 1024
_CACHED_FIELD_CHARACTERS = 256
_CACHED_STATUSES = 256

# Where http.HTTPStatus has the words of an older RFC before Python 3.13.
_PHRASES = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HeadEncoder:
    """The pieces of response heads. One per worker, shared by its connections.

    `date_line` is set by whoever has a clock, once a second (RFC 9110 section 6.6.1).
    """

    __slots__ = ("_fields", "_statuses", "date_line", "server_line")

    def __init__(self, server_name: str = "rawsgi") -> None:
        self.date_line = b""
        self.server_line = b"Server: " + server_name.encode("latin-1") + b"\r\n"
        if not server_name:
            self.server_line = b""
        self._fields: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._statuses: dict[str, tuple[int, bytes]] = {}

    def _encode_status(self, status: str) -> tuple[int, bytes]:
        if not isinstance(status, str):
            raise ResponseError(f"the status is {type(status).__name__}, not str: {status!r}")
        match = grammar.status.fullmatch(status)
        if match is None:
            raise ResponseError(f"the status is not three digits, a space and a reason: {status!r}")
        code = int(match[1])
        if code < 200:
            raise ResponseError(f"an application cannot end a request with {status!r}")
        line = f"HTTP/1.1 {match[1]} {match[2] or ''}\r\n".encode("latin-1")
        if len(status) <= _CACHED_FIELD_CHARACTERS:
            if len(self._statuses) >= _CACHED_STATUSES:
                self._statuses.clear()
            self._statuses[match[0]] = code, line
        return code, line

    def encode(self, status: str, fields: Fields) -> Head:
        """Encode what the application gave, with Date and Server added if it did not.

        Returns the status code, the lines (without those that tell framing and reuse), the
        Content-Length that it declared or None, whether it wants the connection closed, and the
        names of the hop-by-hop fields that were left out. Raises `ResponseError`.
        """
        try:
            code, line = self._statuses.get(status) or self._encode_status(status)
        except TypeError:  # cannot be looked up: certainly no str
            code, line = self._encode_status(status)
        lines = [line]
        append = lines.append
        length: int | None = None
        close = False
        date_line, server_line = self.date_line, self.server_line
        dropped: list[str] = []
        get = self._fields.get
        try:
            for field in fields:
                meaning, line = get(field) or self._encode_field(field)
                if not meaning:
                    append(line)
                elif meaning == CONTENT_LENGTH:
                    if length is not None and length != int(field[1]):
                        raise ResponseError("the application gave two different Content-Lengths")
                    length = int(field[1])
                elif meaning == CONNECTION:
                    close = close or "close" in map(str.strip, field[1].lower().split(","))
                elif meaning == HOP_BY_HOP:
                    dropped.append(field[0])
                elif meaning == DATE:
                    date_line = line
                else:
                    server_line = line
        except (TypeError, ValueError) as error:
            if isinstance(fields, Sequence) and any(isinstance(field, list) for field in fields):
                # PEP 3333 says tuples; lists are met in practice.
                return self.encode(status, [_as_tuple(field) for field in fields])
            raise ResponseError(f"the header list is not a list of (str, str): {error}") from None
        append(date_line)
        append(server_line)
        return code, lines, length, close, dropped

    def encode_refusal(self, error: ProtocolError, with_content: bool) -> bytes:
        """Return the whole response that refuses a request; for people its content says why."""
        phrase = reason_phrase(error.status)
        content = explain_refusal(error).encode("utf-8", "backslashreplace")
        return b"".join(
            (
                f"HTTP/1.1 {error.status} {phrase}\r\n".encode("latin-1"),
                self.date_line,
                self.server_line,
                # RFC 9110 section 10.2.3: the queue is full or the server stops, soon over both.
                b"Retry-After: 1\r\n" if error.status == 503 else b"",
                b"Content-Type: text/plain; charset=utf-8\r\n",
                b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(content),
                content if with_content else b"",
            )
        )

    def _encode_field(self, field: tuple[str, str]) -> tuple[int, bytes]:
        name, value = field
        if not (isinstance(field, tuple) and isinstance(name, str) and isinstance(value, str)):
            raise ResponseError(f"a header is not (str, str): {field!r}")
        # What is checked must be what is sent: a subclass of str may format itself differently.
        name, value = "".join((name,)), "".join((value,))
        if grammar.token.fullmatch(name) is None:
            raise ResponseError(f"a header name is not a token: {name!r}")
        if grammar.response_value.fullmatch(value) is None:
            raise ResponseError(
                f"the value of {name} holds a control character or no latin-1: {value!r}"
            )
        meaning = _MEANINGS.get(name.lower(), ORDINARY)
        if meaning == CONTENT_LENGTH:
            number = value.strip(" \t")
            if grammar.content_length.fullmatch(number) is None or len(number) > 18:
                raise ResponseError(f"Content-Length is not a number: {value!r}")
        entry = meaning, f"{name}: {value}\r\n".encode("latin-1")
        if len(name) + len(value) <= _CACHED_FIELD_CHARACTERS:
            if len(self._fields) >= _CACHED_FIELDS:
                self._fields.clear()
            self._fields[name, value] = entry
        return entry


def _as_tuple(field: Any) -> Any:
    return tuple(field) if isinstance(field, list) else field


def explain_refusal(error: ProtocolError) -> str:
    """Return what a person reads who was refused: what, where, how to write it, which rule."""
    where = f" ({error.place})" if error.place else ""
    text = f"{error.status} {reason_phrase(error.status)}\n"
    text += f"{error.reason[:1].upper()}{error.reason[1:]}{where}.\n"
    if error.hint:
        text += error.hint + "\n"
    if error.source.startswith("RFC"):
        text += f"See {error.source}.\n"
    return text


def reason_phrase(code: int) -> str:
    """Return the reason phrase that RFC 9110 and its companions register for `code`.

    It is the same under every version of Python; "" for a code that is not registered.
    """
    try:
        return _PHRASES.get(code) or HTTPStatus(code).phrase
    except ValueError:
        return ""
