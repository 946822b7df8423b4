"""An application that takes its time in every way that a server has to live with.

/                    answers at once, with its thread and what it was told about threads
/sleep/SECONDS       sleeps
/spin/SECONDS        computes in Python
/block/SECONDS       blocks in C
/until/NAME          waits until the file NAME exists in the folder WAITING_FOLDER
/read                reads its content, answers with the length
/bytes/COUNT         answers with so many bytes, as one block
/blocks/COUNT        answers with blocks of 16 KiB, COUNT bytes in all, and never ends early
/file/COUNT          answers with a file of that size
/linger/SECONDS      one large block of known length, whose generator goes on for so long
/close/SECONDS       large blocks of unknown length, whose `close` takes so long
/hold/NAME           a small block of unknown length, whose `close` waits for NAME as /until does
/fail/COUNT/NAME     so many bytes in blocks of 16 KiB, then it fails; its `close` waits for NAME
/two/SECONDS         computes in Python, then two small blocks
/keep/SECONDS        a file of 4 MB whose `close` takes so long
/ticks/SECONDS       a block every so many seconds, for ever
/closed              how many iterables of /blocks and /ticks were closed
/most                how many requests ran at the same time at most, and in which threads
"""

from __future__ import annotations

import os
import select
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK_BYTES = 1 << 14
_FOLDER = os.environ.get("WAITING_FOLDER", "")

_lock = threading.Lock()
_running = 0
_most = 0
_closed = 0
_threads: set[int] = set()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    global _running, _most
    with _lock:
        _running += 1
        _most = max(_most, _running)
        _threads.add(threading.get_ident())
    try:
        _, what, *rest = environ["PATH_INFO"].split("/", 2)
        return ANSWERS[what](environ, start_response, rest[0] if rest else "")
    finally:
        with _lock:
            _running -= 1


def answer(start_response: Callable[..., Any], text: str) -> list[bytes]:
    content = text.encode()
    fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    start_response("200 OK", fields)
    return [content]


def show(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> list[bytes]:
    return answer(
        start_response, f"{threading.get_ident()} multithread={environ['wsgi.multithread']}"
    )


def linger(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> Any:
    """/linger/SECONDS: the whole response is one large block, and its generator goes on."""
    start_response("200 OK", [("Content-Length", "8000000")])
    yield bytes(8_000_000)
    time.sleep(float(rest))


def sleep(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> list[bytes]:
    time.sleep(float(rest))
    return answer(start_response, "slept")


def spin(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> list[bytes]:
    end = time.monotonic() + float(rest)
    number = 0
    while time.monotonic() < end:
        number += 1
    return answer(start_response, "computed")


def block(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> list[bytes]:
    select.select([], [], [], float(rest))
    return answer(start_response, "blocked")


def wait_for_file(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> list[bytes]:
    path = Path(_FOLDER) / rest
    (path.parent / f"{rest}.begun.{threading.get_ident()}.{time.monotonic_ns()}").touch()
    while not path.exists():
        time.sleep(0.005)
    return answer(start_response, f"saw {rest}")


def read(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> list[bytes]:
    return answer(start_response, str(len(environ["wsgi.input"].read())))


def send_bytes(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", rest)])
    return [bytes(int(rest))]


class Blocks:
    """An iterable that counts its `close`."""

    def __init__(self, blocks: Iterator[bytes], seconds: float = 0.0) -> None:
        self._blocks = blocks
        self._seconds = seconds

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        global _closed
        time.sleep(self._seconds)
        with _lock:
            _closed += 1


def send_blocks(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", rest)])
    block = bytes(BLOCK_BYTES)
    return Blocks(block for _ in range(int(rest) // BLOCK_BYTES))


def close_slowly(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Blocks((bytes([number]) * 1_000_000 for number in range(8)), float(rest))


class Held(Blocks):
    """An iterable whose `close` waits until a file exists."""

    def __init__(self, blocks: Iterator[bytes], name: str) -> None:
        super().__init__(blocks)
        self._path = Path(_FOLDER) / name

    def close(self) -> None:
        while not self._path.exists():
            time.sleep(0.005)
        super().close()


def hold(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Held(iter([b"held"]), rest)


def fail(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> Iterable[bytes]:
    count, name = rest.split("/")
    start_response("200 OK", [("Content-Type", "text/plain")])

    def make_blocks() -> Iterator[bytes]:
        for _ in range(int(count) // BLOCK_BYTES):
            yield bytes(BLOCK_BYTES)
        raise ValueError("on purpose")

    return Held(make_blocks(), name)


def send_two(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    end = time.monotonic() + float(rest)
    while time.monotonic() < end:
        pass
    yield b"one"
    yield b"two"


def send_file(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> Iterable[bytes]:
    file = tempfile.TemporaryFile()
    file.seek(int(rest) - 1)
    file.write(b"\0")  # a file without a block would not be sent as a file
    file.seek(0)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", rest)])
    return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]


def keep_file(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> Iterable[bytes]:
    file: Any = tempfile.TemporaryFile()
    file.write(b"kept" * 1_000_000)
    file.seek(0)
    close = file.close

    def close_late() -> None:
        try:
            time.sleep(float(rest))
        finally:
            close()

    file.close = close_late
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]


def tick(environ: dict[str, Any], start_response: Callable[..., Any], rest: str) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])

    def make_ticks() -> Iterator[bytes]:
        while True:
            yield b"tick\n"
            time.sleep(float(rest))

    return Blocks(make_ticks())


def count_closed(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> list[bytes]:
    return answer(start_response, str(_closed))


def count_most(
    environ: dict[str, Any], start_response: Callable[..., Any], rest: str
) -> list[bytes]:
    return answer(start_response, f"{_most} {len(_threads)}")


ANSWERS: dict[str, Callable[..., Iterable[bytes]]] = {
    "": show,
    "linger": linger,
    "close": close_slowly,
    "hold": hold,
    "fail": fail,
    "two": send_two,
    "sleep": sleep,
    "spin": spin,
    "block": block,
    "until": wait_for_file,
    "read": read,
    "bytes": send_bytes,
    "blocks": send_blocks,
    "file": send_file,
    "keep": keep_file,
    "ticks": tick,
    "closed": count_closed,
    "most": count_most,
}
