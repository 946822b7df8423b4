"""Settings to observers: who looks on, if anybody.

The rule of this file: whoever asked for nothing gets None, and the server runs without a tap.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from rawsgi.logs import log, wants_colour
from rawsgi.wire.conversation import Conversation
from rawsgi.wire.facts import Link, Sink
from rawsgi.wire.recording.folder import Folder
from rawsgi.wire.recording.recorder import Recorder
from rawsgi.wire.transcript.printer import Printer
from rawsgi.wire.transcript.style import Style, find_columns
from rawsgi.wire.transcript.writer import Transcript

if TYPE_CHECKING:
    from rawsgi.config import Settings

Address = tuple[str, str]


def plan_observation(
    settings: Settings, processes: int = 1
) -> Callable[[Address, Address], Conversation] | None:
    """Return what makes a `Conversation` for each connection; None: nobody wants one.

    `processes`: how many write to the same terminal. Raises OSError (`--record`).
    """
    makers: list[Callable[[], Sink]] = []
    if settings.wire or settings.wire_full or settings.wire_errors:
        makers.append(_plan_transcripts(settings, find_descriptor(sys.stderr), processes))
        if not settings.by_hand:  # where that is what was asked for
            _warn(settings, "--wire shows the content of exchanges")
    if settings.record:
        folder = Folder(settings.record, settings.record_limit)
        _warn(settings, f"--record keeps the content of exchanges in {folder.path}")
        makers.append(
            lambda: Recorder(folder, settings.record_size_limit_bytes, settings.record_errors)
        )
    if not makers:
        return None
    numbers = itertools.count(1)

    def begin(remote: Address, server: Address) -> Conversation:
        link = Link(next(numbers), remote, server)
        return Conversation(link, [make() for make in makers], settings.wire_secrets)

    return begin


def _warn(settings: Settings, what: str) -> None:
    masked = "with all secrets" if settings.wire_secrets else "only known secrets are masked"
    log.warning("%s: %s", what, masked)


def _plan_transcripts(
    settings: Settings, descriptor: int | None, processes: int
) -> Callable[[], Sink]:
    style = Style(
        full=settings.wire_full,
        errors_only=settings.wire_errors,
        coloured=descriptor is not None and wants_colour(descriptor),
        columns=lambda: 0 if descriptor is None else find_columns(descriptor),
        prefix=f"{os.getpid()} " if processes > 1 else "",
    )
    printer = Printer(descriptor)
    return lambda: Transcript(printer.write, style)


def find_descriptor(stream: TextIO | None) -> int | None:
    """The descriptor of a stream; None: it has none, or there is no stream."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None
