"""Every system call that the server makes fails once, in turn, with every error that it may have.

The server is the real one, from its acceptor to its gateway; the kernel is played (see `kernel`).
A client pays a visit, and the calls that the server makes meanwhile are counted. Then the same
visit is paid again and again, with one of the calls failing: the first, the second, and so on.

- The client gets the right answer, or part of it and then the end of the connection, or an error
  response in its place: never a wrong answer, or a complete one that is none.
- Where trying again is all that it takes, it gets the right answer.
- Whoever else was there is answered, and so is whoever comes next; nothing waits for a deadline.
- Nothing is left behind: no connection, descriptor, file, thread or deadline.
- The log has a line for it at the most, and no traceback of the server's own.
"""

from __future__ import annotations

import io
import logging
import signal
import socket
import time
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rawsgi.config import Settings
from rawsgi.logs import log
from rawsgi.net import loop
from rawsgi.net.client import buffers, connection, exchange, inbox, upload
from rawsgi.net.crew import crew, member, overtime, parking
from rawsgi.net.listening import acceptor, listener
from rawsgi.process.worker import Worker
from tests.conversation import choose_seed
from tests.interleaving import Schedule, ScheduledLock, ScheduledQueue
from tests.kernel import (
    ERRORS,
    FAILURE,
    TRANSIENT,
    Client,
    Condition,
    Kernel,
    make_error,
    make_listener,
)
from tests.serving import Reader, Response

FILES = {
    module.__file__
    for module in (acceptor, buffers, connection, crew, exchange, inbox, loop, overtime, parking,
                   upload)
}  # fmt: skip
"""Where threads may change hands, in schedules."""

MARK = b"<end>"
"""With this ends the content of every response."""

# Everybody is fast here, so that no deadline may ever come into it. A lost wake-up costs a second.
LONGEST_S = 4.0


def request(target: str, content: bytes = b"", *fields: str) -> bytes:
    method = "POST" if content else "GET"
    lines = [f"{method} {target} HTTP/1.1", "Host: a.example", *fields]
    if content and "Transfer-Encoding: chunked" not in fields:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def frame(content: bytes) -> bytes:
    """As chunks."""
    pieces = [content[start : start + 700] for start in range(0, len(content), 700)]
    return b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in [*pieces, b""])


# -- What clients do -------------------------------------------------------------------------------


def keep_alive(client: Client) -> None:
    for number in (1, 2, 3):
        client.send(request("/"))
        if not client.read_until(MARK, number):
            return


def pipeline(client: Client) -> None:
    client.send(request("/") + request("/sleep") + request("/blocks") + request("/"))
    client.read_until(MARK, 4, 1500)


def byte_by_byte(client: Client) -> None:
    for byte in request("/", b"content"):
        client.send(bytes((byte,)))
        client.pause(0.001)
    client.read_until(MARK)


def post(client: Client) -> None:
    """Above what is kept in memory; and once more, in chunks, on the same connection."""
    client.send(request("/", b"c" * 9000))
    if client.read_until(MARK):
        client.send(request("/", frame(b"d" * 3000), "Transfer-Encoding: chunked"))
        client.read_until(MARK, 2)


def expect_continue(client: Client) -> None:
    data = request("/", b"c" * 1500, "Expect: 100-continue")
    client.send(data[:-1500])
    if client.read_until(b"100 Continue\r\n\r\n"):
        client.send(data[-1500:])
        client.read_until(MARK)


def read_slowly(target: str, *fields: str) -> Callable[[Client], None]:
    def visit(client: Client) -> None:
        client.send(request(target, b"", *fields))
        while client.received.count(MARK) < 1 and FAILURE not in client.received:
            client.pause(0.002)
            if not client.read(2500):
                return
        if "Connection: close" in fields:
            client.read_to_end()

    return visit


def be_refused(client: Client) -> None:
    client.send(b"This is a sample\r\n")
    client.read_to_end()


def be_refused_early(client: Client) -> None:
    """While it goes on sending."""
    client.send(request("/", b"x", "Content-Length: 1") + b"y" * 5000)
    client.pause(0.01)
    client.send(b"y" * 5000)
    client.read_to_end()


def leave_early(client: Client) -> None:
    client.send(request("/blocks"))
    client.read(1000)


def reset_early(client: Client) -> None:
    client.send(request("/large"))
    client.read(1000)
    client.reset()


def break_off(client: Client) -> None:
    """In the middle of an upload that is in a file already."""
    client.send(request("/", b"c" * 5000)[:-500])
    client.pause(0.01)
    client.reset()


def half_close(client: Client) -> None:
    client.send(request("/sleep"))
    client.shut()
    client.read_to_end()


def crowd(client: Client) -> None:
    """Three at once, so that some wait for a thread and others for their turn to send."""
    others = [client.bring_another() for _ in range(4)]
    for other in others:
        other.send(request("/sleep"))
    client.send(request("/") + request("/blocks"))
    client.read_until(MARK, 2)
    for other in others:
        other.read_until(MARK)
        other.close()


def leave_queue(client: Client) -> None:
    """Two hold the threads, a third leaves before it has one."""
    others = [client.bring_another() for _ in range(3)]
    for other in others:
        other.send(request("/sleep"))
    client.pause(0.005)
    others[2].reset()
    client.send(request("/"))
    client.read_until(MARK)
    for other in others[:2]:
        other.read_until(MARK)
        other.close()


def fill_house(client: Client) -> None:
    """More than there may be, of whom the last one asks for something."""
    for _ in range(4):
        client.pause(0.01)
        last = client.bring_another()
    last.send(request("/"))
    last.read_until(MARK)
    client.pause(0.01)
    last.send(request("/sleep"))
    last.read_until(MARK, 2)


def wait_outside(client: Client) -> None:
    """All who are in are served just now: who comes has to wait."""
    other = client.bring_another()
    client.send(request("/sleep"))
    other.send(request("/sleep"))
    client.pause(0.005)
    last = client.bring_another()
    last.send(request("/"))
    last.read_until(MARK)
    client.read_until(MARK)
    other.read_until(MARK)


def upload_slowly(client: Client) -> None:
    data = request("/", b"c" * 6000)
    for start in range(0, len(data), 1500):
        client.send(data[start : start + 1500])
        client.pause(0.02)
    if client.read_until(MARK):
        client.send(request("/"))
        client.read_until(MARK, 2)


def upload_to_the_slow(client: Client) -> None:
    """More than may wait for the application, which takes its time."""
    client.send(request("/lazy", frame(b"d" * 9000), "Transfer-Encoding: chunked"))
    client.read_until(MARK)


def converse(client: Client) -> None:
    """Each line comes back before the next is sent."""
    client.send(request("/lines", b"", "Content-Length: 25"))
    for number in range(1, 6):
        client.send(b"line\n")
        if not client.read_until(b"line\n", number):
            return
        client.pause(0.02)
    client.read_to_end()


def ignore_content(client: Client) -> None:
    client.send(request("/unread", b"c" * 20_000))
    client.read_to_end()


def break_off_streaming(client: Client) -> None:
    client.send(request("/", b"c" * 5000)[:-500])
    client.pause(0.02)
    client.reset()


VISITS: dict[str, tuple[Callable[[Client], None], dict[str, Any]]] = {
    "keep-alive": (keep_alive, {}),
    "keep-alive, 1 thread": (keep_alive, {"threads": 1}),
    "pipeline": (pipeline, {}),
    "byte by byte": (byte_by_byte, {}),
    "upload": (post, {}),
    "upload, 1 thread": (post, {"threads": 1}),
    "expect": (expect_continue, {}),
    "sleep": (read_slowly("/sleep", "Connection: close"), {}),
    "sleep, 1 thread": (read_slowly("/sleep", "Connection: close"), {"threads": 1}),
    "blocks": (read_slowly("/blocks", "Connection: close"), {}),
    "blocks, 1 thread": (read_slowly("/blocks"), {"threads": 1}),
    "slow blocks": (read_slowly("/slow-blocks"), {}),
    "file": (read_slowly("/file"), {}),
    "large": (read_slowly("/large"), {}),
    "application fails": (read_slowly("/fail", "Connection: close"), {}),
    "application fails late": (read_slowly("/fail-late"), {}),
    "refused": (be_refused, {}),
    "refused early": (be_refused_early, {}),
    "left": (leave_early, {}),
    "reset": (reset_early, {}),
    "broken off": (break_off, {}),
    "half-closed": (half_close, {}),
    "crowd": (crowd, {"threads": 2}),
    "queue": (leave_queue, {"threads": 1}),
    "full house": (fill_house, {"threads": 2, "connections": 3}),
    "busy house": (wait_outside, {"threads": 2, "connections": 3}),
    "short idle time": (keep_alive, {"keep_alive_timeout_s": 1.0}),
    "streamed upload": (upload_slowly, {"stream_request": True}),
    "streamed upload, 1 thread": (upload_slowly, {"stream_request": True, "threads": 1}),
    "streamed to the slow": (upload_to_the_slow, {"stream_request": True}),
    "streamed expect": (expect_continue, {"stream_request": True}),
    "conversation": (converse, {"stream_request": True}),
    "streamed unread": (ignore_content, {"stream_request": True}),
    "streamed broken off": (break_off_streaming, {"stream_request": True}),
}


OUT_OF_DESCRIPTORS = {f"accept {name}" for name in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM")}
# For which the server has another way.
OTHER_WAYS = {("sendfile", "EINVAL"), ("sendfile", "ENOSYS")}
# Whose first call of send is not a response of the application.
SAYING = frozenset(("expect", "streamed expect", "refused", "refused early"))

# -- The server ------------------------------------------------------------------------------------


class Application:
    """Everything that makes the server send in another way."""

    def __init__(self, schedule: Schedule, file: Path) -> None:
        self._schedule = schedule
        self._file = file
        self.open_files: list[Any] = []

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        path = environ["PATH_INFO"]
        match path:
            case "/sleep":
                self._schedule.sleep(0.02)
            case "/blocks":
                return self._make_blocks(15, 1500, 0.0)
            case "/slow-blocks":
                return self._make_blocks(5, 1500, 0.02)
            case "/file":
                file = self._file.open("rb")
                self.open_files.append(file)
                return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]
            case "/large":
                return [b"z" * 40_000 + MARK]
            case "/fail":
                raise ValueError("the application fails")
            case "/fail-late":
                return self._fail_late()
            case "/unread":
                return [b"unread" + MARK]
            case "/lines":
                return iter(environ["wsgi.input"].readline, b"")
            case "/lazy":
                self._schedule.sleep(0.05)
        content = environ["wsgi.input"].read()
        counted = sorted(Counter(content).items())
        return [f"{path} {len(content)} {counted}".encode() + MARK]

    def _make_blocks(self, count: int, size: int, pause_s: float) -> Iterator[bytes]:
        for number in range(count):
            yield bytes((ord("a") + number,)) * size
            if pause_s:
                self._schedule.sleep(pause_s)
        yield MARK

    def _fail_late(self) -> Iterator[bytes]:
        yield b"begun"
        self._schedule.sleep(0.02)
        raise ValueError("the application fails late")


class Played:
    """One visit to one server, of whose calls at most one fails."""

    def __init__(self, name: str, file: Path, seed: int | None = None) -> None:
        """With a seed the threads move as a schedule has it; without, one after the other."""
        visit, settings = VISITS[name]
        self.name = name
        self.visit = visit
        if seed is None:
            self.schedule = Schedule(1, ())
            self.schedule.stalls = self.schedule.switches = 0.0
            self._rest_s = 0.05
        else:
            self.schedule = Schedule(seed, FILES)
            self._rest_s = 5.0  # threads stall now and then
        self.kernel = Kernel(self.schedule)
        self.application = Application(self.schedule, file)
        self.settings = Settings(
            access_log=False,
            content_memory_bytes=1000,
            request_timeout_s=30.0,
            head_timeout_s=600.0,  # the witness takes its time
            **{"threads": 3, **settings},
        )
        self.clients: list[Client] = []
        self.worker: Worker

    def serve(self) -> None:
        """Run everything; AssertionError if something does not hold."""
        self.listener = make_listener(self.kernel)
        self.worker = Worker(self.settings, self.application, [self.listener])
        self.worker._abandon = self._note_abandoned  # type: ignore[method-assign]
        self.worker.loop.crew._on_broken = self._note_broken
        try:
            self.schedule.run(self._run)
        finally:
            self.kernel.is_armed = False

    def _note_abandoned(self, status: int) -> None:
        raise self.schedule.fail(AssertionError("it would have left without its threads"))

    def _note_broken(self) -> None:
        raise self.schedule.fail(AssertionError("it would have ended the process"))

    def _run(self) -> None:
        self.schedule.spawn("clients", self._direct)
        loop = self.worker.loop
        loop.crew.run()
        loop.close()
        kernel = self.kernel
        self._expect(kernel.descriptors == {}, f"open: {kernel.descriptors}")
        self._expect(len(self.worker.loop.connections) == 0, "connections are left")

    def _expect(self, condition: object, text: str) -> None:
        if not condition:
            raise self.schedule.fail(AssertionError(text))

    def _connect(self) -> Client:
        client = Client(self.schedule, self.listener.socket)
        client.bring_another = self._bring
        return client

    def _bring(self) -> Client:
        client = self._connect()
        self.clients.append(client)
        return client

    def _direct(self) -> None:
        """The clients, one after the other: a witness is there before, and another comes after."""
        schedule, kernel = self.schedule, self.kernel
        loop = self.worker.loop
        witness = self._connect()
        data = request("/", b"witness")
        # Its content has begun, so that it need not make room for others; but not where its
        # request would be run at once.
        begun = 20 if self.settings.stream_request else len(data) - 3
        witness.send(data[:begun])
        schedule.sleep(0.01)  # time passes when nobody has anything to do
        kernel.is_armed = True
        started = schedule.now
        client = self._bring()
        self.visit(client)
        schedule.sleep(self._rest_s)
        for each in self.clients:
            each.read_waiting()
            each.close()
        schedule.wait(self._is_settled, 60.0, "until it has settled")
        kernel.is_armed = False
        self._expect(self._is_settled(), f"left: {loop.handlers}, {loop.crew.running}")
        took_s = schedule.now - started
        self._expect(took_s < LONGEST_S + 2 * self._rest_s, f"it took {took_s:.1f} s")
        self._check_rest()
        if not self._made_room:
            witness.send(data[begun:])
            witness.read_until(MARK)
            self._check_answer(witness)
        newcomer = self._connect()
        newcomer.send(data)
        newcomer.read_until(MARK)
        self._check_answer(newcomer)
        witness.close()
        newcomer.close()
        schedule.wait(lambda: not loop.connections, 60.0, "until all have gone")
        kernel.send_signal(loop.wakeup_socket, signal.SIGTERM)

    @property
    def _made_room(self) -> bool:
        """The witness was idle, and the descriptors were used up."""
        return self.settings.stream_request and self.kernel.hit in OUT_OF_DESCRIPTORS

    def _check_answer(self, client: Client) -> None:
        self._expect(client.received.startswith(b"HTTP/1.1 200 "), f"{client.received!r}")
        counted = sorted(Counter(b"witness").items())
        answer = f"/ 7 {counted}".encode() + MARK
        self._expect(client.received.endswith(answer), f"{client.received!r}")

    def _is_settled(self) -> bool:
        loop = self.worker.loop
        paused = any(acceptor.paused for acceptor in self.worker._room.acceptors)
        quiet = not loop.crew.running and not loop._posts and not paused
        return len(loop.connections) == (0 if self._made_room else 1) and quiet

    def _check_rest(self) -> None:
        """Only the witness, the listener and the waker are left."""
        loop, kernel = self.worker.loop, self.kernel
        wakers = (loop._waker, loop._signals)
        senders = {waker.sender.fileno() for waker in wakers}
        own = senders | {waker._receiver.fileno() for waker in wakers}
        own.add(self.listener.socket.fileno())
        own |= {each.socket.fileno() for each in loop.connections}
        self._expect(set(kernel.descriptors) == own, f"open: {set(kernel.descriptors)}, {own}")
        watched = own - senders
        self._expect(set(loop.handlers) == watched, f"handlers: {loop.handlers}")
        self._expect(set(kernel.poller.watched) == watched, f"{kernel.poller.watched}")
        self._expect(all(file.closed for file in kernel.files), "a temporary file is open")
        files = self.application.open_files
        self._expect(all(file.closed for file in files), "a file of the application is open")
        self._expect(loop.crew.parking.count == 0, "somebody is parked")
        self._expect(not loop.crew._queue, "the queue is not empty")
        timed = {entry[2] for entry in loop.clock._entries if entry[2].scheduled is not None}
        self._expect(len(timed) == len(loop.connections), f"deadlines are left: {timed}")
        self._expect(len(loop.crew) <= loop.crew.limit + 1, f"{len(loop.crew)} threads")


class Stage:
    """Puts the parts of the server on the kernel of whoever is played just now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.played: Played

        def get_now() -> float:
            return self.played.schedule.now

        for module in (loop, connection, exchange, crew):
            monkeypatch.setattr(module, "monotonic", get_now)
        monkeypatch.setattr(loop, "time", lambda: 0.0)  # the same Date for everybody
        monkeypatch.setattr(loop, "make_poller", lambda kind: self.kernel.make_poller(kind))
        pair = types.SimpleNamespace(socketpair=lambda: self.kernel.make_pair())
        monkeypatch.setattr(loop, "socket", pair)
        files = types.SimpleNamespace(TemporaryFile=lambda prefix: self.kernel.make_file(prefix))
        monkeypatch.setattr(buffers, "tempfile", files)
        monkeypatch.setattr(buffers.os, "sendfile", lambda *args: self.kernel.send_file(*args))
        scheduled = types.SimpleNamespace(
            Thread=lambda **arguments: self.kernel.make_thread(**arguments),
            Lock=lambda: ScheduledLock(self.played.schedule),
            Condition=lambda lock: Condition(self.played.schedule, lock),
            get_ident=lambda: id(self.played.schedule.current),
        )
        for module in (crew, member, buffers, inbox):
            monkeypatch.setattr(module, "threading", scheduled)
        monkeypatch.setattr(member, "SimpleQueue", lambda: ScheduledQueue(self.played.schedule))
        # Small, so that everybody has to wait for everybody.
        monkeypatch.setattr(exchange, "HIGH_WATERMARK_BYTES", 8000)
        monkeypatch.setattr(inbox, "HIGH_WATERMARK_BYTES", 4000)
        for module in (buffers, inbox):
            monkeypatch.setattr(module, "LOW_WATERMARK_BYTES", 2000)
        self.records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = self.records.append  # type: ignore[method-assign, assignment]
        monkeypatch.setattr(log, "handlers", [handler])
        monkeypatch.setattr(log, "propagate", False)

    @property
    def kernel(self) -> Kernel:
        return self.played.kernel

    def play(
        self,
        name: str,
        file: Path,
        fail_at: int = -1,
        error: str = "",
        seed: int | None = None,
        visit: Callable[[Client], None] | None = None,
    ) -> Played:
        self.records.clear()
        self.played = played = Played(name, file, seed)
        played.visit = visit or played.visit
        played.kernel.fail_at, played.kernel.error = fail_at, error
        played.serve()
        return played


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults") / "file"
    path.write_bytes(bytes(range(256)) * 70 + MARK)
    return path


# -- What must hold --------------------------------------------------------------------------------


def split_responses(data: bytes) -> tuple[list[Response], list[int]]:
    """Complete responses, and where each of them ends. AssertionError or EOFError otherwise."""
    stream = io.BytesIO(data)
    reader = Reader(types.SimpleNamespace(makefile=lambda mode: stream))  # type: ignore[arg-type]
    responses, ends = [], [0]
    while ends[-1] < len(data):
        responses.append(reader.read_response())
        ends.append(stream.tell())
    return responses, ends


def shorten(data: bytes) -> str:
    return f"{len(data)} bytes, {data[:200]!r} ... {data[-200:]!r}"


def check_received(name: str, client: Client, expected: bytes, transient: bool) -> None:
    """What one client got, beside what it gets when nothing fails."""
    received = bytes(client.received)
    if received == expected:
        return
    assert not transient, f"trying again was enough, and it got {shorten(received)}"
    if expected.startswith(received):
        assert client.outcome, "it was left waiting"
        return
    # Some right answers, then one that says that something is wrong.
    ends = split_responses(expected)[1] if name != "application fails late" else [0]
    end = max(end for end in ends if expected[:end] == received[:end])
    responses, _ = split_responses(received[end:])
    assert len(responses) == 1, shorten(received)
    assert responses[0].status in (500, 503, 507), shorten(received)
    assert client.outcome or responses[0].field("Connection") != "close", "it was left waiting"


def check_log(records: list[logging.LogRecord], name: str, hit: str) -> None:
    for record in records:
        assert record.levelno < logging.CRITICAL, record.getMessage()
        if record.exc_info:
            text = record.getMessage()
            own = "the application failed" not in text
            wanted = "application fails" in name or hit.startswith(("read", "seek"))
            assert wanted and not own, f"a traceback: {text}: {record.exc_info[1]!r}"


@pytest.mark.parametrize("name", VISITS)
def test_every_call_fails_once(stage: Stage, name: str, file: Path) -> None:
    played = stage.play(name, file)
    check_log(stage.records, name, "")
    plan = played.kernel.calls
    expected = [bytes(client.received) for client in played.clients]
    assert len(plan) > 5, "the calls are not seen"
    again = stage.play(name, file)
    assert again.kernel.calls == plan, "it is not the same each time"
    seen: Counter[str] = Counter()
    for number, call in enumerate(plan):
        for error in ERRORS[call]:
            what = f"{name}: call {number}, {call}, fails with {error}"
            try:
                hit = stage.play(name, file, number, error)
                assert hit.kernel.hit == f"{call} {error}", "it was not made"
                for client, answer in zip(hit.clients, expected, strict=True):
                    transient = error in TRANSIENT and may_be_repeated(name, call)
                    transient |= (call, error) in OTHER_WAYS
                    check_received(name, client, answer, transient)
                assert hit.kernel.polls < 2 * played.kernel.polls + 40, "it spins"
                check_log(stage.records, name, hit.kernel.hit)
            except BaseException as failure:
                failure.add_note(what)
                failure.add_note("\n".join(r.getMessage() for r in stage.records))
                raise
            seen[call] += 1
    print(name, sum(seen.values()), dict(seen))


# In these it depends on who is first, whether somebody is answered before he leaves.
RACES = frozenset(("left", "reset", "broken off", "queue", "full house", "streamed broken off"))


def check_visits_under_schedules(stage: Stage, file: Path, seeds: range, time_s: float) -> int:
    """The whole server, its threads moved by a seed at every line: right answers all the same."""
    expected = {}
    for name in VISITS:
        expected[name] = [bytes(client.received) for client in stage.play(name, file).clients]
    end = time.monotonic() + time_s
    names = list(VISITS)
    for count, seed in enumerate(seeds):
        if time.monotonic() > end:
            return count
        name = names[seed % len(names)]
        try:
            played = stage.play(name, file, seed=seed)
            if name not in RACES:
                for client, answer in zip(played.clients, expected[name], strict=True):
                    check_received(name, client, answer, True)
            check_log(stage.records, name, "")
        except BaseException as failure:
            failure.add_note(f"{name}, schedule {seed}")
            failure.add_note("\n".join(r.getMessage() for r in stage.records))
            raise
    return len(seeds)


def test_visits_under_seeded_schedules(stage: Stage, file: Path) -> None:
    seed = choose_seed()
    count = check_visits_under_schedules(stage, file, range(seed, seed + 400), 8.0)
    assert count > 30


@pytest.mark.slow
def test_visits_under_many_schedules(stage: Stage, file: Path) -> None:
    seed = choose_seed()
    print(check_visits_under_schedules(stage, file, range(seed, seed + 100_000), 120.0))


def may_be_repeated(name: str, call: str) -> bool:
    """The server can try this call again. Not what it says before a request was read whole or
    before it closes: for that it never waits."""
    if call == "send" and name in SAYING:
        return False
    return call in ("accept", "recv", "send", "sendmsg", "sendfile", "wake", "woken")


def test_a_poller_that_always_fails_ends_the_process(stage: Stage, file: Path) -> None:
    """Rather than a process that neither serves nor ends. The exit itself is played here."""
    stage.records.clear()
    stage.played = played = Played("keep-alive", file)
    played.kernel.broken = "poll"
    ended: list[bool] = []
    played._note_broken = lambda: ended.append(True)  # type: ignore[method-assign]
    played._direct = lambda: played.listener.close()  # type: ignore[method-assign]
    played.kernel.is_armed = True
    played.serve()
    assert ended == [True]
    messages = [record.getMessage().partition(":")[0] for record in stage.records]
    assert messages == ["the loop goes on, although the system refused"] * 9 + [
        "a thread of the server has failed"
    ]


def test_who_waits_for_content_gives_the_loop_away_at_once(stage: Stage, file: Path) -> None:
    """Not when the standby loses its patience: until then nobody would read that content."""
    took: list[float] = []

    def visit(client: Client) -> None:
        other = client.bring_another()
        began = client.now
        client.send(request("/", b"c" * 10)[:-1])
        other.send(request("/"))
        other.read_until(MARK)
        took.append(client.now - began)
        client.send(b"c")
        client.read_until(MARK)

    played = stage.play("conversation", file, visit=visit)  # which is streamed
    assert all(client.received.endswith(MARK) for client in played.clients)
    assert took == [0.0]


def test_who_has_just_asked_makes_no_room(stage: Stage, file: Path) -> None:
    """The house is full, and the longest idle one sends its request as somebody comes."""

    def visit(client: Client) -> None:
        client.pause(0.01)
        other = client.bring_another()
        client.pause(0.01)
        client.send(request("/"))
        last = client.bring_another()
        client.read_until(MARK)
        last.send(request("/"))
        last.read_until(MARK)
        other.read_to_end()

    played = stage.play("full house", file, visit=visit)
    first, other, last = played.clients
    assert first.received.endswith(MARK)
    assert last.received.endswith(MARK)
    assert other.received == b""


def test_an_idle_time_that_is_shorter_than_that_of_a_head(stage: Stage, file: Path) -> None:
    """The deadline of the first head does not stand in for it, whenever the request comes."""
    took: list[float] = []

    def visit(client: Client) -> None:
        client.pause(0.5)  # the connection waits for a head meanwhile
        client.send(request("/"))
        client.read_until(MARK)
        began = client.now
        client.read_to_end()
        took.append(client.now - began)

    stage.play("short idle time", file, visit=visit)
    assert took and 1.0 <= took[0] < 1.1, took


def test_no_number_of_posts_drowns_a_signal() -> None:
    """Signals share the way of those who wake the loop; where there is no room they are lost."""
    noted: list[int] = []
    settings = Settings(access_log=False, threads=1)
    listeners = listener.open_listeners(("127.0.0.1:0",), 1)
    worker = Worker(settings, lambda environ, start_response: [], listeners)
    try:
        worker.loop.on_signal = noted.append
        for round_number in range(1, 4):
            for _ in range(2000):
                worker.loop.post(lambda argument: None, None)
            worker.loop.wakeup_socket.send(bytes((signal.SIGTERM,)))
            worker.loop._waker.on_event(1)
            worker.loop._signals.on_event(1)
            assert noted == [signal.SIGTERM] * round_number
    finally:
        worker.loop.close()
        for each in listeners:
            each.close()


# -- Before there is a loop ------------------------------------------------------------------------


class ListeningSocket(socket.socket):
    """A real socket; one of the calls of all of them fails."""

    made: list[ListeningSocket] = []
    calls: list[str] = []
    fail_at = -1

    def __init__(self, *arguments: Any) -> None:
        self._enter("socket")
        super().__init__(*arguments)
        self.made.append(self)

    def _enter(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self.fail_at:
            raise make_error("ENOBUFS")

    def setsockopt(self, *arguments: Any) -> None:
        self._enter("setsockopt")
        super().setsockopt(*arguments)

    def bind(self, address: Any) -> None:
        self._enter("bind")
        super().bind(address)

    def listen(self, backlog: int = 0) -> None:
        self._enter("listen")
        super().listen(backlog)

    def setblocking(self, flag: bool) -> None:
        self._enter("setblocking")
        super().setblocking(flag)

    def getsockname(self) -> Any:
        self._enter("getsockname")
        return super().getsockname()


def test_listening_at_all_addresses_or_at_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever fails, one line says so, and no socket or file is left."""
    monkeypatch.setattr(listener.socket, "socket", ListeningSocket)
    binds = ("127.0.0.1:0", f"unix:{tmp_path}/socket", "127.0.0.1:0")
    fail_at = 0
    while True:
        fail_at += 1
        monkeypatch.setattr(ListeningSocket, "made", [])
        monkeypatch.setattr(ListeningSocket, "calls", [])
        monkeypatch.setattr(ListeningSocket, "fail_at", fail_at)
        try:
            listeners = listener.open_listeners(binds, 5)
        except listener.ListenerError as error:
            assert str(error).count("\n") == 0
            assert "buffer space" in str(error)
            assert [sock.fileno() for sock in ListeningSocket.made] == [-1] * len(
                ListeningSocket.made
            )
            assert list(tmp_path.iterdir()) == []
            continue
        for each in listeners:
            each.close()
        break
    assert fail_at > 15, "the calls are not seen"
