"""Read the corpus: files that say what is sent and what must come back, one exchange each.

An exchange is data, so that a new case needs no code and the same case can be replayed against
rawsgi, against another server, whole or byte by byte. `docs/corpus.md` describes the format.
This module is its only reader; it refuses whatever it does not know, because a misspelt key would
otherwise be a demand that is never checked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rawsgi.compare.exchanges.exchange import (
    CONNECTIONS,
    LEVELS,
    NO_RESPONSE,
    RELAXATIONS,
    Alternatives,
    Exchange,
    Expectation,
    Step,
)

CORPUS_FOLDER: Final = Path(__file__).parent.parent / "corpus"
# A file that expands to more than this is a mistake: every step is held in memory.
SEND_LIMIT_BYTES: Final = 4 * 1024 * 1024


class CorpusError(Exception):
    """A file of the corpus is wrong. The message is one line that names the file."""


def load_corpus(*parts: str) -> list[Exchange]:
    """Load the shipped exchanges, sorted by id.

    parts: prefixes of ids by whole names ("conformance", "wsgi/input",
    "conformance/framing/both"); none means all. Raises CorpusError, also for a part that
    matches nothing.
    """
    return load_folder(CORPUS_FOLDER, *parts)


def load_folder(folder: Path, *parts: str) -> list[Exchange]:
    """Load the exchanges below `folder`, as `load_corpus` does."""
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in _files(folder)}
    wanted = set(paths) if not parts else set()
    for part in parts:
        name = part.strip("/")
        found = {id_ for id_ in paths if id_ == name or id_.startswith(name + "/")}
        if not found:
            raise CorpusError(f"{folder}: no exchange is called or lies below {part!r}")
        wanted |= found
    return [load_exchange(paths[id_], id_) for id_ in sorted(wanted)]


def load_exchange(path: Path, id_: str) -> Exchange:
    """Load one file. Raises CorpusError, which names the file, also when it cannot be read."""
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: {error}") from error
    try:
        return _exchange(table, id_)
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None


def _files(folder: Path) -> Iterator[Path]:
    return folder.rglob("*.toml")


# --- from tables to dataclasses; each function raises CorpusError without the file's name ---


def _exchange(table: dict[str, Any], id_: str) -> Exchange:
    known = {"title", "rfc", "demand", "level", "security", "head", "allow", "step"}
    _refuse_unknown(table, known | {"expect", "rfc_expect", "allow_expect"}, "")
    level = _choice(table, "level", LEVELS)
    expect = _expectation(_table(table, "expect"), "expect", ours=True)
    rfc_expect: Expectation | None = None
    if "rfc_expect" in table:
        if level in ("MAY", "OUR"):
            raise CorpusError(f"[rfc_expect] has no meaning with level {level!r}")
        rfc_expect = _expectation(_table(table, "rfc_expect"), "rfc_expect", ours=False)
    elif level in ("MUST", "SHOULD"):
        rfc_expect = expect
    allow, allow_expect = None, None
    if ("allow" in table) != ("allow_expect" in table):
        raise CorpusError("allow and [allow_expect] belong together")
    if "allow" in table:
        allow = _choice(table, "allow", RELAXATIONS)
        allow_expect = _expectation(_table(table, "allow_expect"), "allow_expect", ours=True)
    steps = _steps(table)
    heads = _list(table, "head")
    if any(type(position) is not int or position < 1 for position in heads):
        raise CorpusError("head: must be a list of positions, counted from 1")
    return Exchange(
        id=id_,
        title=_text(table, "title"),
        rfc=_text(table, "rfc"),
        demand=_text(table, "demand"),
        level=level,
        security=_flag(table, "security", False),
        steps=steps,
        heads=frozenset(position - 1 for position in heads),
        expect=expect,
        rfc_expect=rfc_expect,
        allow=allow,
        allow_expect=allow_expect,
    )


def _steps(table: dict[str, Any]) -> tuple[Step, ...]:
    rows = _list(table, "step")
    if not rows:
        raise CorpusError("no [[step]]")
    steps = tuple(_step(row, f"step {number}") for number, row in enumerate(rows, 1))
    if sum(len(step.data) for step in steps) > SEND_LIMIT_BYTES:
        raise CorpusError(f"the steps send more than {SEND_LIMIT_BYTES} bytes")
    return steps


def _step(row: Any, where: str) -> Step:
    if not isinstance(row, dict) or len(row) != 1:
        raise CorpusError(f"{where}: must be a table with exactly one key")
    ((key, value),) = row.items()
    if key == "send":
        return Step("send", data=_latin1(value, f"{where}: send"))
    if key == "send_repeat":
        return Step("send", data=_repeated(value, f"{where}: send_repeat"))
    if key == "await":
        if value not in ("100", "response"):
            raise CorpusError(f'{where}: await must be "100" or "response", not {value!r}')
        return Step("await", awaited=value)
    if key in ("half_close", "reconnect"):
        if value is not True:
            raise CorpusError(f"{where}: {key} must be true")
        return Step("half-close" if key == "half_close" else "reconnect")
    raise CorpusError(f"{where}: unknown key {key!r}")


def _expectation(table: dict[str, Any], where: str, *, ours: bool) -> Expectation:
    known = {"responses", "interim", "early_close", "connection", "complete", "reason"}
    known |= {"content", "content_repeat", "fields", "environ"}
    _refuse_unknown(table, known, where)
    if "responses" not in table:
        raise CorpusError(f"{where}: responses is missing")
    # What rawsgi sends is known to the last interim response; other servers may send more.
    interim: tuple[Alternatives, ...] | None = () if ours else None
    if "interim" in table:
        interim = _alternatives(table, "interim", range(100, 200), where)
    content: bytes | None = None
    if "content" in table and "content_repeat" in table:
        raise CorpusError(f"{where}: content and content_repeat exclude each other")
    if "content" in table:
        content = _latin1(table["content"], f"{where}: content")
    elif "content_repeat" in table:
        content = _repeated(table["content_repeat"], f"{where}: content_repeat")
    fields, present_fields, absent_fields = _fields(table, where)
    environ, absent_environ = _environ(table, where)
    return Expectation(
        responses=_alternatives(table, "responses", range(200, 1000), where),
        interim=interim,
        connection=_choice(table, "connection", CONNECTIONS, "any"),
        complete=_flag(table, "complete", True),
        reason=_text(table, "reason") if "reason" in table else None,
        content=content,
        fields=fields,
        present_fields=present_fields,
        absent_fields=absent_fields,
        environ=environ,
        absent_environ=absent_environ,
        early_close=_flag(table, "early_close", False),
    )


def _fields(
    table: dict[str, Any], where: str
) -> tuple[Mapping[str, tuple[str, ...]], frozenset[str], frozenset[str]]:
    rows = dict(_table(table, "fields", {}))
    present = frozenset(name.lower() for name in _names(rows.pop("present", []), where))
    absent = frozenset(name.lower() for name in _names(rows.pop("absent", []), where))
    fields = {name.lower(): _texts(value, f"{where}.fields") for name, value in rows.items()}
    return MappingProxyType(fields), present, absent


def _environ(
    table: dict[str, Any], where: str
) -> tuple[Mapping[str, tuple[str, ...]], frozenset[str]]:
    rows = dict(_table(table, "environ", {}))
    absent = frozenset(_names(rows.pop("absent", []), where))
    environ = {key: _texts(value, f"{where}.environ") for key, value in rows.items()}
    return MappingProxyType(environ), absent


def _alternatives(
    table: dict[str, Any], key: str, statuses: range, where: str
) -> tuple[Alternatives, ...]:
    found = []
    for item in _list(table, key):
        alternatives = tuple(item) if isinstance(item, list) else (item,)
        for status in alternatives:
            missing = status == NO_RESPONSE and isinstance(item, list)
            if type(status) is not int or not (status in statuses or missing):
                raise CorpusError(f"{where}: {key} holds {status!r}")
        if not alternatives:
            raise CorpusError(f"{where}: {key} holds an empty list")
        found.append(alternatives)
    return tuple(found)


def _repeated(value: Any, where: str) -> bytes:
    if not isinstance(value, dict) or set(value) != {"text", "times"}:
        raise CorpusError(f"{where}: must be {{ text = ..., times = ... }}")
    text, times = _latin1(value["text"], where), value["times"]
    if type(times) is not int or not 0 < times * len(text) <= SEND_LIMIT_BYTES:
        raise CorpusError(f"{where}: times is out of range: {times!r}")
    return text * times


def _latin1(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise CorpusError(f"{where}: must be text")
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise CorpusError(f"{where}: a character is no byte: {error}") from error


def _refuse_unknown(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        prefix = f"[{where}]: " if where else ""
        raise CorpusError(f"{prefix}unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")


def _text(table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise CorpusError(f"{key}: must be text, and not empty")
    return value


def _flag(table: dict[str, Any], key: str, default: bool) -> bool:
    value = table.get(key, default)
    if not isinstance(value, bool):
        raise CorpusError(f"{key}: must be true or false")
    return value


def _choice(table: dict[str, Any], key: str, choices: Sequence[Any], default: str = "") -> Any:
    value = table.get(key, default)
    if value not in choices:
        raise CorpusError(f"{key}: must be one of {', '.join(choices)}, not {value!r}")
    return value


def _table(
    table: dict[str, Any], key: str, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    value = table.get(key, default)
    if not isinstance(value, dict):
        raise CorpusError(f"[{key}] must be a table")
    return value


def _list(table: dict[str, Any], key: str) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise CorpusError(f"{key}: must be a list")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = tuple(_names([value] if isinstance(value, str) else value, where))
    if not texts:
        raise CorpusError(f"{where}: an empty list says nothing")
    return texts


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CorpusError(f"{where}: must be text or a list of texts")
    return value
