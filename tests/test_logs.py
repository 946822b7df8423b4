"""rawsgi/logs.py: no line can be forged, none is lost without a word, and no output stops us."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import random
import re
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawsgi import logs
from rawsgi.logs import AccessLog, configure_logging, escape, format_time, log

LINE = re.compile(
    r"(?P<remote>[^ ]+) - - \[(?P<time>[^\]]+)\] "
    r'"(?P<request>[ !#-\[\]-~\\]*)" (?P<status>\d{3}) (?P<sent>\d+) '
    r'"(?P<referer>[ !#-\[\]-~\\]*)" "(?P<agent>[ !#-\[\]-~\\]*)" (?P<duration>\d+\.\d{6})'
)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[tuple[AccessLog, Path]]:
    path = tmp_path / "access.log"
    access_log = AccessLog(path=str(path), clock=lambda: 971186136.9)
    yield access_log, path
    access_log.close()


def write(
    access_log: AccessLog,
    target: str = "/x",
    *,
    remote: str = "127.0.0.1",
    method: str = "GET",
    version: str = "HTTP/1.1",
    referer: str = "",
    agent: str = "",
) -> None:
    access_log.write(remote, method, target, version, 200, 13, 0.000123, referer, agent)


@contextmanager
def open_pipe(*, blocking: bool = True) -> Iterator[list[int]]:
    """A pipe as [reader, writer]; an end that the test closes becomes -1."""
    ends = list(os.pipe())
    os.set_blocking(ends[1], blocking)
    os.set_blocking(ends[0], False)
    try:
        yield ends
    finally:
        for end in ends:
            if end >= 0:
                os.close(end)


def read_all(descriptor: int) -> bytes:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What goes to the error log meanwhile."""
    found: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    keeper = Keeper()
    log.addHandler(keeper)
    yield found
    log.removeHandler(keeper)


@pytest.fixture
def london(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# -- The line -----------------------------------------------------------------------------------


def test_the_line_is_the_combined_format_with_the_duration(
    london: None, output: tuple[AccessLog, Path]
) -> None:
    access_log, path = output
    write(access_log, referer="http://a.example/", agent="curl/8.5.0")
    access_log.flush()
    assert path.read_text() == (
        '127.0.0.1 - - [10/Oct/2000:13:55:36 +0000] "GET /x HTTP/1.1" 200 13'
        ' "http://a.example/" "curl/8.5.0" 0.000123\n'
    )


def test_what_is_empty_is_a_dash(output: tuple[AccessLog, Path]) -> None:
    access_log, path = output
    access_log.write("", "", "", "", 400, 0, 1.5, "", "")
    access_log.flush()
    assert re.fullmatch(r'- - - \[[^]]+\] "-" 400 0 "-" "-" 1.500000\n', path.read_text())


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("IST-5:30", "+0530"), ("NST3:30", "-0330"), ("UTC0", "+0000"), ("XXX-12:45", "+1245")],
)
def test_the_time_zone_is_told(monkeypatch: pytest.MonkeyPatch, zone: str, shown: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert format_time(971186136).endswith(shown)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_time_is_formatted_once_a_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    formatted: list[int] = []

    def format_and_count(seconds: int) -> str:
        formatted.append(seconds)
        return str(seconds)

    monkeypatch.setattr(logs, "format_time", format_and_count)
    times = iter([10.1, 10.5, 10.9, 11.0, 11.2, 10.9])
    access_log = AccessLog(path=str(tmp_path / "log"), clock=lambda: next(times))
    for _ in range(6):
        write(access_log)
    access_log.close()
    assert formatted == [10, 11, 10]  # a clock that was set back is told too


def test_a_line_costs_one_python_call(output: tuple[AccessLog, Path]) -> None:
    access_log, _ = output
    write(access_log, agent="curl/8.5.0")  # the agent is known from now on
    calls: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    access_log._clock = time.time  # not a lambda, which would count
    sys.setprofile(note)
    try:
        access_log.write("::1", "GET", "/", "HTTP/1.1", 200, 2, 0.1, "", "curl/8.5.0")
    finally:
        sys.setprofile(None)
    assert calls[:1] == ["write"] and set(calls[1:]) <= {"format_time"}  # that, once a second


# -- Nobody forges a line -----------------------------------------------------------------------

HOSTILE = [
    '/x" 200 1 "-" "-" 0.1\n127.0.0.1 - - [now] "GET /forged HTTP/1.1',
    "/\r\n",
    "/\x1b[2J",
    "/\\x22",
    "/\x00\x7f\x80\x9b\xff",
    "/\u2028\u2029\x85",
    "/" + "\n" * 5000,
    '"' * 9000,
    "/\U0001f600",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("place", ["target", "remote", "method", "version", "referer", "agent"])
def test_hostile_text_stays_inside_its_place(
    output: tuple[AccessLog, Path], place: str, text: str
) -> None:
    access_log, path = output
    write(access_log, **{place: text})
    write(access_log, "/after")
    access_log.flush()
    lines = path.read_bytes().decode("ascii").split("\n")
    assert len(lines) == 3 and lines[2] == ""
    assert " /after " in lines[1]
    assert len(lines[0]) <= logs.LINE_LIMIT
    if place != "remote":  # a remote with a space is seen, but it is not quoted
        assert LINE.fullmatch(lines[0]), lines[0]


@settings(max_examples=300, deadline=None)
@given(texts=st.tuples(*[st.text(st.characters(max_codepoint=0x2FFF), max_size=40)] * 5))
def test_any_text_gives_one_line_that_reads_back(texts: tuple[str, ...]) -> None:
    method, target, version, referer, agent = texts
    with open_pipe() as (reader, writer):
        access_log = AccessLog(writer)
        write(access_log, target, method=method, version=version, referer=referer, agent=agent)
        assert access_log.flush()
        line = read_all(reader).decode("ascii")
    assert line.count("\n") == 1
    match = LINE.fullmatch(line[:-1])
    assert match, line
    method, target, version = (escape(text) for text in texts[:3])
    expected = f"{method} {target} {version}" if target else f"{method} {version}".strip() or "-"
    assert match["request"] == expected
    assert (match["referer"], match["agent"]) == (escape(referer) or "-", escape(agent) or "-")


def test_escape_is_the_identity_on_plain_text_and_loses_nothing() -> None:
    plain = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) not in '"\\')
    assert escape(plain) is plain
    assert escape('a"b\\c\n\xe9') == r"a\x22b\x5Cc\x0A\xE9"
    assert escape(b"\r\n\xff") == r"\x0D\x0A\xFF"
    assert escape("\u20ac") == r"\u{20AC}"
    every_byte = "".join(map(chr, range(256)))
    back = re.sub(r"\\x([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), escape(every_byte))
    assert back == every_byte


def test_many_agents_do_not_fill_the_memory(output: tuple[AccessLog, Path]) -> None:
    access_log, _ = output
    for number in range(5 * logs.TAILS_LIMIT):
        write(access_log, agent=f"agent {number}")
        write(access_log, agent="x" * 60_000 + str(number))
        access_log.flush()
    assert len(access_log._tails) <= logs.TAILS_LIMIT
    assert max(len("".join(key)) for key in access_log._tails) <= logs.TEXT_LIMIT


# -- Output that is slow, full or gone ----------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stalled_reader_stops_nobody_and_what_was_lost_is_told(
    blocking: bool, messages: list[str]
) -> None:
    with open_pipe(blocking=blocking) as (reader, writer):
        access_log = AccessLog(writer)
        total = logs.WAITING_LINES_LIMIT * 3
        for number in range(total):
            write(access_log, f"/{number}")
            if number % 100 == 0:
                access_log.flush()  # would hang for ever on a blocking write
        assert not access_log.flush()
        assert len(access_log._lines) == logs.WAITING_LINES_LIMIT
        received = b""
        while not access_log.flush():
            received += read_all(reader)
        received += read_all(reader)
    lines = received.decode().splitlines()
    numbers = [int(LINE.fullmatch(line)["request"].split()[1][1:]) for line in lines]  # type: ignore[index]
    assert numbers == sorted(set(numbers)), "in order, each once, none cut"
    lost = total - len(lines)
    assert lost > 0
    told = [re.fullmatch(r"access log: (\d+) lines were lost", m) for m in messages]
    assert sum(int(match[1]) for match in told if match) == lost


def test_partial_writes_are_carried_on(
    monkeypatch: pytest.MonkeyPatch, output: tuple[AccessLog, Path]
) -> None:
    access_log, path = output
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    real = os.write

    def write_some(descriptor: int, data: bytes) -> int:
        if chance.random() < 0.2:
            raise BlockingIOError(11, "again")
        return real(descriptor, data[: chance.randint(1, 50)])

    monkeypatch.setattr(os, "write", write_some)
    for number in range(200):
        write(access_log, f"/{number}")
    while not access_log.flush():
        pass
    lines = path.read_text().splitlines()
    assert [line.split()[6] for line in lines] == [f"/{number}" for number in range(200)]


def test_a_reader_that_is_gone_ends_the_log_with_one_warning(
    messages: list[str],
) -> None:
    with open_pipe() as ends:
        access_log = AccessLog(ends[1])
        os.close(ends[0])
        ends[0] = -1
        for _ in range(3):
            write(access_log)
            assert access_log.flush()
        access_log.close()
    assert messages == ["access log stopped: its output was closed"]
    assert access_log._lines == []


def test_a_closed_descriptor_ends_the_log_too(
    messages: list[str],
) -> None:
    with open_pipe() as ends:
        access_log = AccessLog(ends[1])
        os.close(ends[1])
        ends[1] = -1
        write(access_log)
        assert access_log.flush()
    assert messages == ["access log stopped: its output was closed"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_costs_lines_and_is_told_once(messages: list[str], tmp_path: Path) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        access_log = AccessLog(descriptor)
        for _ in range(3):
            write(access_log)
            write(access_log)
            assert access_log.flush()
        good = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
        os.dup2(good, descriptor)  # space again
        os.close(good)
        write(access_log)
        assert access_log.flush()
    finally:
        os.close(descriptor)
    assert messages == [
        "access log cannot be written, lines are lost: No space left on device",
        "access log: 6 lines were lost",
    ]


def test_many_threads_lose_and_mix_nothing() -> None:
    threads, each = 8, 500
    with open_pipe() as (reader, writer):
        access_log = AccessLog(writer)
        received = bytearray()
        begin, stop = threading.Barrier(threads + 1), threading.Event()

        def write_many(thread: int) -> None:
            begin.wait()
            for number in range(each):
                write(access_log, f"/{thread}/{number}")

        def flush_until_told() -> None:
            while not stop.is_set():
                access_log.flush()

        crew = [threading.Thread(target=write_many, args=(n,)) for n in range(threads)]
        flushers = [threading.Thread(target=flush_until_told) for _ in range(2)]
        for thread in crew + flushers:
            thread.start()
        begin.wait()
        while any(thread.is_alive() for thread in crew):
            received += read_all(reader)
        stop.set()
        for thread in crew + flushers:
            thread.join()
        while not access_log.flush():
            received += read_all(reader)
        received += read_all(reader)
    seen: dict[str, list[int]] = {}
    for line in received.decode().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        _, thread_name, number = match["request"].split()[1].split("/")
        seen.setdefault(thread_name, []).append(int(number))
    assert seen == {str(n): list(range(each)) for n in range(threads)}


def test_a_pipe_gets_whole_lines_of_at_most_what_is_atomic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []
    real = os.write

    def note(descriptor: int, data: bytes) -> int:
        sizes.append(len(data))
        assert data.endswith(b"\n")
        return real(descriptor, data)

    with open_pipe() as (reader, writer):
        access_log = AccessLog(writer)
        for number in range(200):
            write(access_log, f"/{number}")
        monkeypatch.setattr(os, "write", note)
        assert access_log.flush()
        monkeypatch.undo()
        assert len(read_all(reader).splitlines()) == 200
    assert max(sizes) <= logs.PIPE_BYTES


def test_close_waits_for_a_slow_reader() -> None:
    with open_pipe() as (reader, writer):
        access_log = AccessLog(writer)
        count = 3000
        for number in range(count):
            write(access_log, f"/{number}")
        received = bytearray()

        def read_slowly() -> None:
            os.set_blocking(reader, True)
            while received.count(b"\n") < count:
                received.extend(os.read(reader, 1000))

        slow = threading.Thread(target=read_slowly)
        slow.start()
        access_log.close(10)
        slow.join(10)
        assert not slow.is_alive()
        assert received.count(b"\n") == count


def test_close_waits_no_longer_than_it_may_in_all() -> None:
    with open_pipe() as (reader, writer):
        access_log = AccessLog(writer)
        for number in range(logs.WAITING_LINES_LIMIT):
            write(access_log, f"/{number}")
        received = bytearray()
        closed = threading.Event()

        def read_at_a_crawl() -> None:
            while not closed.wait(0.02):
                received.extend(os.read(reader, logs.PIPE_BYTES))

        slow = threading.Thread(target=read_at_a_crawl)
        slow.start()
        access_log.close(0.2)  # each single write gets through in less
        closed.set()
        slow.join()
        received += read_all(reader)
    assert 0 < received.count(b"\n") < logs.WAITING_LINES_LIMIT


def test_reopen_follows_a_file_that_was_moved_away(tmp_path: Path) -> None:
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    access_log = AccessLog(path=str(path))
    write(access_log, "/before")
    path.rename(moved)
    access_log.reopen()
    write(access_log, "/after")
    access_log.close()
    assert "/before" in moved.read_text() and "/after" not in moved.read_text()
    assert "/after" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640


def test_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path, moved = folder / "access.log", tmp_path / "moved"
    access_log = AccessLog(path=str(path))
    path.rename(moved)
    folder.rmdir()
    with pytest.raises(OSError):
        access_log.reopen()
    write(access_log, "/still")
    access_log.close()
    assert "/still" in moved.read_text()


def test_a_log_file_is_not_inherited_by_children(output: tuple[AccessLog, Path]) -> None:
    access_log, _ = output
    assert fcntl.fcntl(access_log._descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    access_log.reopen()
    assert fcntl.fcntl(access_log._descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_pipe_whose_reader_is_gone_is_closed(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    access_log = AccessLog(path=str(path))
    descriptor = access_log._descriptor
    os.close(reader)
    write(access_log)
    assert access_log.flush()
    assert messages == ["access log stopped: its output was closed"]
    access_log.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    access_log.close()  # once only: the number may be another's


def test_a_number_that_somebody_closed_is_left_alone(tmp_path: Path, messages: list[str]) -> None:
    path = tmp_path / "access.log"
    access_log = AccessLog(path=str(path))
    number = access_log._descriptor
    os.close(number)
    write(access_log, "/lost")
    assert access_log.flush()
    assert messages == ["access log stopped: its output was closed"]
    reader, writer = os.pipe()  # another has the number now
    try:
        assert number in (reader, writer)
        access_log.reopen()
        write(access_log, "/again")
        access_log.close()
        assert fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert stat.S_ISFIFO(os.fstat(number).st_mode)
    finally:
        os.close(reader)
        os.close(writer)
    assert "/again" in path.read_text()


def test_a_relative_file_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    access_log = AccessLog(path="access.log")
    monkeypatch.chdir(tmp_path / "elsewhere")
    access_log.reopen()
    write(access_log)
    access_log.close()
    assert (tmp_path / "access.log").read_text() != ""
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_nothing_after_close_is_kept(tmp_path: Path) -> None:
    access_log = AccessLog(path=str(tmp_path / "log"))
    access_log.close()
    access_log.close()
    for _ in range(10):
        write(access_log)
    assert access_log.flush()
    assert access_log._lines == []


# -- Colour -------------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    primary, secondary = pty.openpty()
    os.set_blocking(primary, False)
    yield primary, secondary
    os.close(primary)
    os.close(secondary)


def test_a_terminal_sees_the_status_in_colour_and_still_no_forgery(
    terminal: tuple[int, int],
) -> None:
    primary, secondary = terminal
    access_log = AccessLog(secondary)
    access_log.write("::1", "GET", "/\x1b[31m", "HTTP/1.1", 404, 0, 0.1, "", "")
    assert access_log.flush()
    text = read_all(primary).decode()
    assert '"GET /\\x1B[31m HTTP/1.1" \x1b[33m404\x1b[0m 0 ' in text


@pytest.mark.parametrize(
    ("variables", "at_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
    ],
)
def test_colour_is_as_the_environment_wishes(
    terminal: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    at_terminal: bool,
    elsewhere: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with open_pipe() as (_, writer):
        assert logs.wants_colour(terminal[1]) is at_terminal
        assert logs.wants_colour(writer) is elsewhere


# -- The error log ------------------------------------------------------------------------------


@pytest.fixture
def error_log(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """Whoever asks for it configures the logging; afterwards it is as before."""
    state = log.level, log.propagate, log.disabled
    yield capsys
    log.level, log.propagate, log.disabled = state
    for handler in log.handlers[:]:
        if type(handler).__module__ == logs.__name__:
            log.removeHandler(handler)


def test_errors_have_time_and_level_and_go_to_stderr(
    error_log: pytest.CaptureFixture[str],
) -> None:
    configure_logging(SimpleNamespace(log_level="info"))
    log.error("GET %s failed", "/x")
    log.debug("not this")
    out, err = error_log.readouterr()
    assert out == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} error: GET /x failed\n", err)


def test_a_record_cannot_pass_for_another(error_log: pytest.CaptureFixture[str]) -> None:
    configure_logging(SimpleNamespace(log_level="info"))
    try:
        raise ValueError("x\n2026-01-01 00:00:00 +0000 error: forged\r\x1b[2J\u2028y\x85")
    except ValueError:
        log.exception("one\n2026-01-01 00:00:00 +0000 error: two")
    err = error_log.readouterr().err
    lines = err.splitlines()
    assert err.count("\n") == len(lines)
    assert [line for line in lines if re.match(r"\d{4}-", line)] == lines[:1]
    assert all(line.startswith("  ") for line in lines[1:])
    assert "Traceback" in err and "\x1b" not in err and "\r" not in err


def test_the_error_log_survives_an_application_that_configures_logging(
    error_log: pytest.CaptureFixture[str],
) -> None:
    configure_logging(SimpleNamespace(log_level="info"))
    log.disabled = True  # what logging.config does to loggers that exist already
    configure_logging(SimpleNamespace(log_level="warning"))
    log.warning("still here")
    log.info("not this")
    assert error_log.readouterr().err.count("\n") == 1  # one handler of ours, not two


def test_handlers_of_others_stay(error_log: pytest.CaptureFixture[str]) -> None:
    other = logging.NullHandler()
    log.addHandler(other)
    configure_logging(SimpleNamespace(log_level="info"))
    assert other in log.handlers
    log.removeHandler(other)


def test_no_stderr_is_no_error(
    error_log: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging(SimpleNamespace(log_level="info"))
    log.error("into the void")
