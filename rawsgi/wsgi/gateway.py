"""Run the application for one exchange: PEP 3333 from the caller's side.

The rule of this file: whatever the application does, `Gateway.run` returns, the response is
ended or the exchange aborted, and the iterable's `close()` was called once. An error before the
head went out is a 500; after it the connection is cut, which is how the client notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from rawsgi.logs import escape, log
from rawsgi.protocol.message import ClientDisconnected, Request, ResponseError
from rawsgi.protocol.response import Fields
from rawsgi.wsgi.environ import build_environ
from rawsgi.wsgi.file_wrapper import FileWrapper

# A list of blocks up to this size in all is joined and sent at once.
JOIN_BYTES = 1 << 20

_ERROR_STATUS = "500 Internal Server Error"
_ERROR_FIELDS = [("Content-Type", "text/plain; charset=utf-8")]
_ERROR_CONTENT = b"500 Internal Server Error\nThe application failed; its log says why.\n"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Exchange(Protocol):
    """What the gateway asks of one exchange. Only the thread that runs the request calls."""

    request: Request
    head_sent: bool

    base: dict[str, Any]
    """The environ of the listener, to be copied."""
    content: Any
    """wsgi.input"""
    content_bytes: int | None
    """Length of the content where all of it was read."""
    remote: tuple[str, str]

    def client_disconnected(self) -> bool:
        """The client closed its side of the connection."""

    def send_response(self, status: str, fields: Fields, content: bytes) -> None:
        """Send a whole response of known content. Raises `ResponseError`."""

    def send_head(self, status: str, fields: Fields, length: int | None) -> None:
        """Begin a response; the head leaves with the first data. Raises `ResponseError`."""

    def send_data(self, block: bytes) -> None:
        """Send a block on its way before returning. Raises `ClientDisconnected`."""

    def send_file(
        self, status: str, fields: Fields, file: Any, span: tuple[int, int], close: Any
    ) -> None:
        """Send a whole response whose content is (offset, count) of an open file; call `close`
        when it was sent or cannot be. Raises `ResponseError`, and then did not close."""

    def send_end(self) -> None: ...

    def abort(self, reason: str) -> None:
        """End the response by closing the connection."""

    @property
    def wants_content(self) -> bool:
        """After `send_head`: content is sent at all, and more of it."""


class StartResponse:
    """The `start_response` of one request, and the `write` that it returns."""

    exchange: Exchange
    status: str | None = None
    fields: Fields = ()

    def __call__(
        self, status: str, fields: Fields, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self.exchange.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # breaks the cycle with the traceback's frames
        elif self.status is not None:
            raise AssertionError("start_response was called a second time without exc_info")
        self.status = status
        self.fields = fields
        return self.write

    def write(self, block: bytes) -> None:
        """PEP 3333, "The write() Callable": send now."""
        if type(block) is not bytes:
            block = check_block(block)
        if block:
            if not self.exchange.head_sent:
                self.send_head(None)
            self.exchange.send_data(block)

    def send_head(self, length: int | None) -> None:
        if self.status is None:
            raise ResponseError("the application did not call start_response")
        self.exchange.send_head(self.status, self.fields, length)


class Gateway:
    """One application. `run` may be called by several threads at once."""

    __slots__ = ("_application",)

    def __init__(self, application: Application) -> None:
        self._application = application

    def run(self, exchange: Exchange) -> None:
        """Run one request to the end of its response. Never raises."""
        result: Any = None
        start = StartResponse()
        start.exchange = exchange
        try:
            environ = build_environ(
                exchange.base,
                exchange.request,
                exchange.content,
                exchange.content_bytes,
                exchange.remote,
                exchange.client_disconnected,
            )
            result = self._application(environ, start)
            kind = type(result)
            if (kind is list or kind is tuple) and not exchange.head_sent:
                self._send_list(exchange, start, result)
            elif kind is FileWrapper and not exchange.head_sent and (span := result.find_span()):
                if start.status is None:
                    raise ResponseError("the application did not call start_response")
                exchange.send_file(start.status, start.fields, result.file, span, result.close)
                result = None  # the exchange closes it
            else:
                self._send_blocks(exchange, start, result)
        except ClientDisconnected:
            pass
        except BaseException as error:  # SystemExit too: the server outlives its application
            self._fail(exchange, error)
        close = getattr(result, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as error:
                log_failure(exchange, "close() of the response failed", error)

    def _send_list(self, exchange: Exchange, start: StartResponse, blocks: list[bytes]) -> None:
        """All the blocks are here already: their length is known, none is delayed."""
        if start.status is None:
            raise ResponseError("the application did not call start_response")
        if len(blocks) == 1:
            content = blocks[0]
            if type(content) is not bytes:
                content = check_block(content)
        else:
            for block in blocks:
                check_block(block)
            length = sum(map(len, blocks))
            if length > JOIN_BYTES:
                start.send_head(length)
                for block in blocks:
                    if block and exchange.wants_content:
                        exchange.send_data(block)
                exchange.send_end()
                return
            content = b"".join(blocks)
        exchange.send_response(start.status, start.fields, content)

    def _send_blocks(self, exchange: Exchange, start: StartResponse, result: Any) -> None:
        """Each block leaves before the next one is asked for (PEP 3333, "Buffering")."""
        if result is None:
            raise ResponseError("the application returned None instead of an iterable of bytes")
        sized = hasattr(result, "__len__")
        for block in result:
            if type(block) is not bytes:
                block = check_block(block)
            if not block:
                continue
            if not exchange.head_sent:
                # PEP 3333, "Handling the Content-Length Header": one block is the whole.
                start.send_head(len(block) if sized and len(result) == 1 else None)
                if not exchange.wants_content:
                    break  # HEAD, 204, 304: nothing that follows would be sent
            elif not exchange.wants_content:
                exchange.send_data(block)  # notes what is too much
                break
            exchange.send_data(block)
        if not exchange.head_sent:
            head_only = exchange.request.method == "HEAD"
            start.send_head(None if head_only else 0)
        exchange.send_end()

    def _fail(self, exchange: Exchange, error: BaseException) -> None:
        log_failure(exchange, "the application failed", error)
        try:
            if exchange.head_sent:
                exchange.abort("the application failed after the head of its response")
            else:
                exchange.send_response(_ERROR_STATUS, _ERROR_FIELDS, _ERROR_CONTENT)
        except ClientDisconnected:
            pass


def check_block(block: object) -> bytes:
    """Return a block as `bytes`; raise `ResponseError` if it is nothing of the kind."""
    if isinstance(block, bytes | bytearray | memoryview):
        return bytes(block)
    raise ResponseError(
        f"the application gave a block of {type(block).__name__} instead of bytes"
    )


def log_failure(exchange: Exchange, what: str, error: BaseException) -> None:
    """Write an error with its request to the error log; a traceback only if it tells more."""
    request = exchange.request
    where = f"{request.method} {escape(request.target)}"
    if isinstance(error, ResponseError):
        log.error("%s: %s", where, error)
    else:
        log.error("%s: %s", where, what, exc_info=error)
