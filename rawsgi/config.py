"""The settings: one dataclass from which all else derives.

A setting is written once, as a field of `Settings` with its metadata. The flag, the environment
variable, the TOML key, the help, `--print-config` and docs/settings.md derive from it.
Unit and kind come from name and type: `_s` is a duration, `_bytes` a size, and neither is part of
the name that a person types; `_mode` is a file mode. How values are found and which wins is in
`settings.sources`.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast, get_type_hints

from rawsgi.units import FORMATTERS, KIND_WORDS, PARSERS

# Names and meanings as in protocol.message, which a leaf may not import: a test holds them equal.
RELAXATIONS = {
    "bare-lf": "a line feed without a carriage return ends a line of a head or of chunk framing",
    "missing-host": "an HTTP/1.1 request without Host is served",
    "obs-fold": "a folded field line is unfolded into one",
    "underscores": "field names with an underscore reach the application",
}
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000

ADDRESS = "Address"
APPLICATION = "Application"
LOGS = "Logs"
TIMEOUTS = "Timeouts"
LIMITS = "Limits"
WIRE = "Seeing the bytes"
OTHER = "Rarely needed"
GROUPS = (ADDRESS, APPLICATION, LOGS, WIRE, TIMEOUTS, LIMITS, OTHER)

_YEAR_S = 365 * 86400.0


class SettingsError(Exception):
    """A setting is wrong. The text is one line: where it stands, its value, what is right."""


def _setting(
    default: object,
    help: str,
    group: str,
    *,
    metavar: str = "",
    minimum: float = 0,
    maximum: float = sys.maxsize,
    choices: Sequence[str] = (),
    by_hand: object = None,
    default_text: str = "",
    ascii_only: bool = False,
    hidden: bool = False,
    short: str = "",
) -> Any:
    """A field of `Settings`. `by_hand` is its default under `--by-hand`; `short` a second flag."""
    metadata = {
        "help": help,
        "group": group,
        "metavar": metavar,
        "minimum": minimum,
        "maximum": maximum,
        "choices": tuple(choices),
        "by_hand": by_hand,
        "default_text": default_text,
        "ascii_only": ascii_only,
        "hidden": hidden,
        "short": short,
    }
    if callable(default):
        return field(default_factory=cast(Callable[[], Any], default), metadata=metadata)
    return field(default=cast(Any, default), metadata=metadata)


def _timeout(default: float, help: str, **more: Any) -> Any:
    """A duration that must be positive: zero would refuse everybody."""
    return _setting(default, help, TIMEOUTS, minimum=0.001, maximum=_YEAR_S, **more)


def _size(default: int, help: str, minimum: int, group: str = LIMITS, **more: Any) -> Any:
    return _setting(default, help, group, minimum=minimum, maximum=1 << 50, **more)


def _count(default: int, help: str, group: str = LIMITS, **more: Any) -> Any:
    return _setting(default, help, group, **({"minimum": 1, "maximum": 1_000_000} | more))


def _stdout_is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


@dataclass(frozen=True, slots=True)
class Settings:
    """How one server runs. Immutable, checked when it is made (`SettingsError`), any thread.

    Durations are in seconds, sizes in bytes.
    """

    application: str = _setting(
        "",
        "what to serve: MODULE[:ATTR], or a path to a .py file",
        APPLICATION,
        metavar="APP",
        default_text="none",
    )
    bind: tuple[str, ...] = _setting(
        (f"{DEFAULT_HOST}:{DEFAULT_PORT}",),
        "listen at HOST:PORT, [IPV6]:PORT, :PORT (all IPv4 addresses), *:PORT (IPv6 too) or "
        "unix:PATH; may be repeated",
        ADDRESS,
        metavar="ADDRESS",
        default_text=f"{DEFAULT_HOST}:{DEFAULT_PORT}; 0.0.0.0:$PORT when PORT is set",
        short="-b",
    )
    unix_mode: int = _setting(
        0o666,
        "permissions of Unix socket files, in octal: who may connect",
        ADDRESS,
        metavar="MODE",
        maximum=0o777,
    )
    app_dir: str = _setting(
        ".",
        "look for the module in this folder first",
        APPLICATION,
        metavar="DIR",
        default_text="current folder",
    )
    threads: int = _count(
        16, "requests that the application may run at once", APPLICATION, maximum=4096
    )
    access_log: bool = _setting(
        _stdout_is_terminal,
        "write a line for each request to standard output",
        LOGS,
        default_text="on when standard output is a terminal",
        by_hand=False,
    )
    access_log_file: str | None = _setting(
        None,
        "write these lines to this file instead; SIGUSR1 opens it anew",
        LOGS,
        metavar="FILE",
        default_text="none",
    )
    log_level: str = _setting(
        "info",
        "what goes to the error log",
        LOGS,
        metavar="LEVEL",
        choices=LOG_LEVELS,
        by_hand="warning",  # the transcript tells the rest
    )
    keep_alive_timeout_s: float = _timeout(
        75.0, "close a connection that is idle between requests", by_hand=600.0
    )
    head_timeout_s: float = _timeout(
        10.0, "time for a request to arrive up to its empty line", by_hand=600.0
    )
    content_timeout_s: float = _timeout(
        20.0, "longest pause while the content of a request arrives", by_hand=600.0
    )
    content_rate_bytes: int = _size(
        500,
        "least bytes per second, on average, of arriving content; 0: any",
        0,
        TIMEOUTS,
        by_hand=0,
    )
    write_timeout_s: float = _timeout(
        30.0, "longest pause while a client reads its response", by_hand=600.0
    )
    write_rate_bytes: int = _size(
        500,
        "least bytes per second, on average, that a client reads; 0: any",
        0,
        TIMEOUTS,
        by_hand=0,
    )
    linger_timeout_s: float = _setting(
        2.0, "wait for a client to close after its last answer", TIMEOUTS, maximum=_YEAR_S
    )
    graceful_timeout_s: float = _setting(
        30.0, "time for running requests to finish when stopping", TIMEOUTS, maximum=_YEAR_S
    )
    slow_request_s: float = _setting(
        30.0,
        "log where a request stands that runs this long; 0: never",
        TIMEOUTS,
        maximum=_YEAR_S,
    )
    request_timeout_s: float = _setting(
        0.0,
        "answer 504 when the application takes this long; 0: never",
        TIMEOUTS,
        maximum=_YEAR_S,
        default_text="never",
    )
    request_line_limit_bytes: int = _size(8190, "longest request-line; past it 414", 64)
    field_limit: int = _count(100, "most header field lines; past it 431")
    head_limit_bytes: int = _size(65536, "longest head in all; past it 431", 256)
    content_limit_bytes: int = _size(1 << 30, "longest request content; past it 413", 0)
    content_memory_bytes: int = _size(
        1 << 20, "request content kept in memory; more goes to a temporary file", 0
    )
    connections: int = _count(
        1000, "most open connections; the longest idle makes room, or who pauses for 3 s"
    )
    queue: int = _count(1000, "most requests that wait for a thread; past it 503", minimum=0)
    backlog: int = _count(
        2048, "most connections that wait to be accepted (the system may cap it)", maximum=65535
    )
    stream_request: bool = _setting(
        False, "start the application before the request content is complete", OTHER
    )
    lost_threads: int = _count(
        8,
        "end with status 75, to be started anew, when so many threads are lost to requests that "
        "were answered with 504 and do not end",
        OTHER,
    )
    lost_after_s: float = _setting(
        30.0, "how long after its 504 a thread counts as lost", OTHER, maximum=_YEAR_S
    )
    poller: str = _setting(
        "auto",
        "how sockets are waited for",
        OTHER,
        choices=("auto", "epoll", "portable"),
        hidden=True,
    )
    allow: tuple[str, ...] = _setting(
        (),
        "relax one rule of HTTP; may be repeated",
        OTHER,
        metavar="NAME",
        choices=tuple(RELAXATIONS),
        by_hand=("bare-lf", "missing-host"),
        default_text="none",
    )
    server_name: str = _setting(
        "rawsgi",
        "the Server field of each response; empty: none",
        OTHER,
        metavar="TEXT",
        ascii_only=True,
    )
    wire: bool = _setting(
        False, "show each exchange as it is on the wire, on stderr", WIRE, by_hand=True
    )
    wire_full: bool = _setting(False, "--wire with all of the content, not only its ends", WIRE)
    wire_errors: bool = _setting(False, "--wire for what was refused or failed only", WIRE)
    wire_secrets: bool = _setting(
        False, "do not mask passwords, tokens, cookies and the like in what is shown or kept", WIRE
    )
    by_hand: bool = _setting(
        False, "for requests typed by a person: patient, lenient, and it explains errors", WIRE
    )
    record: str | None = _setting(
        None,
        "keep the bytes of each exchange in this folder",
        WIRE,
        metavar="DIR",
        default_text="off",
    )
    record_errors: bool = _setting(False, "with --record: only 5xx answers and timeouts", WIRE)
    record_limit: int = _count(1000, "with --record: exchanges kept; the oldest makes room", WIRE)
    record_size_limit_bytes: int = _size(
        1 << 20, "with --record: most bytes kept of a request, and of a response", 1, WIRE
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            if option.name not in SHORTHAND_NAMES:
                value = getattr(self, option.name)
                if problem := option.find_problem(value):
                    raise SettingsError(f"{option.name}={value!r}: {problem}")


@dataclass(frozen=True, slots=True)
class _Shorthand:
    """Two words for the common case of `bind`. They end up in it, never in `Settings`."""

    host: str = _setting(
        "",
        "listen at this address or host name",
        ADDRESS,
        metavar="HOST",
        default_text=DEFAULT_HOST,
    )
    port: int = _setting(
        DEFAULT_PORT,
        "listen at this port; 0: any free one",
        ADDRESS,
        metavar="PORT",
        maximum=65535,
    )


@dataclass(frozen=True, slots=True)
class Option:
    """One setting as a person meets it: derived from a field, used by every way of giving it."""

    name: str
    kind: str
    """text, switch, count, duration, size, mode; `many` of them where a tuple is kept."""
    many: bool
    key: str
    """The TOML key. With two dashes it is the flag, in capitals the environment variable."""
    default: Callable[[], Any]
    help: str
    group: str
    metavar: str
    minimum: float
    maximum: float
    choices: tuple[str, ...]
    by_hand: Any
    default_text: str
    ascii_only: bool
    hidden: bool
    short: str
    """A flag of one letter that means the same; "" for none."""

    @property
    def flag(self) -> str:
        return "--" + self.key

    @property
    def variable(self) -> str:
        return "RAWSGI_" + self.key.replace("-", "_").upper()

    def show_default(self) -> str:
        """The default in words, for help and docs."""
        return self.default_text or format_value(self, self.default())

    def parse(self, text: str) -> Any:
        """The value that a person wrote; raises ValueError with what would be right."""
        if self.many:
            return tuple(part for part in re.split(r"[,\s]+", text) if part)
        if self.kind == "text":
            # A level of another case can mean nothing else.
            return text.lower() if self.choices and text.lower() in self.choices else text
        return PARSERS[self.kind](text.strip())

    def find_problem(self, value: object) -> str:
        """What is wrong with a parsed value; "" if nothing."""
        if self.many:
            if not isinstance(value, tuple):
                return f"must be a text or a list of texts, such as {self._show_example()}"
            return next(filter(None, map(self._find_problem_of_one, value)), "")
        if value is None and self.default() is None:
            return ""
        return self._find_problem_of_one(value)

    def _show_example(self) -> str:
        return f'"{self.choices[0] if self.choices else self.default()[0]}"'

    def _find_problem_of_one(self, value: object) -> str:
        if self.kind in ("text", "switch"):
            if not isinstance(value, bool if self.kind == "switch" else str):
                return f"must be {KIND_WORDS[self.kind]}"
            if self.choices and value not in self.choices:
                close = suggest(value, self.choices) if isinstance(value, str) else ""
                return f"must be one of {', '.join(self.choices)}{close}"
            if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f]", value):
                return "must not contain control characters"
            if self.ascii_only and isinstance(value, str) and not value.isascii():
                return "must be ASCII"
            return ""
        number = (int, float) if self.kind == "duration" else int
        if not isinstance(value, number) or isinstance(value, bool):
            return f"must be {KIND_WORDS[self.kind]}"
        if not self.minimum <= value <= self.maximum:  # also false for a NaN
            low, high = (
                format_value(self, type(value)(bound)) for bound in (self.minimum, self.maximum)
            )
            return f"must be at least {low}" if value < self.minimum else f"must be at most {high}"
        return ""


def _build_option(source: Any, hint: object) -> Option:
    name, kind = source.name, "text"
    if hint is bool:
        kind = "switch"
    elif hint in (int, float):
        kind = "count"
        for ending, unit in (("_s", "duration"), ("_bytes", "size"), ("_mode", "mode")):
            if name.endswith(ending):
                kind = unit
                name = name if unit == "mode" else name.removesuffix(ending)
    default = source.default_factory
    if default is MISSING:
        default = lambda: source.default  # noqa: E731
    metadata = dict(source.metadata)
    metadata["metavar"] = metadata["metavar"] or _KIND_METAVARS[kind]
    return Option(
        name=source.name, kind=kind, many=hint == tuple[str, ...], key=name.replace("_", "-"),
        default=default, **metadata,
    )  # fmt: skip


_KIND_METAVARS = {"text": "TEXT", "switch": "", "count": "N", "duration": "TIME",
                   "size": "SIZE", "mode": "MODE"}  # fmt: skip


def format_value(option: Option, value: Any) -> str:
    """A value as a person writes it: `75s`, `64KiB`, `true`."""
    if option.many:
        return ", ".join(value)
    return FORMATTERS.get(option.kind, str)(value)


def quote(text: str) -> str:
    """One printable line, not too long, whatever a person or a file holds."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return line if len(line) <= 200 else line[:200] + "..."


def suggest(word: str, known: Sequence[str]) -> str:
    """` (did you mean ...?)`, or nothing when no known word is close."""
    close = find_close(word, known)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def find_close(word: str, known: Sequence[str], likeness: float = 0.6) -> list[str]:
    """Known words that may have been meant; one alone where it is as good as certain."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=likeness)
    sure = difflib.get_close_matches(word, known, n=1, cutoff=0.9)
    return sure or close


def _derive_options(source: type) -> tuple[Option, ...]:
    hints = get_type_hints(source)
    return tuple(_build_option(each, hints[each.name]) for each in fields(source))


_SHORTHAND_OPTIONS = _derive_options(_Shorthand)
SHORTHAND_NAMES = frozenset(option.name for option in _SHORTHAND_OPTIONS)
OPTIONS = _SHORTHAND_OPTIONS + _derive_options(Settings)
"""Every setting, in the order of help and docs; `host` and `port` are shorthands of `bind`."""
