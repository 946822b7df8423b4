"""Files as a WSGI application, for GET and HEAD.

Why it exists: an application on the open internet has files to give away too, and needs no
second server for that. A file goes back as `wsgi.file_wrapper`, so a server that can sends it
without touching its bytes.
Its rule: which bytes of the disk a name means is folder.py's business, and nothing here opens
anything. Here is HTTP: conditions and ranges (RFC 9110 sections 13 and 14), redirects, pages.
What a client wrote is read by a pattern or not at all; a condition or a range that is not
understood is ignored, as the RFC asks, and the whole file sent.
"""

from __future__ import annotations

import calendar
import contextlib
import email.utils
import errno
import html
import mimetypes
import os
import re
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote
from wsgiref.util import FileWrapper

from rawsgi.wsgi.folder import Entry, choose_folder

if TYPE_CHECKING:
    import io
    from wsgiref.types import StartResponse, WSGIEnvironment

BLOCK_BYTES = 64 * 1024

# RFC 9110 section 14.1.2: one range. A list of them is ignored, which section 14.2 allows.
_BYTE_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.I)
# RFC 9110 section 8.8.3.
_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
# RFC 9110 section 5.6.7: the three forms that every recipient accepts.
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_CLOCK = "[0-2][0-9]:[0-5][0-9]:[0-6][0-9]"
_HTTP_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, [0-3][0-9] {_MONTH} [1-9][0-9]{{3}} {_CLOCK} GMT"
    rf"|[A-Z][a-z]{{5,8}}, [0-3][0-9]-{_MONTH}-[0-9]{{2}} {_CLOCK} GMT"
    rf"|[A-Z][a-z]{{2}} {_MONTH} [ 0-3][0-9] {_CLOCK} [1-9][0-9]{{3}}"
)

# A file that is stored compressed is sent as what it is on the disk, for the client to keep.
_COMPRESSED_TYPES = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "br": "application/x-brotli",
    "compress": "application/x-compress",
}

# Two writes within one tick of the disk's clock leave the same time stamp behind. A file as
# young as this might change once more unseen, so its entity-tag is weak (RFC 9110 section 8.8.1).
_SETTLED_NS = 2 * 10**9

_NOT_FOUND = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}

# The last second that has a year of four digits.
_LAST_S = 253402300799

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font-family: system-ui, sans-serif; margin: 2rem; line-height: 1.5 }}
td {{ padding-right: 2rem; font-variant-numeric: tabular-nums }}
td:first-child {{ overflow-wrap: anywhere }}
td:nth-child(2) {{ text-align: right }}
a {{ text-decoration: none }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
{rows}
</table>
</body>
</html>
"""
_ROW = '<tr><td><a href="{link}">{name}</a></td><td>{size}</td><td>{modified}</td></tr>'


class StaticFiles:
    """A WSGI application that serves the files beneath one folder. Any thread may call it."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        index: Sequence[str] = ("index.html", "index.htm"),
        listing: bool = True,
        hidden: bool = False,
    ) -> None:
        """Serve `folder`, which is looked up at each request.

        index: names that are tried, in order, when a folder is asked for.
        listing: answer a folder that has none of them with a list of what it holds; else 404.
        hidden: serve and list names that begin with a dot too. `.well-known` always is (RFC 8615).
        """
        self._folder = choose_folder(folder)
        self._index = [os.fsencode(name) for name in index]
        self._listing = listing
        self._hidden = hidden

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333). Raises OSError only for what is wrong with the machine."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start_response, "405 Method Not Allowed", ("Allow", "GET, HEAD"))
        # PEP 3333: the bytes of the path, each as the character of its number.
        path: bytes = environ.get("PATH_INFO", "").encode("latin-1")
        if not path:
            return _redirect(environ, start_response)
        before, *names = path.split(b"/")
        if before or not all(self._is_shown(name) for name in names):
            return _refuse(start_response, "404 Not Found")
        try:
            if names[-1] == b"":
                return self._answer_folder(names[:-1], environ, start_response)
            return _answer_file(self._folder.open_file(names), names[-1], environ, start_response)
        except IsADirectoryError:
            return _redirect(environ, start_response)
        except PermissionError:
            return _refuse(start_response, "403 Forbidden")
        except OSError as error:
            if error.errno not in _NOT_FOUND:
                raise
            return _refuse(start_response, "404 Not Found")

    def _answer_folder(
        self, names: list[bytes], environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Send the index page or a listing."""
        for index in self._index:
            try:
                file = self._folder.open_file([*names, index])
            except (FileNotFoundError, IsADirectoryError):
                continue
            return _answer_file(file, index, environ, start_response)
        if not self._listing:
            return _refuse(start_response, "404 Not Found")
        entries = self._folder.list_entries(names)
        page = render_listing(names, [entry for entry in entries if self._is_shown(entry.name)])
        content = page.encode()
        start_response(
            "200 OK",
            [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(content))),
                # The names are a stranger's where strangers may upload: the page runs nothing.
                ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
                ("X-Content-Type-Options", "nosniff"),
            ],
        )
        return [content] if environ["REQUEST_METHOD"] == "GET" else []

    def _is_shown(self, name: bytes) -> bool:
        return self._hidden or not name.startswith(b".") or name == b".well-known"


class FilePart:
    """The next `length_bytes` of a file: what `wsgi.file_wrapper` is given for a range.

    Whoever reads it gets no more than that, whatever happens to the file meanwhile. Used by one
    thread at a time.
    """

    __slots__ = ("_file", "_left_bytes")

    def __init__(self, file: io.FileIO, length_bytes: int) -> None:
        self._file = file
        self._left_bytes = length_bytes

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all that is left if negative, none at the end."""
        if not 0 <= size <= self._left_bytes:
            size = self._left_bytes
        block = self._file.read(size) if size else b""
        self._left_bytes -= len(block)
        return block

    def fileno(self) -> int:
        """Return the file's descriptor, whose position is where this part goes on."""
        return self._file.fileno()

    def find_span(self) -> tuple[int, int]:
        """Return where the rest of this part begins in the file and how long it is, in bytes."""
        return self._file.tell(), self._left_bytes

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _answer_file(
    file: io.FileIO, name: bytes, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Send the file, a part of it, or why not. Closes it, at the latest when the server does."""
    with contextlib.ExitStack() as opened:
        opened.callback(file.close)
        status = os.fstat(file.fileno())
        size = status.st_size
        now_ns = time.time_ns()
        # RFC 9110 section 8.8.2.1: never later than now.
        modified_s = max(0, min(status.st_mtime_ns, now_ns) // 10**9)
        tag = f'"{status.st_mtime_ns:x}-{size:x}"'
        if status.st_mtime_ns > now_ns - _SETTLED_NS:
            tag = f"W/{tag}"
        validators = [
            ("ETag", tag),
            ("Last-Modified", email.utils.formatdate(modified_s, usegmt=True)),
        ]
        match check_conditions(environ, tag, modified_s):
            case 304:
                start_response("304 Not Modified", validators)
                return []
            case 412:
                return _refuse(start_response, "412 Precondition Failed", *validators)
        outcome = "200 OK"
        first, length = 0, size
        fields = [
            ("Content-Type", guess_type(name)),
            *validators,
            ("Accept-Ranges", "bytes"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        part = select_part(environ, tag, size)
        if part is not None:
            first, length = part
            if length == 0:
                whole = ("Content-Range", f"bytes */{size}")
                return _refuse(start_response, "416 Range Not Satisfiable", whole)
            outcome = "206 Partial Content"
            fields.append(("Content-Range", f"bytes {first}-{first + length - 1}/{size}"))
        fields.append(("Content-Length", str(length)))
        start_response(outcome, fields)
        if environ["REQUEST_METHOD"] == "HEAD" or length == 0:
            return []
        file.seek(first)
        wrap = environ.get("wsgi.file_wrapper", FileWrapper)
        # The rest of a file is given as the file itself, which every server knows how to send.
        source = file if first + length == size else FilePart(file, length)
        blocks: Iterable[bytes] = wrap(source, BLOCK_BYTES)
        opened.pop_all()  # from here on the server closes it
        return blocks


def check_conditions(environ: WSGIEnvironment, tag: str, modified_s: int) -> int:
    """Return 412, 304, or 200 for a request that is to be answered (RFC 9110 section 13.2.2)."""
    wanted: str | None = environ.get("HTTP_IF_MATCH")
    if wanted is not None:
        # A strong comparison: a weak entity-tag equals nothing, not even itself.
        if wanted != "*" and (tag.startswith("W/") or tag not in _ENTITY_TAG.findall(wanted)):
            return 412
    else:
        date_s = read_date(environ.get("HTTP_IF_UNMODIFIED_SINCE", ""))
        if date_s is not None and modified_s > date_s:
            return 412
    known: str | None = environ.get("HTTP_IF_NONE_MATCH")
    if known is not None:
        # A weak comparison: the mark of weakness does not count.
        tags = [text.removeprefix("W/") for text in _ENTITY_TAG.findall(known)]
        return 304 if known == "*" or tag.removeprefix("W/") in tags else 200
    date_s = read_date(environ.get("HTTP_IF_MODIFIED_SINCE", ""))
    return 304 if date_s is not None and modified_s <= date_s else 200


def select_part(environ: WSGIEnvironment, tag: str, size: int) -> tuple[int, int] | None:
    """Return the first byte and the length that Range asks for; None for the whole file.

    A length of 0 says that the range lies outside the file (RFC 9110 section 15.5.17).
    """
    wanted = _BYTE_RANGE.fullmatch(environ.get("HTTP_RANGE", ""))
    if wanted is None or environ["REQUEST_METHOD"] != "GET":
        return None
    # Only an entity-tag can be strong here: a date is one of whole seconds, within which the
    # file may have changed twice (RFC 9110 section 13.1.5).
    condition: str | None = environ.get("HTTP_IF_RANGE")
    if condition is not None and (condition != tag or tag.startswith("W/")):
        return None
    first_text, last_text, suffix_text = wanted.groups()
    if suffix_text is not None:
        suffix = int(suffix_text)
        if size == 0 and suffix > 0:
            return None  # satisfiable, but no Content-Range can say "none of nothing"
        length = min(suffix, size)
        return size - length, length
    first = int(first_text)
    last = int(last_text) if last_text is not None else first + size
    if last < first:
        return None
    return first, max(0, min(last, size - 1) - first + 1)


def read_date(text: str) -> int | None:
    """Return an HTTP-date as seconds since the epoch, None for anything else."""
    if not _HTTP_DATE.fullmatch(text):
        return None
    parts = email.utils.parsedate(text)
    try:
        return calendar.timegm(parts) if parts is not None else None
    except (ValueError, OverflowError):
        return None


def guess_type(name: bytes) -> str:
    """Return the media type of a file by its name."""
    # "./" because a name like "data:,x" would be taken for a URL.
    kind, compression = mimetypes.guess_type("./" + name.decode("latin-1"))
    if compression is not None:
        return _COMPRESSED_TYPES.get(compression, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def render_listing(names: Sequence[bytes], entries: Iterable[Entry]) -> str:
    """Return the page that lists `entries`, of the folder at `names`. Folders come first."""
    rows = [_ROW.format(link="../", name="../", size="", modified="")] if names else []
    for entry in sorted(entries, key=lambda entry: (not entry.is_folder, entry.name)):
        slash = "/" if entry.is_folder else ""
        moment = time.gmtime(max(0, min(entry.modified_s, _LAST_S)))
        rows.append(
            _ROW.format(
                # Everything but letters, digits and "_.-~" in percent-encoding: no name can be
                # taken for a scheme, a query or another folder, nor end the attribute.
                link=quote(entry.name, safe="") + slash,
                name=html.escape(show_name(entry.name)) + slash,
                size="" if entry.is_folder else show_size(entry.size),
                modified=time.strftime("%Y-%m-%d %H:%M", moment),
            )
        )
    title = "/" + "".join(show_name(name) + "/" for name in names)
    return _PAGE.format(title=html.escape(title), rows="\n".join(rows))


def show_name(name: bytes) -> str:
    """Return a file's name to be read by people; what cannot be printed is escaped, visibly."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def show_size(size: int) -> str:
    """Return a number of bytes with the unit that suits it."""
    if size < 1024:
        return f"{size} B"
    units = ["TiB", "GiB", "MiB", "KiB"]
    number, unit = size / 1024, units.pop()
    while number >= 1024 and units:
        number, unit = number / 1024, units.pop()
    return f"{number:.1f} {unit}"


def _redirect(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send the client to the same folder with a slash, so that links in it lead into it."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    # One slash at the start: after two, a client would read the name of another host.
    inner = quote(path.encode("latin-1")).strip("/")
    location = f"/{inner}/" if inner else "/"
    query: str = environ.get("QUERY_STRING", "")
    if query:
        location += "?" + quote(query.encode("latin-1"), safe="!$%&'()*+,/:;=?@[]")
    return _refuse(start_response, "301 Moved Permanently", ("Location", location))


def _refuse(
    start_response: StartResponse, status: str, *fields: tuple[str, str]
) -> Iterable[bytes]:
    """Answer with nothing but the status, as a line of text."""
    content = f"{status}\n".encode()
    start_response(
        status,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("X-Content-Type-Options", "nosniff"),
            *fields,
        ],
    )
    return [content]
