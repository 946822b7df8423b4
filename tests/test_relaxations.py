"""`--allow NAME`: off unless named, told when needed, and in the corpus in both settings.

The answers themselves are the corpus's (`tests/test_corpus.py` replays it under each relaxation);
here is what surrounds them.
"""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rawsgi import config
from rawsgi.compare.exchanges import RELAXATIONS as CORPUS_RELAXATIONS
from rawsgi.compare.exchanges import Exchange, load_corpus
from rawsgi.config import Settings, SettingsError
from rawsgi.logs import log
from rawsgi.protocol.http1 import COMPLETE
from rawsgi.protocol.message import RELAXATIONS, ProtocolError
from rawsgi.wire.relaxations import RelaxationLog
from tests.conversation import make_connection
from tests.serving import ROOT, Server, serve, wait_until

INFO = str(ROOT / "examples/info.py")
EXCHANGES = [exchange for exchange in load_corpus() if exchange.allow]

NEEDS = {
    "bare-lf": b"GET /info?a HTTP/1.1\nHost: a\n\n",
    "missing-host": b"GET /info?a HTTP/1.1\r\n\r\n",
    "obs-fold": b"GET /info?a HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "underscores": b"GET /info?a HTTP/1.1\r\nHost: a\r\nX_Y: z\r\n\r\n",
}
"""A request that needs each, and no other. The last is served without it as well."""


def test_one_list_of_names() -> None:
    assert config.RELAXATIONS == RELAXATIONS
    assert set(CORPUS_RELAXATIONS) == set(RELAXATIONS) == set(NEEDS)


def test_all_are_off() -> None:
    assert Settings(application="x").allow == ()


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(application="x", allow=("bare-if",))
    assert "bare-lf, missing-host, obs-fold, underscores" in str(caught.value)
    assert "did you mean bare-lf?" in str(caught.value)


# -- In the protocol ------------------------------------------------------------------------------


def receive(data: bytes, *allow: str) -> tuple[str, ...] | None:
    """What was relaxed to accept `data`; None: it was refused."""
    protocol = make_connection(None, *allow)
    try:
        request = protocol.receive(data)
        assert request is not None
        if protocol.state != COMPLETE:
            protocol.receive_content(b"")
    except ProtocolError:
        return None
    assert protocol.state == COMPLETE
    return request.relaxed


@pytest.mark.parametrize("name", NEEDS)
def test_what_was_needed_is_known(name: str) -> None:
    others = [other for other in RELAXATIONS if other != name]
    assert receive(NEEDS[name], name) == (name,)
    assert receive(NEEDS[name], *RELAXATIONS) == (name,)
    assert receive(NEEDS[name], *others) == (() if name == "underscores" else None)


@pytest.mark.parametrize("name", NEEDS)
def test_what_was_not_needed_is_not_told(name: str) -> None:
    assert receive(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", name) == ()
    assert receive(b"GET / HTTP/1.0\r\n\r\n", name) == ()


@pytest.mark.parametrize("cut", range(1, 80))
def test_it_does_not_matter_how_the_bytes_arrive(cut: int) -> None:
    data = b"POST /a HTTP/1.1\nTransfer-Encoding:\n chunked\nX_Y: z\n\n3\nabc\n0\nX: y\n\n"
    protocol = make_connection(None, *RELAXATIONS)
    request = protocol.receive(data[:cut])
    content = b""
    for byte in range(min(cut, len(data)), len(data)):
        piece = data[byte : byte + 1]
        if request is None:
            request = protocol.receive(piece)
        else:
            content += protocol.receive_content(piece)
    assert request is not None
    if protocol.state != COMPLETE:
        content += protocol.receive_content(b"")
    assert sorted(request.relaxed) == sorted(RELAXATIONS)
    assert request.fields["HTTP_X_Y"] == "z"


@pytest.mark.parametrize("name", ["Content_Length", "Transfer_Encoding"])
def test_no_underscore_decides_where_content_ends(name: str) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + name.encode() + b": 5\r\n\r\n"
    assert receive(data, "underscores") is not None


# -- In the corpus --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELAXATIONS)
def test_the_corpus_has_it_in_both_settings(name: str) -> None:
    """Some answers differ; others are there to show that they do not."""
    mine = [exchange for exchange in EXCHANGES if exchange.allow == name]
    assert any(exchange.allow_expect != exchange.expect for exchange in mine)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.id)
def test_no_other_relaxation_changes_the_answer(exchange: Exchange) -> None:
    """Each is one rule: what one of them allows, the three others together do not."""
    others = [name for name in RELAXATIONS if name != exchange.allow]
    data = exchange.sent()
    assert count_accepted(data, *others) == count_accepted(data)


def test_whatever_a_relaxation_changes_names_it() -> None:
    """So nothing is accepted under a relaxation that the corpus does not know of."""
    unnamed = {
        f"{exchange.id} under {name}"
        for exchange in load_corpus()
        for name in RELAXATIONS
        if name != exchange.allow
        and count_accepted(exchange.sent(), name) != count_accepted(exchange.sent())
    }
    assert unnamed == set()


def count_accepted(data: bytes, *allow: str) -> int:
    protocol = make_connection(None, *allow)
    count = 0
    try:
        while protocol.receive(data) is not None:
            data = b""
            if protocol.state != COMPLETE:
                protocol.receive_content(b"")
            if protocol.state != COMPLETE:
                break
            count += 1
            protocol.send_head(protocol.encode_head("200 OK", []), None, b"")
            if not protocol.finish():
                break
    except ProtocolError:
        pass
    return count


# -- In the log -----------------------------------------------------------------------------------


def test_told_once_then_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO)
    relaxations = RelaxationLog()
    request: Any = SimpleNamespace(method="GET", target="/\x1b[2J", relaxed=("bare-lf",))

    def note_often() -> None:
        for _ in range(50):
            relaxations.note(request, "::1")

    threads = [threading.Thread(target=note_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert relaxations.counts == {"bare-lf": 200}
    relaxations.close()
    assert [record.getMessage() for record in caplog.records] == [
        "GET /\\x1B[2J from ::1 needed --allow bare-lf: "
        f"{RELAXATIONS['bare-lf']} (counted from now on)",
        "10 requests needed --allow bare-lf, the last GET /\\x1B[2J from ::1",
        "100 requests needed --allow bare-lf, the last GET /\\x1B[2J from ::1",
        "200 requests needed --allow bare-lf",
    ]


def test_no_count_is_told_before_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting and telling are one step: while one is told, nobody else counts."""
    relaxations = RelaxationLog()
    request: Any = SimpleNamespace(method="GET", target="/", relaxed=("bare-lf",))
    others: list[threading.Thread] = []
    told: list[str] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            before = dict(relaxations.counts)
            if len(told) < 2:  # whoever comes now overtakes, if that is possible at all
                others.append(threading.Thread(target=relaxations.note, args=(request, "::1")))
                others[-1].start()
            told.append(record.getMessage())
            assert relaxations._lock.locked()
            assert relaxations.counts == before

    handler = Slow()
    log.addHandler(handler)
    monkeypatch.setattr(log, "disabled", False)
    try:
        for _ in range(98):
            relaxations.note(request, "::1")
        for other in others:
            other.join()
    finally:
        log.removeHandler(handler)
    assert relaxations.counts == {"bare-lf": 100}
    assert [text.split(" ")[0] for text in told] == ["GET", "10", "100"]


def get_log(server: Server) -> str:
    return server.stderr()


@pytest.mark.parametrize("name", NEEDS)
def test_a_server_tells_who_needed_it(name: str) -> None:
    with serve(INFO, "--allow", name) as server:
        for _ in range(3):
            assert b"HTTP/1.1 200" in server.exchange(NEEDS[name])
        first = f"warning: GET /info?a from 127.0.0.1 needed --allow {name}: {RELAXATIONS[name]}"
        wait_until(lambda: first in get_log(server))
        server.stop()
        text = get_log(server)
    assert text.count("needed --allow") == 2
    assert f"warning: 3 requests needed --allow {name}\n" in text


@pytest.mark.parametrize("name", NEEDS)
def test_a_strict_server_does_not_serve_it(name: str) -> None:
    with serve(INFO) as server:
        answer = server.exchange(NEEDS[name])
        assert (b" 200 " in answer) is (name == "underscores")
        assert b"X-Y" not in answer  # dropped
        assert "needed" not in get_log(server)


def test_the_transcript_names_it() -> None:
    with serve(INFO, "--allow", "bare-lf", "--wire") as server:
        server.exchange(NEEDS["bare-lf"])
        wait_until(lambda: "* times" in get_log(server))
        assert f"* relaxed by --allow bare-lf: {RELAXATIONS['bare-lf']}" in get_log(server)
        server.exchange(NEEDS["underscores"])
        wait_until(lambda: "#2.1 * times" in get_log(server))
        assert "* x_y dropped: in environ it could pass for its twin" in get_log(server)
