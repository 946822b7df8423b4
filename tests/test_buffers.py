"""What waits in memory or on disk: bounds, order, and that every file is closed once."""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from rawsgi.net.client.buffers import (
    HIGH_WATERMARK_BYTES,
    LOW_WATERMARK_BYTES,
    FileSpan,
    Outbox,
    Spool,
)
from tests.conversation import choose_seed
from tests.serving import wait_until

# -- Spool -----------------------------------------------------------------------------------------


@pytest.fixture
def temporary_files(monkeypatch: pytest.MonkeyPatch) -> list[IO[bytes]]:
    """The temporary files that were made."""
    made: list[IO[bytes]] = []
    make = tempfile.TemporaryFile

    def note(*arguments: Any, **keywords: Any) -> IO[bytes]:
        made.append(make(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", note)
    return made


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250])
def test_spool_gives_back_what_was_put_in(size: int, temporary_files: list[IO[bytes]]) -> None:
    content = os.urandom(size)
    spool = Spool(100)
    for start in range(0, size, 33):
        spool.append(content[start : start + 33])
    file = spool.rewind()
    assert spool.length == size
    assert file.read() == content
    assert len(temporary_files) == (size > 100), "a file only for what is above the limit"
    spool.close()
    assert all(file.closed for file in temporary_files)


def test_spool_keeps_no_more_than_its_limit_in_memory(temporary_files: list[IO[bytes]]) -> None:
    spool = Spool(0)
    spool.append(b"x")
    assert len(temporary_files) == 1
    spool.close()


def test_spool_is_a_seekable_file(temporary_files: list[IO[bytes]]) -> None:
    for limit in (10, 1000):
        spool = Spool(limit)
        spool.append(b"first\nsecond\n" * 20)
        file = spool.rewind()
        assert file.readline() == b"first\n"
        assert next(iter(file)) == b"second\n"
        file.seek(0)
        assert len(file.read()) == 260
        spool.close()
        spool.close()


def test_spool_on_a_full_disk_raises_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full takes nothing, like a disk without room."""
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    made: list[IO[bytes]] = []

    def make(**_: object) -> IO[bytes]:
        made.append(open("/dev/full", "r+b"))
        return made[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    for size in (100, 100_000):
        spool = Spool(10)
        with pytest.raises(OSError, match="No space left"):
            spool.append(b"x" * size)
        spool.close()
        assert made[-1].closed


# -- Outbox ----------------------------------------------------------------------------------------


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection, neither of which blocks."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    with ours, theirs:
        yield ours, theirs


def read_all(end: socket.socket) -> bytes:
    received = bytearray()
    while True:
        try:
            data = end.recv(1 << 20)
        except BlockingIOError:
            return bytes(received)
        if not data:
            return bytes(received)
        received += data


def drain(outbox: Outbox, ours: socket.socket, theirs: socket.socket) -> bytes:
    """Flush and read in turn until the box is empty."""
    received = bytearray()
    for _ in range(10_000):
        with outbox.lock:
            empty = outbox.flush(ours)
        received += read_all(theirs)
        if empty:
            return bytes(received)
    raise AssertionError("it is never empty")


class SentFile:
    """A file that is to be sent. The application closes it before."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self._path = path
        self._descriptor = -1

    def make_part(self, offset: int, count: int) -> FileSpan:
        with self._path.open("rb") as file:
            part = FileSpan(file, offset, count)
        self._descriptor = part._copy.fileno()
        return part

    @property
    def closed(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return True


def test_outbox_keeps_the_order_of_bytes_and_files(
    tmp_path: Path, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Against the plain concatenation, for random mixtures."""
    generator = random.Random(choose_seed())
    names = itertools.count()
    for _ in range(30):
        outbox = Outbox()
        expected = bytearray()
        files = []
        for _ in range(generator.randrange(1, 12)):
            size = generator.choice((1, 10, 1000, 70_000, 300_000))
            data = generator.randbytes(size)
            if generator.random() < 0.3:
                file = SentFile(tmp_path / str(next(names)), b"before" + data + b"after")
                files.append(file)
                outbox.put_file(file.make_part(6, size))
            else:
                outbox.put(data)
            expected += data
        assert drain(outbox, *sockets) == expected
        assert outbox.bytes_waiting == 0
        assert not outbox
        assert outbox.sent_bytes == len(expected)
        assert all(file.closed for file in files)


def test_outbox_counts_what_waits_in_memory(
    tmp_path: Path, sockets: tuple[socket.socket, socket.socket]
) -> None:
    outbox = Outbox()
    outbox.put(b"x" * 1000)
    file = SentFile(tmp_path / "file", b"y" * 5000)
    outbox.put_file(file.make_part(0, 5000))
    assert outbox.bytes_waiting == 1000, "a file needs no memory"
    assert drain(outbox, *sockets) == b"x" * 1000 + b"y" * 5000


@pytest.mark.parametrize("sizes", [[10_000_000], [10_000_000, 1], [100_000] * 100])
def test_outbox_sends_no_more_than_a_turn_at_a_time(sizes: list[int]) -> None:
    """A reader that is faster than the disk must not keep the loop for itself."""

    class FastReader:
        taken = 0

        def send(self, data: memoryview) -> int:
            self.taken += len(data)
            return len(data)

        def sendmsg(self, parts: list[memoryview]) -> int:
            return self.send(memoryview(b"".join(parts)))

    reader: Any = FastReader()
    outbox = Outbox()
    for size in sizes:
        outbox.put(bytes(size))
    with outbox.lock:
        assert not outbox.flush(reader)
    assert 0 < reader.taken < 2_000_000


def test_outbox_sends_small_blocks_together() -> None:
    class Counter:
        def __init__(self) -> None:
            self.calls: list[int] = []

        def send(self, data: memoryview) -> int:
            self.calls.append(1)
            return len(data)

        def sendmsg(self, parts: list[memoryview]) -> int:
            self.calls.append(len(parts))
            return sum(map(len, parts))

    counter: Any = Counter()
    outbox = Outbox()
    for _ in range(60):
        outbox.put(b"block")
    with outbox.lock:
        assert outbox.flush(counter)
    assert counter.calls == [60]


def test_outbox_sends_any_number_of_small_blocks(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """The system takes 1024 of them at a time, and refuses more."""
    outbox = Outbox()
    for _ in range(3000):
        outbox.put(b"x")
    assert drain(outbox, *sockets) == b"x" * 3000


def test_outbox_of_a_broken_connection_raises_and_keeps_its_books(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    theirs.close()
    outbox = Outbox()
    outbox.put(b"x" * 1000)
    with outbox.lock, pytest.raises(OSError):
        outbox.flush(ours)
    with outbox.lock:
        outbox.discard()
    assert outbox.bytes_waiting == 0
    assert outbox.has_room
    assert not outbox


def test_a_file_that_became_shorter_breaks_the_connection(
    tmp_path: Path, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """Its length was announced: anything else would be taken for the file's content."""
    ours, theirs = sockets
    file = SentFile(tmp_path / "file", b"y" * 100)
    outbox = Outbox()
    outbox.put_file(file.make_part(0, 200))
    with outbox.lock, pytest.raises(OSError, match="shorter"):
        outbox.flush(ours)
    with outbox.lock:
        outbox.discard()
    assert file.closed
    assert read_all(theirs) == b"y" * 100


def test_discard_closes_every_file_once(tmp_path: Path) -> None:
    outbox = Outbox()
    files = [SentFile(tmp_path / str(number), b"z") for number in range(3)]
    for file in files:
        outbox.put_file(file.make_part(0, 1))
        outbox.put(b"between")
    with outbox.lock:
        outbox.discard()
        outbox.discard()
    assert all(file.closed for file in files)
    assert outbox.bytes_waiting == 0


def test_room_is_between_the_watermarks() -> None:
    """A thread that was stopped is not let go for every few bytes that the client takes."""
    assert 2 * LOW_WATERMARK_BYTES <= HIGH_WATERMARK_BYTES
    outbox = Outbox()
    outbox.put(bytes(LOW_WATERMARK_BYTES))
    assert outbox.has_room
    outbox.put(b"x")
    assert not outbox.has_room


@pytest.mark.parametrize("way", ["readmitted", "readmitted before it waits"])
def test_a_throttled_thread_waits_until_it_is_readmitted(way: str) -> None:
    outbox = Outbox()
    went_on = threading.Event()
    announced = threading.Event()

    def run() -> None:
        with outbox.lock:
            outbox.throttled = True
            announced.set()
            outbox.wait_for_room()
        went_on.set()

    thread = threading.Thread(target=run)
    if way == "readmitted before it waits":
        outbox.lock.acquire()
        thread.start()
        outbox.lock.release()
        announced.wait(10)
    else:
        thread.start()
        announced.wait(10)
        # With the lock, and throttled: it has begun to wait, since that lets go of the lock.
        with outbox.lock:
            assert outbox.throttled
        assert not went_on.is_set()
    outbox.readmit()
    assert went_on.wait(10)
    thread.join(10)
    assert not outbox.throttled


def test_no_room_appears_by_itself(sockets: tuple[socket.socket, socket.socket]) -> None:
    """Only the leader readmits: it has to count who runs."""
    outbox = Outbox()
    went_on = threading.Event()

    def run() -> None:
        with outbox.lock:
            outbox.put(bytes(HIGH_WATERMARK_BYTES + 1))
            outbox.throttled = True
            outbox.wait_for_room()
        went_on.set()

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: outbox.throttled)
    with outbox.lock:
        outbox.discard()
        outbox._room.notify_all()  # as a system may, for no reason
    assert outbox.has_room
    assert not went_on.wait(0.05)
    outbox.readmit()
    assert went_on.wait(10)
    thread.join(10)


def test_send_file_without_sendfile(
    tmp_path: Path,
    sockets: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What systems without sendfile do."""
    monkeypatch.delattr(os, "sendfile", raising=False)
    content = os.urandom(400_000)
    file = SentFile(tmp_path / "file", content)
    outbox = Outbox()
    outbox.put_file(file.make_part(1000, 300_000))
    assert drain(outbox, *sockets) == content[1000:301_000]
    assert file.closed


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="there is no sendfile here")
@pytest.mark.parametrize(("number", "is_sent"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_file_systems_without_sendfile(
    tmp_path: Path,
    sockets: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    is_sent: bool,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "sendfile", refuse)
    file = SentFile(tmp_path / "file", b"before" + b"y" * 1000)
    outbox = Outbox()
    outbox.put_file(file.make_part(6, 1000))
    if is_sent:
        assert drain(outbox, *sockets) == b"y" * 1000
    else:
        with outbox.lock, pytest.raises(OSError, match="refused"):
            outbox.flush(sockets[0])
        assert not file.closed, "it is still there to be discarded"
        outbox.discard()
    assert file.closed
