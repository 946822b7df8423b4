"""The corpus is data that other tests believe: here it is held to its own rules.

What rawsgi and other servers answer is tested elsewhere; these tests read files only.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from rawsgi.compare.exchanges import (
    CORPUS_FOLDER,
    CorpusError,
    Exchange,
    load_corpus,
    load_exchange,
    load_folder,
)
from rawsgi.compare.probe import BEHAVIOURS, app

EXCHANGES = load_corpus()
BY_ID = {exchange.id: exchange for exchange in EXCHANGES}
GROUPS = {
    f"conformance/{name}"
    for name in (
        "request-line fields host framing chunked smuggling persistence pipelining expect cut "
        "limits response"
    ).split()
} | {f"wsgi/{name}" for name in ("environ", "input", "responses", "errors")}

# Each row of the table of settled answers in the design, and exchanges that hold it.
SETTLED = {
    "bare LF in a head": "fields/bare-lf fields/bare-lf-everywhere request-line/bare-lf",
    "bare LF in chunk framing": "chunked/bare-lf-after-size chunked/bare-lf-after-data",
    "bare CR": "fields/value-bare-cr request-line/bare-cr chunked/bare-cr-after-size",
    "NUL": "fields/value-nul request-line/target-nul",
    "no Host, two Hosts, bad Host": "host/missing host/two-different host/bad-path",
    "obs-fold": "fields/obs-fold-space fields/obs-fold-tab",
    "space before the colon": "fields/space-before-colon",
    "field name empty or no token": "fields/name-empty fields/name-delimiter",
    "Content-Length of more than digits": "framing/length-plus framing/length-underscore",
    "Content-Length different or repeated": "framing/length-repeated-different "
    "framing/length-repeated-equal",
    "Transfer-Encoding and Content-Length": "framing/length-and-coding smuggling/cl-te",
    "Transfer-Encoding in HTTP/1.0": "framing/coding-in-1-0",
    "chunked not last": "framing/coding-chunked-gzip framing/coding-gzip",
    "chunked twice": "framing/coding-chunked-twice",
    "any other transfer coding": "framing/coding-gzip-chunked",
    "field name with underscore": "fields/underscore smuggling/cl-underscore",
    "absolute-form": "request-line/absolute-form host/replaced-by-absolute-form",
    "raw bytes above 0x7F in the target": "request-line/target-raw-utf-8",
    "# in the target": "request-line/target-fragment",
    "control in the target": "request-line/target-control",
    "space in the target": "request-line/target-space",
    "CONNECT": "request-line/connect",
    "HTTP/1.0 keep-alive": "persistence/keep-alive-in-1-0",
    "content that came chunked": "wsgi/environ/chunked",
    "a first line that is no request-line": "request-line/text-bare-lf "
    "request-line/version-missing-one-line",
    "Expect: 100-continue": "expect/continue expect/too-large",
    "other expectations": "expect/unknown",
    "hop-by-hop fields of the application": "wsgi/errors/hop-by-hop",
    "Connection: close of the application": "persistence/application-closes",
    "CR, LF, NUL in a response": "wsgi/errors/field-crlf wsgi/errors/status-crlf "
    "wsgi/errors/field-nul",
    "body longer than its length": "wsgi/responses/length-over",
    "body shorter than its length": "wsgi/responses/length-under",
    "no start_response": "wsgi/errors/no-start",
    "None": "wsgi/errors/none",
    "raise before the first block": "wsgi/errors/raise wsgi/errors/raise-before-block",
    "SystemExit": "wsgi/errors/system-exit",
    "start_response late": "wsgi/responses/late-start",
    "start_response again with exc_info": "wsgi/responses/replaced-head",
    "HEAD": "response/head wsgi/responses/head-one",
    "204": "response/no-content wsgi/responses/no-content-with-blocks",
    "304": "response/not-modified wsgi/responses/not-modified-with-blocks",
    "failure after the head": "wsgi/errors/raise-after-block",
    "refusal while content is unread": "response/refusal-while-sending",
}


def read_id(name: str) -> str:
    return name if name.startswith("wsgi/") else "conformance/" + name


@pytest.mark.parametrize("row", SETTLED)
def test_every_settled_answer_is_in_the_corpus(row: str) -> None:
    missing = [name for name in SETTLED[row].split() if read_id(name) not in BY_ID]
    assert not missing


def test_it_is_large_enough() -> None:
    parts = Counter(exchange.part for exchange in EXCHANGES)
    assert parts["conformance"] >= 250
    assert parts["wsgi"] >= 60


def test_every_file_is_loaded_and_ids_are_unique() -> None:
    files = [path for path in CORPUS_FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".toml"}
    assert len(EXCHANGES) == len(files) == len(BY_ID)


def test_groups_and_names() -> None:
    assert {exchange.group for exchange in EXCHANGES} == GROUPS
    wrong = [id_ for id_ in BY_ID if not re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+){2}", id_)]
    assert not wrong


def test_titles_are_unique_within_their_part() -> None:
    for part in ("conformance", "wsgi"):
        titles = Counter(exchange.title for exchange in EXCHANGES if exchange.part == part)
        assert [title for title, count in titles.items() if count > 1] == []


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.id)
def test_every_exchange_says_what_it_demands(exchange: Exchange) -> None:
    assert len(exchange.title) <= 80
    assert not exchange.title.endswith(".")
    assert exchange.demand.endswith(".")
    source = r"RFC \d{4} section \d+(\.\d+)*( item \d+)?|PEP 3333, .+|WSGI 1\.0\.1 extension .+"
    assert re.fullmatch(source, exchange.rfc)
    assert exchange.judges_others == (exchange.level in ("MUST", "SHOULD"))
    # rawsgi itself must be right by the specification.
    for ours, others in zip(
        exchange.expect.responses,
        exchange.rfc_expect.responses if exchange.rfc_expect else (),
        strict=False,
    ):
        assert set(ours) <= set(others)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.id)
def test_every_expectation_of_rawsgi_is_definite(exchange: Exchange) -> None:
    for expectation in (exchange.expect, exchange.allow_expect):
        if expectation is not None:
            assert expectation.connection != "any"
            assert all(len(statuses) == 1 for statuses in expectation.responses)
            assert all(len(statuses) == 1 for statuses in expectation.interim or ())


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: exchange.id)
def test_positions_fit_the_responses(exchange: Exchange) -> None:
    assert all(position < len(exchange.expect.responses) for position in exchange.heads)
    # As many answers can be waited for as come, over all connections.
    awaited = [step for step in exchange.steps if step.awaited == "response"]
    assert len(awaited) <= len(exchange.expect.responses)


def test_the_corpus_and_the_probe_know_the_same_behaviours() -> None:
    asked = {
        path.decode("ascii")
        for exchange in EXCHANGES
        for path in re.findall(rb" /probe/([^ ?]+)", exchange.sent())
    }
    assert asked == set(BEHAVIOURS)


def test_every_relaxation_is_tried() -> None:
    relaxed = Counter(exchange.allow for exchange in EXCHANGES if exchange.allow)
    assert set(relaxed) == {"bare-lf", "missing-host", "obs-fold", "underscores"}


# --- the probe ---


def ask_probe(path: str, content: bytes = b"", **environ: Any) -> tuple[str, bytes]:
    """Run the probe under wsgiref.validate, which refuses what is not clean by PEP 3333."""
    environ["PATH_INFO"], _, environ["QUERY_STRING"] = path.partition("?")
    environ |= {"SCRIPT_NAME": "", "wsgi.input": io.BytesIO(content)}
    setup_testing_defaults(environ)
    heads = []

    def start_response(status: str, fields: Any, exc_info: Any = None) -> Any:
        heads.append(status)
        return lambda block: None

    iterable = validator(app)(environ, start_response)
    try:
        body = b"".join(iterable)
    finally:
        iterable.close()  # type: ignore[attr-defined]
    return heads[-1], body


def test_the_probe_shows_environ() -> None:
    status, body = ask_probe(
        "/a",
        b"hello\xe9 and the next request",
        REQUEST_METHOD="POST",
        CONTENT_TYPE="text/plain",
        CONTENT_LENGTH="6",
        HTTP_X_A="caf\xe9",
        **{"wsgi.run_once": True},
    )
    environ = json.loads(body)
    assert status == "200 OK"
    assert environ["wsgi.input"] == "hello\xe9"
    assert environ["HTTP_X_A"] == "caf\xe9"
    assert environ["wsgi.version"] == "tuple (1, 0)"
    assert environ["wsgi.run_once"] == "bool True"


def test_the_probe_does_not_show_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_PROCESS", "s3cret")
    _, body = ask_probe("/a", SECRET_OF_THE_PROCESS="s3cret")
    assert b"s3cret" not in body


def test_the_probe_reads_to_the_end_where_the_server_says_so() -> None:
    environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "1"}
    _, body = ask_probe("/a", b"x" * 200_000, **environ)
    assert json.loads(body)["wsgi.input"] == "x" * 200_000


def test_the_probe_counts_close() -> None:
    ask_probe("/probe/response/closing?token")
    assert ask_probe("/probe/closed?token") == ("200 OK", b"1")
    assert ask_probe("/probe/closed?token") == ("200 OK", b"-1")


def test_an_unknown_behaviour_is_not_found() -> None:
    assert ask_probe("/probe/response/nonsense")[0] == "404 Not Found"


# --- the loader ---

GOOD = """\
title = "t"
rfc = "RFC 9112 section 1"
demand = "d."
level = "MUST"

[[step]]
send = "GET / HTTP/1.1\\r\\n\\u00e9"

[[step]]
send_repeat = { text = "ab", times = 3 }

[[step]]
await = "100"

[[step]]
half_close = true

[expect]
responses = [200, [0, 400]]
connection = "closed"
[expect.fields]
Connection = "close"
absent = ["X-A"]
[expect.environ]
HTTP_X_A = ["a", "b"]
absent = ["HTTP_X_B"]
"""


def write(folder: Path, text: str, name: str = "case.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_an_exchange(tmp_path: Path) -> None:
    exchange = load_exchange(write(tmp_path, GOOD), "a/b/case")
    assert exchange.sent() == b"GET / HTTP/1.1\r\n\xe9ababab"
    assert [step.kind for step in exchange.steps] == ["send", "send", "await", "half-close"]
    assert exchange.rfc_expect is exchange.expect
    assert exchange.expect.responses == ((200,), (0, 400))
    assert exchange.expect.interim == ()
    assert exchange.expect.fields == {"connection": ("close",)}
    assert exchange.expect.absent_fields == {"x-a"}
    assert exchange.expect.environ == {"HTTP_X_A": ("a", "b")}
    assert exchange.expect.absent_environ == {"HTTP_X_B"}
    assert (exchange.part, exchange.group) == ("a", "a/b")
    assert exchange.expect.allows_responses([200, 400])
    assert exchange.expect.allows_responses([200])
    assert not exchange.expect.allows_responses([400])
    assert not exchange.expect.allows_responses([200, 400, 400])


def test_early_close_allows_missing_answers_only_when_closed(tmp_path: Path) -> None:
    text = GOOD.replace("[200, [0, 400]]", "[200, 201, 202]\nearly_close = true")
    expect = load_exchange(write(tmp_path, text), "case").expect
    assert expect.allows_responses([200, 201, 202])
    assert expect.allows_responses([200], closed=True)
    assert not expect.allows_responses([200])
    assert not expect.allows_responses([], closed=True)
    assert not expect.allows_responses([201], closed=True)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('title = "t"', 'titel = "t"', "unknown key 'titel'"),
        ('title = "t"', "", "title"),
        ('demand = "d."', 'demand = " "', "demand"),
        ('level = "MUST"', 'level = "must"', "level"),
        ('level = "MUST"', 'level = "MUST"\nsecurity = 1', "security"),
        ('level = "MUST"', 'level = "MUST"\nhead = [0]', "head"),
        ('level = "MUST"', 'level = "MUST"\nallow = "bare-lf"', "belong together"),
        ('level = "MUST"', 'level = "OUR"\nrfc_expect = { responses = [] }', "no meaning"),
        ("half_close = true", "half_close = false", "half_close"),
        ("half_close = true", "halfclose = true", "step 4: unknown key 'halfclose'"),
        ("half_close = true", 'half_close = true\nsend = "a"', "exactly one key"),
        ('await = "100"', 'await = "101"', "await"),
        ("times = 3", "times = 0", "times"),
        ("times = 3", "times = 30000000", "times"),
        ("\\u00e9", "\\u20ac", "no byte"),
        ("[200, [0, 400]]", "[0]", "responses holds 0"),
        ("[200, [0, 400]]", "[100]", "responses holds 100"),
        ("[200, [0, 400]]", "[[]]", "empty list"),
        ("[200, [0, 400]]", "[true]", "responses holds True"),
        ('connection = "closed"', 'connexion = "closed"', "[expect]: unknown key 'connexion'"),
        ('connection = "closed"', 'connection = "close"', "connection"),
        ('connection = "closed"', 'content = "a"\ncontent_repeat = {}', "exclude"),
        ('HTTP_X_A = ["a", "b"]', "HTTP_X_A = 1", "expect.environ"),
        ('HTTP_X_A = ["a", "b"]', "HTTP_X_A = []", "expect.environ"),
        ("[expect]", "[expect", "case.toml"),
    ],
)
def test_a_mistake_names_the_file(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(CorpusError) as raised:
        load_exchange(path, "case")
    message = str(raised.value)
    assert message.startswith(str(path))
    assert told in message
    assert "\n" not in message


def test_bytes_that_are_no_utf_8_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "case.toml"
    path.write_bytes(b'title = "\xff"')
    with pytest.raises(CorpusError, match="case.toml"):
        load_exchange(path, "case")


def test_parts_are_chosen_by_whole_names(tmp_path: Path) -> None:
    for name in ("a/b/one", "a/b/two", "a/bc/three", "d/e/four"):
        write(tmp_path, GOOD, name + ".toml")

    def load(*parts: str) -> list[str]:
        return [exchange.id for exchange in load_folder(tmp_path, *parts)]

    assert load() == ["a/b/one", "a/b/two", "a/bc/three", "d/e/four"]
    assert load("a/b") == ["a/b/one", "a/b/two"]
    assert load("d/", "a/bc/three", "a/bc") == ["a/bc/three", "d/e/four"]
    with pytest.raises(CorpusError, match="'a/b/on'"):
        load("a/b/on")
