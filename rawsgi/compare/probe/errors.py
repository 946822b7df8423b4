"""/probe/error/...: applications that fail, and applications that break the interface.

What is unclean here is unclean on purpose: a server has to survive it and keep its client safe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from rawsgi.compare.probe.behaviours import (
    TEXT,
    Behaviour,
    Behaviours,
    ClosingBlocks,
    Environ,
    StartResponse,
)

BEHAVIOURS: Final = Behaviours()


class ProbeError(Exception):
    """Raised on purpose; its text must never reach a client."""


SECRET: Final = "the probe fails on purpose"


@BEHAVIOURS.at("error/raise")
def _raise(environ: Environ, start_response: StartResponse) -> Any:
    raise ProbeError(SECRET)


@BEHAVIOURS.at("error/raise-after-start")
def _raise_after_start(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("X-First", "1")])
    raise ProbeError(SECRET)


@BEHAVIOURS.at("error/raise-before-block")
def _raise_before_block(environ: Environ, start_response: StartResponse) -> Any:
    def blocks() -> Iterator[bytes]:
        yield from ()  # makes this function a generator
        raise ProbeError(SECRET)

    start_response("200 OK", [TEXT])
    return ClosingBlocks(environ, blocks())


@BEHAVIOURS.at("error/raise-after-block")
def _raise_after_block(environ: Environ, start_response: StartResponse) -> Any:
    def blocks() -> Iterator[bytes]:
        yield b"the first block"
        raise ProbeError(SECRET)

    start_response("200 OK", [TEXT])
    return ClosingBlocks(environ, blocks())


@BEHAVIOURS.at("error/raise-after-block-length")
def _raise_after_block_length(environ: Environ, start_response: StartResponse) -> Any:
    def blocks() -> Iterator[bytes]:
        yield b"the first block"
        raise ProbeError(SECRET)

    start_response("200 OK", [TEXT, ("Content-Length", "100")])
    return ClosingBlocks(environ, blocks())


@BEHAVIOURS.at("error/raise-after-write")
def _raise_after_write(environ: Environ, start_response: StartResponse) -> Any:
    write = start_response("200 OK", [TEXT])
    write(b"written")
    raise ProbeError(SECRET)


class FailingClose:
    """An iterable whose close() raises after all blocks went out."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"complete"])

    def close(self) -> None:
        raise ProbeError(SECRET)


@BEHAVIOURS.at("error/raise-in-close")
def _raise_in_close(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", "8")])
    return FailingClose()


@BEHAVIOURS.at("error/exc-info-after-head")
def _exc_info_after_head(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    yield b"the head is out"
    try:
        raise ProbeError(SECRET)
    except ProbeError:
        # Must raise the exception again: there is no head left to replace.
        start_response("500 Internal Server Error", [TEXT], sys.exc_info())
    yield b"never sent"


@BEHAVIOURS.at("error/start-twice")
def _start_twice(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    start_response("201 Created", [TEXT])
    return [b"never sent"]


@BEHAVIOURS.at("error/no-start")
def _no_start(environ: Environ, start_response: StartResponse) -> Any:
    return [b"never sent"]


@BEHAVIOURS.at("error/no-start-empty")
def _no_start_empty(environ: Environ, start_response: StartResponse) -> Any:
    return []


@BEHAVIOURS.at("error/none")
def _none(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return None


@BEHAVIOURS.at("error/number")
def _number(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return 42


@BEHAVIOURS.at("error/str-blocks")
def _str_blocks(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return ["text, not bytes"]


@BEHAVIOURS.at("error/str-after-bytes")
def _str_after_bytes(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    yield b"bytes first"
    yield "then text"


@BEHAVIOURS.at("error/system-exit")
def _system_exit(environ: Environ, start_response: StartResponse) -> Any:
    raise SystemExit(1)


@BEHAVIOURS.at("error/system-exit-after-block")
def _system_exit_after_block(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    yield b"the first block"
    raise SystemExit(1)


def _bad_head(status: Any, *fields: Any) -> Behaviour:
    def answer_badly(environ: Environ, start_response: StartResponse) -> Any:
        start_response(status, [TEXT, *fields])
        return [b"never sent"]

    return answer_badly


BAD_HEADS: Final[dict[str, Behaviour]] = {
    "status-without-code": _bad_head("OK"),
    "status-short": _bad_head("20 OK"),
    "status-number": _bad_head(200),
    "status-bytes": _bad_head(b"200 OK"),
    "status-interim": _bad_head("101 Switching Protocols"),
    "status-crlf": _bad_head("200 OK\r\nX-Injected: yes"),
    "field-crlf": _bad_head("200 OK", ("X-Value", "a\r\nX-Injected: yes")),
    "field-lf": _bad_head("200 OK", ("X-Value", "a\nX-Injected: yes")),
    "field-cr": _bad_head("200 OK", ("X-Value", "a\rX-Injected: yes")),
    "field-nul": _bad_head("200 OK", ("X-Value", "a\0b")),
    "field-name-crlf": _bad_head("200 OK", ("X-Injected: yes\r\nX-Name", "a")),
    "field-name-space": _bad_head("200 OK", ("X Name", "a")),
    "field-name-empty": _bad_head("200 OK", ("", "a")),
    "field-name-colon": _bad_head("200 OK", ("X-Name:", "a")),
    "field-bytes": _bad_head("200 OK", ("X-Value", b"a")),
    "field-number": _bad_head("200 OK", ("X-Value", 5)),
    "field-beyond-latin-1": _bad_head("200 OK", ("X-Value", "\u20ac")),
    "length-letters": _bad_head("200 OK", ("Content-Length", "ten")),
    "length-negative": _bad_head("200 OK", ("Content-Length", "-1")),
    "length-twice": _bad_head("200 OK", ("Content-Length", "5"), ("Content-Length", "10")),
}
for _name, _behaviour in BAD_HEADS.items():
    BEHAVIOURS.at("error/" + _name)(_behaviour)


@BEHAVIOURS.at("error/hop-by-hop")
def _hop_by_hop(environ: Environ, start_response: StartResponse) -> Any:
    forbidden = [("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=5"), ("Upgrade", "x")]
    start_response(
        "200 OK", [TEXT, *forbidden, ("Connection", "keep-alive, X-Kept"), ("X-Kept", "1")]
    )
    return [b"hop by hop"]
