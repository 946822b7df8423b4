"""The traffic that the servers are compared by: one entry per workload, nothing hidden.

Rule: a workload says what it asks for, which application answers it, which figure it is
about (`headline`), and where it departs from a server's own settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tests.benchmarks.load.wrk import Load

APPLICATIONS = "tests.benchmarks.served.applications"
FLASK = "tests.benchmarks.served.flask_application:app"

BROWSER_FIELDS = (
    "Host: 127.0.0.1:8000",
    "Connection: keep-alive",
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Referer: http://127.0.0.1:8000/articles/2026/spring?page=2",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.7",
    "Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=yes",
    "Cache-Control: max-age=0",
)

CONTENT = json.dumps({f"member-{number:02}": "x" * 25 for number in range(23)}).encode()[:1024]
"""About 1 KB of JSON."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of traffic and what is measured by it."""

    name: str
    title: str
    application: str
    headline: str = "cpu_us"
    kind: str = "load"
    """Which function of `rounds` measures it."""

    load: Load = field(default_factory=Load)
    threads: int | None = None
    connections: int | None = None
    seconds_at_least: float = 0.0
    floor: bool = False
    """The floor's constant is a true answer to this workload."""


def _application(name: str) -> str:
    return f"{APPLICATIONS}:{name}"


_HELLO = _application("say_hello")

WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("hello", "two-line WSGI application", _HELLO, floor=True),
        Workload(
            "bare", "two-line WSGI, no length given", _application("say_hello_without_length")
        ),
        Workload(
            "fields",
            "two-line WSGI, 13 browser fields",
            _HELLO,
            load=Load(fields=BROWSER_FIELDS),
            floor=True,
        ),
        Workload(
            "varied",
            "13 fields, Cookie, Referer and User-Agent always new",
            _HELLO,
            load=Load(fields=BROWSER_FIELDS, script="varied.lua"),
            floor=True,
        ),
        Workload("flask", "Flask hello", FLASK),
        Workload(
            "post",
            "1 KB JSON POST",
            _application("read_json"),
            load=Load(method="POST", content=CONTENT, fields=("Content-Type: application/json",)),
        ),
        Workload("stream", "16 streamed blocks, no length", _application("stream_blocks")),
        Workload("mebibyte", "1 MiB body", _application("send_mebibyte")),
        Workload("file", "10 MB file", _application("send_file"), load=Load(connections=8)),
        Workload(
            "close",
            "a new connection per request",
            _HELLO,
            load=Load(fields=("Connection: close",)),
            floor=True,
        ),
        Workload(
            "thousand",
            "1,000 connections",
            _HELLO,
            kind="many",
            load=Load(connections=1000),
            connections=1100,
            floor=True,
        ),
        Workload(
            "idle-connections",
            "10,000 idle connections beside 10 busy ones",
            _HELLO,
            headline="idle_kib",
            kind="idle_connections",
            load=Load(connections=10),
            connections=12000,
            floor=True,
        ),
        Workload(
            "sleep",
            "50 ms sleep, 64 clients, 16 threads",
            _application("sleep"),
            headline="ideal",
            kind="sleep",
            load=Load(connections=64),
            threads=16,
            seconds_at_least=5.0,
        ),
        Workload(
            "mixed",
            "90 % fast, 10 % sleeping 100 ms, 500 requests/s",
            _application("sleep_sometimes"),
            headline="fast_p99_ms",
            kind="mixed",
            threads=16,
            seconds_at_least=4.0,
        ),
        Workload(
            "idle",
            "idle process, 5 s",
            _HELLO,
            headline="switches",
            kind="idle",
            floor=True,
        ),
    )
}
"""`kind` names are the keys of `rounds.MEASURES`."""

THREADS = 16
SLEEP_IDEAL = THREADS / 0.05
"""Requests per second that 16 threads can answer when each request sleeps 50 ms."""

MIXED_RATE = 500.0
MIXED_SLOW_SHARE = 0.1
"""500 requests a second with a tenth of them sleeping keep five threads of sixteen asleep on
average: enough to hurt a server that runs them one after another, not so many that a pool of
sixteen must queue."""
