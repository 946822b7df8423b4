"""Run the application for one exchange: PEP 3333 from the caller's side.

The rule of this file: whatever the application does, `Gateway.run` returns, the response is
ended or the exchange aborted, and the iterable's `close()` was called once. An error before the
head went out is a 500; after it the connection is cut, which is how the client notices.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from types import CoroutineType
from typing import Any, Protocol

from rawsgi.logs import escape, log
from rawsgi.protocol.http1 import WITHOUT_CONTENT
from rawsgi.protocol.message import ClientDisconnected, ProtocolError, Request, ResponseError
from rawsgi.protocol.response import Fields, Head, explain_refusal, reason_phrase
from rawsgi.wsgi.environ import build_environ
from rawsgi.wsgi.file_wrapper import FileWrapper
from rawsgi.wsgi.input import ContentCut, StreamedInput

_ERROR_STATUS = "500 Internal Server Error"
_ERROR_FIELDS = [("Content-Type", "text/plain; charset=utf-8")]
_ERROR_CONTENT = b"500 Internal Server Error\nThe application failed; its log says why.\n"

# Iterables, but not of blocks.
_TEXTS = (str, bytes, bytearray, memoryview)

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Exchange(Protocol):
    """What the gateway asks of one exchange. Only the thread that runs the request calls."""

    request: Request
    head_sent: bool
    """Bytes of the response may be on the wire: it cannot be replaced any more."""

    base: dict[str, Any]
    """The environ of the listener, to be copied."""
    content: Any
    """A file at its beginning, or the source of a `StreamedInput`."""
    content_bytes: int | None
    """Length of the content where all of it was read; None: it is still arriving."""
    remote: tuple[str, str]

    def client_disconnected(self) -> bool:
        """The client closed its side of the connection."""

    def encode_head(self, status: str, fields: Fields) -> Head:
        """Check what the application gave, and make a head of it for one of the next three.

        Raises `ResponseError`."""

    def send_response(self, head: Head, content: bytes) -> None:
        """Send a whole response of known content; never waits for the client.

        Raises `ClientDisconnected`."""

    def begin_response(self, head: Head, length: int | None, block: bytes) -> bool:
        """Send the head with the first block of content. False: the response is complete.

        `length` is that of the whole content, where the gateway knows it. Raises
        `ClientDisconnected`."""

    def send_data(self, block: bytes) -> None:
        """Send a block on its way before returning. Raises `ClientDisconnected`."""

    def send_file(self, head: Head, file: Any, span: tuple[int, int]) -> bool:
        """Send a whole response whose content is (offset, count) of an open file, which may be
        closed at once. False: it must be read, and nothing was sent. Raises
        `ClientDisconnected`."""

    def send_end(self) -> None: ...

    def abort(self, reason: str) -> None:
        """End the response by closing the connection."""

    def absorb_timeout(self) -> None:
        """After `ClientDisconnected`: if it was a request timeout that cut the response off, what
        closes the response is not to be interrupted as well."""

    @property
    def wants_content(self) -> bool:
        """After `begin_response`: content is sent at all, and more of it."""


class StartResponse:
    """The `start_response` of one request, and the `write` that it returns."""

    exchange: Any
    """The `Exchange`; `ENDED` after it, because an application may keep both callables."""
    head: Head | None = None
    """None until the application has given a head that can be sent."""

    def __call__(
        self, status: str, fields: Fields, exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333, "The start_response() Callable". Raises `ResponseError`: what cannot be sent
        is told while the application, and what wraps it, can still do something about it."""
        if exc_info:
            try:
                if self.exchange.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # breaks the cycle with the traceback's frames
        elif self.head is not None:
            raise AssertionError("start_response was called a second time without exc_info")
        self.head = self.exchange.encode_head(status, fields)
        return self.write

    def write(self, block: bytes) -> None:
        """PEP 3333, "The write() Callable": send now."""
        if type(block) is not bytes:
            block = check_block(block)
        if block:
            if self.exchange.head_sent:
                self.exchange.send_data(block)
            else:
                self.begin_response(None, block)

    def begin_response(self, length: int | None, block: bytes) -> bool:
        """Send the head as it was given last, with the first block. See `Exchange`."""
        if self.head is None:
            raise no_start()
        more: bool = self.exchange.begin_response(self.head, length, block)
        return more


class _Ended:
    """What `StartResponse` has for an exchange once the response is over.

    A block that came now would stand where the client expects its next response.
    """

    head_sent = True

    def encode_head(self, status: str, fields: Fields) -> Head:
        raise AssertionError("start_response was called after the end of the response")

    def send_data(self, block: bytes) -> None:
        raise AssertionError("write() was called after the end of the response")


ENDED = _Ended()


class Gateway:
    """One application. `run` may be called by several threads at once."""

    __slots__ = ("_application", "streams_request")

    def __init__(self, application: Application, streams_request: bool = False) -> None:
        """`streams_request` is the setting; the application's own `stream_request` decides over it.

        Whoever has `streams_request` True is given exchanges whose content is still arriving.
        """
        self._application = application
        self.streams_request = bool(getattr(application, "stream_request", streams_request))

    def run(self, exchange: Exchange) -> None:
        """Run one request to the end of its response. Raises nothing that the application did."""
        result: Any = None
        start = StartResponse()
        start.exchange = exchange
        try:
            content = exchange.content
            if exchange.content_bytes is None:
                content = StreamedInput(content)
            environ = build_environ(
                exchange.base,
                exchange.request,
                content,
                exchange.content_bytes,
                exchange.remote,
                exchange.client_disconnected,
            )
            result = self._application(environ, start)
            kind = type(result)
            if (kind is list or kind is tuple) and not exchange.head_sent:
                if start.head is None:
                    raise no_start()
                if len(result) == 1 and type(result[0]) is bytes:
                    exchange.send_response(start.head, result[0])
                else:
                    exchange.send_response(start.head, join_blocks(result))
            elif kind is not FileWrapper or not send_file(exchange, start, result):
                self._send_blocks(exchange, start, result)
        except ClientDisconnected:
            exchange.absorb_timeout()
        except BaseException as error:  # SystemExit too: the server outlives its application
            self._fail(exchange, error)
        finally:
            start.exchange = ENDED
            if result is not None and type(result) is not list:
                close_result(exchange, result)

    def _send_blocks(self, exchange: Exchange, start: StartResponse, result: Any) -> None:
        """Each block leaves before the next one is asked for (PEP 3333, "Buffering")."""
        try:
            blocks = iter(result)
        except TypeError:
            check_result(result)
            raise
        complete = False
        for block in blocks:
            if type(block) is not bytes:
                check_result(result)
                block = check_block(block)
            if not block:
                continue
            if not exchange.head_sent:  # asked each time: `write` may be called meanwhile
                # PEP 3333, "Handling the Content-Length Header": one block is the whole.
                length = len(block) if count_blocks(result) == 1 else None
                complete = not start.begin_response(length, block)
                if complete and has_no_content(exchange.request.method, start.head):
                    break  # whatever follows would not be sent, and it may take its time
            elif exchange.wants_content:
                exchange.send_data(block)
            else:
                # The Content-Length is reached, and here is more: the exchange notes it.
                exchange.send_data(block)
                break
        if not exchange.head_sent:
            check_result(result)
            length = None if exchange.request.method == "HEAD" else 0
            complete = not start.begin_response(length, b"")
        if not complete:
            exchange.send_end()

    def _fail(self, exchange: Exchange, error: BaseException) -> None:
        """Answer for the application, or cut the response off where it has begun."""
        if isinstance(error, ContentCut):
            self._refuse(exchange, error)
            return
        if not getattr(error, "is_logged", False):  # no failure: it was interrupted from outside
            log_failure(exchange, "the application failed", error)
        if exchange.head_sent:
            exchange.abort("the application failed after the head of its response")
        else:
            answer(exchange, _ERROR_STATUS, _ERROR_CONTENT)

    def _refuse(self, exchange: Exchange, cut: ContentCut) -> None:
        """Not the application's fault: broken content, too much of it, too slow, or no client."""
        reason = cut.reason
        level = logging.INFO if isinstance(reason, ProtocolError) else logging.DEBUG
        log.log(level, "%s: %s", describe(exchange), cut)
        if exchange.head_sent or not isinstance(reason, ProtocolError):
            exchange.abort("the content of the request was cut off")
        else:
            status = f"{reason.status} {reason_phrase(reason.status)}"
            answer(exchange, status, explain_refusal(reason).encode("utf-8", "backslashreplace"))


def send_file(exchange: Exchange, start: StartResponse, result: FileWrapper) -> bool:
    """Have the file sent by its descriptor; False: it is to be read and sent in blocks."""
    span = None if exchange.head_sent else result.find_span()
    if span is None:
        return False
    if start.head is None:
        raise no_start()
    return exchange.send_file(start.head, result.file, span)


def join_blocks(blocks: list[bytes]) -> bytes:
    """All the blocks are here already: their length is known, and joined none is delayed.

    Sent one by one they would hold the thread for as long as the client takes.
    """
    return b"".join([block if type(block) is bytes else check_block(block) for block in blocks])


def check_block(block: object) -> bytes:
    """Return a block as `bytes`; raise `ResponseError` if it is nothing of the kind."""
    if isinstance(block, bytes | bytearray | memoryview):
        return bytes(block)
    raise ResponseError(f"the application gave a block of {type(block).__name__} instead of bytes")


def check_result(result: object) -> None:
    """Raise `ResponseError` if the application returned what cannot be a list of blocks."""
    kind = type(result)
    if kind in _TEXTS or not (hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")):
        what = "None" if result is None else kind.__name__
        hint = " (it is async: this is a WSGI server)" if isinstance(result, CoroutineType) else ""
        raise ResponseError(
            f"the application returned {what} instead of an iterable of bytes{hint}"
        )


def count_blocks(result: Any) -> int:
    """Return `len(result)`, which PEP 3333 allows to rely on where it works; -1 where not."""
    if not hasattr(type(result), "__len__"):
        return -1
    try:
        return len(result)
    except Exception:
        return -1


def answer(exchange: Exchange, status: str, content: bytes) -> None:
    """Send a response of the server's own."""
    try:
        exchange.send_response(exchange.encode_head(status, _ERROR_FIELDS), content)
    except ClientDisconnected:
        exchange.absorb_timeout()


def has_no_content(method: str, head: Head | None) -> bool:
    """A response of this status to this method has no content (RFC 9110 section 6.4.1)."""
    return method == "HEAD" or (head is not None and head[0] in WITHOUT_CONTENT)


def no_start() -> ResponseError:
    return ResponseError("the application did not call start_response, or not successfully")


def close_result(exchange: Exchange, result: Any) -> None:
    """Call the `close()` of what the application returned, if it has one. Raises nothing."""
    try:
        close = getattr(result, "close", None)
        if close is not None:
            close()
    except BaseException as error:
        if not getattr(error, "is_logged", False):
            log_failure(exchange, "close() of the response failed", error)


def describe(exchange: Exchange) -> str:
    """Method and target for the log, safe against bytes from the wire."""
    return f"{exchange.request.method} {escape(exchange.request.target)}"


def log_failure(exchange: Exchange, what: str, error: BaseException) -> None:
    """Write an error with its request to the error log; a traceback only if it tells more."""
    log.disabled = False  # an application that configures `logging` late disables what exists
    try:
        if isinstance(error, ResponseError) and not has_foreign_frame(error):
            log.error("%s: %s", describe(exchange), error)
        else:
            log.error("%s: %s", describe(exchange), what, exc_info=error)
    except Exception:
        pass  # a handler that somebody added to the log failed: no reason to fail as well


def has_foreign_frame(error: BaseException) -> bool:
    """Did the error pass through code that is not the server's own?"""
    frames = error.__traceback__
    while frames is not None:
        module = frames.tb_frame.f_globals.get("__name__", "")
        if not str(module).startswith("rawsgi."):
            return True
        frames = frames.tb_next
    return False
