"""From the bytes of a request to `environ`: every key, its exact type, its exact text.

PEP 3333, "environ Variables" and "Unicode Issues"; RFC 3875 section 4.1 for the CGI variables.
"""

from __future__ import annotations

import io
import random
import sys
from typing import Any
from urllib.parse import quote
from wsgiref.util import request_uri
from wsgiref.validate import check_environ  # type: ignore[attr-defined]

import pytest

from rawsgi.protocol.head import HeadParser
from rawsgi.protocol.http1 import HTTP1
from rawsgi.protocol.message import Limits
from rawsgi.protocol.response import HeadEncoder
from rawsgi.wsgi.environ import ErrorStream, build_environ, make_base
from rawsgi.wsgi.file_wrapper import FileWrapper

PARSER = HeadParser(Limits())


def base(**changes: Any) -> dict[str, Any]:
    made = make_base(
        "server.example", "8000", multithread=True, multiprocess=False, software="rawsgi/test"
    )
    return made | changes


def build(
    start: str | bytes = "GET / HTTP/1.1",
    *lines: str | bytes,
    content_bytes: int | None = 0,
    base_environ: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the environ of one request; each argument is a line of its head."""
    parts = [
        line if isinstance(line, bytes) else line.encode("latin-1")
        for line in (start, "Host: a.example", *lines)
    ]
    request = HTTP1(PARSER, HeadEncoder()).receive(b"\r\n".join([*parts, b"", b""]))
    assert request is not None
    return build_environ(
        base() if base_environ is None else base_environ,
        request,
        io.BytesIO(),
        content_bytes,
        ("192.0.2.1", "4000"),
        lambda: False,
    )


def test_every_required_key_with_its_exact_type_and_value() -> None:
    environ = build("GET /path?query HTTP/1.1")
    client_disconnected = environ.pop("rawsgi.client_disconnected")
    content = environ.pop("wsgi.input")
    assert type(environ.pop("wsgi.errors")) is ErrorStream
    assert environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/path",
        "QUERY_STRING": "query",
        "RAW_URI": "/path?query",
        "REQUEST_URI": "/path?query",
        "SERVER_NAME": "server.example",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "rawsgi/test",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "4000",
        "HTTP_HOST": "a.example",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }
    assert type(environ) is dict
    assert content.read() == b""
    assert client_disconnected() is False
    for key, value in environ.items():
        if not key.startswith("wsgi."):
            assert type(value) is str, key
    for key in ("wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"):
        assert type(environ[key]) is bool, key


def test_the_validator_of_the_standard_library_agrees() -> None:
    check_environ(build("POST /a%20b?c=d HTTP/1.1", "Content-Type: text/plain"))
    check_environ(build("OPTIONS * HTTP/1.1"))


def test_the_base_is_never_changed() -> None:
    original = base()
    kept = dict(original)
    environ = build("GET / HTTP/1.1", "X-A: 1", base_environ=original)
    environ["wsgi.version"] = (2, 0)
    environ.clear()
    assert original == kept


def test_two_requests_share_nothing_that_can_be_changed() -> None:
    original = base()
    connection = HTTP1(PARSER, HeadEncoder())
    request = connection.receive(b"GET / HTTP/1.1\r\nHost: a.example\r\nX-A: 1\r\n\r\n")
    assert request is not None
    arguments = (original, request, io.BytesIO(), 0, ("", ""), lambda: False)
    first = build_environ(*arguments)
    first["HTTP_X_A"] = "changed"
    del first["HTTP_HOST"]
    second = build_environ(*arguments)
    assert (second["HTTP_X_A"], second["HTTP_HOST"]) == ("1", "a.example")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b", "/a/b", ""),
        ("/?", "/", ""),
        ("/?a=b&c", "/", "a=b&c"),
        ("/a?b?c", "/a", "b?c"),
        ("/a%20b", "/a b", ""),
        ("/a+b", "/a+b", ""),
        ("/a%2Fb", "/a/b", ""),
        ("/a%3Fb?c", "/a?b", "c"),
        ("/%25", "/%", ""),
        ("/%2525", "/%25", ""),
        ("/%", "/%", ""),
        ("/%zz%1", "/%zz%1", ""),
        ("/%00", "/\0", ""),
        ("/%0D%0A", "/\r\n", ""),
        ("/a?b%20c+d", "/a", "b%20c+d"),
        ("//double//", "//double//", ""),
        ("/a/../b/./c", "/a/../b/./c", ""),
        ("/J%C3%BCrgen", "/J\xc3\xbcrgen", ""),
        ("/%e2%82%ac", "/\xe2\x82\xac", ""),
        ("/%FF", "/\xff", ""),
        ("/;a=b", "/;a=b", ""),
        ("http://b.example/a?c", "/a", "c"),
        ("http://b.example", "/", ""),
        ("http://b.example?c", "/", "c"),
    ],
)
def test_path_is_decoded_and_query_is_not(target: str, path: str, query: str) -> None:
    environ = build(f"GET {target} HTTP/1.1")
    assert environ["PATH_INFO"] == path
    assert environ["QUERY_STRING"] == query
    assert environ["RAW_URI"] == environ["REQUEST_URI"] == target
    assert environ["SCRIPT_NAME"] == ""


def test_raw_bytes_in_the_target_are_latin_1_characters() -> None:
    environ = build("GET /Jürgen?ü HTTP/1.1".encode())
    assert environ["PATH_INFO"] == "/J\xc3\xbcrgen"
    assert environ["QUERY_STRING"] == "\xc3\xbc"
    assert environ["RAW_URI"] == "/J\xc3\xbcrgen?\xc3\xbc"


def test_any_path_of_bytes_survives_encoding_and_decoding() -> None:
    seed = 20_240_607
    source = random.Random(seed)
    for _ in range(300):
        path = b"/" + source.randbytes(source.randrange(20))
        environ = build(f"GET {quote(path)} HTTP/1.1")
        assert environ["PATH_INFO"].encode("latin-1") == path, f"seed {seed}"


def test_asterisk_has_no_path() -> None:
    environ = build("OPTIONS * HTTP/1.1")
    assert (environ["PATH_INFO"], environ["RAW_URI"]) == ("", "*")


def test_authority_of_an_absolute_form_replaces_host() -> None:
    assert build("GET http://b.example:81/ HTTP/1.1")["HTTP_HOST"] == "b.example:81"


def test_url_reconstruction() -> None:
    """PEP 3333, "URL Reconstruction": from environ back to what the client wrote."""
    environ = build("GET /a%20b/%C3%BC?c=d%20e HTTP/1.1")
    assert request_uri(environ) == "http://a.example/a%20b/%C3%BC?c=d%20e"


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1", "HTTP/1.2"])
def test_protocol_is_what_the_client_said(version: str) -> None:
    assert build(f"GET / {version}")["SERVER_PROTOCOL"] == version


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "BREW", "get", "M-SEARCH"])
def test_method_is_what_the_client_said(method: str) -> None:
    assert build(f"{method} / HTTP/1.1")["REQUEST_METHOD"] == method


def test_fields_become_variables() -> None:
    environ = build(
        "GET / HTTP/1.1",
        "Accept: a",
        "aCCEPT: b",
        "X-Long-Name: with  two spaces",
        "X-Empty:",
        "Cookie: a=1",
        "Cookie: b=2",
        "Content-Type: text/plain; charset=utf-8",
        b"X-Raw: \xc3\xbc\xff",
    )
    assert environ["HTTP_ACCEPT"] == "a, b"
    assert environ["HTTP_X_LONG_NAME"] == "with  two spaces"
    assert environ["HTTP_X_EMPTY"] == ""
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["CONTENT_TYPE"] == "text/plain; charset=utf-8"
    assert environ["HTTP_X_RAW"] == "\xc3\xbc\xff"
    assert "HTTP_CONTENT_TYPE" not in environ


def test_no_field_can_take_the_place_of_another_variable() -> None:
    """Everything from a client begins with HTTP_, except the two that RFC 3875 names."""
    environ = build(
        "GET / HTTP/1.1",
        "Remote-Addr: 203.0.113.9",
        "wsgi.url_scheme: https",
        "Script-Name: /evil",
        "X_Forwarded_For: forged",
        "Rawsgi.client_disconnected: x",
    )
    assert environ["REMOTE_ADDR"] == "192.0.2.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["SCRIPT_NAME"] == ""
    assert "HTTP_X_FORWARDED_FOR" not in environ
    assert callable(environ["rawsgi.client_disconnected"])


def test_length_of_content_is_the_field_as_it_came() -> None:
    assert build("POST / HTTP/1.1", "Content-Length: 005")["CONTENT_LENGTH"] == "005"
    assert build("POST / HTTP/1.1", f"Content-Length: {5:05000}")["CONTENT_LENGTH"] == "5"
    assert "CONTENT_LENGTH" not in build("POST / HTTP/1.1")
    assert "HTTP_CONTENT_LENGTH" not in build("POST / HTTP/1.1", "Content-Length: 5")


def test_length_of_content_in_chunks_is_known_once_it_was_read() -> None:
    environ = build("POST / HTTP/1.1", "Transfer-Encoding: chunked", content_bytes=1234)
    assert environ["CONTENT_LENGTH"] == "1234"
    assert "HTTP_TRANSFER_ENCODING" not in environ
    empty = build("POST / HTTP/1.1", "Transfer-Encoding: chunked", content_bytes=0)
    assert empty["CONTENT_LENGTH"] == "0"


def test_length_of_content_in_chunks_that_still_arrive_is_not_known() -> None:
    environ = build("POST / HTTP/1.1", "Transfer-Encoding: chunked", content_bytes=None)
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input_terminated"] is True


def test_base_tells_the_truth_about_the_server() -> None:
    for multithread, multiprocess in ((False, False), (True, False), (False, True)):
        made = make_base(
            "a", "1", scheme="https", multithread=multithread, multiprocess=multiprocess,
            software="s",
        )  # fmt: skip
        assert made["wsgi.multithread"] is multithread
        assert made["wsgi.multiprocess"] is multiprocess
        assert made["wsgi.url_scheme"] == "https"


def test_errors_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """PEP 3333: text, as to a file opened for writing text; and what else a stream can do."""
    stream = base()["wsgi.errors"]
    stream.write("one\n")
    stream.writelines(["two\n", "three\n"])
    print("four", file=stream, flush=True)
    assert capsys.readouterr().err == "one\ntwo\nthree\nfour\n"
    assert stream.isatty() is False
    assert stream.encoding


def test_errors_that_nobody_takes_fail_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    for stderr in (Full(), closed):
        monkeypatch.setattr(sys, "stderr", stderr)
        stream = base()["wsgi.errors"]
        assert stream.write("lost\n") == 5
        stream.writelines(["lost too\n"])
        stream.flush()


def test_errors_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    stream = base()["wsgi.errors"]
    stream.write("text \u20ac")
    stream.writelines(["more\n"])
    stream.flush()
