"""What `--by-hand` says when it starts: how a person begins.

The rule of this file: what it says is what the settings do, and no line is longer than a narrow
terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rawsgi.units import format_duration

if TYPE_CHECKING:
    from rawsgi.config import Settings

_COLUMNS = 78
_MARKS = "Each exchange is shown here as it is on the wire: > from you, < to you, * why."


def greet_typist(settings: Settings, addresses: Sequence[str]) -> str:
    """The lines after the start lines. `addresses` are those of the listeners, as URLs."""
    rules = []
    if "bare-lf" in settings.allow:
        rules.append("a line may end in a line feed alone (a keyboard sends that)")
    if "missing-host" in settings.allow:
        rules.append("Host may be left out")
    rules.append(f"you have {spell_duration(settings.head_timeout_s)} for a request")
    rule = ", and ".join([*filter(None, [", ".join(rules[:-1])]), rules[-1]])
    paragraphs = [f"{rule[0].upper()}{rule[1:]}."]
    if settings.wire:
        masked = "" if settings.wire_secrets else " Passwords and the like are masked."
        paragraphs.append(_MARKS + masked)
    paragraphs.append("docs/by-hand.md goes on from here.")
    return (
        "\nConnect in another terminal:\n\n"
        f"  {name_netcat(addresses[0], 'bare-lf' in settings.allow)}\n\n"
        "and type a request there. An empty line ends it:\n\n"
        "  GET / HTTP/1.1\n"
        "  Host: localhost\n\n"
        "/ is a path; which others there are is up to the application.\n"
        + "\n".join(textwrap.fill(text, _COLUMNS) for text in paragraphs)
        + "\n\n"
    )


def spell_duration(seconds: float) -> str:
    """`10 minutes`, `30 seconds`, and what is no whole number of either as the settings have it."""
    for unit_s, unit in ((60, "minute"), (1, "second")):
        count = seconds / unit_s
        if count == int(count) and count >= 1:
            return f"{count:g} {unit}{'' if count == 1 else 's'}"
    return format_duration(seconds)


def name_netcat(address: str, bare_lf: bool = True) -> str:
    """The command that connects to the address of a listener; `bare_lf`: it takes such lines."""
    command = "nc" if bare_lf else "nc -C"
    if address.startswith("unix:"):
        return f"{command} -U {address.removeprefix('unix:')}"
    host, _, port = address.partition("://")[2].rstrip("/").rpartition(":")
    host = host.strip("[]")
    return f"{command} {'localhost' if host in ('0.0.0.0', '::') else host} {port}"
