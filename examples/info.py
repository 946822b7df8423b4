"""A server that shows what HTTP does: what arrived, what goes back, how long it takes.

    GET  /          the list of what there is
    GET  /info      the request and the connection, as the application sees them
    POST /echo      the content, back
    POST /json      the content parsed as JSON, back; 400 when it is none
    GET  /slow      sleeps for ?seconds=3; meanwhile other clients need not wait
    GET  /chunked   streams ?chunks=5, one every ?seconds=0.5

rawsgi info:app --port 3000 --by-hand
docs/by-hand.md walks through chunks and 100-continue with it, docs/wire.md reads the bytes.
"""

import json
import re
import time
from urllib.parse import parse_qs

CONTENT_LIMIT_BYTES = 1 << 20


class Refusal(Exception):
    """Answered with the status and the sentence it carries."""


def show_index(environ):
    return "text/plain", [__doc__.encode()]


def show_request(environ):
    # A server gives each field as HTTP_NAME; the two below have names of their own.
    fields = {
        name.removeprefix("HTTP_").replace("_", "-").title(): value
        for name, value in sorted(environ.items())
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }
    facts = {
        "request": {
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"],
            "query": environ.get("QUERY_STRING", ""),
            "version": environ["SERVER_PROTOCOL"],
            "fields": fields,
        },
        "connection": {
            "scheme": environ["wsgi.url_scheme"],
            "client": [environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")],
            "server": [environ["SERVER_NAME"], environ["SERVER_PORT"]],
            "software": environ.get("SERVER_SOFTWARE"),
        },
    }
    return "application/json", [json.dumps(facts, indent=2).encode() + b"\n"]


def echo(environ):
    # Never with the content type that came along: a form on any site could post HTML here.
    return "text/plain", [read_content(environ)]


def parse(environ):
    try:
        value = json.loads(read_content(environ))
    except (ValueError, RecursionError) as error:  # RecursionError: [[[[[[...
        raise Refusal("400 Bad Request", f"This is not JSON: {error}") from None
    return "application/json", [json.dumps(value, indent=2).encode() + b"\n"]


def sleep(environ):
    seconds = read_number(environ, "seconds", default=3)
    time.sleep(seconds)
    return "text/plain", [f"Slept for {seconds:g} s. Did anybody else wait?\n".encode()]


def stream(environ):
    count = int(read_number(environ, "chunks", default=5))
    seconds = read_number(environ, "seconds", default=0.5)

    def chunks():
        for number in range(1, count + 1):
            yield f"chunk {number} of {count}\n".encode()
            if number < count:
                time.sleep(seconds)

    # No length is known beforehand, so the server sends each block as a chunk.
    return "text/plain", chunks()


ROUTES = {
    "/": {"GET": show_index},
    "/info": {"GET": show_request},
    "/echo": {"POST": echo},
    "/json": {"POST": parse},
    "/slow": {"GET": sleep},
    "/chunked": {"GET": stream},
}


def read_content(environ):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > CONTENT_LIMIT_BYTES:
        raise Refusal("413 Content Too Large", f"Send {CONTENT_LIMIT_BYTES} bytes at most.")
    return environ["wsgi.input"].read(length)


def read_number(environ, name, default):
    text = parse_qs(environ.get("QUERY_STRING", "")).get(name, [str(default)])[0]
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]{1,3})?", text):
        raise Refusal("400 Bad Request", f"{name} is a number from 0 to 99.")
    return float(text)


def app(environ, start_response):
    methods = ROUTES.get(environ["PATH_INFO"])
    method = environ["REQUEST_METHOD"]
    fields = [("X-Content-Type-Options", "nosniff")]
    try:
        if methods is None:
            raise Refusal("404 Not Found", "Nothing here. GET / lists what there is.")
        action = methods.get("GET" if method == "HEAD" else method)
        if action is None:
            fields.append(("Allow", ", ".join(methods)))
            raise Refusal("405 Method Not Allowed", f"Use {' or '.join(methods)} here.")
        status = "200 OK"
        kind, blocks = action(environ)
    except Refusal as refusal:
        status, sentence = refusal.args
        kind, blocks = "text/plain", [f"{sentence}\n".encode()]
    if kind == "text/plain":
        kind = "text/plain; charset=utf-8"
    start_response(status, [("Content-Type", kind), *fields])
    return blocks
