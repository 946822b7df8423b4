"""Request to `environ` (PEP 3333, "environ Variables"): one copy of a base, one pass, few stores.

The rule of this file: every value that came from the wire is a `str` of latin-1 characters, each
standing for one byte; PATH_INFO is percent-decoded, QUERY_STRING and the RAW_URI are not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO
from urllib.parse import unquote_to_bytes

from rawsgi.protocol.message import Request
from rawsgi.wsgi.file_wrapper import FileWrapper

Environ = dict[str, Any]


class ErrorStream:
    """wsgi.errors (PEP 3333, "Input and Error Streams"): the process's standard error.

    Nobody reads it, its disk is full, or there was none from the start: what an application
    writes is lost then, and its request goes on.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                return self._stream.write(text)
            except (OSError, ValueError):  # ValueError: it is closed
                pass
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                pass

    def __getattr__(self, name: str) -> Any:
        """What else a stream has, such as `isatty` and `encoding`."""
        return getattr(self._stream, name)


def make_base(
    server_name: str,
    server_port: str,
    *,
    scheme: str = "http",
    multithread: bool,
    multiprocess: bool,
    software: str,
) -> Environ:
    """Return what is the same in the environ of every request of a listener."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_SOFTWARE": software,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": ErrorStream(sys.stderr),
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }


def build_environ(
    base: Environ,
    request: Request,
    content: Any,
    content_bytes: int | None,
    remote: tuple[str, str],
    client_disconnected: Callable[[], bool],
) -> Environ:
    """Return the environ of one request; the application may change it as it likes.

    `content` becomes wsgi.input; `content_bytes` is its length if all of it has been read,
    which for chunked content is told to the application as CONTENT_LENGTH.
    """
    environ = base | request.fields
    path = request.path
    if "%" in path:
        path = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = path
    environ["QUERY_STRING"] = request.query
    environ["RAW_URI"] = environ["REQUEST_URI"] = request.target
    environ["SERVER_PROTOCOL"] = request.version
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = remote
    environ["wsgi.input"] = content
    environ["rawsgi.client_disconnected"] = client_disconnected
    if request.content_length < 0:
        # Decoded already: with the field an application would decode once more, and without a
        # length Bottle and others read nothing.
        del environ["HTTP_TRANSFER_ENCODING"]
        if content_bytes is not None:
            environ["CONTENT_LENGTH"] = str(content_bytes)
    return environ
