"""Every way of answering that PEP 3333 allows, for the end-to-end tests.

What the tests ask for is behind wsgiref.validate. Under /plain/ the same is without it, where the
validator would hide what is tested: its iterator has no length and is no file wrapper.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs
from wsgiref.validate import validator

Environ = dict[str, Any]
Blocks = Iterable[bytes]
TEXT = ("Content-Type", "text/plain; charset=utf-8")

ROUTES: dict[str, Callable[[Environ, Any], Blocks]] = {}
WAIT_S = 20.0


def at(path: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        ROUTES[path] = function
        return function

    return register


def argument(environ: Environ, name: str, default: str = "") -> str:
    found: str = parse_qs(environ["QUERY_STRING"]).get(name, [default])[0]
    return found


def answer_json(start_response: Any, value: Any) -> Blocks:
    content = json.dumps(value).encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(content)))])
    return [content]


# -- What came in --------------------------------------------------------------------------------


@at("/environ")
def show_environ(environ: Environ, start_response: Any) -> Blocks:
    shown = {key: value for key, value in environ.items() if isinstance(value, str | bool)}
    return answer_json(start_response, shown)


@at("/digest")
def digest(environ: Environ, start_response: Any) -> Blocks:
    """Length and SHA-256 of the content, read in pieces until it ends."""
    found = hashlib.sha256()
    length = 0
    while piece := environ["wsgi.input"].read(65536):
        found.update(piece)
        length += len(piece)
    facts = {
        "length": length,
        "sha256": found.hexdigest(),
        "CONTENT_LENGTH": environ.get("CONTENT_LENGTH"),
        "after": environ["wsgi.input"].read(10).decode(),
    }
    return answer_json(start_response, facts)


@at("/echo")
def echo(environ: Environ, start_response: Any) -> Blocks:
    """The content back, as it is read."""
    start_response("200 OK", [TEXT])
    return iter(lambda: environ["wsgi.input"].read(10_000), b"")


@at("/lines")
def lines(environ: Environ, start_response: Any) -> Blocks:
    return answer_json(start_response, [line.decode() for line in environ["wsgi.input"]])


@at("/lines/echo")
def echo_lines(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """Each line back as soon as it is there."""
    start_response("200 OK", [TEXT])
    yield from iter(environ["wsgi.input"].readline, b"")


@at("/begun")
def begin_then_read(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"begun\n"
    yield environ["wsgi.input"].read(3)


CUTS: list[str] = []


@at("/cut")
def read_what_is_cut(environ: Environ, start_response: Any) -> Blocks:
    """Read all; note the error if the content breaks off, and let it pass."""
    try:
        return digest(environ, start_response)
    except OSError as error:
        CUTS.append(str(error))
        raise


@at("/cuts")
def show_cuts(environ: Environ, start_response: Any) -> Blocks:
    return answer_json(start_response, CUTS)


@at("/unread")
def leave_unread(environ: Environ, start_response: Any) -> Blocks:
    start_response("200 OK", [TEXT])
    return [b"unread"]


@at("/held")
def hold(environ: Environ, start_response: Any) -> Blocks:
    """Say by a file that it has begun, go on when another file is there."""
    name = argument(environ, "file")
    with open(name + ".begun", "w"):
        pass
    deadline = time.monotonic() + WAIT_S
    while not os.path.exists(name + ".go") and time.monotonic() < deadline:
        time.sleep(0.005)
    start_response("200 OK", [TEXT])
    return [b"held"]


# -- What goes out -------------------------------------------------------------------------------


@at("/one")
def one(environ: Environ, start_response: Any) -> Blocks:
    start_response("200 OK", [TEXT])
    return [b"one"]


@at("/several")
def several(environ: Environ, start_response: Any) -> Blocks:
    start_response("200 OK", [TEXT])
    return [b"se", b"", b"veral"]


@at("/late")
def late(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """A generator that calls start_response itself."""
    start_response("200 OK", [TEXT])
    yield b""
    yield b"la"
    yield b""
    yield b"te"


@at("/written")
def written(environ: Environ, start_response: Any) -> Blocks:
    write = start_response("200 OK", [TEXT])
    write(b"writ")
    write(b"ten")
    return [b" and returned"]


@at("/replaced")
def replaced(environ: Environ, start_response: Any) -> Blocks:
    start_response("200 OK", [TEXT])
    try:
        raise ValueError
    except ValueError:
        start_response("503 Service Unavailable", [TEXT], sys.exc_info())
    return [b"replaced"]


@at("/status")
def status(environ: Environ, start_response: Any) -> Blocks:
    code = argument(environ, "code")
    start_response(f"{code} Of Choice", [] if code in ("204", "304") else [TEXT])
    return [] if code in ("204", "304") else [b"content"]


@at("/nothing")
def nothing(environ: Environ, start_response: Any) -> Blocks:
    start_response("200 OK", [TEXT])
    return []


@at("/download")
def download(environ: Environ, start_response: Any) -> Iterator[bytes]:
    """?bytes=N in blocks of 64 KiB, with ?length=1 announced."""
    left = int(argument(environ, "bytes"))
    fields = [TEXT]
    if argument(environ, "length"):
        fields.append(("Content-Length", str(left)))
    start_response("200 OK", fields)
    block = b"x" * 65536
    while left > len(block):
        left -= len(block)
        yield block
    yield block[:left]


@at("/block")
def block(environ: Environ, start_response: Any) -> Blocks:
    """?bytes=N as one block, or as a list of ?blocks=M of them."""
    count = int(argument(environ, "blocks", "1"))
    size = int(argument(environ, "bytes")) // count
    start_response("200 OK", [TEXT])
    return [b"x" * size for _ in range(count)]  # bytes(size) would be no memory until read


class Steps:
    """Blocks that are made one at a time, each when the one before has been acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.changed = threading.Condition()

    def acknowledge(self, name: str, number: int) -> None:
        with self.changed:
            self.acknowledged[name] = number
            self.changed.notify_all()

    def wait(self, name: str, number: int) -> None:
        with self.changed:
            arrived = self.changed.wait_for(
                lambda: self.acknowledged.get(name, 0) >= number, WAIT_S
            )
        if not arrived:
            raise TimeoutError(f"block {number} was not acknowledged")


STEPS = Steps()


@at("/steps")
def steps(environ: Environ, start_response: Any) -> Blocks:
    """?count=N blocks, after each of which the client must have sent /acknowledge.

    ?pairs=1: two blocks at a time, the second of which must not make the first wait.
    """
    name, count = argument(environ, "name"), int(argument(environ, "count"))
    write = start_response("200 OK", [TEXT])
    repeat = 2 if argument(environ, "pairs") else 1

    def blocks() -> Iterator[bytes]:
        for number in range(1, count + 1):
            for _ in range(repeat):
                yield b"block %d\n" % number
            STEPS.wait(name, number)

    if argument(environ, "write"):
        for made in blocks():
            write(made)
        return []
    return blocks()


@at("/acknowledge")
def acknowledge(environ: Environ, start_response: Any) -> Blocks:
    STEPS.acknowledge(argument(environ, "name"), int(argument(environ, "number")))
    start_response("204 No Content", [])
    return []


class Watched:
    """Blocks without end that tell when they were closed."""

    closed: dict[str, int] = {}

    def __init__(self, name: str, size: int, pause_s: float) -> None:
        self.name, self.block, self.pause_s = name, bytes(size), pause_s
        self.closed[name] = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield self.block
            time.sleep(self.pause_s)

    def close(self) -> None:
        self.closed[self.name] += 1


@at("/endless")
def endless(environ: Environ, start_response: Any) -> Blocks:
    start_response("200 OK", [TEXT])
    name, size = argument(environ, "name"), int(argument(environ, "bytes"))
    return Watched(name, size, float(argument(environ, "pause", "0")))


@at("/closed")
def closed(environ: Environ, start_response: Any) -> Blocks:
    return answer_json(start_response, Watched.closed.get(argument(environ, "name")))


# -- Files ---------------------------------------------------------------------------------------


class WatchedFile(io.BytesIO):
    """A file in memory that tells when it was closed."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.label = name
        Watched.closed[name] = 0

    def close(self) -> None:
        Watched.closed[self.label] += 1
        super().close()


@at("/file")
def send_file(environ: Environ, start_response: Any) -> Blocks:
    """?path=P opened in the way of ?kind=K, from ?from=N on, after ?read=N bytes."""
    path, kind = argument(environ, "path"), argument(environ, "kind", "plain")
    file: Any
    if kind == "memory":
        with open(path, "rb") as source:
            file = WatchedFile(source.read(), "memory")
    elif kind == "gzip":
        file = gzip.open(path)
    elif kind == "text":
        file = open(path, encoding="latin-1")
    else:
        file = open(path, "rb")
    file.seek(int(argument(environ, "from", "0")))
    file.read(int(argument(environ, "read", "0")))
    fields = [("Content-Type", "application/octet-stream")]
    if length := argument(environ, "length"):
        fields.append(("Content-Length", length))
    start_response("200 OK", fields)
    wrapped: Blocks = environ["wsgi.file_wrapper"](file, 65536)
    return wrapped


# -- Failures ------------------------------------------------------------------------------------


@at("/fail")
def fail(environ: Environ, start_response: Any) -> Blocks:
    raise ValueError(argument(environ, "text", "failed on purpose"))


@at("/fail/late")
def fail_late(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"the first block"
    raise ValueError("failed on purpose")


@at("/exit")
def leave(environ: Environ, start_response: Any) -> Blocks:
    raise SystemExit(3)


def route(environ: Environ, start_response: Any) -> Blocks:
    found = ROUTES.get(environ["PATH_INFO"])
    if found is None:
        start_response("404 Not Found", [TEXT])
        return [b"nothing here\n"]
    return found(environ, start_response)


validated = validator(route)


def app(environ: Environ, start_response: Any) -> Blocks:
    if environ["PATH_INFO"].startswith("/plain/"):
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/plain")
        return route(environ, start_response)
    checked: Blocks = validated(environ, start_response)
    return checked
