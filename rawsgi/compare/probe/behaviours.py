"""What the probe's behaviours share: their type, the plainest answer, environ as text, close().

A behaviour is a WSGI application. Each module that holds some keeps them in a `Behaviours`,
by the path below `/probe/`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias

Environ: TypeAlias = dict[str, Any]
# The behaviours break every rule of the interface somewhere: nothing narrower would be true.
StartResponse: TypeAlias = Callable[..., Any]
Behaviour: TypeAlias = Callable[[Environ, StartResponse], Any]

TEXT: Final = ("Content-Type", "text/plain")
READ_BYTES: Final = 65536
CLOSE_WAIT_S: Final = 2.0


class Behaviours(dict[str, Behaviour]):
    """Behaviours by path; `at` is the decorator that adds one."""

    def at(self, path: str) -> Callable[[Behaviour], Behaviour]:
        def add(behaviour: Behaviour) -> Behaviour:
            self[path] = behaviour
            return behaviour

        return add


def answer(
    start_response: StartResponse,
    content: bytes,
    status: str = "200 OK",
    media_type: str = "text/plain",
) -> list[bytes]:
    """The plainest response there is: its length is given, its content one block."""
    fields = [("Content-Type", media_type), ("Content-Length", str(len(content)))]
    start_response(status, fields)
    return [content]


def describe_environ(environ: Environ) -> dict[str, str]:
    """Turn `environ` into texts that are the same in every run, and read the content.

    A str stays as it is. The other types that a specification names become "type value"
    ("bool True", "tuple (1, 0)"); any other object becomes its type's name. Keys that only repeat
    the process's own environment variables, as some servers add them, are left out.
    """
    described: dict[str, str] = {}
    pairs: Iterable[tuple[Any, Any]] = environ.items()
    for key, value in pairs:
        if not isinstance(key, str):
            described[repr(key)] = f"a key of type {type(key).__name__}"
        elif type(value) is str:
            if os.environ.get(key) != value:
                described[key] = value
        elif type(value) in (bool, int, float, tuple, bytes, type(None)):
            described[key] = f"{type(value).__name__} {value!r}"
        else:
            described[key] = type(value).__name__
    described["wsgi.input"] = read_content(environ).decode("latin-1")
    return described


def read_content(environ: Environ) -> bytes:
    """Read the whole content the way that PEP 3333 allows on every server."""
    source = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return b"".join(iter(lambda: source.read(READ_BYTES), b""))
    length = environ.get("CONTENT_LENGTH") or "0"
    remaining = int(length) if length.isascii() and length.isdecimal() else 0
    blocks = []
    while remaining:
        block = source.read(min(remaining, READ_BYTES))
        if not block:
            break
        blocks.append(block)
        remaining -= len(block)
    return b"".join(blocks)


# --- counting close(): PEP 3333 wants it called once, whatever happened ---


class CloseCounter:
    """How often close() was called, by token (the query string). Any thread.

    An object that is counted is held until its count is read: else the garbage collector could
    call close() where the server forgot to.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._held: dict[str, object] = {}

    def open(self, token: str, closable: object) -> None:
        with self._changed:
            self._counts[token] = 0
            self._held[token] = closable

    def count(self, token: str) -> None:
        with self._changed:
            if token in self._counts:
                self._counts[token] += 1
                self._changed.notify_all()

    def read(self, token: str) -> int:
        """Wait until close() was called, at most CLOSE_WAIT_S seconds; forget the token."""
        with self._changed:
            if token in self._counts:
                self._changed.wait_for(lambda: self._counts[token] > 0, CLOSE_WAIT_S)
            count = self._counts.pop(token, -1)
        # Only now may the object go: it could call close() while it is collected.
        self._held.pop(token, None)
        return count


CLOSED: Final = CloseCounter()


class ClosingBlocks:
    """An iterable of blocks with close(), as generators and files have it."""

    def __init__(self, environ: Environ, blocks: Iterable[bytes]) -> None:
        self._token = environ.get("QUERY_STRING", "")
        self._blocks = iter(blocks)
        CLOSED.open(self._token, self)

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        CLOSED.count(self._token)
