"""What the logs are told of requests: a line each in the access log, reasons in the error log.

The rule of this file: only the leader calls, once for each request, when its response has left or
cannot leave any more.
"""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING

from rawsgi.logs import escape, log
from rawsgi.protocol.message import ProtocolError, Request

if TYPE_CHECKING:
    from rawsgi.net.client.connection import Connection
    from rawsgi.net.client.exchange import Exchange

# What a refusal shows of a start-line; the log cuts it further.
_START_LINE_BYTES = 1024
_METHOD_AND_SPACE = re.compile(rb"[A-Za-z-]{1,32} +[^ ]")
# What a message that ends too soon is refused by: its client has left.
_INCOMPLETE = "RFC 9112 section 8"
# The thread that holds an outbox may be stuck.
_LOCK_S = 0.1


def describe(request: Request) -> str:
    """Method and target for the error log, safe against bytes from the wire."""
    return f"{request.method} {escape(request.target)}"


def log_response(connection: Connection, exchange: Exchange) -> None:
    """The response has left, or what was left of it was given up."""
    protocol = connection.protocol
    outbox = connection.outbox
    lost = outbox.lost_bytes if outbox is not None else 0
    sent_bytes = max(protocol.sent_bytes - lost, 0)
    _write_line(connection, exchange.request, protocol.code, sent_bytes, exchange.started)


def log_unanswered(connection: Connection, request: Request, began: float) -> None:
    """The client left first, or in the middle of its content."""
    _write_line(connection, request, 499, 0, began)


def log_cut(connection: Connection) -> None:
    """The process ends, and leaves the thread that runs this request where it is."""
    exchange = connection.exchange
    if exchange is None or not exchange.head_sent:
        return
    outbox = connection.outbox
    if outbox is not None and outbox.lock.acquire(timeout=_LOCK_S):
        try:
            outbox.discard()
        finally:
            outbox.lock.release()
    log_response(connection, exchange)


def _write_line(
    connection: Connection, request: Request, status: int, sent_bytes: int, began: float
) -> None:
    access_log = connection.loop.access_log
    if access_log is not None:
        access_log.write(
            connection.remote[0], request.method, request.target, request.version,
            status, sent_bytes, monotonic() - began,
            request.fields.get("HTTP_REFERER", ""), request.fields.get("HTTP_USER_AGENT", ""),
        )  # fmt: skip


def log_refusal(
    connection: Connection, error: ProtocolError, unread: bytearray | None, data: bytes
) -> None:
    """A request was refused with `data`, or answered in the application's place. `unread`: the
    head, if it was not accepted."""
    client = connection.remote[0] or "a client"
    request = connection.protocol.request
    if error.source == _INCOMPLETE:
        log.debug("%s left: %s", client, error)  # nobody's mistake
    elif error.status >= 500 and request is not None:
        log.info("%s: %s answered %s", client, describe(request), error)
    else:
        log.info("%s refused: %s", client, error)
    loop = connection.loop
    if loop.access_log is None:
        return
    fields: dict[str, str] = {}
    if request is not None:
        line = request.method, request.target, request.version
        fields = request.fields
    else:
        # As much of the line as there is: what a client sent is what one wants to know. But
        # content where a request was expected, such as a form with a password, is not shown.
        start = bytes(unread or b"")[:_START_LINE_BYTES].lstrip(b"\r\n").partition(b"\n")[0]
        shown = start if _METHOD_AND_SPACE.match(start) else b"-"
        line = shown.rstrip(b"\r").decode("latin-1"), "", ""
    began = max(connection.since, connection.phase_since)
    if request is None and connection.phase_since < connection.since:
        began = loop.now  # it came whole: the time before was idle
    loop.access_log.write(
        connection.remote[0], *line, error.status, len(data.partition(b"\r\n\r\n")[2]),
        monotonic() - began, fields.get("HTTP_REFERER", ""), fields.get("HTTP_USER_AGENT", ""),
    )  # fmt: skip


def log_remarks(connection: Connection, exchange: Exchange) -> None:
    """What was odd about the response that the application gave."""
    for remark in connection.protocol.remarks:
        log.warning("%s: %s", describe(exchange.request), remark)
    connection.protocol.remarks.clear()
