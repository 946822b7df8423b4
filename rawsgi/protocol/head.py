"""Request heads: request-line and header section to a `Request`, or a `ProtocolError`.

The rule of this file: there is one reading of a head, `HeadReader`'s, line by line, which gives
each refusal its reason and its byte. `HeadParser` is its short way for the head that lies there
whole and clean: it accepts only what the reader accepts, with the same result, and leaves the
rest to the reader. What is accepted does not depend on how the bytes were cut.

The caches map raw bytes to what they mean. That is a pure function of the bytes, so nothing can
be poisoned; entries and their sizes are bounded, since the keys come from strangers; what was
refused is never kept.
"""

from __future__ import annotations

from rawsgi.protocol import grammar
from rawsgi.protocol.explanation import (
    explain_field_line,
    explain_request_line,
    find_field_line,
)
from rawsgi.protocol.framing import find_content_length
from rawsgi.protocol.message import Limits, ProtocolError, Request

# method, target, path, query, version, minor, authority of an absolute-form
StartLine = tuple[str, str, str, str, str, int, str | None]
# fields, content_length, keep_alive, expects_continue
Section = tuple[dict[str, str], int, bool, bool]

_CACHED_LINES = 2048
_CACHED_LINE_BYTES = 512
_CACHED_NAMES = 512
_CACHED_NAME_BYTES = 64
_CACHED_SECTIONS = 512
_CACHED_SECTION_BYTES = 2048

# A number of so many fits into 64 bits. Of some thousand, as zeros in front may make it, Python
# makes no int.
_LENGTH_DIGITS = 18
# What decides where a message ends: no twin of theirs with an underscore does, allowed or not.
_FRAMING_VARIABLES = ("CONTENT_LENGTH", "TRANSFER_ENCODING")

_CR = 0x0D


class HeadParser:
    """Request heads under one set of limits. One per worker, shared by its connections."""

    __slots__ = ("_field_lines", "_variables", "allow", "limits", "sections",
                 "start_lines")  # fmt: skip

    def __init__(self, limits: Limits, allow: frozenset[str] = frozenset()) -> None:
        self.limits = limits
        self.allow = allow
        self.start_lines: dict[bytes, StartLine] = {}
        self._field_lines: dict[bytes, tuple[str, str]] = {}
        self._variables: dict[bytes, str] = {}
        self.sections: tuple[dict[bytes, Section], dict[bytes, Section]] = ({}, {})

    def accept_start_line(self, raw: bytes) -> StartLine | None:
        """Read a request-line; None: a `HeadReader` says why not."""
        try:
            start = parse_start_line(raw, self.limits)
        except ProtocolError:
            return None
        if len(raw) <= _CACHED_LINE_BYTES:
            if len(self.start_lines) >= _CACHED_LINES:
                self.start_lines.clear()
            self.start_lines[raw] = start
        return start

    def accept_section(self, raw: bytes, minor: int) -> Section | None:
        """Read a header section; None: a `HeadReader` says why not."""
        lines = raw.split(b"\r\n") if raw else []
        if len(lines) > self.limits.fields:
            return None
        if "underscores" in self.allow and any(has_underscore(line) for line in lines):
            return None  # allowed, and to be told
        found = list(map(self._field_lines.get, lines))
        is_known = None not in found
        try:
            pairs = [
                pair or self.parse_field_line(line) for line, pair in zip(lines, found, strict=True)
            ]
            section = build_section(pairs, minor, self.limits, self.allow)
        except ProtocolError:
            return None
        if minor and "HTTP_HOST" not in section[0]:
            return None  # allowed, and to be told
        # A line that is new every time, such as a cookie, does not turn the cache over.
        if is_known and len(raw) <= _CACHED_SECTION_BYTES:
            cache = self.sections[minor]
            if len(cache) >= _CACHED_SECTIONS:
                cache.clear()
            cache[raw] = section
        return section

    def parse_field_line(self, line: bytes) -> tuple[str, str]:
        """Return the CGI variable and the value of a field line; the variable "" drops it.

        Raises `ProtocolError` (400).
        """
        pair = self._field_lines.get(line)
        if pair is not None:
            return pair
        match = grammar.field_line.fullmatch(line)
        if match is None:
            raise explain_field_line(line)
        name, value = match.groups()
        variable = self._variables.get(name)
        if variable is None:
            variable = self._name_variable(name)
        pair = variable, value.strip(b" \t").decode("latin-1")
        if len(line) <= _CACHED_LINE_BYTES:
            if len(self._field_lines) >= _CACHED_LINES:
                self._field_lines.clear()
            self._field_lines[line] = pair
        return pair

    def _name_variable(self, name: bytes) -> str:
        """Return the CGI variable of a field name (RFC 3875 section 4.1.18), "" for none."""
        variable = name.decode("ascii").upper().replace("-", "_")
        if b"_" in name and ("underscores" not in self.allow or variable in _FRAMING_VARIABLES):
            # X_Forwarded_For would become the same variable as X-Forwarded-For.
            variable = ""
        elif variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = "HTTP_" + variable
        if len(name) <= _CACHED_NAME_BYTES:
            if len(self._variables) >= _CACHED_NAMES:
                self._variables.clear()
            self._variables[name] = variable
        return variable


class HeadReader:
    """One head that arrives in pieces, or is not clean: read line by line.

    Each line is judged when its line feed is there, so a person typing is told at once, and the
    first mistake decides however the bytes were cut. Work is linear in the bytes.
    """

    __slots__ = ("_at", "_blank_lines", "_count", "_line", "_pairs", "_parser", "_relaxed",
                 "_scanned", "_start")  # fmt: skip

    def __init__(self, parser: HeadParser) -> None:
        self._parser = parser
        self._start: StartLine | None = None
        self._pairs: list[tuple[str, str]] = []
        self._count = 0
        self._line = b""  # the last field line as it was sent, for a fold that follows it
        self._at = 0  # where the line begins that is not complete yet
        self._scanned = 0  # no line feed between _at and here
        self._blank_lines = 0
        self._relaxed: list[str] = []

    def read(self, buffer: bytearray) -> Request | None:
        """Read on in `buffer`, which holds the head from its first byte.

        Returns the request and takes the head off the buffer; None: more bytes are needed.
        Raises `ProtocolError`.
        """
        limits = self._parser.limits
        while True:
            feed = buffer.find(b"\n", self._scanned)
            if self._start is None:
                self._check_beginning(buffer, feed, limits)
            elif (len(buffer) if feed < 0 else feed) >= limits.head_bytes:
                raise ProtocolError(
                    431,
                    f"the head is longer than {limits.head_bytes} bytes",
                    "RFC 6585 section 5",
                    "Send fewer or shorter fields; cookies are the usual cause.",
                    limits.head_bytes,
                )
            if feed < 0:
                self._scanned = len(buffer)
                return None
            line = self._take_line(buffer, feed)
            if self._start is None:
                if not line and self._skip_blank_line(buffer, feed):
                    continue
                self._start = parse_start_line(line, limits)
            elif line:
                self._read_field_line(line)
            else:
                request = self._complete(buffer, feed)
                del buffer[: feed + 1]
                return request
            self._at = self._scanned = feed + 1

    def _check_beginning(self, buffer: bytearray, feed: int, limits: Limits) -> None:
        """What can be told of a request-line before it is complete."""
        first = buffer[:1]
        if first and first not in b"\r\n" and grammar.token_bytes.match(first) is None:
            tls = first == b"\x16"
            raise ProtocolError(
                400,
                "the first byte cannot begin a request-line"
                + (": it looks like a TLS handshake" if tls else ""),
                "RFC 9112 section 3",
                "Use http:// rather than https://." if tls else "Write: GET / HTTP/1.1",
                0,
            )
        if (len(buffer) if feed < 0 else feed) >= limits.request_line_bytes + 2:
            raise ProtocolError(
                414,
                f"the request-line is longer than {limits.request_line_bytes} bytes",
                "RFC 9112 section 3",
                "Send long data in the content of a POST request.",
                limits.request_line_bytes,
            )

    def _take_line(self, buffer: bytearray, feed: int) -> bytes:
        """Return the line that ends at the line feed, without its line end."""
        if feed > self._at and buffer[feed - 1] == _CR:
            return bytes(buffer[self._at : feed - 1])
        if "bare-lf" not in self._parser.allow:
            line = bytes(buffer[self._at : feed])
            if self._start is None and line and grammar.request_line.fullmatch(line) is None:
                raise explain_request_line(line)  # somebody types: say what matters more
            raise ProtocolError(
                400,
                "a line ends in a bare line feed",
                "RFC 9112 section 2.2",
                "End each line with a carriage return and a line feed (in netcat: nc -C).",
                feed,
            )
        self._relax("bare-lf")
        return bytes(buffer[self._at : feed])

    def _skip_blank_line(self, buffer: bytearray, feed: int) -> bool:
        """RFC 9112 section 2.2: an empty line before the request-line is to be ignored."""
        self._blank_lines += 1
        if self._blank_lines > self._parser.limits.blank_lines:
            return False  # as a request-line it is refused
        del buffer[: feed + 1]
        self._scanned = 0
        return True

    def _read_field_line(self, line: bytes) -> None:
        parser = self._parser
        # A line that continues another one counts as well: each costs the work of the whole.
        self._count += 1
        if self._count > parser.limits.fields:
            raise ProtocolError(
                431,
                f"the header section has more than {parser.limits.fields} field lines",
                "RFC 6585 section 5",
                "Send fewer fields.",
                self._at,
            )
        if line[0] in b" \t" and self._pairs and "obs-fold" in parser.allow:
            self._relax("obs-fold")
            self._pairs.pop()
            line = self._line + b" " + line.strip(b" \t")
        try:
            pair = parser.parse_field_line(line)
        except ProtocolError as error:
            error.offset = self._at + (error.offset or 0)
            raise
        if pair[0] and has_underscore(line):
            self._relax("underscores")
        self._pairs.append(pair)
        self._line = line

    def _complete(self, buffer: bytearray, feed: int) -> Request:
        assert self._start is not None
        method, target, path, query, version, minor, authority = self._start
        parser = self._parser
        try:
            section = build_section(self._pairs, minor, parser.limits, parser.allow)
        except ProtocolError as error:
            if error.field:
                error.offset = find_field_line(bytes(buffer[:feed]), error)
            raise
        fields, content_length, keep_alive, expects_continue = section
        if minor and "HTTP_HOST" not in fields:
            self._relax("missing-host")
        if authority is not None:
            fields = {**fields, "HTTP_HOST": authority}
        request = Request(
            method, target, path, query, version, minor,
            fields, content_length, keep_alive, expects_continue,
        )  # fmt: skip
        request.relaxed = tuple(self._relaxed)
        return request

    def _relax(self, name: str) -> None:
        if name not in self._relaxed:
            self._relaxed.append(name)


def build_section(
    pairs: list[tuple[str, str]], minor: int, limits: Limits, allow: frozenset[str]
) -> Section:
    """Join repeated field lines and draw every conclusion that needs the whole section.

    Raises `ProtocolError` (400, 413, 417, 501).
    """
    fields: dict[str, str] = {}
    for variable, value in pairs:
        if variable in fields:
            # RFC 9110 section 5.3; cookies have their own separator (RFC 9113 section 8.2.3).
            joint = "; " if variable == "HTTP_COOKIE" else ", "
            fields[variable] += joint + value
        else:
            fields[variable] = value
    fields.pop("", None)  # the names with an underscore
    _check_host(fields, pairs, minor, allow)
    content_length = find_content_length(fields, minor, limits)
    if len(fields.get("CONTENT_LENGTH", "")) > _LENGTH_DIGITS:
        fields["CONTENT_LENGTH"] = str(content_length)
    # RFC 9112 section 9.3
    keep_alive = minor == 1
    if "HTTP_CONNECTION" in fields:
        options = [option.strip(" \t") for option in fields["HTTP_CONNECTION"].lower().split(",")]
        keep_alive = "close" not in options and (minor == 1 or "keep-alive" in options)
    expects_continue = _check_expectation(fields, minor) and content_length != 0
    return fields, content_length, keep_alive, expects_continue


def _check_host(
    fields: dict[str, str], pairs: list[tuple[str, str]], minor: int, allow: frozenset[str]
) -> None:
    value = fields.get("HTTP_HOST")
    if value is None:
        if minor == 0 or "missing-host" in allow:
            return
        raise ProtocolError(
            400,
            "an HTTP/1.1 request needs a Host field",
            "RFC 9112 section 3.2",
            "Add a line such as: Host: localhost",
        )
    # Two Host lines were joined by ", ", whose space no host has.
    match = grammar.host.fullmatch(value)
    if match is None or int(match[2] or "0") > 65535:
        twice = [variable for variable, _ in pairs].count("HTTP_HOST") > 1
        raise ProtocolError(
            400,
            "Host stands there twice" if twice else "Host is not one host and port",
            "RFC 9112 section 3.2",
            "Send one line such as: Host: example.org:8000",
            field="Host",
        )


def _check_expectation(fields: dict[str, str], minor: int) -> bool:
    value = fields.get("HTTP_EXPECT")
    if value is None:
        return False
    expectations = {expectation.strip(" \t") for expectation in value.lower().split(",")}
    if expectations <= {"100-continue", ""}:
        # RFC 9110 section 10.1.1: HTTP/1.0 has no interim responses
        return minor == 1 and "100-continue" in expectations
    raise ProtocolError(
        417,
        "the only expectation understood here is 100-continue",
        "RFC 9110 section 10.1.1",
        "Leave the Expect field out.",
        field="Expect",
    )


def has_underscore(line: bytes) -> bool:
    """The name of this field line holds an underscore."""
    return b"_" in line.partition(b":")[0]


def parse_start_line(line: bytes, limits: Limits) -> StartLine:
    """Read a request-line (RFC 9112 section 3). Raises `ProtocolError` (400, 414, 501, 505)."""
    match = grammar.request_line.fullmatch(line)
    if match is None:
        raise explain_request_line(line)
    if len(line) > limits.request_line_bytes:
        raise ProtocolError(
            414, f"the request-line is longer than {limits.request_line_bytes} bytes",
            "RFC 9112 section 3", "", limits.request_line_bytes,
        )  # fmt: skip
    method, target, version, major, minor = [part.decode("latin-1") for part in match.groups()]
    if major != "1":
        raise ProtocolError(
            505,
            "only HTTP/1.0 and HTTP/1.1 are spoken here",
            "RFC 9110 section 15.6.6",
            "Write: GET / HTTP/1.1",
            match.start(3),
        )
    if method == "CONNECT":
        raise ProtocolError(
            501, "this server is no proxy: CONNECT is not served", "RFC 9110 section 9.3.6", "", 0
        )
    authority = None
    rest = target
    if not target.startswith("/"):
        authority, rest = _read_other_form(method, target, match.start(2))
    path, _, query = rest.partition("?")
    # RFC 9112 section 2.3: a higher minor version is served as the highest that we know.
    return method, target, path, query, version, min(int(minor), 1), authority


def _read_other_form(method: str, target: str, offset: int) -> tuple[str | None, str]:
    """Return authority and path-with-query of a target that is no origin-form."""
    if target == "*" and method == "OPTIONS":
        return None, ""
    absolute = grammar.absolute_form.fullmatch(target)
    if absolute is None:
        raise ProtocolError(
            400,
            "the request-target does not begin with a slash",
            "RFC 9112 section 3.2",
            "Write the path, such as: GET /hello HTTP/1.1",
            offset,
        )
    authority, rest = absolute.groups()
    match = grammar.host.fullmatch(authority)
    if match is None or not match[1] or int(match[2] or "0") > 65535:
        raise ProtocolError(
            400,
            "the request-target has no valid host",
            "RFC 9110 section 4.2",
            "A user name or password before the host is refused, too.",
            offset,
        )
    if not rest.startswith("/"):
        # RFC 9112 section 3.2.4: OPTIONS of a whole server comes this way through a proxy.
        rest = ("" if method == "OPTIONS" and not rest else "/") + rest
    return authority, rest
