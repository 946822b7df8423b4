"""wsgi.file_wrapper: a file that the server may send without reading it (PEP 3333).

The rule of this file: a wrapper is a plain iterable for everybody. Only where reading would give
exactly the bytes that the descriptor gives, the server sends the descriptor's bytes itself.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import Any

BLOCK_BYTES = 65536


class FileWrapper:
    """wsgi.file_wrapper (PEP 3333, "Optional Platform-Specific File Handling")."""

    __slots__ = ("block_bytes", "file")

    def __init__(self, file: Any, block_bytes: int = BLOCK_BYTES) -> None:
        """`block_bytes` is a suggestion; 0 or None: as the server likes."""
        self.file = file
        self.block_bytes = block_bytes or BLOCK_BYTES

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.file.read(self.block_bytes)
        if block:
            return block
        raise StopIteration

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.file, "close", None)
        if close is not None:
            close()

    def find_span(self) -> tuple[int, int] | None:
        """Return where the rest of the file begins and how long it is, in bytes.

        None: it must be iterated, because it is no plain file on a disk, or because its
        descriptor gives other bytes than it does: a compressed file, a text file.
        """
        # A part of a file knows its own end: `rawsgi.wsgi.static.FilePart`.
        find_part = getattr(type(self.file), "find_span", None)
        try:
            if find_part is not None:
                offset, count = find_part(self.file)
            elif reads_raw_bytes(self.file):
                self.file.flush()  # what was written, and has not reached the descriptor
                offset, count = self.file.tell(), None
            else:
                return None
            status = os.fstat(self.file.fileno())
        except (AttributeError, OSError, ValueError):
            return None
        # Files that the kernel makes up have no blocks, and a size that means nothing.
        if not stat.S_ISREG(status.st_mode) or not status.st_blocks:
            return None
        rest = status.st_size - offset
        if count is None:
            count = rest
        return (offset, count) if 0 < count <= rest else None


def reads_raw_bytes(file: Any) -> bool:
    """Does `file` give the bytes of its descriptor, unchanged and from its own position?

    By exact type: a subclass may read anything, and an `io.BufferedReader` may stand over a
    decompressor, which has the descriptor of the compressed file. Raises ValueError if closed.
    """
    if type(file).__module__ == "tempfile":
        # NamedTemporaryFile wraps its file; SpooledTemporaryFile has one once it is large.
        file = getattr(file, "file", None) or getattr(file, "_file", None)
    if type(file) in (io.BufferedReader, io.BufferedRandom):
        file = file.raw
    return type(file) is io.FileIO and file.readable()
