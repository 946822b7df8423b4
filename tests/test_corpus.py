"""Every exchange of the corpus against rawsgi, however its bytes arrive.

First without sockets, where the answer must be the same to the byte for every way of cutting the
request; then against a running server, with each poller.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rawsgi.compare.exchanges import Exchange, Expectation, Step, load_corpus
from rawsgi.compare.exchanges.outline import outline_requests
from rawsgi.compare.judgement.answer import normalise_transcript
from rawsgi.compare.judgement.verdict import find_faults
from rawsgi.compare.probe import app
from rawsgi.compare.replay.client import FOLLOW_UP, FOLLOW_UP_MARK
from rawsgi.compare.replay.replayer import Replayer
from rawsgi.compare.replay.responses import ResponseReader
from rawsgi.compare.replay.transcript import Transcript
from rawsgi.protocol.message import RELAXATIONS, Limits
from tests.conversation import LINE, Conversation, choose_seed, cut_at_random, cut_in_every_way
from tests.serving import Server, serve

CORPUS = load_corpus()
EXAMPLE = next(exchange for exchange in CORPUS if exchange.id == "conformance/request-line/get")
# What a few exchanges send is too much for one call a byte.
BYTEWISE_LIMIT_BYTES = 200_000


def expectations(exchange: Exchange) -> list[tuple[tuple[str, ...], Expectation]]:
    """Return what rawsgi must answer, by the relaxations that it runs with."""
    found: list[tuple[tuple[str, ...], Expectation]] = [((), exchange.expect)]
    if exchange.allow is not None and exchange.allow_expect is not None:
        found.append(((exchange.allow,), exchange.allow_expect))
    return found


# -- Without sockets ---------------------------------------------------------------------------


class Play:
    """One exchange played to the end, and what the client received on each connection."""

    def __init__(
        self, allow: tuple[str, ...], steps: Sequence[Step], cut: list[list[bytes]]
    ) -> None:
        self.outputs: list[bytes] = []
        self.talk = Conversation(app, Limits(), *allow)
        pieces = iter(cut)
        for step in steps:
            if step.kind == "send":
                for piece in next(pieces):
                    self.talk.feed(piece)
            elif step.kind == "half-close":
                self.talk.end()
            elif step.kind == "reconnect":
                self.outputs.append(bytes(self.talk.output))
                self.talk = Conversation(app, Limits(), *allow)
        self.outputs.append(bytes(self.talk.output))

    @property
    def result(self) -> tuple[list[bytes], bool, bool, list[str]]:
        """What must be the same however the bytes arrived."""
        return self.outputs, self.talk.closed, self.talk.idle, list(map(str, self.talk.refusals))


def read_answer(exchange: Exchange, play: Play) -> Transcript:
    """Read what came back with the reader of `compare`, which shares nothing with the protocol."""
    transcript = Transcript(ending="closed" if play.talk.closed else "waits")
    for output in play.outputs:
        before = len(transcript.finals())
        heads = {position - before for position in exchange.heads}
        reader = ResponseReader(heads.__contains__)
        reader.feed(output)
        reader.end()
        transcript.responses += reader.responses
        if reader.garbage is not None:
            transcript.garbage = output[reader.garbage :]
    if play.talk.idle:
        start = len(play.talk.output)
        play.talk.feed(FOLLOW_UP)
        answer = bytes(play.talk.output[start:])
        transcript.ending = "open" if FOLLOW_UP_MARK.encode() in answer else "poisoned"
    return transcript


@pytest.mark.parametrize("exchange", CORPUS, ids=lambda exchange: exchange.id)
def test_answer_is_the_expected_one_and_the_same_for_every_cut(exchange: Exchange) -> None:
    generator = random.Random(choose_seed())
    for allow, expected in expectations(exchange):
        sent = [step.data for step in exchange.steps if step.kind == "send"]
        whole = Play(allow, exchange.steps, [[data] for data in sent])
        result = whole.result
        ways = [dict(cut_in_every_way(data, generator)) for data in sent]
        for way in list(ways[0]) if ways else []:
            if way == "by byte" and len(exchange.sent()) > BYTEWISE_LIMIT_BYTES:
                continue
            cut = Play(allow, exchange.steps, [cuts[way] for cuts in ways])
            assert cut.result == result, (way, allow)
        answer = normalise_transcript(read_answer(exchange, whole), 8000, exchange.part)
        assert list(find_faults(expected, answer)) == [], allow
        assert answer.faults == (), allow


@pytest.mark.parametrize("exchange", CORPUS, ids=lambda exchange: exchange.id)
def test_request_glued_on_changes_nothing_before_it(exchange: Exchange) -> None:
    if any(step.kind == "half-close" for step in exchange.steps):
        return  # nothing can follow
    generator = random.Random(choose_seed())
    for allow, _ in expectations(exchange):
        sent = [step.data for step in exchange.steps if step.kind == "send"]
        alone = Play(allow, exchange.steps, [[data] for data in sent])
        if not alone.talk.closed and not alone.talk.idle:
            return  # it would be part of the request that is not complete
        follow_up = b"" if alone.talk.closed else bytes(answer_follow_up())
        glued = sent[-1] + FOLLOW_UP
        for pieces in ([glued], LINE.findall(glued), cut_at_random(glued, generator)):
            play = Play(allow, exchange.steps, [*([data] for data in sent[:-1]), pieces])
            assert play.outputs[-1] == alone.outputs[-1] + follow_up
            assert play.talk.closed


def answer_follow_up() -> bytearray:
    talk = Conversation(app, Limits())
    talk.feed(FOLLOW_UP)
    return talk.output


# -- Over sockets ------------------------------------------------------------------------------


class Running:
    """A running server, as `Replayer` asks for one."""

    name = "rawsgi"

    def __init__(self, server: Server) -> None:
        self._server = server
        self.address = server.host, server.port

    def is_alive(self) -> bool:
        return self._server.process.poll() is None

    def restart(self) -> None:
        """Wanted, too, after two late answers of a server on a busy machine: it goes on."""
        assert self.is_alive(), "the server has ended"


def send_whole(exchange: Exchange) -> Exchange:
    return exchange


def send_by_byte(exchange: Exchange) -> Exchange:
    """Return the exchange with every byte sent by itself; of long ones, those at the ends."""
    steps: list[Step] = []
    for step in exchange.steps:
        if step.kind != "send":
            steps.append(step)
            continue
        data = step.data
        places = list(range(len(data)))
        if len(data) > 3000:
            places = [*range(1000), *range(1000, len(data) - 1000, 16000)]
            places += range(len(data) - 1000, len(data))
        ends = [*places[1:], len(data)]
        steps += [
            Step("send", data=data[start:end]) for start, end in zip(places, ends, strict=True)
        ]
    return replace(exchange, steps=tuple(steps))


def send_after_another(exchange: Exchange) -> Exchange:
    """Return the exchange on a connection that has carried a request: the server knows it."""
    first = b"GET /first HTTP/1.1\r\nHost: a.example\r\n\r\n"
    steps = (Step("send", data=first), Step("await", awaited="response"), *exchange.steps)
    return replace(
        exchange,
        steps=steps,
        heads=frozenset(position + 1 for position in exchange.heads),
        expect=replace(exchange.expect, responses=((200,), *exchange.expect.responses)),
        rfc_expect=None,
    )


def under_relaxation(exchange: Exchange) -> Exchange:
    """Return the exchange as it is to be answered under the relaxation that it names."""
    assert exchange.allow_expect is not None
    return replace(exchange, expect=exchange.allow_expect)


def find_all_faults(exchanges: Sequence[Exchange], *flags: str) -> dict[str, list[str]]:
    """Play the exchanges against a server of its own; return what is wrong, by exchange."""
    with serve("rawsgi.compare.probe:app", "--log-level", "critical", *flags) as server:
        replayer = Replayer(Running(server), True, 10.0, threading.Event())  # type: ignore[arg-type]
        transcripts = replayer.replay(exchanges)
        faults = {}
        for exchange in exchanges:
            answer = normalise_transcript(transcripts[exchange.id], server.port, exchange.part)
            faults[exchange.id] = [*find_faults(exchange.expect, answer), *answer.faults]
        return {id_: found for id_, found in faults.items() if found}


@pytest.mark.parametrize("poller", ["epoll", "portable"])
@pytest.mark.parametrize("send", [send_whole, send_by_byte, send_after_another])
def test_running_server_answers_as_expected(
    poller: str, send: Callable[[Exchange], Exchange]
) -> None:
    assert find_all_faults([send(exchange) for exchange in CORPUS], "--poller", poller) == {}


@pytest.mark.parametrize("allow", RELAXATIONS)
def test_running_server_answers_as_expected_under_relaxation(allow: str) -> None:
    exchanges = [under_relaxation(exchange) for exchange in CORPUS if exchange.allow == allow]
    assert exchanges
    assert find_all_faults(exchanges, "--allow", allow) == {}


@pytest.mark.parametrize("poller", ["epoll", "portable"])
def test_pipelined_requests_are_answered_although_the_client_half_closed(poller: str) -> None:
    """The end of the input is known to the server before it has come to the last request."""
    request = b"GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n"
    exchange = Exchange(
        id="conformance/made/half-close-after-many",
        title="Many requests, then the end of the input",
        rfc="RFC 9112 section 9.6",
        demand="What was complete is answered.",
        level="MUST",
        security=False,
        steps=(
            Step("send", data=request % 0),
            Step("await", awaited="response"),
            Step("send", data=b"".join(request % number for number in range(1, 200))),
            Step("half-close"),
        ),
        heads=frozenset(),
        expect=replace(
            EXAMPLE.expect,
            responses=((200,),) * 200,
            connection="closed",
            environ={"PATH_INFO": ("/199",)},
        ),
        rfc_expect=None,
        allow=None,
        allow_expect=None,
    )
    assert find_all_faults([exchange], "--poller", poller) == {}


def test_corpus_reaches_what_it_is_for() -> None:
    """The driver above must not pass by playing nothing."""
    assert len(CORPUS) >= 250
    sent = [exchange.sent() for exchange in CORPUS]
    assert sum(len(outline_requests(data).requests) > 1 for data in sent) > 20
    assert sum(exchange.security for exchange in CORPUS) > 50
    assert {allow for exchange in CORPUS for allow, _ in expectations(exchange)} == {
        (), ("bare-lf",), ("missing-host",), ("obs-fold",), ("underscores",),
    }  # fmt: skip
