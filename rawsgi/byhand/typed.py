"""An answer that a person types line by line, checked while it is typed.

Why it exists: who is a server by hand should learn at once what is wrong, not from the client.
The rule: what is typed is sent, right or wrong; this file only tells, and counts. No sockets here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from rawsgi.byhand.screen import count_bytes, show_bytes

Tell = Callable[[str, str], None]
"""Tell the person: the kind of note (`*` so it is, `!` this is wrong), and a sentence."""

CRLF: Final = b"\r\n"
# The places in an answer.
STATUS, FIELDS, LENGTH, SIZE, DATA, DATA_END, TRAILERS, UNTIL_CLOSE, COMPLETE = range(9)

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_LONGEST_DIGITS: Final = 18
_CONTENT_HINT: Final = "If this is the content already: an empty line has to come before it."
_LOST: Final = "The client cannot find the next chunk any more; a dot closes."


class TypedAnswer:
    """The answer to one request: interim responses, and the final one. One thread."""

    def __init__(self, method: bytes, version: bytes, tell: Tell) -> None:
        self.place = STATUS
        self.began = False
        self.interim = False
        """Whether a 1xx response has been sent."""
        self.closes = False
        """Whether the connection cannot be kept, once the answer is complete."""
        self._method = method
        self._asked_version = version
        self._tell = tell
        self._code = 0
        self._version = b""
        self._fields: dict[bytes, list[bytes]] = {}
        self._size = 0  # of the content, or of the chunk
        self._size_text = b""
        self._left = 0

    @property
    def complete(self) -> bool:
        return self.place == COMPLETE

    def take(self, line: bytes, end: bytes = CRLF) -> bytes:
        """Check one typed line, and return the bytes to send for it."""
        self.began = True
        if self.place == STATUS:
            self._check_status_line(line)
        elif self.place == FIELDS and not line:
            self._end_head()
        elif self.place == FIELDS:
            self._check_field_line(line)
        elif self.place == LENGTH:
            return self._take_content(line, end)
        elif self.place == SIZE:
            self._check_chunk_size(line)
        elif self.place == DATA:
            self._check_chunk_data(line, end)
        elif self.place == DATA_END:
            self._check_chunk_end(line)
        elif self.place == TRAILERS and not line:
            self.place = COMPLETE
            self._tell("*", "The answer is complete: the last chunk and the empty line are there.")
        elif self.place == TRAILERS:
            self._check_field_line(line)
        return line + end

    def finish(self) -> None:
        """The person ends the answer here, and the connection is closed: tell what is missing."""
        if self.place == STATUS and not self.began:
            self._tell("*", "Closed without an answer. curl calls this an empty reply.")
        elif self.place == STATUS:
            self._tell("!", "Closed without a final answer: its status-line has not come.")
        elif self.place == FIELDS:
            self._tell("!", "The empty line that ends the field lines is missing.")
        elif self.place == LENGTH:
            missing = count_bytes(self._left)
            self._tell("!", f"{missing} missing: Content-Length says {self._size}.")
        elif self.place == UNTIL_CLOSE:
            self._tell("*", "The content ends here, because the connection does.")
        elif self.place != COMPLETE:
            self._tell("!", "The last chunk is missing: 0, and an empty line after it.")

    # -- The head ---------------------------------------------------------------------------------

    def _check_status_line(self, line: bytes) -> None:
        if not line:
            self._tell("!", "An empty line, and no status-line before it: HTTP/1.1 200 OK")
            return
        self.place = FIELDS
        self._fields = {}
        version, _, rest = line.partition(b" ")
        code, space, _ = rest.partition(b" ")
        self._version = version
        self._code = int(code) if re.fullmatch(rb"[0-9]{3}", code) else 0
        if not line[:4].upper() == b"HTTP":
            self._tell("!", "No status-line. An answer begins with one, such as: HTTP/1.1 200 OK")
            if b":" in line:
                self._check_field_line(line)
            return
        wrong = False
        if version not in (b"HTTP/1.1", b"HTTP/1.0"):
            self._tell("!", f"The version {show_bytes(version)} is unknown here: HTTP/1.1")
            wrong = True
        if not self._code:
            shown = show_bytes(code) or "that is missing"
            self._tell("!", f"The status code {shown} is not three digits, such as 200.")
            wrong = True
        elif not 100 <= self._code <= 599:
            self._tell("!", f"No status code is {self._code}: the first digit is 1 to 5.")
            wrong = True
        elif not space:
            self._tell("*", "Hint: a space belongs after the code, even when no words follow.")
        if wrong:
            return
        if 100 <= self._code < 200 and self._code != 101:
            self._tell("*", "An interim answer. An empty line ends it; it has no content.")
        elif self._code in (204, 304):
            self._tell("*", "Now field lines, then an empty line. No content follows.")
        else:
            self._tell("*", "Now field lines, such as Content-Length: 6, then an empty line.")

    def _check_field_line(self, line: bytes) -> None:
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            self._tell("!", "A field line begins with its name; a space would continue the last.")
        elif not colon:
            self._tell("!", f"No colon: write Name: value. {_CONTENT_HINT}")
        elif name != name.rstrip():
            self._tell("!", "A space before the colon: it follows the name at once.")
        elif not _TOKEN.fullmatch(name):
            self._tell("!", f"{show_bytes(name) or 'Nothing'} is no field name. {_CONTENT_HINT}")
        elif re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            self._tell("!", "A control character is in the value.")
        else:
            self._note_field(name.lower(), value.strip())

    def _note_field(self, name: bytes, value: bytes) -> None:
        if self.place == TRAILERS:
            if name in (b"content-length", b"transfer-encoding"):
                self._tell("!", "Too late: how the content is framed cannot be told after it.")
            return
        earlier = self._fields.setdefault(name, [])
        earlier.append(value)
        if name == b"content-length":
            if not value.isdigit():
                self._tell("!", f"Content-Length is not a number: {show_bytes(value)}")
            elif any(each != value for each in earlier):
                self._tell("!", "A second Content-Length that differs: the client must not guess.")
        elif name == b"transfer-encoding" and not self._is_chunked():
            self._tell("!", "Clients know one coding here: Transfer-Encoding: chunked")
        if name in (b"content-length", b"transfer-encoding"):
            if b"content-length" in self._fields and b"transfer-encoding" in self._fields:
                self._tell("!", "Content-Length and Transfer-Encoding: one or the other, not both.")

    def _end_head(self) -> None:
        code = self._code
        framed = b"content-length" in self._fields or b"transfer-encoding" in self._fields
        # RFC 9110 section 8.6, RFC 9112 section 6.1
        if framed and (100 <= code < 200 or code == 204):
            self._tell("!", f"A {code} answer has no content, so it gives no length either.")
        if 100 <= code < 200 and code != 101:
            self.interim = True
            self.place = STATUS
            self._tell("*", "That was an interim answer; the final one begins with its own line.")
            return
        if b"date" not in self._fields and 200 <= code < 500:
            self._tell("*", "Hint: no Date. A server that has a clock sends it (RFC 9110 6.6.1).")
        words = (
            b",".join(self._fields.get(b"connection", [])).lower().replace(b" ", b"").split(b",")
        )
        self.closes = b"close" in words or (
            self._version != b"HTTP/1.1" and b"keep-alive" not in words
        )
        self._choose_framing(code)

    def _choose_framing(self, code: int) -> None:
        """RFC 9112 section 6.3: where the content ends, in this order."""
        lengths = self._fields.get(b"content-length", [])
        if self._method == b"HEAD" or code in (204, 304):
            whose = "an answer to HEAD" if self._method == b"HEAD" else f"a {code} answer"
            self.place = COMPLETE
            self._tell("*", f"The answer is complete: {whose} has no content.")
        elif code == 101 or (self._method == b"CONNECT" and 200 <= code < 300):
            self.place = UNTIL_CLOSE
            self._tell("*", "What follows is another protocol, line by line. A dot closes.")
        elif self._is_chunked():
            self.place = SIZE
            if self._asked_version == b"HTTP/1.0":
                self._tell("!", "The client speaks HTTP/1.0: it knows no chunks.")
            self._tell("*", "Now chunks: a size in hexadecimal, the data on the next line, ...")
        elif b"transfer-encoding" not in self._fields and self._have_one_length(lengths):
            self._size = self._left = int(lengths[0])
            self.place = LENGTH if self._left else COMPLETE
            if self._left:
                self._tell("*", f"Now the content: {count_bytes(self._left)}.")
            else:
                self._tell("*", "The answer is complete: Content-Length: 0.")
        else:
            self.place = UNTIL_CLOSE
            why = "No length that can be believed" if lengths else "No length"
            self._tell("*", f"{why}: the content ends when the connection closes. A dot closes.")

    def _is_chunked(self) -> bool:
        codings = b",".join(self._fields.get(b"transfer-encoding", []))
        return codings.lower().rpartition(b",")[2].strip() == b"chunked"

    def _have_one_length(self, lengths: list[bytes]) -> bool:
        same = len(set(lengths)) == 1
        return same and lengths[0].isdigit() and len(lengths[0]) <= _LONGEST_DIGITS

    # -- The content ------------------------------------------------------------------------------

    def _take_content(self, line: bytes, end: bytes) -> bytes:
        if len(line) == self._left:  # the only way to type content that has no line end
            end = b""
        over = len(line + end) - self._left
        if over > 0:
            why = " (a line end is two bytes, CR and LF)" if len(line) < self._left else ""
            self._tell("!", f"{count_bytes(over)} too many{why}: Content-Length is {self._size}.")
            self._tell("!", "The client takes what is over for the next answer, or for an error.")
            self.closes = True
            self.place = COMPLETE
            return line + end
        self._left = -over
        if self._left:
            done = self._size - self._left
            self._tell("*", f"{done} of {count_bytes(self._size)}, {self._left} missing.")
        else:
            self.place = COMPLETE
            without = "" if end else " The end of the last line was not sent."
            self._tell("*", f"The answer is complete: {count_bytes(self._size)}.{without}")
        return line + end

    def _check_chunk_size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            self._tell("!", f"No chunk-size: hexadecimal digits on a line of their own. {_LOST}")
            self.place = UNTIL_CLOSE
            return
        self._size_text = match[1]
        self._size = self._left = int(match[1], 16)
        if self._size:
            self.place = DATA
            self._tell("*", f"A chunk of {count_bytes(self._size)}.")
        else:
            self.place = TRAILERS
            self._tell("*", "The last chunk. An empty line ends the answer.")

    def _check_chunk_data(self, line: bytes, end: bytes) -> None:
        if len(line) == self._left:
            self.place = SIZE
            self._tell("*", "The chunk is full. Now the next size; 0 is the last.")
            return
        typed = line + end
        done = self._size - self._left + len(typed)
        if len(typed) > self._left:
            over = len(line) - self._left
            fit = f"{count_bytes(over)} too many" if over > 0 else "1 byte too few"
            self._tell("!", f"{fit}: the chunk-size says {self._size}. {_LOST}")
            self.place = UNTIL_CLOSE
            return
        self._left -= len(typed)
        if not self._left:
            self.place = DATA_END
            self._tell("*", "The chunk is full with this line end. An empty line ends the chunk.")
            return
        note = f"{done} of {count_bytes(self._size)} of the chunk, {self._left} missing."
        if self._size_text.isdigit() and int(self._size_text) == len(line):
            note += f" {self._size_text.decode()} in hexadecimal is {self._size}."
        self._tell("*", note)

    def _check_chunk_end(self, line: bytes) -> None:
        self.place = SIZE
        if line:
            self._tell("!", f"A line end has to follow the data of a chunk. {_LOST}")
            self.place = UNTIL_CLOSE
