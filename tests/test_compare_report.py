"""The result as a person or a program reads it; what servers sent must not break any of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser

import pytest

from rawsgi.compare.judgement.answer import normalise_transcript
from rawsgi.compare.judgement.comparison import Column, Comparison, Row
from rawsgi.compare.judgement.difference import compare_answers
from rawsgi.compare.judgement.verdict import judge_answer
from rawsgi.compare.replay.client import replay_exchange
from rawsgi.compare.replay.transcript import Transcript
from rawsgi.compare.report.document import (
    BEGIN_MARK,
    END_MARK,
    make_document,
    render_markdown,
    replace_marked,
)
from rawsgi.compare.report.page import render_page
from rawsgi.compare.report.table import Style, render_table
from rawsgi.compare.report.transcript import Line, pair_lines, render_transcripts, show_bytes
from tests.compare_fakes import QUICK, ask, expect, fake, say

DATE = "2026-11-21T00:00:00+00:00"
EVIL = "</script></pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[31m\x00\u202e"
EVIL_BYTES = EVIL.encode("utf-8")
ANSWER = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello"
EVIL_ANSWER = (
    b"HTTP/1.1 200 <script>alert(3)</script>\r\nX-<b>: " + b"</pre><script>alert(4)</script>\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(EVIL_BYTES), EVIL_BYTES)
)
IDS = (
    "conformance/host/one",
    "conformance/host/another-with-a-name-that-is-very-long-indeed-and-goes-on-and-on-for-ever",
    "wsgi/errors/two",
    "yours/three",
)


@cache
def receive(answer: bytes) -> Transcript:
    """Let the client ask a fake that answers so."""
    with fake(say(answer, then=None)) as server:
        return replay_exchange(ask(), server.address, QUICK)


def make(evil: bool = True, others: int = 1) -> Comparison:
    """Make a comparison by asking two fakes; the second one is evil, or like the first."""
    names = ["rawsgi", *(f"a-server-with-a-long-name-{n}" for n in range(others))]
    comparison = Comparison("hello:app", [Column(name, "1.2.3", ()) for name in names])
    transcripts = [receive(ANSWER), receive(EVIL_ANSWER if evil else ANSWER)]
    for id_ in IDS:
        title = EVIL if evil else "A title"
        exchange = ask(id_=id_, security=True, title=title, expected=expect((200,), reason="OK"))
        row = Row(exchange)
        for name in names:
            transcript = transcripts[name != "rawsgi"]
            row.transcripts[name] = transcript
            row.answers[name] = normalise_transcript(transcript, transcript.port, exchange.part)
            row.verdicts[name] = judge_answer(exchange, row.answers[name], ours=name == "rawsgi")
        for name in names[1:]:
            row.differences[name] = compare_answers(row.answers["rawsgi"], row.answers[name])
        comparison.rows.append(row)
    comparison.notes.append(f"a server died: {EVIL}" if evil else "a note")
    return comparison


class PageReader(HTMLParser):
    """Checks that elements are nested and closed, and gathers what a test asks for."""

    VOID = {"meta", "input", "br", "link", "img"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> in {self.stack}"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read_page(comparison: Comparison) -> PageReader:
    reader = PageReader()
    reader.feed(render_page(comparison, DATE))
    reader.close()
    assert reader.stack == []
    return reader


# -- The page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("evil", [True, False])
def test_page_is_well_formed_and_refers_to_nothing_outside(evil: bool) -> None:
    reader = read_page(make(evil))
    names = [tag for tag, _ in reader.tags]
    assert names.count("script") == names.count("style") == 1
    assert not {"img", "link", "iframe", "object", "b", "form"} & set(names)
    for _, attributes in reader.tags:
        assert not {"src", "href", "action", "srcdoc", "background"} & set(attributes)
        assert not [key for key in attributes if key.startswith("on")]
    policy = next(values for tag, values in reader.tags if "http-equiv" in values)["content"]
    assert policy is not None and policy.startswith("default-src 'none'")
    page = render_page(make(evil), DATE)
    assert not re.search(r"https?://|//[a-z]|url\(|@import", page.replace("// Of the page", ""))


def test_page_shows_bytes_and_no_bytes_act() -> None:
    page = render_page(make(), DATE)
    assert "<script>alert" not in page and "onerror=alert(2)>" not in page
    assert "\x1b" not in page and "\x00" not in page
    text = "".join(read_page(make()).texts)
    assert "</pre><script>alert(4)</script>\\r\\n" in text


def test_page_has_summary_first_then_filters_then_exchanges() -> None:
    page = render_page(make(), DATE)
    places = [page.index(text) for text in ('class="lead"', "<h2>Verdict", 'id="find"', "<details")]
    assert places == sorted(places)
    reader = read_page(make())
    cases = [values for tag, values in reader.tags if values.get("class") == "case"]
    assert [values["data-corpus"] for values in cases] == [
        "conformance", "conformance", "wsgi", "yours",
    ]  # fmt: skip
    assert all(values["data-servers"] == "a-server-with-a-long-name-0" for values in cases)
    assert cases[0]["data-kinds"] == "differs own security wrong"


def test_page_marks_bytes_that_differ() -> None:
    assert "<mark>" in render_page(make(), DATE)
    assert "<mark>" not in render_page(make(evil=False), DATE)


def test_page_of_servers_that_are_alike_says_so() -> None:
    assert "Nothing differs in 4 exchanges." in "".join(read_page(make(evil=False)).texts)


# -- The table ---------------------------------------------------------------------------------


def lines_of(comparison: Comparison, width: int = 80, colour: bool = False) -> list[str]:
    return list(render_table(comparison, width, Style(colour), verbose=True))


@pytest.mark.parametrize("others", [1, 2, 5, 9])
@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_line_is_wider_than_it_may_be(width: int, others: int) -> None:
    lines = lines_of(make(others=others), width)
    assert max(map(len, lines)) <= width
    heads = "\n".join(lines)
    for number in range(others):
        assert f"name-{number}" in heads.replace("~", f"name-{number}")


def test_plain_table_has_no_escape_sequences() -> None:
    assert not any("\x1b" in line for line in lines_of(make(evil=False)))
    coloured = lines_of(make(evil=False), colour=True)
    stripped = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured]
    assert stripped == lines_of(make(evil=False))
    assert coloured != stripped


def test_bytes_of_a_server_cannot_drive_the_terminal() -> None:
    comparison = make()
    shown = [*lines_of(comparison)]
    for row in comparison.rows:
        shown += render_transcripts(comparison, row, 80, Style(False))
    for line in shown:
        assert line.isprintable(), repr(line)


def test_verbose_table_shows_what_went_to_the_users_application() -> None:
    text = "\n".join(lines_of(make(evil=False)))
    assert "Your application, answered alike" in text
    assert "yours/three" in text


def test_ids_that_are_shown_can_be_given_to_diff() -> None:
    text = "\n".join(lines_of(make(), 132))
    for id_ in IDS:
        assert id_.rpartition("/")[2] in text


# -- Transcripts -------------------------------------------------------------------------------


def test_every_byte_is_visible_and_can_be_told_from_others() -> None:
    shown = [show_bytes(bytes([code])) for code in range(256)]
    assert len(set(shown)) == 256
    assert all(text.isascii() and text.isprintable() for text in shown)


def test_transcripts_stand_side_by_side() -> None:
    comparison = make()
    lines = list(render_transcripts(comparison, comparison.rows[0], 80, Style(False)))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "GET / HTTP/1.1\\r\\n" in text and "hello" in text
    assert any("HTTP/1.1 200 OK\\r\\n" in line and " | " in line for line in lines)
    assert any(set(line.strip()) <= {"^", " "} for line in lines if line.strip())


def test_lines_are_paired_by_their_beginning() -> None:
    def lines(*texts: str) -> Iterator[Line]:
        return (Line(0, text) for text in texts)

    left = list(lines("HTTP/1.1 200 OK", "A: 1", "B: 2"))
    right = list(lines("HTTP/1.1 200 OK", "B: 3", "C: 4"))
    pairs = [
        (mine and mine.text, theirs and theirs.text, same)
        for mine, theirs, same in pair_lines(left, right)
    ]
    assert pairs == [
        ("HTTP/1.1 200 OK", "HTTP/1.1 200 OK", True),
        ("A: 1", None, False),
        ("B: 2", "B: 3", False),
        (None, "C: 4", False),
    ]


# -- For programs ------------------------------------------------------------------------------


def test_json_says_it_all() -> None:
    document = json.loads(json.dumps(make_document(make(), DATE)))
    assert document["rawsgi_compare"] == 1
    assert (document["same"], document["reference"]) == (False, "rawsgi")
    assert [exchange["id"] for exchange in document["exchanges"]] == list(IDS)
    server = document["exchanges"][0]["servers"]["a-server-with-a-long-name-0"]
    assert server["statuses"] == [200] and server["connection"] == "closed"
    assert server["verdict"] == "wrong" and server["unstable"] is False
    assert {"aspect", "where", "reference", "other"} == set(server["differences"][0])
    assert document["servers"][0]["score"]["right"] == 3
    assert make_document(make(evil=False), DATE)["same"] is True


def test_markdown_is_put_between_its_marks() -> None:
    part = render_markdown(make(), DATE[:10], "rawsgi compare")
    assert part.startswith(BEGIN_MARK) and part.endswith(END_MARK + "\n")
    page = replace_marked(f"before\n\n{BEGIN_MARK}\nold\n{END_MARK}\nafter\n", part)
    assert page == f"before\n\n{part}after\n"
    assert replace_marked(page, part) == page
    assert replace_marked("", part) == part
    rows = [line for line in part.splitlines() if line.startswith("|")]
    assert rows and not any("<script" in line for line in rows)
