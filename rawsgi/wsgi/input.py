"""wsgi.input while the content is still arriving (`--stream-request`).

Why it exists: usually the content is read before the application is called, and wsgi.input is a
plain file. An upload larger than the disk has to be handed over as it comes.
The rule of this file: a read waits until what was asked for is there, never returns a byte past
the content, returns b"" at its end, and raises `ContentCut` if the end will never come.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol

from rawsgi.protocol.message import ClientDisconnected, ProtocolError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# What is read ahead for readline() and small reads. Larger reads pass it by.
_BUFFER_BYTES = 1 << 16


class Source(Protocol):
    """Where the content comes from: `rawsgi.net.client.inbox.Inbox`."""

    error: ProtocolError | ClientDisconnected | None
    """Why no more of the content will come."""

    def get(self, limit_bytes: int) -> bytes | memoryview:
        """Return at most so many bytes, after waiting for the first; b"" at the end."""


class ContentCut(OSError):
    """The rest of the content will not come. An OSError, as from any stream that breaks off.

    `reason` is what the client did wrong, or that it left. If the application lets this pass,
    the gateway answers with the status that belongs to the reason.
    """

    def __init__(self, reason: ProtocolError | ClientDisconnected) -> None:
        super().__init__(
            f"the content was cut off: {reason}"
            if isinstance(reason, ProtocolError)
            else "the client left before its content was complete"
        )
        self.reason = reason


class StreamedInput(io.BufferedReader):
    """wsgi.input with all the methods of a file that is read; any thread, one at a time.

    `read(size)` waits for `size` bytes, as PEP 3333 has it; `read1(size)` returns what is there.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(_RawInput(source), _BUFFER_BYTES)


class _RawInput(io.RawIOBase):
    """What `io.BufferedReader` reads from."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        content = self._source.get(len(target))
        if not content and self._source.error is not None:
            raise ContentCut(self._source.error)
        target[: len(content)] = content
        return len(content)
