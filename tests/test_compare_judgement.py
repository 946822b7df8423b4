"""What counts of an answer, how two answers differ, who is right, and what was accepted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from rawsgi.compare.exchanges import load_corpus
from rawsgi.compare.judgement.accepted import (
    AcceptedError,
    apply_accepted,
    read_accepted,
    write_accepted,
)
from rawsgi.compare.judgement.answer import Answer, normalise_transcript
from rawsgi.compare.judgement.comparison import (
    GENERAL_LEAST,
    Column,
    Comparison,
    Row,
    extract_general,
    score_server,
)
from rawsgi.compare.judgement.difference import Difference, compare_answers, find_volatile
from rawsgi.compare.judgement.reasons import (
    NOT_EXPLAINED,
    explain_row,
    is_own,
    list_unexplained,
    load_reasons,
)
from rawsgi.compare.judgement.verdict import find_faults, judge_answer
from rawsgi.compare.replay.responses import ResponseReader
from rawsgi.compare.replay.transcript import Ending, Transcript
from tests.compare_fakes import ask, expect

ROOT = Path(__file__).resolve().parent.parent


def answer(
    stream: bytes, ending: Ending = "open", part: str = "conformance", port: int = 8000
) -> Answer:
    """Make the answer of a server that sent these bytes."""
    reader = ResponseReader()
    reader.feed(stream)
    reader.end()
    garbage = b"" if reader.garbage is None else stream[reader.garbage :]
    transcript = Transcript(responses=reader.responses, ending=ending, garbage=garbage)
    return normalise_transcript(transcript, port, part)


def respond(*fields: str, status: str = "200 OK", content: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(content)}", "", content]
    return "\r\n".join(lines).encode("latin-1")


def differences(one: bytes, other: bytes, *ignored: str, part: str = "yours") -> list[str]:
    found = compare_answers(answer(one, part=part), answer(other, part=part), ignored)
    return [str(difference) for difference in found]


# -- What counts -------------------------------------------------------------------------------


def test_names_of_servers_dates_and_the_order_of_fields_do_not_count() -> None:
    one = respond("Server: a", "Date: Sun, 06 Nov 1994 08:49:37 GMT", "X: 1", "Y: 2")
    other = respond("y: 2", "x: 1", "date: Mon, 07 Nov 1994 08:49:37 GMT", "SERVER: b")
    assert differences(one, other) == []


def test_order_of_allowed_methods_does_not_count() -> None:
    assert differences(respond("Allow: GET, HEAD"), respond("Allow: HEAD,GET")) == []
    assert len(differences(respond("Allow: GET, HEAD"), respond("Allow: GET"))) == 1


def test_ports_do_not_count() -> None:
    one = answer(respond("Location: http://127.0.0.1:8000/x"), port=8000, part="yours")
    other = answer(respond("Location: http://127.0.0.1:9000/x"), port=9000, part="yours")
    assert compare_answers(one, other) == []


def test_values_and_their_number_count() -> None:
    one = respond("Set-Cookie: a=1", "Set-Cookie: b=2")
    assert differences(one, respond("Set-Cookie: a=1")) == [
        "field set-cookie: 'b=2' / (absent)",
    ]
    assert differences(respond("X: 1"), respond("X: 2")) == ["field x: '1' / '2'"]


def test_content_framing_and_completeness_count() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    assert differences(respond(content="ab"), chunked) == ["framing: length / chunked"]
    assert differences(respond(content="ab"), respond(content="ac")) == ["content: 'ab' / 'ac'"]
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"
    assert "complete: whole / cut off" in differences(respond(content="ab"), cut)


def test_error_pages_of_servers_do_not_count_and_those_of_applications_do() -> None:
    one, other = (respond(status="400 Bad", content=text) for text in ("mine", "theirs"))
    assert differences(one, other, part="conformance") == []
    assert differences(one, other, part="yours") == ["content: 'mine' / 'theirs'"]


def test_reports_are_compared_key_by_key() -> None:
    one, other = (
        respond(content=f'{{"REQUEST_METHOD": "GET", "A": "{a}", "SERVER_SOFTWARE": "{a}"{more}}}')
        for a, more in (("1", ""), ("2", ', "B": "3"'))
    )
    assert differences(one, other, part="wsgi") == [
        "environ A: '1' / '2'",
        "environ B: (absent) / '3'",
    ]


def test_connection_garbage_and_interim_responses_count() -> None:
    ok = respond()
    one = answer(ok, "open")
    assert list(map(str, compare_answers(one, answer(ok, "closed")))) == [
        "connection: open / closed"
    ]
    assert "garbage: HTTP / not HTTP" in map(str, compare_answers(one, answer(ok + b"junk")))
    interim = answer(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok)
    assert "interim: none / 103" in map(str, compare_answers(one, interim))


def test_answer_of_a_server_that_died_is_that_it_died() -> None:
    for stream in (b"", respond(), respond()[:-1]):
        assert answer(stream, "crashed") == Answer((), (), "crashed", garbage=False)


@pytest.mark.parametrize("name", ["X-Time", "x-time", "field"])
def test_ignore_names_a_field_or_an_aspect(name: str) -> None:
    assert differences(respond("X-Time: 1"), respond("X-Time: 2"), name) == []


def test_long_values_stay_different_when_they_are_cut() -> None:
    one, other = (respond("X: " + "a" * 200 + end) for end in "bc")
    (text,) = differences(one, other)
    reference, _, theirs = text.removeprefix("field x: ").partition(" / ")
    assert reference != theirs and len(text) < 150


def test_what_an_application_varies_is_found() -> None:
    one, other = (answer(respond("X-Now: " + now, content=now), part="yours") for now in "12")
    assert find_volatile(one, other) == {"x-now", "content"}


# -- Who is right ------------------------------------------------------------------------------


def faults(stream: bytes, ending: Ending = "open", **expected: object) -> list[str]:
    responses = expected.pop("responses", ((200,),))
    assert isinstance(responses, tuple)
    return list(find_faults(expect(*responses, **expected), answer(stream, ending)))


def test_statuses() -> None:
    assert faults(respond()) == []
    assert faults(respond(), responses=((200, 404),)) == []
    assert faults(respond(), responses=((400,),)) == ["200, not 400"]
    assert faults(b"", "waits") == ["no response (it waits for more of the request), not 200"]
    assert faults(respond() * 2) == ["200 200, not 200"]
    assert faults(respond(), responses=((200,), (200, 0))) == []


def test_connection() -> None:
    assert faults(respond(), "closed", connection="closed") == []
    assert faults(respond(), "open", connection="closed") == [
        "the connection stays open; it must be closed"
    ]
    assert faults(respond(), "poisoned", connection="open") == [
        "the next request on the connection is taken for something else; it must stay open"
    ]
    for ending in ("crashed", "endless", "blocked", "unreachable"):
        assert len(faults(respond(), ending)) == 1


def test_early_close_is_allowed_only_where_the_server_closed() -> None:
    two = {"responses": ((200,), (200,)), "early_close": True}
    assert faults(respond(), "closed", **two) == []
    assert faults(respond(), "open", **two) == ["200, not 200, then 200"]


def test_details_speak_of_the_last_response_and_of_the_first_alternative() -> None:
    x = {"fields": MappingProxyType({"x": ("1",)})}
    assert faults(respond("X: 1"), **x) == []
    assert faults(respond("X: 2"), **x) == ["field x: ['2'], not ['1']"]
    assert faults(respond(status="400 Bad"), responses=((200, 400),), **x) == []
    # One response is missing: the one that came is not the one that is spoken of.
    early = {"responses": ((200,), (200,)), "early_close": True}
    assert faults(respond(), "closed", **early, **x) == []


def test_connection_options_are_case_insensitive() -> None:
    wanted = {"fields": MappingProxyType({"connection": ("close",)})}
    assert faults(respond("Connection: Close"), "closed", **wanted) == []
    assert faults(respond("Connection: keep-alive"), "closed", **wanted) != []


def test_a_date_that_is_wrong_is_told_without_the_date() -> None:
    wanted = {"fields": MappingProxyType({"date": ("Sun, 06 Nov 1994 08:49:37 GMT",)})}
    assert "1995" not in faults(respond("Date: Mon, 06 Nov 1995 08:49:37 GMT"), **wanted)[0]


def test_environ() -> None:
    report = respond(content='{"REQUEST_METHOD": "GET", "A": "1"}')
    assert faults(report, environ=MappingProxyType({"A": ("1", "2")})) == []
    assert faults(report, environ=MappingProxyType({"A": ("2",)})) == ["environ A: '1', not '2'"]
    assert faults(report, absent_environ=frozenset({"A"})) == ["environ A must not be there: '1'"]
    assert faults(respond(), environ=MappingProxyType({"A": ("1",)})) == [
        "the application's report is missing"
    ]


def test_our_policy_binds_nobody_else() -> None:
    exchange = ask(level="OUR", expected=expect((400,)))
    seen = answer(respond())
    assert judge_answer(exchange, seen, ours=True).policy_faults == ("200, not 400",)
    assert judge_answer(exchange, seen, ours=False).policy_faults == ()
    assert judge_answer(exchange, seen, ours=False).judgement == "open"


# -- The whole result --------------------------------------------------------------------------


def compare(
    rows: Sequence[tuple[str, bytes, bytes]], level: str = "OUR", names: str = "rawsgi other"
) -> Comparison:
    """Make a comparison of two servers by what they sent."""
    first, second = names.split()
    columns = [Column(name, "1", ()) for name in (first, second)]
    comparison = Comparison("", columns)
    for id_, one, other in rows:
        exchange = ask(id_=id_, level=level)
        row = Row(exchange)
        for name, stream in ((first, one), (second, other)):
            row.answers[name] = answer(stream, part=exchange.part)
            row.transcripts[name] = Transcript()
            row.verdicts[name] = judge_answer(exchange, row.answers[name], ours=name == "rawsgi")
        row.differences[second] = compare_answers(row.answers[first], row.answers[second])
        comparison.rows.append(row)
    comparison.general = extract_general(comparison.rows, [first, second])
    return comparison


def some_comparison() -> Comparison:
    bad = respond(status="400 Bad")
    return compare(
        [
            ("wsgi/a/one", respond(), bad),
            ("wsgi/a/two", respond("X: 1"), respond("X: 2")),
            ("wsgi/a/same", respond(), respond()),
            *((f"wsgi/b/{n}", respond(f"Y: {n}"), respond()) for n in range(GENERAL_LEAST)),
        ]
    )


def test_what_differs_in_many_exchanges_is_said_once() -> None:
    comparison = some_comparison()
    assert [row.exchange.id for row in comparison.differing_rows()] == ["wsgi/a/one", "wsgi/a/two"]
    (general,) = comparison.general["other"]
    assert general.difference == Difference("field", "y", "(present)", "(absent)")
    assert len(general.ids) == GENERAL_LEAST
    assert score_server(comparison, "other").differs == 2


def test_accepted_differences_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "accepted"
    comparison = some_comparison()
    assert not comparison.is_same()
    assert write_accepted(path, comparison) == 3
    assert "* other field y: (present) / (absent)" in path.read_text().splitlines()
    again = some_comparison()
    entries = read_accepted(path)
    apply_accepted(again, entries)
    assert again.is_same()
    assert all(entry.used for entry in entries)
    # What was accepted is written again, so that the file can be renewed.
    before = path.read_text()
    write_accepted(path, again)
    assert path.read_text() == before


def test_accepted_line_accepts_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "accepted"
    path.write_text("# a comment\n\nwsgi/a/one other *\nwsgi/a/two other field x: '1' / '3'\n")
    comparison = some_comparison()
    entries = read_accepted(path)
    apply_accepted(comparison, entries)
    assert [row.exchange.id for row in comparison.differing_rows()] == ["wsgi/a/two"]
    assert [entry.used for entry in entries] == [True, False]
    assert comparison.unaccepted_general() == 1


def test_accept_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(AcceptedError, match="No such file"):
        read_accepted(tmp_path / "none")
    (tmp_path / "bad").write_text("wsgi/a/one\n")
    with pytest.raises(AcceptedError, match="bad:1: not ID SERVER DIFFERENCE"):
        read_accepted(tmp_path / "bad")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(AcceptedError, match="not UTF-8"):
        read_accepted(tmp_path / "bytes")


# -- Reasons -----------------------------------------------------------------------------------


def test_difference_of_our_own_is_explained_demanded_or_reported() -> None:
    ok, bad = respond(), respond(status="400 Bad")
    explained = compare([("conformance/cut/in-method", bad, b"")])
    assert "told so" in explain_row(explained.rows[0], "rawsgi")
    demanded = compare([("made/up/demanded", ok, bad)], level="MUST")
    assert explain_row(demanded.rows[0], "rawsgi") == "What is demanded."
    silent = compare([("made/up/silent", ok, bad)])
    assert is_own(silent.rows[0], "rawsgi") and explain_row(silent.rows[0], "rawsgi") == ""
    assert list_unexplained(explained) == list_unexplained(demanded) == []
    assert list_unexplained(silent) == ["made/up/silent"]
    others = compare([("made/up/silent", ok, bad)], names="gunicorn other")
    assert list_unexplained(others) == []


def test_reasons_are_about_exchanges_that_exist() -> None:
    reasons = load_reasons()
    ids = [exchange.id for exchange in load_corpus()]
    used = {pattern for id_ in ids for pattern in reasons.exchanges if reasons.find(id_) in
            reasons.exchanges[pattern]}  # fmt: skip
    assert used == set(reasons.exchanges), set(reasons.exchanges) - used
    assert all(text.strip().endswith(".") for text in reasons.exchanges.values())


def test_published_comparison_has_no_difference_without_a_reason() -> None:
    page = (ROOT / "docs" / "compare.md").read_text("utf-8")
    assert NOT_EXPLAINED not in page
    for name in ("gunicorn", "waitress", "cheroot", "granian", "bjoern"):
        assert f"--with {name}" in page
