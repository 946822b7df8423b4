"""wsgi.file_wrapper: a file that the server may send without reading it (PEP 3333).

The rule of this file: a wrapper is a plain iterable for everybody; only if nothing was changed
about it, and its file has a descriptor, the server sends the descriptor's bytes itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any


class FileWrapper:
    """wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling")."""

    __slots__ = ("block_bytes", "file")

    def __init__(self, file: Any, block_bytes: int = 65536) -> None:
        self.file = file
        self.block_bytes = block_bytes

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.file.read(self.block_bytes)
        if block:
            return block
        raise StopIteration

    def close(self) -> None:
        close = getattr(self.file, "close", None)
        if close is not None:
            close()

    def find_span(self) -> tuple[int, int] | None:
        """Return where the rest of the file begins and how long it is, in bytes.

        None: it has no descriptor of a regular file, or its position is not the descriptor's
        (a compressed file reads other bytes than its descriptor gives): it must be iterated.
        """
        if type(self.file).__module__ not in ("_io", "tempfile"):
            return None
        try:
            status = os.fstat(self.file.fileno())
            offset = self.file.tell()
        except (AttributeError, OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode) or "b" not in getattr(self.file, "mode", "b"):
            return None
        return offset, max(status.st_size - offset, 0)
