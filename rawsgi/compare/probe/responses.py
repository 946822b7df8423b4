"""/probe/status/..., /probe/response/...: every kind of response that PEP 3333 knows."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, Final

from rawsgi.compare.probe.behaviours import (
    CLOSED,
    TEXT,
    Behaviour,
    Behaviours,
    ClosingBlocks,
    Environ,
    StartResponse,
    answer,
)

BEHAVIOURS: Final = Behaviours()
LONG_BLOCK: Final = bytes(range(32, 127)) * 690 + b"\n"
LONG_BLOCKS: Final = 40
FILE_BLOCK: Final = b"".join(b"line %d of the probe's file\n" % number for number in range(10))
FILE_CONTENT: Final = FILE_BLOCK * 500


@BEHAVIOURS.at("closed")
def _closed(environ: Environ, start_response: StartResponse) -> Any:
    count = CLOSED.read(environ.get("QUERY_STRING", ""))
    return answer(start_response, str(count).encode("ascii"))


def _with_status(status: str) -> Behaviour:
    def answer_status(environ: Environ, start_response: StartResponse) -> Any:
        return answer(start_response, status.encode("ascii"), status)

    return answer_status


STATUSES: Final = (
    "200 OK",
    "201 Created",
    "203 Fine By Me",
    "299 Quite (all) right!",
    "404 Not Found",
    "418 I'm a teapot",
    "999 Message here",
)
for _status in STATUSES:
    BEHAVIOURS.at("status/" + _status[:3])(_with_status(_status))


@BEHAVIOURS.at("response/one")
def _one(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return [b"one block"]


@BEHAVIOURS.at("response/several")
def _several(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return [b"one,", b"two,", b"three"]


@BEHAVIOURS.at("response/tuple")
def _tuple(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return (b"a ", b"tuple")


@BEHAVIOURS.at("response/empty-list")
def _empty_list(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return []


@BEHAVIOURS.at("response/empty-block")
def _empty_block(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return [b""]


@BEHAVIOURS.at("response/empty-blocks-first")
def _empty_blocks_first(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    yield b""
    yield b""
    yield b"after two "
    yield b""
    yield b"empty blocks"


@BEHAVIOURS.at("response/empty-block-then-change")
def _empty_block_then_change(environ: Environ, start_response: StartResponse) -> Any:
    # The head leaves with the first block that is not empty, so it can still be replaced here.
    start_response("200 OK", [TEXT])
    yield b""
    try:
        raise LookupError("nothing there")
    except LookupError:
        start_response("404 Not Found", [TEXT], sys.exc_info())
    yield b"replaced"


@BEHAVIOURS.at("response/generator")
def _generator(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return (block for block in (b"from ", b"a ", b"generator"))


@BEHAVIOURS.at("response/late-start")
def _late_start(environ: Environ, start_response: StartResponse) -> Any:
    # A generator function: start_response is called by the first next(), as PEP 3333 allows.
    start_response("201 Created", [TEXT])
    yield b"started late"


@BEHAVIOURS.at("response/write")
def _write(environ: Environ, start_response: StartResponse) -> Any:
    write = start_response("200 OK", [TEXT])
    write(b"written ")
    write(b"twice")
    return []


@BEHAVIOURS.at("response/write-then-iterable")
def _write_then_iterable(environ: Environ, start_response: StartResponse) -> Any:
    write = start_response("200 OK", [TEXT])
    write(b"written, ")
    return [b"then ", b"returned"]


@BEHAVIOURS.at("response/write-length")
def _write_length(environ: Environ, start_response: StartResponse) -> Any:
    write = start_response("200 OK", [TEXT, ("Content-Length", "10")])
    write(b"01234")
    write(b"56789")
    return []


def _write_in_generator(*fields: tuple[str, str]) -> Behaviour:
    # PEP 3333 forbids write() once the iterable runs; Dulwich, hgweb and klaus do it.
    def write_in_generator(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", [TEXT, *fields])
        write(b"written, ")
        yield b"then given, "
        write(b"written, ")
        yield b"given"

    return write_in_generator


def _write_in_generator_only(*fields: tuple[str, str]) -> Behaviour:
    def write_in_generator_only(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response("200 OK", [TEXT, *fields])
        write(b"written ")
        write(b"twice")
        yield from ()  # makes this function a generator

    return write_in_generator_only


WRITES_IN_GENERATOR: Final[dict[str, Behaviour]] = {
    "write-in-generator": _write_in_generator(),
    "write-in-generator-length": _write_in_generator(("Content-Length", "35")),
    "write-in-generator-only": _write_in_generator_only(),
    "write-in-generator-only-length": _write_in_generator_only(("Content-Length", "13")),
}
for _name, _behaviour in WRITES_IN_GENERATOR.items():
    BEHAVIOURS.at("response/" + _name)(_behaviour)


@BEHAVIOURS.at("response/closing")
def _closing(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", "7")])
    return ClosingBlocks(environ, [b"closing"])


@BEHAVIOURS.at("response/closing-no-content")
def _closing_no_content(environ: Environ, start_response: StartResponse) -> Any:
    start_response("204 No Content", [])
    return ClosingBlocks(environ, [])


class CountedBlocks:
    """An iterable that knows its number of blocks but is no sequence."""

    def __init__(self, block: bytes) -> None:
        self._block = block

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield self._block


@BEHAVIOURS.at("response/with-len")
def _with_len(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return CountedBlocks(b"one block that has a length")


class OldSequence:
    """Iterable by __getitem__ alone: iter() accepts it, so a server has to."""

    def __getitem__(self, index: int) -> bytes:
        return (b"by ", b"index")[index]


@BEHAVIOURS.at("response/getitem")
def _getitem(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return OldSequence()


@BEHAVIOURS.at("response/long")
def _long(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return (LONG_BLOCK for _ in range(LONG_BLOCKS))


@BEHAVIOURS.at("response/long-block")
def _long_block(environ: Environ, start_response: StartResponse) -> Any:
    return answer(start_response, LONG_BLOCK * LONG_BLOCKS)


@BEHAVIOURS.at("response/length-with-spaces")
def _length_with_spaces(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", " 5 ")])
    return [b"hello"]


@BEHAVIOURS.at("response/length-over")
def _length_over(environ: Environ, start_response: StartResponse) -> Any:
    # More content than announced: all that follows would be read as the next response.
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return [b"hello", b" and more", b" than that"]


@BEHAVIOURS.at("response/length-over-one-block")
def _length_over_one_block(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return [b"hello and more"]


@BEHAVIOURS.at("response/length-under")
def _length_under(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", "50")])
    return [b"only this"]


@BEHAVIOURS.at("response/length-under-blocks")
def _length_under_blocks(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", "50")])
    return (block for block in (b"only ", b"this"))


@BEHAVIOURS.at("response/length-wrong-for-head")
def _length_for_head(environ: Environ, start_response: StartResponse) -> Any:
    # As many applications answer HEAD: the length of the GET, and no content.
    start_response("200 OK", [TEXT, ("Content-Length", "12345")])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"x" * 12345]


@BEHAVIOURS.at("response/204")
def _no_content(environ: Environ, start_response: StartResponse) -> Any:
    start_response("204 No Content", [])
    return []


@BEHAVIOURS.at("response/204-with-content")
def _no_content_with_content(environ: Environ, start_response: StartResponse) -> Any:
    start_response("204 No Content", [TEXT, ("Content-Length", "6")])
    return [b"unsent"]


@BEHAVIOURS.at("response/304")
def _not_modified(environ: Environ, start_response: StartResponse) -> Any:
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []


@BEHAVIOURS.at("response/304-with-content")
def _not_modified_with_content(environ: Environ, start_response: StartResponse) -> Any:
    start_response("304 Not Modified", [("ETag", '"1"')])
    return (block for block in (b"un", b"sent"))


@BEHAVIOURS.at("response/304-with-length")
def _not_modified_with_length(environ: Environ, start_response: StartResponse) -> Any:
    start_response("304 Not Modified", [("ETag", '"1"'), ("Content-Length", "10")])
    return []


@BEHAVIOURS.at("response/205-with-content")
def _reset_with_content(environ: Environ, start_response: StartResponse) -> Any:
    start_response("205 Reset Content", [TEXT])
    return [b"unsent"]


@BEHAVIOURS.at("response/set-cookie")
def _set_cookie(environ: Environ, start_response: StartResponse) -> Any:
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("Set-Cookie", "a=3")]
    start_response("200 OK", [TEXT, *cookies, ("Content-Length", "7")])
    return [b"cookies"]


@BEHAVIOURS.at("response/latin-1-field")
def _latin_1_field(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("X-Name", "caf\xe9"), ("Content-Length", "0")])
    return []


@BEHAVIOURS.at("response/empty-field")
def _empty_field(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("X-Empty", ""), ("Content-Length", "0")])
    return []


@BEHAVIOURS.at("response/own-date-and-server")
def _own_date_and_server(environ: Environ, start_response: StartResponse) -> Any:
    own = [("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Server", "probe")]
    start_response("200 OK", [TEXT, *own, ("Content-Length", "0")])
    return []


@BEHAVIOURS.at("response/connection-close")
def _connection_close(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Connection", "close"), ("Content-Length", "4")])
    return [b"last"]


@BEHAVIOURS.at("response/mutated-environ")
def _mutated_environ(environ: Environ, start_response: StartResponse) -> Any:
    # PEP 3333 lets an application change environ in any way; no other request may notice.
    for key in list(environ):
        if key.startswith(("HTTP_", "wsgi.", "SERVER_", "REQUEST_")):
            del environ[key]
    environ.update({"PATH_INFO": "/changed", "SCRIPT_NAME": "/changed", "probe.left": "behind"})
    return answer(start_response, b"mutated")


@BEHAVIOURS.at("response/wsgi-errors")
def _wsgi_errors(environ: Environ, start_response: StartResponse) -> Any:
    stream = environ["wsgi.errors"]
    stream.write("the probe writes to wsgi.errors: caf\xe9 \u20ac\n")
    stream.writelines(["two ", "pieces\n"])
    stream.flush()
    return answer(start_response, b"written")


@BEHAVIOURS.at("response/replaced-head")
def _replaced_head(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("X-First", "1")])
    try:
        raise ValueError("changed my mind")
    except ValueError:
        start_response("503 Service Unavailable", [TEXT, ("X-Second", "2")], sys.exc_info())
    return [b"sorry"]


# --- /probe/response/file...: wsgi.file_wrapper ---


class CountedFile(io.FileIO):
    """A real file that counts close()."""

    def __init__(self, descriptor: int, token: str) -> None:
        super().__init__(descriptor, "rb")
        self._token = token
        CLOSED.open(token, self)

    def close(self) -> None:
        if not self.closed:
            CLOSED.count(self._token)
        super().close()


class CountedBytesIO(io.BytesIO):
    """A file without a descriptor that counts close()."""

    def __init__(self, content: bytes, token: str) -> None:
        super().__init__(content)
        self._token = token
        CLOSED.open(token, self)

    def close(self) -> None:
        if not self.closed:
            CLOSED.count(self._token)
        super().close()


class ReadableOnly:
    """The least that file_wrapper may be given: an object with read()."""

    def __init__(self, content: bytes) -> None:
        self._source = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._source.read(size)


class FileBlocks:
    """What PEP 3333 shows for servers without wsgi.file_wrapper."""

    def __init__(self, source: Any, block_bytes: int) -> None:
        self._source = source
        self._block_bytes = block_bytes

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self._source.read(self._block_bytes), b"")

    def close(self) -> None:
        if hasattr(self._source, "close"):
            self._source.close()


def _wrap_file(environ: Environ, source: Any) -> Any:
    return environ.get("wsgi.file_wrapper", FileBlocks)(source, 4096)


def _open_file(environ: Environ, at: int = 0) -> CountedFile:
    descriptor, name = tempfile.mkstemp(prefix="rawsgi-probe-")
    os.unlink(name)
    os.write(descriptor, FILE_CONTENT)
    os.lseek(descriptor, at, os.SEEK_SET)
    return CountedFile(descriptor, environ.get("QUERY_STRING", ""))


@BEHAVIOURS.at("response/file")
def _file(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", str(len(FILE_CONTENT)))])
    return _wrap_file(environ, _open_file(environ))


@BEHAVIOURS.at("response/file-no-length")
def _file_no_length(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return _wrap_file(environ, _open_file(environ))


@BEHAVIOURS.at("response/file-part")
def _file_part(environ: Environ, start_response: StartResponse) -> Any:
    # From the file's current position, and no more than the length says: a range of a file.
    start_response("206 Partial Content", [TEXT, ("Content-Length", "54")])
    return _wrap_file(environ, _open_file(environ, at=54))


@BEHAVIOURS.at("response/file-in-memory")
def _file_in_memory(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    source = CountedBytesIO(b"in memory", environ.get("QUERY_STRING", ""))
    return _wrap_file(environ, source)


@BEHAVIOURS.at("response/file-readable-only")
def _file_readable_only(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return _wrap_file(environ, ReadableOnly(b"has read() and nothing else"))
