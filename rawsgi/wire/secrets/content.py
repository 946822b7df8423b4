"""Secrets in content, masked while it arrives: forms, JSON, and the parts of a multipart form.

    Content-Type, first bytes --> choose_mask --> feed(piece) -> the same piece, secrets masked

The rule of this file: a piece comes out at once and at its length, wherever the content was cut;
so what is remembered is the name that a value belongs to, and never a value. It reads no better
than it must: what is no JSON and no form is shown, and what begins like a secret and never ends
is masked to its end.
"""

from __future__ import annotations

import re
from typing import Protocol

from rawsgi.wire.secrets.names import MASK, NAME_LIMIT_BYTES, is_secret_name, may_hold_secret

_PAIR_NAME_END = re.compile(rb"[=&\r\n]")
_PAIR_END = re.compile(rb"[&\r\n]")
_WHITE = b" \t\r\n"
# A member's name and its colon; within a string of JSON, the quotes have backslashes.
_MEMBER = re.compile(rb'(\\*)"([^"\\]{1,256})\1"[ \t\r\n]*:')
_SCALAR = re.compile(rb"[-+.0-9eE]*")
_DIGITS = re.compile(rb"[0-9]")
_STRUCTURE = re.compile(rb'["\[\]{}]')
_PART_NAME = re.compile(rb'(?i)[;\s]name="?([^";\r\n]{1,256})')
_BOUNDARY = re.compile(rb'(?i)[;\s]boundary=(?:"([^"]{1,200})"|([^;,\s"]{1,200}))')
_PART_HEAD_BYTES = 1 << 12


class Mask(Protocol):
    """One message's content. `feed` in order, one thread at a time."""

    def feed(self, data: bytes) -> bytes:
        """Return `data` with what is secret in it masked: as many bytes."""


class FormMask:
    """`NAME=VALUE&NAME=VALUE` (urlencoded), or such pairs on lines of their own (text/plain)."""

    def __init__(self) -> None:
        self._name: bytes | None = b""  # as far as it has come; None: within a value
        self._hides = False

    def feed(self, data: bytes) -> bytes:
        if not self._hides and not may_hold_secret((self._name or b"") + data):
            return self._skip(data)
        shown = bytearray(data)
        at = 0
        while at < len(data):
            if self._name is not None:
                match = _PAIR_NAME_END.search(data, at)
                end = match.start() if match else len(data)
                self._name = (self._name + data[at:end])[:NAME_LIMIT_BYTES]
                if match and match[0] == b"=":
                    self._hides = _is_plain(self._name) and is_secret_name(self._name.strip())
                    self._name = None
                elif match:
                    self._name = b""
            else:
                match = _PAIR_END.search(data, at)
                end = match.start() if match else len(data)
                if self._hides:
                    shown[at:end] = MASK * (end - at)
                if match:
                    self._name = b""
                    self._hides = False
            at = end + 1
        return bytes(shown)

    def _skip(self, data: bytes) -> bytes:
        """No name in it is secret: only how it ends matters."""
        start = max(map(data.rfind, (b"&", b"\r", b"\n"))) + 1
        if start or self._name is not None:
            name, equals, _ = ((b"" if start else self._name or b"") + data[start:]).partition(b"=")
            self._name = None if equals else name[:NAME_LIMIT_BYTES]
        return data


def _is_plain(name: bytes) -> bool:
    """Other bytes are percent-encoded in a form: these are no form's."""
    return name.isascii() and name.decode("ascii").isprintable()


# What a JsonMask waits for: a secret name, then its value, which is one of three.
_NAME, _VALUE, _STRING, _NUMBER, _NESTED = range(5)


class JsonMask:
    """The values of secret members, strings and numbers, however deep they are nested."""

    def __init__(self) -> None:
        self._place = _NAME
        self._tail = b""  # a member's name may have begun in it
        self._may_hide = False
        self._slashes = 0  # backslashes before the quotes of the value: JSON in a string of JSON
        self._run = 0  # backslashes just before here
        self._depth = 0
        self._in_string = False
        self._counts = False  # a number by this name says how many, such as max_tokens

    def feed(self, data: bytes) -> bytes:
        steps = (
            self._find_name, self._find_value, self._hide_string, self._hide_number,
            self._hide_nested,
        )  # fmt: skip
        self._may_hide = self._place != _NAME or may_hold_secret(self._tail + data)
        shown = bytearray(data)
        at = 0
        while at < len(data):
            at = steps[self._place](data, at, shown)
        return bytes(shown)

    def _find_name(self, data: bytes, at: int, shown: bytearray) -> int:
        tail, self._tail = self._tail, b""
        text, last = (tail + data[at:], 0) if tail else (data, at)
        # The colon is what completes a name.
        looks = self._may_hide and data.find(b":", at) >= 0
        for match in _MEMBER.finditer(text, last) if looks else ():
            last = match.end()
            if is_secret_name(match[2]):
                self._counts = match[2].lower().endswith(b"tokens")
                self._place, self._run = _VALUE, 0
                return at - len(tail) + last if tail else last
        # The last two quotes may be those of a name; so may a quote that has not come yet.
        start = text.rfind(b'"', last, max(last, text.rfind(b'"', last)))
        if start < 0:
            start = text.rfind(b'"', last)
        if start < 0:
            start = len(text)
        while start > last and text[start - 1 : start] == b"\\":
            start -= 1
        self._tail = text[max(start, len(text) - NAME_LIMIT_BYTES - 16) :]
        return len(data)

    def _find_value(self, data: bytes, at: int, shown: bytearray) -> int:
        byte = data[at : at + 1]
        if byte == b"\\":
            self._run += 1
        elif byte == b'"':
            self._slashes, self._run = self._run, 0
            self._place = _STRING
        elif byte in (b"{", b"["):
            self._depth, self._in_string = 0, False
            self._place = _NESTED
            return at
        elif byte in b"-0123456789":
            self._place = _NUMBER
            return at
        elif byte not in _WHITE:
            self._place = _NAME
            return at
        return at + 1

    def _hide_string(self, data: bytes, at: int, shown: bytearray) -> int:
        """Up to the quote that ends it, or that ends the string around it."""
        while True:
            quote = data.find(b'"', at)
            end = len(data) if quote < 0 else quote
            inner = data[at:end].rstrip(b"\\")
            slashes = end - at - len(inner)
            self._run = slashes + (0 if inner else self._run)
            if quote < 0:
                # What may belong to the quote that ends it is shown, if it does in this string.
                kept = slashes if self._slashes else 0
                shown[at : end - kept] = MASK * (end - at - kept)
                return end
            run, self._run = self._run, 0
            closes = run % (2 * self._slashes + 2) == self._slashes
            if closes or (self._slashes and run % 2 == 0):
                kept = min(slashes, self._slashes)
                shown[at : end - kept] = MASK * (end - at - kept)
                self._place = _NAME
                return end + 1
            shown[at : end + 1] = MASK * (end + 1 - at)
            at = end + 1

    def _hide_number(self, data: bytes, at: int, shown: bytearray) -> int:
        match = _SCALAR.match(data, at)
        assert match is not None
        if not self._counts:
            shown[at : match.end()] = _DIGITS.sub(MASK, match[0])
        if match.end() < len(data):
            self._place = _NAME
        return match.end()

    def _hide_nested(self, data: bytes, at: int, shown: bytearray) -> int:
        """All strings and numbers up to the bracket that ends it."""
        if self._in_string:
            self._slashes = 0
            at = self._hide_string(data, at, shown)
            self._in_string, self._place = self._place != _NAME, _NESTED
            return at
        match = _STRUCTURE.search(data, at)
        end = match.start() if match else len(data)
        shown[at:end] = _DIGITS.sub(MASK, data[at:end])
        if match is None:
            return end
        if match[0] == b'"':
            self._in_string, self._run = True, 0
        else:
            self._depth += 1 if match[0] in b"[{" else -1
            if not self._depth:
                self._place = _NAME
        return end + 1


class MultipartMask:
    """The parts of `multipart/form-data` (RFC 7578) whose names are secret."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._head: bytearray | None = None  # of the part that begins; None: within a part
        self._hides = False
        self._kept = b"\r\n"  # shown, and perhaps the beginning of a delimiter

    def feed(self, data: bytes) -> bytes:
        shown = bytearray(data)
        at = 0
        while at < len(data):
            at = (
                self._read_head(data, at) if self._head is not None else self._read(data, at, shown)
            )
        return bytes(shown)

    def _read_head(self, data: bytes, at: int) -> int:
        assert self._head is not None
        before = len(self._head)
        self._head += data[at : at + _PART_HEAD_BYTES]
        end = self._head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0 and len(self._head) < _PART_HEAD_BYTES:
            return len(data)
        name = _PART_NAME.search(self._head, 0, end if end >= 0 else len(self._head))
        self._hides = name is not None and is_secret_name(name[1])
        taken = (end + 4 if end >= 0 else len(self._head)) - before
        self._head, self._kept = None, b""
        return at + taken

    def _read(self, data: bytes, at: int, shown: bytearray) -> int:
        text = self._kept + data[at:]
        start = at - len(self._kept)
        found = text.find(self._delimiter)
        if found >= 0:
            end = after = start + found
            after += len(self._delimiter)
            self._head = bytearray()
        else:
            kept = min(len(text), len(self._delimiter) - 1)
            while not self._delimiter.startswith(text[len(text) - kept :]):
                kept -= 1
            self._kept = text[len(text) - kept :]
            end, after = len(data) - kept, len(data)
        if self._hides and end > at:
            shown[at:end] = MASK * (end - at)
        return after


class _Guess:
    """Not yet known to be a form or JSON: the first byte that is no white space tells."""

    def __init__(self) -> None:
        self._mask: Mask | None = None

    def feed(self, data: bytes) -> bytes:
        if self._mask is None:
            first = data.lstrip(_WHITE)[:1]
            if not first:
                return data
            self._mask = JsonMask() if first in (b"{", b"[") else FormMask()
        return self._mask.feed(data)


class _NoMask:
    """Whatever else it is: images, archives, pages."""

    def feed(self, data: bytes) -> bytes:
        return data


def choose_mask(content_type: bytes) -> Mask:
    """Return the mask for content of this type; b"" where no Content-Type was given."""
    kind = content_type.partition(b";")[0].strip(_WHITE).lower()
    if kind == b"multipart/form-data":
        match = _BOUNDARY.search(content_type)
        return _NoMask() if match is None else MultipartMask(match[1] or match[2])
    if kind in (b"", b"text/plain", b"application/x-www-form-urlencoded"):
        return _Guess()  # curl -d calls all that it sends a form
    if b"json" in kind:
        return JsonMask()
    return _NoMask()
