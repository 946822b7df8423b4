"""The loop's side of content that is handed over as it comes: when it reads, and whom it wakes.

The thread that reads and the leader are played by one thread, one after the other.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest

from rawsgi.net.client import upload as upload_module
from rawsgi.net.client.buffers import HIGH_WATERMARK_BYTES, LOW_WATERMARK_BYTES
from rawsgi.net.client.connection import READ, WRITE
from rawsgi.net.client.upload import Upload
from rawsgi.protocol.message import ClientDisconnected, ProtocolError
from tests.played_connection import Client

READ_BYTES = upload_module._RECEIVE_BYTES
READS_IN_A_ROW = upload_module._READS_IN_A_ROW
REST_S = upload_module._REST_S
LENGTH = 10_000_000


class Uploading(Client):
    """A client that sends content, and a thread that reads it."""

    def __init__(self, length: int | None = LENGTH, more: str = "", **settings: Any) -> None:
        """No length: in chunks."""
        framing = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
        super().__init__(f"POST / HTTP/1.1\r\n{framing}{more}", **settings)
        upload = self.connection.upload
        assert upload is not None
        self.upload: Upload = upload
        self.inbox = upload.inbox
        self.parking = self.loop.parking

    @property
    def is_read(self) -> bool:
        return bool(self.loop.poller.mask & READ)

    def starve(self) -> None:
        """The thread waits to be readmitted."""
        self.inbox.starved = True

    def read(self, count: int) -> None:
        """The thread reads so much."""
        while count:
            count -= len(self.inbox.get(count))


def fill(client: Uploading) -> None:
    """Send more than may wait."""
    while client.is_read:
        client.send(bytes(READ_BYTES))
    assert client.inbox.bytes_waiting > HIGH_WATERMARK_BYTES


# -- When the socket is read -----------------------------------------------------------------------


def test_reading_stops_above_the_high_watermark_and_goes_on_at_the_low_one() -> None:
    client = Uploading()
    assert client.is_read
    fill(client)
    reads = client.socket.reads
    client.connection.on_event(READ | WRITE)
    assert client.socket.reads == reads, "whatever is reported"
    client.read(client.inbox.bytes_waiting - LOW_WATERMARK_BYTES - 1)
    assert client.loop.run_posts() == 0
    client.read(1)
    assert client.loop.run_posts() == 1
    assert client.is_read
    client.read(LOW_WATERMARK_BYTES)
    assert client.loop.run_posts() == 0, "it was told once"


def test_reading_stops_at_once_when_there_is_no_room() -> None:
    client = Uploading()
    client.send(*[bytes(READ_BYTES)] * READS_IN_A_ROW)
    assert client.inbox.bytes_waiting == HIGH_WATERMARK_BYTES + READ_BYTES
    assert not client.is_read


def test_what_is_less_than_was_asked_for_was_all() -> None:
    client = Uploading()
    reads = client.socket.reads
    client.send(b"content")
    assert client.socket.reads == reads + 1
    assert client.is_read


def test_one_upload_does_not_hold_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_module, "_RECEIVE_BYTES", 100)
    client = Uploading()
    client.send(*[bytes(100)] * 10)
    assert client.inbox.received_bytes == 100 * READS_IN_A_ROW
    client.connection.on_event(READ)
    assert client.inbox.received_bytes == 200 * READS_IN_A_ROW


def test_the_complete_content_is_read_and_no_more() -> None:
    client = Uploading(7)
    reads = client.socket.reads
    client.send(b"content")
    assert client.socket.reads == reads + 1
    assert not client.is_read
    client.read(7)
    assert client.inbox.get(1) == b""
    assert client.inbox.error is None
    client.upload._resume()  # the thread's word that there is room, come late
    assert not client.is_read
    client.loop.pass_time(3600.0)
    assert client.inbox.error is None


def test_content_that_is_a_whole_number_of_reads_is_complete() -> None:
    client = Uploading(READ_BYTES)
    client.send(bytes(READ_BYTES))
    assert not client.is_read
    client.read(READ_BYTES)
    assert client.inbox.get(1) == b""


def test_a_response_that_waits_for_its_client_is_watched_all_the_same() -> None:
    client = Uploading()
    client.connection.arm(WRITE)
    assert client.loop.poller.mask == READ | WRITE
    fill(client)
    assert client.loop.poller.mask == WRITE
    client.read(client.inbox.bytes_waiting)
    client.loop.run_posts()
    assert client.loop.poller.mask == READ | WRITE


# -- Content that is asked for ---------------------------------------------------------------------


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_content_that_is_held_back_is_asked_for_when_the_application_wants_it() -> None:
    client = Uploading(7, "\r\nExpect: 100-continue")
    client.socket.room = 1000
    assert not client.is_read
    assert client.socket.sent == b""
    client.upload._invite()
    assert client.socket.sent == CONTINUE
    assert client.loop.run_posts() == 1
    assert client.is_read
    client.send(b"content")
    assert bytes(client.inbox.get(7)) == b"content"


def test_no_100_comes_after_the_response_has_begun() -> None:
    client = Uploading(7, "\r\nExpect: 100-continue")
    client.socket.room = 1000
    client.exchange.head_sent = True
    client.upload._invite()
    assert client.socket.sent == b""
    client.loop.run_posts()
    assert client.is_read, "the client may send all the same"


def test_a_client_that_cannot_be_asked_has_gone() -> None:
    client = Uploading(7, "\r\nExpect: 100-continue")
    client.socket.failure = OSError(errno.EPIPE, "gone")
    client.upload._invite()
    assert client.loop.run_posts() == 1
    assert client.connection.broken
    assert isinstance(client.inbox.error, ClientDisconnected)
    assert not client.is_read


# -- The thread that waits -------------------------------------------------------------------------


def test_a_thread_that_waits_makes_way() -> None:
    client = Uploading()
    assert client.upload._on_wait(), "nobody needs its place: the next packet may be on its way"
    client.loop.crew.is_pressed = True
    assert not client.upload._on_wait()
    assert client.parking.ways_given == 2


def test_a_thread_that_waits_for_content_announces_it() -> None:
    client = Uploading()
    client.loop.crew.is_pressed = True
    seen = []

    def end(exchange: Any) -> None:
        seen.append((exchange, client.inbox.starved))
        client.inbox._ended = True  # as `finish` does, which needs the lock

    client.parking.on_announce = end
    assert client.inbox.get(1) == b""
    assert seen == [(client.exchange, True)]


@pytest.mark.parametrize("sent", [[b"x"], [b"x" * READ_BYTES] * 3], ids=["little", "full"])
def test_a_thread_that_waits_is_readmitted_when_content_comes(sent: list[bytes]) -> None:
    client = Uploading()
    client.starve()
    client.send(*sent)
    assert client.parking.readmitted == [client.exchange]


def test_a_thread_that_waits_is_readmitted_at_the_end_of_the_content() -> None:
    client = Uploading(7)
    client.parking.count = 100
    client.starve()
    client.send(b"cont")
    client.starve()
    client.send(b"ent")
    assert client.parking.readmitted == [client.exchange] * 2
    client.read(7)
    assert client.inbox.get(1) == b""


@pytest.mark.parametrize("way", ["its client left", "it was reset", "it is too late"])
def test_a_thread_that_waits_is_readmitted_when_nothing_will_come(way: str) -> None:
    client = Uploading(content_timeout_s=5.0)
    client.starve()
    if way == "its client left":
        client.send(b"")
    elif way == "it was reset":
        client.socket.incoming.append(OSError(errno.ECONNRESET, "reset"))
        client.connection.on_event(READ)
    else:
        client.loop.pass_time(5.0)
    assert client.parking.readmitted == [client.exchange]
    assert client.inbox.error is not None
    assert client.inbox.get(1) == b""
    assert not client.is_read
    assert client.connection.broken == (way == "it was reset")


def test_a_thread_among_many_is_not_woken_for_each_byte() -> None:
    client = Uploading(content_timeout_s=1000.0)
    client.parking.count = 100
    client.starve()
    client.send(b"1")
    assert len(client.parking.readmitted) == 1
    client.read(1)
    client.starve()
    client.loop.pass_time(90 * REST_S)
    client.send(b"2")
    assert len(client.parking.readmitted) == 1
    client.loop.pass_time(9 * REST_S)
    assert len(client.parking.readmitted) == 1, "it rests"
    client.loop.now = client.loop.clock.soonest
    client.loop.pass_time(0.0)
    assert len(client.parking.readmitted) == 2, "what has come is not kept from it for longer"
    client.loop.pass_time(200 * REST_S)
    client.read(1)
    client.starve()
    client.loop.pass_time(200 * REST_S)
    assert len(client.parking.readmitted) == 2, "nothing came"
    client.send(b"3")
    assert len(client.parking.readmitted) == 3


def test_a_thread_is_not_woken_for_what_is_no_content() -> None:
    client = Uploading(None, content_timeout_s=5.0)
    client.starve()
    client.send(b"5\r\n")
    assert client.parking.readmitted == []
    assert client.loop.clock.soonest == client.loop.now + 5.0, "nor does the clock look for it"
    client.send(b"block")
    assert client.parking.readmitted == [client.exchange]


def test_a_good_part_wakes_a_thread_that_rests() -> None:
    client = Uploading(content_timeout_s=1000.0)
    client.parking.count = 100
    client.starve()
    client.send(b"1")
    client.read(1)
    client.starve()
    client.send(bytes(LOW_WATERMARK_BYTES - 1))
    assert len(client.parking.readmitted) == 1
    client.send(b"x")
    assert len(client.parking.readmitted) == 2


def test_content_that_rests_does_not_end_the_wait_for_more() -> None:
    """The clock looks at one item for two reasons."""
    client = Uploading(content_timeout_s=5.0)
    client.parking.count = 100
    client.starve()
    client.send(b"1")
    client.read(1)
    client.starve()
    client.send(b"2")
    client.loop.pass_time(4.0)
    assert len(client.parking.readmitted) == 2
    assert client.inbox.error is None
    client.loop.pass_time(1.0)
    assert isinstance(client.inbox.error, ProtocolError)


# -- Deadlines -------------------------------------------------------------------------------------


def test_content_may_pause_for_a_while() -> None:
    client = Uploading(content_timeout_s=5.0, content_rate_bytes=0)
    for _ in range(5):
        client.loop.pass_time(4.9)
        client.send(b"x")
    client.loop.pass_time(4.9)
    assert client.inbox.error is None
    client.loop.pass_time(0.1)
    assert isinstance(client.inbox.error, ProtocolError)
    assert client.inbox.error.status == 408


def test_content_has_to_come_at_a_rate() -> None:
    client = Uploading(content_timeout_s=5.0, content_rate_bytes=10)
    for _ in range(8):
        client.loop.pass_time(1.0)
        client.send(b"x" * 5)
    client.loop.pass_time(0.9)
    assert client.inbox.error is None, "5 s, and 40 bytes at 10 a second"
    client.loop.pass_time(0.1)
    assert isinstance(client.inbox.error, ProtocolError)


def test_more_than_the_rate_does_not_allow_a_long_pause() -> None:
    client = Uploading(content_timeout_s=5.0, content_rate_bytes=10)
    client.send(bytes(10_000))
    client.loop.pass_time(5.0)
    assert isinstance(client.inbox.error, ProtocolError)


def test_it_is_the_client_that_has_to_hurry_and_not_the_application() -> None:
    client = Uploading(content_timeout_s=5.0, content_rate_bytes=READ_BYTES * 10)
    client.loop.pass_time(2.0)
    fill(client)
    assert client.inbox.received_bytes == 3 * READ_BYTES
    client.loop.pass_time(3600.0)
    assert client.inbox.error is None
    client.read(client.inbox.bytes_waiting)
    client.loop.run_posts()
    client.loop.pass_time(3.2)
    assert client.inbox.error is None, "the hour does not count"
    client.loop.pass_time(0.2)
    assert isinstance(client.inbox.error, ProtocolError), "the 2 s before it do"


def test_who_is_not_asked_yet_need_not_hurry() -> None:
    client = Uploading(7, "\r\nExpect: 100-continue", content_timeout_s=5.0)
    client.socket.room = 1000
    client.loop.pass_time(3600.0)
    assert client.inbox.error is None
    client.upload._invite()
    client.loop.run_posts()
    client.loop.pass_time(4.9)
    assert client.inbox.error is None
    client.loop.pass_time(0.1)
    assert isinstance(client.inbox.error, ProtocolError)


# -- The end of the response -----------------------------------------------------------------------


def test_nothing_is_read_after_the_response() -> None:
    client = Uploading(content_timeout_s=5.0)
    client.send(b"unread")
    client.upload.end()
    assert client.connection.upload is None
    assert not client.is_read
    assert client.inbox.bytes_waiting == 0
    assert client.inbox.get(1) == b""
    assert isinstance(client.inbox.error, ClientDisconnected)
    client.connection.arm(READ)  # for the next request
    client.upload._resume()  # the thread's word that there is room, come late
    client.loop.pass_time(3600.0)
    assert client.is_read, "no deadline is left"


@pytest.mark.parametrize("blocks", [[b"con"], [b"con", b"tent"]])
def test_content_that_came_with_the_head_is_the_first(blocks: list[bytes]) -> None:
    """And a client that sends it need not be asked for more."""
    head = "POST / HTTP/1.1\r\nContent-Length: 7\r\nExpect: 100-continue"
    client = Client(head, blocks[0])
    inbox = client.exchange.content
    client.send(*blocks[1:])
    assert client.loop.poller.mask & READ or blocks[1:]
    assert b"".join(bytes(inbox.get(100)) for _ in blocks) == b"".join(blocks)
    assert client.socket.sent == b""
