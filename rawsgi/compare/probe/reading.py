"""/probe/read/...: the ways of reading wsgi.input; the answer lists what each call returned."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from rawsgi.compare.probe.behaviours import (
    TEXT,
    Behaviour,
    Behaviours,
    Environ,
    StartResponse,
    answer,
    read_content,
)

BEHAVIOURS: Final = Behaviours()

Reader: TypeAlias = Callable[[Any, int], list[bytes]]


def _each(call: Callable[[], bytes]) -> list[bytes]:
    return list(iter(call, b""))


READERS: Final[dict[str, Reader]] = {
    "none": lambda source, n: [],
    "all": lambda source, n: [source.read()],
    "all-twice": lambda source, n: [
        source.read(),
        source.read(),
        source.read(1),
        source.readline(),
    ],
    "minus-one": lambda source, n: [source.read(-1)],
    "zero": lambda source, n: [source.read(0), source.read()],
    "once": lambda source, n: [source.read(n)],
    "sized": lambda source, n: _each(lambda: bytes(source.read(n))),
    "line": lambda source, n: _each(source.readline),
    "line-sized": lambda source, n: _each(lambda: bytes(source.readline(n))),
    "lines": lambda source, n: list(source.readlines()),
    "lines-hint": lambda source, n: [*source.readlines(n), b"|", *source.readlines()],
    "iterate": lambda source, n: list(source),
    "mixed": lambda source, n: [source.read(n), source.readline(), next(source), source.read()],
}


def _reading(reader: Reader) -> Behaviour:
    def read(environ: Environ, start_response: StartResponse) -> Any:
        argument = environ.get("QUERY_STRING", "")
        results = reader(environ["wsgi.input"], int(argument) if argument.isdecimal() else 0)
        texts = [result.decode("latin-1") for result in results]
        return answer(start_response, json.dumps(texts).encode("ascii"))

    return read


for _name, _reader in READERS.items():
    BEHAVIOURS.at("read/" + _name)(_reading(_reader))


@BEHAVIOURS.at("read/late")
def _read_late(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    yield b"before|"
    yield read_content(environ)


@BEHAVIOURS.at("read/echo-blocks")
def _read_echo_blocks(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    yield from environ["wsgi.input"]
