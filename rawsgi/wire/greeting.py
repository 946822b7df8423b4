"""What `--by-hand` says when it starts: how a person begins.

The rule of this file: what it says is what the settings do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rawsgi.units import format_duration

if TYPE_CHECKING:
    from rawsgi.config import Settings

_MARKS = "Each exchange is shown here as it is on the wire: > from you, < to you, * why.\n"


def greet_typist(settings: Settings, addresses: Sequence[str]) -> str:
    """The lines after the start lines. `addresses` are those of the listeners, as URLs."""
    allowed = []
    if "bare-lf" in settings.allow:
        allowed.append("a line may end in a line feed alone")
    if "missing-host" in settings.allow:
        allowed.append("Host may be left out")
    time = format_duration(settings.head_timeout_s)
    rules = ", ".join([*allowed, f"and you have {time} for a request"]).removeprefix("and ")
    return (
        "\nType a request in another terminal; an empty line ends it:\n\n"
        f"  {name_netcat(addresses[0])}\n"
        "  GET / HTTP/1.1\n"
        "  Host: localhost\n\n"
        f"{rules[0].upper()}{rules[1:]}.\n"
        f"{_MARKS if settings.wire else ''}"
        "docs/by-hand.md goes on from here.\n\n"
    )


def name_netcat(address: str) -> str:
    """The command that connects to the address of a listener."""
    if address.startswith("unix:"):
        return f"nc -U {address.removeprefix('unix:')}"
    host, _, port = address.partition("://")[2].rstrip("/").rpartition(":")
    host = host.strip("[]")
    return f"nc {'localhost' if host in ('0.0.0.0', '::') else host} {port}"
