"""The applications that every measured server runs.

Rule: nothing here depends on a server or a framework, and each application does the least
that its workload is about. Values that a run decides (a file to send) come from the
environment, because each server imports this module in a process of its own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

FILE_VARIABLE = "RAWSGI_BENCHMARK_FILE"
"""Names the file that `send_file` and `meet_strangers` send."""

HELLO = b"Hello, world!\n"
BLOCK = b"x" * 1023 + b"\n"
BLOCKS = 16
MEBIBYTE = BLOCK * 1024
DOWNLOAD_BYTES = 64 << 20
SLEEP_S = 0.05
SLOW_S = 0.1
FILE_BLOCK_BYTES = 65536

_download: list[bytes] = []


def say_hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The two-line application: one block, its length given."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "14")])
    return [HELLO]


def say_hello_without_length(
    environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """The same, as many people write it: the server must find the length."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [HELLO]


def read_json(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Read a JSON content whole and answer how many members it has."""
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    answer = json.dumps({"members": len(json.loads(content or b"{}"))}).encode()
    start_response(
        "200 OK",
        [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))],
    )
    return [answer]


def stream_blocks(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Sixteen blocks of 1 KiB from a generator, without a length."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return _generate_blocks(BLOCKS)


def _generate_blocks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield BLOCK


def send_mebibyte(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """One block of 1 MiB."""
    start_response(
        "200 OK",
        [("Content-Type", "text/plain"), ("Content-Length", str(len(MEBIBYTE)))],
    )
    return [MEBIBYTE]


def send_file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A file, through the server's own wrapper where it has one."""
    file = open(os.environ[FILE_VARIABLE], "rb")
    length = os.fstat(file.fileno()).st_size
    start_response(
        "200 OK",
        [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))],
    )
    wrapper = environ.get("wsgi.file_wrapper")
    if wrapper is None:
        return _read_file(file)
    wrapped: Iterable[bytes] = wrapper(file, FILE_BLOCK_BYTES)
    return wrapped


def _read_file(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while block := file.read(FILE_BLOCK_BYTES):
            yield block


def sleep(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Wait 50 ms, as an application does for its database."""
    time.sleep(SLEEP_S)
    return _answer(start_response, HELLO)


def sleep_sometimes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """`/slow` waits 100 ms; every other path answers at once."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SLOW_S)
    return _answer(start_response, HELLO)


def meet_strangers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application behind the hostile rows; the path says what it does."""
    path = environ["PATH_INFO"]
    if path == "/upload":
        length = 0
        while block := environ["wsgi.input"].read(65536):
            length += len(block)
        return _answer(start_response, str(length).encode())
    if path == "/download":
        if not _download:
            _download.append(b"x" * DOWNLOAD_BYTES)
        return _answer(start_response, _download[0])
    if path == "/generated":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return _generate_blocks(DOWNLOAD_BYTES // len(BLOCK))
    if path == "/file":
        return send_file(environ, start_response)
    if path == "/sleep":
        time.sleep(60)
    elif path == "/loop":
        _loop_for_ever()
    elif path == "/block":
        _block_in_c()
    return _answer(start_response, HELLO)


def _answer(start_response: StartResponse, content: bytes) -> list[bytes]:
    start_response(
        "200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    )
    return [content]


def _loop_for_ever() -> None:
    """Loop in Python. Bounded by the clock: a server that fails to stop it must still end."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


def _block_in_c() -> None:
    """Wait in a system call that no exception can reach."""
    reader, writer = os.pipe()
    try:
        os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)
