"""What is masked before it is shown or kept, however it arrives, and what is not.

The rule: the secret is the same word everywhere, so that it can be looked for in all that comes
out; and whatever comes out has the length of what went in.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rawsgi.wire.scanner import Scanner
from rawsgi.wire.secrets.content import FormMask, JsonMask, Mask, MultipartMask, choose_mask
from rawsgi.wire.secrets.fields import mask_line, mask_start_line
from rawsgi.wire.secrets.names import is_secret_name
from tests.conversation import choose_seed, cut_at_random
from tests.serving import ROOT

SECRET = b"S3CRET"
FORM = b"application/x-www-form-urlencoded"
JSON = b"application/json"
MULTIPART = b"multipart/form-data; boundary=----x9"

# -- Names ----------------------------------------------------------------------------------------

SECRET_NAMES = """
    password Password PASSWORD passwd passphrase newPassword password2 password_confirmation
    user[password] user%5Bpassword%5D user.pass pass pwd token access_token accessToken id_token
    refresh-token csrfmiddlewaretoken authenticity_token __RequestVerificationToken secret
    client_secret api_key apiKey APIKey api-key X-Api-Key X-Auth-Token X-CSRF-Token
    X-Amz-Security-Token X-Amz-Signature private_key credentials jwt sid PHPSESSID JSESSIONID
    sessionid session_id otp pin cvv cardNumber auth Authorization
""".split()
OTHER_NAMES = """
    author name key code user email shipping pinned passenger compass bypass side monkey keyboard
    Host Content-Type Content-Length User-Agent WWW-Authenticate Sec-WebSocket-Key Idempotency-Key
    Access-Control-Allow-Credentials X-Forwarded-For Accept-Signal opinion sigma
""".split()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_that_carries_a_secret(name: str) -> None:
    assert is_secret_name(name.encode())


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_name_that_carries_none(name: str) -> None:
    assert not is_secret_name(name.encode())


# -- Lines of a head ------------------------------------------------------------------------------

FIELDS = [
    ("Authorization: Basic bWU6cGFzcw==\r\n", "Authorization: Basic ************\r\n"),
    ("authorization:Bearer  a.b-c\n", "authorization:Bearer  *****\n"),
    ("Authorization: s3cret\r\n", "Authorization: ******\r\n"),
    ("Authorization: s3 cret\r\n", "Authorization: *******\r\n"),
    ("Authorization : s3\r\n", "Authorization : **\r\n"),
    ("Authorization s3\r\n", "Authorization **\r\n"),
    (" Proxy-Authorization: Digest a=b, c=d\r\n", " Proxy-Authorization: Digest ********\r\n"),
    ("PROXY_AUTHORIZATION: a\r\n", "PROXY_AUTHORIZATION: *\r\n"),
    ("Cookie: a=b; session=1234\r\n", "Cookie: a=*; session=****\r\n"),
    ("Cookie: s3cret; a=b=c\r\n", "Cookie: ******; a=***\r\n"),
    ("Cookie: czNjcmV0==\r\n", "Cookie: **********\r\n"),
    ("Cookie: \r\n", "Cookie: \r\n"),
    ("Set-Cookie: a=b; Path=/; HttpOnly; x=y\r\n", "Set-Cookie: a=*; Path=/; HttpOnly; ***\r\n"),
    ("Set_Cookie2: a=b\r\n", "Set_Cookie2: a=*\r\n"),
    ("X-Api-Key: s3cret\r\n", "X-Api-Key: ******\r\n"),
    ("x-auth-token: s3 cret\r\n", "x-auth-token: *******\r\n"),
    ("X-Amz-Security-Token: a\r\n", "X-Amz-Security-Token: *\r\n"),
    ("Referer: http://a/?token=s3&b=c#d\r\n", "Referer: http://a/?token=**&b=c#d\r\n"),
    ("Location: http://me:s3@a/\r\n", "Location: http://me:**@a/\r\n"),
    ('Link: <http://a/?sig=s3>; rel="next"\r\n', 'Link: <http://a/?sig=**>; rel="next"\r\n'),
    ('X: a; password="s3, \\"4"; c\r\n', 'X: a; password="*******"; c\r\n'),
    ("Cookie-Consent: yes\r\n", "Cookie-Consent: yes\r\n"),
    ("X-Cookie: yes\r\n", "X-Cookie: yes\r\n"),
    ("Host: a\r\n", "Host: a\r\n"),
    ("Access-Control-Allow-Credentials: true\r\n", "Access-Control-Allow-Credentials: true\r\n"),
]


@pytest.mark.parametrize(("line", "masked"), FIELDS)
def test_field_lines(line: str, masked: str) -> None:
    assert mask_line(line.encode()).decode() == masked
    assert len(line) == len(masked)


START_LINES = [
    ("GET /a?token=s3&b=c HTTP/1.1\r\n", "GET /a?token=**&b=c HTTP/1.1\r\n"),
    ("GET /a?b=c&access_token=s3 HTTP/1.1\r\n", "GET /a?b=c&access_token=** HTTP/1.1\r\n"),
    ("GET /?user%5Bpassword%5D=s3 HTTP/1.1\r\n", "GET /?user%5Bpassword%5D=** HTTP/1.1\r\n"),
    ("GET /?next=%2Flogin%3Ftoken%3Ds3 HTTP/1.1\n", f"GET /?next={'*' * 21} HTTP/1.1\n"),
    ("GET /?next=%2Flogin%3Fuser%3Dme HTTP/1.1\n", "GET /?next=%2Flogin%3Fuser%3Dme HTTP/1.1\n"),
    ("GET http://me:s3@a/ HTTP/1.1\r\n", "GET http://me:**@a/ HTTP/1.1\r\n"),
    ("GET /?token= HTTP/1.1\r\n", "GET /?token= HTTP/1.1\r\n"),
    ("GET /token/a HTTP/1.1\r\n", "GET /token/a HTTP/1.1\r\n"),
    # What is typed past the length of the content before.
    ("user=me&password=s3\r\n", "user=me&password=**\r\n"),
    ('{"a": 1, "password": "s3"}\r\n', '{"a": 1, "password": "**"}\r\n'),
    ("Authorization: Bearer s3\r\n", "Authorization: Bearer **\r\n"),
    ("This is a sample\r\n", "This is a sample\r\n"),
]


@pytest.mark.parametrize(("line", "masked"), START_LINES)
def test_start_lines(line: str, masked: str) -> None:
    assert mask_start_line(line.encode()).decode() == masked
    assert len(line) == len(masked)


# -- Content --------------------------------------------------------------------------------------

CONTENTS = [
    (FORM, b"user=me&password=S3CRET&a=b", b"user=me&password=******&a=b"),
    (FORM, b"password=S3CRET", b"password=******"),
    (FORM, b"user%5Bpassword%5D=S3CRET%20S3CRET&x", b"user%5Bpassword%5D=***************&x"),
    (FORM, b"a=password&b=S&token", b"a=password&b=S&token"),
    (FORM, b"pin=&a=1", b"pin=&a=1"),
    (FORM, b'{"token": "S3CRET"}', b'{"token": "******"}'),
    (b"", b"password=S3CRET\n", b"password=******\n"),
    (b"", b' \n {"token":"S3CRET"}', b' \n {"token":"******"}'),
    (b"", b"\x00\x01=password=\xff", b"\x00\x01=password=\xff"),
    (b"text/plain", b"user=me\r\npassword=S3CRET\r\n", b"user=me\r\npassword=******\r\n"),
    (JSON, b'{"a": 1, "password": "S3CRET", "b": ""}', b'{"a": 1, "password": "******", "b": ""}'),
    (JSON, b'{"password" : "S3\\"CRET\\\\", "b": "x"}', b'{"password" : "**********", "b": "x"}'),
    (JSON, b'{"pin": 1234, "otp":-5.0e1, "a": 7}', b'{"pin": ****, "otp":-*.*e*, "a": 7}'),
    (JSON, b'{"max_tokens": 100, "tokens": "S3"}', b'{"max_tokens": 100, "tokens": "**"}'),
    (JSON, b'{"token": null, "secret": true, "a":1}', b'{"token": null, "secret": true, "a":1}'),
    (JSON, b'{"tokens": ["S3", {"a": "S3"}, 5], "b": "x"}',
     b'{"tokens": ["**", {"*": "**"}, *], "b": "x"}'),
    (JSON, b'["password", "S"]', b'["password", "S"]'),
    (JSON, b'{"a": "{\\"token\\": \\"S3CRET\\", \\"b\\": 1}"}',
     b'{"a": "{\\"token\\": \\"******\\", \\"b\\": 1}"}'),
    (JSON, b'{"a": "{\\"token\\": \\"S\\\\\\"3\\"}", "b": "x"}',
     b'{"a": "{\\"token\\": \\"******\\"}", "b": "x"}'),
    (JSON, b'{"a": "{\\"b\\": [1, {\\"token\\": \\"S3CRET\\"}]}"}',
     b'{"a": "{\\"b\\": [1, {\\"token\\": \\"******\\"}]}"}'),
    (JSON, b'{"password": "S3CRET', b'{"password": "******'),
    (b"application/problem+json; charset=utf-8", b'{"jwt":"S3"}', b'{"jwt":"**"}'),
    (MULTIPART, b'------x9\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n------x9\r\n'
     b'Content-Disposition: form-data; name="password"\r\n\r\nS3CRET\r\n------x9--\r\n',
     b'------x9\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n------x9\r\n'
     b'Content-Disposition: form-data; name="password"\r\n\r\n******\r\n------x9--\r\n'),
    (b'multipart/form-data; boundary="b c"', b"--b c\r\nX: y\r\nContent-Disposition: form-data; "
     b"name=token\r\n\r\nS3\r\n--b\r\nS3\r\n--b c--",
     b"--b c\r\nX: y\r\nContent-Disposition: form-data; "
     b"name=token\r\n\r\n**\r\n--b****\r\n--b c--"),
    (b"multipart/form-data; boundary=b", b'--b\r\nX: y\r\n\r\nshown; name="token"\r\n--b--',
     b'--b\r\nX: y\r\n\r\nshown; name="token"\r\n--b--'),
    (b"multipart/form-data", b"--b\r\n", b"--b\r\n"),
    (b"application/octet-stream", b"password=S", b"password=S"),
    (b"text/html", b'<input name="password" value="x">', b'<input name="password" value="x">'),
]  # fmt: skip


def feed(mask: Mask, pieces: list[bytes]) -> bytes:
    shown = []
    for piece in pieces:
        shown.append(mask.feed(piece))
        assert len(shown[-1]) == len(piece)
    return b"".join(shown)


@pytest.mark.parametrize(("content_type", "content", "masked"), CONTENTS)
def test_content(content_type: bytes, content: bytes, masked: bytes) -> None:
    """Whole, in two reads wherever they part, by byte, and at random."""
    generator = random.Random(choose_seed())
    ways = [[content], [content[at : at + 1] for at in range(len(content))]]
    ways += [[content[:at], content[at:]] for at in range(len(content))]
    ways += [cut_at_random(content, generator) for _ in range(5)]
    for pieces in ways:
        shown = feed(choose_mask(content_type), pieces)
        if b"--b\r\n" not in content:  # what may begin a boundary is told by what follows it
            assert neutral(shown) == neutral(masked), pieces
        assert SECRET not in shown and b"S3" not in shown.replace(b"S\\\\", b"")


def neutral(shown: bytes) -> bytes:
    """A backslash within a string in a string may belong to the quote that ends it."""
    return re.sub(rb"(?<=\*)\\+(?=\*)", lambda match: b"*" * len(match[0]), shown)


texts = st.text(alphabet='ab"\\{}[]:,\n\u00e9 0', max_size=8)
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
secrets = st.recursive(
    st.builds(lambda a, b: a + "S3CRET" + b, texts, texts),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def put_in(document: Any, secret: Any) -> Any:
    """The document, and the secret under a name that says so, at the end of it."""
    return {"a": document, "password": secret, "z": [document, {"api_key": secret}], "b": "end"}


@settings(max_examples=300, deadline=None)
@given(documents, secrets, st.randoms(), st.booleans(), st.booleans())
def test_no_secret_of_any_json_is_shown(
    document: Any, secret: Any, generator: random.Random, compact: bool, ascii_only: bool
) -> None:
    separators = (",", ":") if compact else None
    indent = None if compact else 1
    data = json.dumps(
        put_in(document, secret), separators=separators, indent=indent, ensure_ascii=ascii_only
    ).encode()
    for pieces in ([data], cut_at_random(data, generator)):
        shown = feed(JsonMask(), pieces)
        assert SECRET not in shown
    parsed = json.loads(shown)  # it is the same document still
    assert parsed["a"] == parsed["z"][0] == document and parsed["b"] == "end"
    nested = json.dumps({"x": data.decode(), "y": 1}).encode()
    for pieces in ([nested], cut_at_random(nested, generator)):
        shown = feed(JsonMask(), pieces)
        if isinstance(secret, str):
            assert SECRET not in shown


@settings(deadline=None)
@given(documents, st.randoms())
def test_json_without_secrets_is_shown_as_it_is(document: Any, generator: random.Random) -> None:
    data = json.dumps(document).encode()
    assert feed(JsonMask(), cut_at_random(data or b" ", generator)) == (data or b" ")


pairs = st.lists(
    st.tuples(st.sampled_from(["a", "user", "password", "x[token]", ""]), st.text(max_size=5)),
    max_size=6,
)


@settings(deadline=None)
@given(pairs, st.randoms())
def test_no_secret_of_any_form_is_shown(
    fields: list[tuple[str, str]], generator: random.Random
) -> None:
    hidden = [(name, f"{text}S3CRET" if is_secret_name(name.encode()) else text)
              for name, text in fields]  # fmt: skip
    data = urlencode([*hidden, ("last", "1")]).encode()
    shown = feed(FormMask(), cut_at_random(data, generator))
    assert SECRET not in shown
    kept = [pair for pair in parse_qsl(data.decode(), True) if pair[0] in ("a", "user", "last")]
    assert [p for p in parse_qsl(shown.decode(), True) if p[0] in ("a", "user", "last")] == kept


@settings(deadline=None)
@given(st.binary(max_size=40), st.randoms())
@example(b"\r\n------x", random.Random(1))
@example(b"\r\n\r\n----", random.Random(2))
def test_no_secret_of_any_part_is_shown(value: bytes, generator: random.Random) -> None:
    value = value.replace(b"\r\n------x9", b"") + SECRET
    head = b'Content-Disposition: form-data; name="%b"\r\n\r\n'
    data = b"------x9\r\n" + head % b"password" + value + b"\r\n------x9\r\n"
    data += head % b"note" + b"kept" + b"\r\n------x9--\r\n"
    for pieces in ([data], cut_at_random(data, generator)):
        shown = feed(MultipartMask(b"----x9"), pieces)
        assert SECRET not in shown
        assert shown.endswith(head % b"note" + b"kept\r\n------x9--\r\n")


FORM_PIECES = [b"password", b"token", b"a", b"=", b"&", b"\r\n", b"S3", b"%5B", b"\xff", b" "]
PART_PIECES = [
    b"\r\n", b"--", b"----x9", b"\r\n------x9", b"\r\n\r\n", b"S3", b"-", b"x", b"\r",
    b"Content-Disposition: form-data; ", b'name="token"',
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([FORM, MULTIPART]), st.data(), st.randoms())
def test_it_does_not_matter_where_content_is_cut(
    kind: bytes, draw: st.DataObject, generator: random.Random
) -> None:
    pieces = st.sampled_from(FORM_PIECES if kind == FORM else PART_PIECES)
    data = b"".join(draw.draw(st.lists(pieces, min_size=1, max_size=25)))
    whole = feed(choose_mask(kind), [data])
    cut = feed(choose_mask(kind), cut_at_random(data, generator))
    # What may begin a boundary is shown, and it is no secret.
    may_differ = b"" if kind == FORM else b"\r\n-x"
    for one, other in zip(whole, cut, strict=True):
        assert one == other or (one == ord("*") and other in may_differ)


@settings(deadline=None)
@given(st.binary(max_size=300), st.randoms(), st.sampled_from([FORM, JSON, MULTIPART, b""]))
def test_any_bytes_are_taken(data: bytes, generator: random.Random, kind: bytes) -> None:
    feed(choose_mask(kind), cut_at_random(data or b" ", generator))


# -- Messages -------------------------------------------------------------------------------------


def show_message(data: bytes, pieces: list[bytes], answers: str | None = None) -> bytes:
    """What a scanner tells of one message."""
    scanner = Scanner(answers)
    parts = [part for piece in pieces for part in scanner.feed(piece)] + scanner.drain()
    shown = b"".join(part[1] for part in parts)
    assert len(shown) == len(data)
    assert scanner.masked is (shown != data)
    return shown


MESSAGES = [
    b"POST /login?token=S3CRET HTTP/1.1\r\nHost: a\r\nX-Api-Key: S3CRET\r\nContent-Length: 22\r\n"
    b"Proxy-Authorization: Basic S3CRET\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    b"a=b&passwd=S3CRET&c=d0",
    b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"tok\r\na;token=S3CRET\r\nen": "S3CR\r\n4\r\nET"}\r\n0\r\nX-Token: S3CRET\r\n\r\n',
    b"GET / HTTP/1.1\r\nCookie: a=S3CRET;\r\n b=S3CRET\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", MESSAGES)
def test_no_secret_of_a_message_is_shown(data: bytes) -> None:
    generator = random.Random(choose_seed())
    whole = show_message(data, [data])
    assert SECRET not in whole and b"S3CR" not in whole and b'ET"' not in whole
    ways = [[data[at : at + 1] for at in range(len(data))]]
    ways += [[data[:at], data[at:]] for at in range(1, len(data))]
    ways += [cut_at_random(data, generator) for _ in range(5)]
    for pieces in ways:
        assert show_message(data, pieces) == whole


def test_a_response_is_masked_too() -> None:
    data = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=S3CRET\r\n"
        b"Content-Length: 26\r\n\r\n{\"access_token\": \"S3CRET\"}"
    )  # fmt: skip
    for at in range(1, len(data)):
        assert SECRET not in show_message(data, [data[:at], data[at:]], "GET")


def test_the_rest_of_an_endless_line_is_masked() -> None:
    for start in (b"GET /?token=", b"GET / HTTP/1.1\r\nX-Api-Key: ", b"GET / HTTP/1.1\r\nX: "):
        scanner = Scanner()
        parts = scanner.feed(start + b"a" * (1 << 17))
        parts += scanner.feed(b"S3CRET" * 30_000)
        parts += scanner.feed(b" S3CRET\r\n\r\n")
        assert SECRET not in b"".join(part[1] for part in parts)


def test_with_secrets_shown_nothing_is_changed() -> None:
    for data in MESSAGES:
        scanner = Scanner(shows_secrets=True)
        assert b"".join(part[1] for part in scanner.feed(data)) == data
        assert not scanner.masked and scanner.finished


def test_the_target_that_is_kept_is_masked() -> None:
    scanner = Scanner()
    scanner.feed(b"GET /a?token=S3CRET HTTP/1.1\r\n")
    assert scanner.target == "/a?token=******"


def test_the_page_names_what_is_masked() -> None:
    page = (ROOT / "docs/wire.md").read_text("utf-8")
    text = page.partition("A name carries a secret if ")[2].partition("\n\n")[0]
    words = re.findall(r"`([^`]+)`", text)
    assert len(words) > 20
    assert [word for word in words if not is_secret_name(word.encode())] == []
