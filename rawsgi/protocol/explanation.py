"""What is wrong with a line of a head that was refused, and where: for whoever typed it.

The rule of this file: nothing is accepted here. It is called on the way to a refusal only, so it
may take its time, and the first mistake of a line is the one that is told.
"""

from __future__ import annotations

from rawsgi.protocol import grammar
from rawsgi.protocol.message import ProtocolError

_METHODS = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
)
# Values of Expect and Transfer-Encoding.
_UNDERSTOOD = (b"", b"100-continue", b"chunked")
_NO_REQUEST_LINE = "the first line is no request-line"
_HINT = "Write: GET / HTTP/1.1"


def explain_request_line(line: bytes) -> ProtocolError:
    """Say what is wrong with a line that the grammar of a request-line refused."""
    source = "RFC 9112 section 3"
    method = grammar.token_bytes.match(line)
    if method is None or not _resembles_request(line, method[0]):
        # Of a line that means something else no byte is the wrong one.
        return ProtocolError(400, _NO_REQUEST_LINE, source, _HINT)
    stripped = line.rstrip(b" ")
    words = stripped.split(b" ")
    target_at = len(words[0]) + 1
    misplaced = _find_misplaced_byte(words, method.end())
    if misplaced is not None:
        reason = _NO_REQUEST_LINE + ": method, target and version with one space between"
        return ProtocolError(400, reason, source, _HINT, misplaced)
    if len(words) == 2:
        return ProtocolError(
            400,
            "the request-line ends without the HTTP version",
            source,
            "HTTP/0.9 is not spoken here. " + _HINT,
            len(line),
        )
    found = grammar.not_in_target.search(words[1])
    if found is not None:
        return ProtocolError(
            400,
            "the request-target holds a # or a control character",
            "RFC 9112 section 3.2",
            "Percent-encode it.",
            target_at + found.start(),
        )
    version_at = target_at + len(words[1]) + 1
    if len(words) > 3:
        return ProtocolError(
            400, "the target holds a space", source, "Percent-encode it as %20.", version_at - 1
        )
    if stripped != line and grammar.http_version.fullmatch(words[2]):
        hint = "End the line right after the version."
        return ProtocolError(400, "a space follows the version", source, hint, len(stripped))
    return ProtocolError(
        400,
        "the HTTP version is not written as HTTP/1.1 is",
        "RFC 9112 section 2.3",
        _HINT,
        version_at,
    )


def _resembles_request(line: bytes, method: bytes) -> bool:
    """A request was meant; a word, a sentence or another protocol is none."""
    return method in _METHODS or b" /" in line or b"HTTP/" in line


def _find_misplaced_byte(words: list[bytes], method_end: int) -> int | None:
    """Return where the spaces of a request-line are not as they must be; None: they are, or
    a space in the target is the better explanation."""
    if method_end != len(words[0]) or len(words) == 1:
        return method_end
    target_end = method_end + 1 + len(words[1])
    if not words[1]:
        return target_end  # the second space after the method
    if len(words) > 3 and not words[2]:
        return target_end + 1
    if len(words) > 3 and grammar.http_version.fullmatch(words[-1]) is None:
        # What does not end in a version can mean anything.
        return target_end + (1 + len(words[2]) if grammar.http_version.match(words[2]) else 0)
    return None


def explain_field_line(line: bytes) -> ProtocolError:
    """Say what is wrong with a line that the grammar of a field line refused."""
    hint = "Write name, colon, value, such as: Host: localhost"
    source = "RFC 9112 section 5"
    if line[:1] in (b" ", b"\t"):
        return ProtocolError(
            400,
            "a line begins with white space: folded field lines are obsolete",
            "RFC 9112 section 5.2",
            "Write the field in one line.",
            0,
        )
    name = grammar.token_bytes.match(line)
    if name is None:
        return ProtocolError(400, "a field line has no name", source, hint, 0)
    rest = line[name.end() :]
    if rest[:1] in (b" ", b"\t") and rest.lstrip(b" \t")[:1] == b":":
        return ProtocolError(
            400,
            "white space stands between a field name and its colon",
            "RFC 9112 section 5.1",
            "Put the colon right after the name.",
            name.end(),
        )
    if rest[:1] != b":":
        return ProtocolError(
            400, "a field line has no colon after its name", source, hint, name.end()
        )
    found = grammar.control.search(rest)
    return ProtocolError(
        400,
        "a field value holds a control character",
        "RFC 9110 section 5.5",
        "Leave it out.",
        name.end() + (found.start() if found else 0),
    )


def find_field_line(head: bytes, error: ProtocolError) -> int | None:
    """Return where the line of the field stands that `error` names; None: nowhere in `head`.

    Of several lines it is the last, which does not go with the others; or the first that holds
    what is not understood at all (417, 501).
    """
    name = error.field.lower().encode("ascii")
    place = None
    at = 0
    for line in head.split(b"\n"):
        found, _, value = line.lower().partition(b":")
        if found == name:
            place = at
            if error.status in (417, 501) and value.strip(b" \t\r") not in _UNDERSTOOD:
                break
        at += len(line) + 1
    return place
