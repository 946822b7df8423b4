"""Why the server did what it did, in sentences: the lines marked `*` of a transcript.

The rule of this file: each sentence names the fact that decided, and the section of the RFC that
makes it decide. Nothing from the wire is repeated unescaped.
"""

from __future__ import annotations

from dataclasses import dataclass

from rawsgi.protocol.message import CHUNKED, RELAXATIONS, ProtocolError, Request
from rawsgi.wire.facts import Facts
from rawsgi.wire.scanner import BY_CHUNKS, BY_CLOSE, BY_LENGTH, NO_CONTENT, Scanner
from rawsgi.wire.secrets.names import MASK
from rawsgi.wire.visible import show_bytes, show_text

_CONTEXT_BYTES = 56
_WITH_CONTENT = ("POST", "PUT", "PATCH")


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence, and the colour that it deserves (a parameter of SGR; "" for none)."""

    text: str
    colour: str = "34"
    whole: bool = False
    """Not to be broken: what stands below it belongs to its place."""


def explain_request(facts: Facts) -> list[Note]:
    """What follows from the head of the request."""
    scanner = facts.scanner
    notes = []
    if scanner.framing == BY_CHUNKS:
        notes.append("content in chunks: Transfer-Encoding says so (RFC 9112 section 6.3, item 4)")
    elif scanner.framing == BY_LENGTH:
        size = f"{scanner.length:,} byte{'' if scanner.length == 1 else 's'}"
        notes.append(f"content of {size}: Content-Length says so (RFC 9112 section 6.3, item 6)")
    elif scanner.method in _WITH_CONTENT and b"content-length" not in scanner.fields:
        notes.append(
            "no content: no Content-Length, no Transfer-Encoding (RFC 9112 section 6.3, item 7)"
        )
    if b"upgrade" in scanner.fields:
        notes.append(
            "no upgrade: this server speaks HTTP/1.1 and goes on so (RFC 9110 section 7.8)"
        )
    return [Note(text) for text in notes]


def explain_error(facts: Facts) -> list[Note]:
    """Why it was refused or broken off, at which byte, and what was relaxed or repaired."""
    notes = []
    error = facts.error
    if error is not None:
        by = f" by {error.source}" if error.source else ""
        notes.append(Note(f"refused with {error.status}{by}: {show_text(error.reason)}", "31"))
        notes += explain_place(facts, error)
        if error.hint:
            notes.append(Note(f"  {show_text(error.hint)}", "31"))
        length = facts.link.last_length
        if length and b"\n" not in facts.sample[: error.offset or 0]:
            text = f"The request before had {length} bytes of content by its length: was it more?"
            notes.append(Note(f"  {text}", "31"))
    elif facts.aborted:
        notes.append(Note(f"failed: {show_text(facts.aborted)}", "31"))
    elif facts.code >= 500:
        notes.append(Note(f"failed: answered with {facts.code}", "31"))
    request = facts.request
    if request is not None:
        notes += [Note(text, "33") for text in list_relaxations(facts, request)]
        notes += explain_dropped(facts)
    notes += [Note(f"repaired: {show_text(remark)}", "33") for remark in facts.remarks]
    return notes


def list_relaxations(facts: Facts, request: Request) -> list[str]:
    """What had to be relaxed: explained once on a connection, then only named."""
    told = facts.link.relaxed
    again = [name for name in request.relaxed if name in told]
    new = [name for name in request.relaxed if name not in told]
    texts = [f"relaxed by --allow {name}: {RELAXATIONS[name]}" for name in new]
    return texts + ([f"relaxed by --allow {', '.join(again)}, as before"] if again else [])


def explain_dropped(facts: Facts) -> list[Note]:
    """Fields that did not reach the application."""
    request = facts.request
    if request is None or "underscores" in request.relaxed:
        return []
    names = [show_bytes(field) for field in facts.scanner.fields if b"_" in field]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    text = f"{shown} dropped: in environ it could pass for its twin with a hyphen"
    return [Note(f"{text} (--allow underscores keeps it)", "33")]


def explain_place(facts: Facts, error: ProtocolError) -> list[Note]:
    """The line that holds the mistake, and its byte, as the answer to the client names it."""
    if error.content_offset is not None and facts.head_bytes:
        return point_at(facts, facts.head_bytes + error.content_offset, error.place)
    return [] if error.offset is None else point_at(facts, error.offset, error.place)


def point_at(facts: Facts, offset: int, place: str) -> list[Note]:
    """The line with byte `offset` of the request, and a mark below that byte, called `place`."""
    sample = bytes(facts.sample)
    if offset > len(sample):
        return [Note(f"  at {place}", "31")]
    start = sample.rfind(b"\n", 0, offset) + 1
    end = sample.find(b"\n", offset) + 1 or len(sample)
    first = max(start, offset - _CONTEXT_BYTES)
    last = min(end, offset + _CONTEXT_BYTES)
    before, after = show_bytes(sample[first:offset]), show_bytes(sample[offset:last])
    before = ("... " if first > start else "") + before
    after += " ..." if last < end else ""
    byte = sample[offset : offset + 1]
    shown = show_bytes(byte)
    what = {b" ": "a space", b"": "the end"}.get(byte, f'"{shown}"' if len(shown) == 1 else shown)
    if byte == MASK and facts.scanner.masked:
        what = "masked"
    return [
        Note(f"  {before}{after}", "31", whole=True),
        Note(f"  {' ' * len(before)}^ {place}, {what}", "31", whole=True),
    ]


def explain_framing(facts: Facts) -> list[Note]:
    """How the client knows where the response ends."""
    response = facts.response
    if response is None or facts.error is not None or not response.head_complete:
        return []
    notes = [Note(_explain_framing(facts, response))]
    if 100 in response.interim:
        text = "100 (Continue) came first: Expect asked for it (RFC 9110 section 10.1.1)"
        notes.insert(0, Note(text))
    return notes


def _explain_framing(facts: Facts, response: Scanner) -> str:
    method, code = facts.scanner.method, response.code
    if response.framing == BY_CHUNKS:
        return (
            "framed in chunks because the length was not known when the head was sent "
            "(RFC 9112 section 7.1)"
        )
    if response.framing == BY_CLOSE:
        return (
            "framed by closing because the length was not known and HTTP/1.0 has no chunks "
            "(RFC 9112 section 6.3, item 8)"
        )
    if response.framing == NO_CONTENT:
        if method == "HEAD":
            return "no content because the request was HEAD (RFC 9110 section 9.3.2)"
        section = {204: "15.3.5", 205: "15.3.6", 304: "15.4.5"}.get(code, "6.4.1")
        return f"no content because a {code} has none (RFC 9110 section {section})"
    if facts.application_length:
        return "framed by Content-Length because the application gave it"
    return "framed by Content-Length because all content was there when the head was sent"


def explain_reuse(facts: Facts) -> list[Note]:
    """Why the connection lives on or does not (RFC 9112 section 9.3)."""
    if facts.error is not None:
        return [Note("closed because a request was refused: what follows it cannot be trusted")]
    if facts.aborted or not facts.sent_bytes:
        return []
    if facts.reason_to_close:
        reason = show_text(facts.reason_to_close)
        reason = f"this is {reason}" if reason.startswith("HTTP/1.0") else reason
        return [Note(f"closed because {reason} (RFC 9112 section 9.3)")]
    request = facts.request
    if request is not None and request.minor == 0:
        return [Note("kept alive because the client asked for it (RFC 9112 section 9.3)")]
    return [Note("kept alive because nobody said close in HTTP/1.1 (RFC 9112 section 9.3)")]


def list_times(facts: Facts) -> str:
    """The phases of the exchange, in milliseconds, with no-break spaces within each.

    Durations, but for the last two: those are counted from the request's first byte.
    """
    phases = []
    if facts.number == 1:
        phases.append(("accept", facts.link.accepted, facts.began))
    phases.append(("head", facts.began, facts.head_complete))
    if has_content(facts):
        phases.append(("content", facts.head_complete, facts.complete))
    if facts.called:
        phases.append(("wait", facts.complete, facts.called))
        phases.append(("application", facts.called, facts.returned))
    phases.append(("first byte", facts.began, facts.first_sent))
    phases.append(("last byte", facts.began, facts.last_sent))
    return ", ".join(
        f"{name} {max(0.0, to - since) * 1000:.1f}".replace(" ", "\u00a0")
        for name, since, to in phases
        if since and to
    )


def has_content(facts: Facts) -> bool:
    """Did the request announce content?"""
    request = facts.request
    if request is not None:
        return request.content_length == CHUNKED or request.content_length > 0
    return facts.scanner.framing != NO_CONTENT
