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
        find_span = getattr(type(self.file), "find_span", None)
        raw = None if find_span is not None else find_raw_file(self.file)
        if raw is None and find_span is None:
            return None
        try:
            if find_span is None:
                self.file.flush()  # what was written and not sent to the descriptor
                offset, count = self.file.tell(), None
            else:
                offset, count = find_span(self.file)
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


def find_raw_file(file: Any) -> io.FileIO | None:
    """Return the `io.FileIO` whose bytes `file` reads unchanged; None if there is no such thing.

    By exact type: a subclass may read anything, and a `BufferedReader` may stand over a
    decompressor that has the descriptor of the compressed file.
    """
    if type(file).__module__ == "tempfile":
        # NamedTemporaryFile wraps its file; SpooledTemporaryFile has one once it is large.
        file = getattr(file, "file", None) or getattr(file, "_file", None)
    if type(file) in (io.BufferedReader, io.BufferedRandom):
        file = file.raw
    if type(file) is io.FileIO and file.readable():
        return file
    return None
