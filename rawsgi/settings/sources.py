"""Where settings come from: flags, environment, TOML, and which of them wins.

What is said nearer wins: flag, then RAWSGI_* variable, then TOML, then default. A mistake in any
of them is a `SettingsError`, also when a nearer source overrides it, and names where it stands.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rawsgi.config import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    OPTIONS,
    SHORTHAND_NAMES,
    Option,
    Settings,
    SettingsError,
    format_value,
    quote,
    suggest,
)
from rawsgi.settings.newcomers import explain_flag


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and for each name where its value came from."""

    settings: Settings
    sources: Mapping[str, str]
    written: Mapping[str, str] = field(default_factory=dict)
    """Paths as a person wrote them; in the settings they are absolute."""


@dataclass(frozen=True, slots=True)
class _Given:
    """One value that a person gave, with its source and the rank of that source."""

    value: Any
    source: str
    rank: int


_RANK_TOML, _RANK_ENVIRON, _RANK_FLAG = 1, 2, 3

_NEEDS = {
    "record_errors": ("record",),
    "record_limit": ("record",),
    "record_size_limit_bytes": ("record",),
    "wire_secrets": ("wire", "wire_full", "wire_errors", "record", "by_hand"),
}

_PATHS = ("access_log_file", "record")


def resolve_settings(
    flags: Mapping[str, str | Sequence[str]],
    environ: Mapping[str, str],
    config_file: str | None = None,
    folder: str = ".",
) -> Resolved:
    """Settings from flags, environment and TOML; raises SettingsError.

    `flags` maps names of settings to the texts after the flags. `config_file` is the file of
    --config; without it the [tool.rawsgi] table of `folder`/pyproject.toml is read, if any.
    """
    given = _read_toml(config_file or environ.get("RAWSGI_CONFIG"), folder)
    given |= _read_environ(environ)
    given |= _read_flags(flags)
    values = {name: entry.value for name, entry in given.items()}
    sources = {option.name: "default" for option in OPTIONS}
    sources |= {name: entry.source for name, entry in given.items()}
    if values.get("by_hand"):
        for option in OPTIONS:
            if option.by_hand is not None and (option.many or option.name not in values):
                values[option.name] = option.by_hand
                if option.many:  # what was asked for besides is kept
                    more = given[option.name].value if option.name in given else ()
                    values[option.name] += tuple(x for x in more if x not in option.by_hand)
                sources[option.name] = sources["by_hand"]
    _refuse_idle_flags(given)
    values["bind"], sources["bind"] = _choose_bind(given, environ)
    for name in SHORTHAND_NAMES:
        values.pop(name, None)
        sources.pop(name)
    written = {name: values[name] for name in _PATHS if values.get(name)}
    values |= {name: _make_absolute(path, sources[name]) for name, path in written.items()}
    return Resolved(Settings(**values), sources, written)


def _make_absolute(path: str, source: str) -> str:
    """The application may change the current folder, and the file is opened after that. `..`
    stays: behind a symbolic link it leads elsewhere."""
    try:
        return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    except OSError:
        raise SettingsError(
            f"{source}: the current folder is gone: write the whole path of {quote(path)}"
        ) from None


def _refuse_idle_flags(given: Mapping[str, _Given]) -> None:
    """A flag that does nothing without another one. In a file or a variable it may stand ready."""
    for name, needed in _NEEDS.items():
        if name not in given or given[name].rank != _RANK_FLAG or not given[name].value:
            continue
        if not any(other in given and given[other].value for other in needed):
            by_name = {option.name: option for option in OPTIONS}
            flags = " or ".join(f"{by_name[o].flag} {by_name[o].metavar}".rstrip() for o in needed)
            raise SettingsError(f"{given[name].source}: does nothing without {flags}")


def _choose_bind(
    given: Mapping[str, _Given], environ: Mapping[str, str]
) -> tuple[tuple[str, ...], str]:
    """One list of addresses out of bind, host and port: whichever was said nearer."""
    bind = given.get("bind")
    short = [given[name] for name in ("host", "port") if name in given]
    rank = max((entry.rank for entry in short), default=0)
    if bind and bind.rank == rank:
        other = next(entry for entry in short if entry.rank == rank)
        raise SettingsError(f"{other.source}: cannot stand beside {bind.source}; give one of them")
    if bind and bind.rank > rank:
        if not bind.value:
            raise SettingsError(f"{bind.source}: there is no address to listen at")
        return bind.value, bind.source
    host, port = (given[name].value if name in given else None for name in ("host", "port"))
    sources = [entry.source for entry in short]
    if port is None:
        port = DEFAULT_PORT
        # Platforms name the port in PORT and route to it from outside: listen everywhere then.
        if text := environ.get("PORT"):
            option = next(each for each in OPTIONS if each.name == "port")
            port = _parse_given(option, text, "PORT", f"PORT={text}")
            sources.append("PORT")
            host = host or "0.0.0.0"
    host = host or DEFAULT_HOST
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return (f"{host}:{port}",), " and ".join(sources) or "default"


def _parse_given(option: Option, text: str, source: str, shown: str) -> Any:
    """Parse and check; the error names the source (`shown`: as the person wrote it)."""
    try:
        value = option.parse(text)
        problem = option.find_problem(value)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise SettingsError(f"{quote(shown)}: {problem}")
    return value


def _read_flags(flags: Mapping[str, str | Sequence[str]]) -> dict[str, _Given]:
    result: dict[str, _Given] = {}
    for option in OPTIONS:
        if option.name not in flags:
            continue
        texts = flags[option.name]
        source = "APP" if option.name == "application" else option.flag
        if option.many:
            value: Any = ()
            for text in [texts] if isinstance(texts, str) else texts:
                shown = f"{source} {text}"
                # A folder or file may have a comma or a space in its name; a choice has none.
                parts = option.parse(text) if option.choices else (text,)
                if problem := option.find_problem(parts):
                    raise SettingsError(f"{quote(shown)}: {problem}")
                value += parts
        else:
            value = _parse_given(option, str(texts), source, f"{source} {texts}")
        result[option.name] = _Given(value, source, _RANK_FLAG)
    return result


def _read_environ(environ: Mapping[str, str]) -> dict[str, _Given]:
    result: dict[str, _Given] = {}
    known = {option.variable: option for option in OPTIONS}
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith("RAWSGI_") or variable == "RAWSGI_CONFIG":
            continue
        option = known.get(variable)
        if option is None:
            # Others may use the prefix for things of their own; what is nearly ours is a slip.
            close = difflib.get_close_matches(variable, known, n=1, cutoff=0.85)
            if close:
                raise SettingsError(
                    f"{quote(variable)}={quote(text)}: no such setting (did you mean {close[0]}?)"
                )
            continue
        # Kubernetes sets RAWSGI_PORT=tcp://... beside a service that is called rawsgi.
        if not text or (option.name == "port" and text.startswith("tcp://")):
            continue
        value = _parse_given(option, text, variable, f"{variable}={text}")
        result[option.name] = _Given(value, variable, _RANK_ENVIRON)
    return result


def _read_toml(config_file: str | None, folder: str) -> dict[str, _Given]:
    path = Path(config_file) if config_file else Path(folder, "pyproject.toml")
    shown = quote(config_file or path.name)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if config_file:
            raise SettingsError(f"{shown}: there is no such file") from None
        return {}
    except OSError as error:
        raise SettingsError(f"{shown}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # bad UTF-8 and bad TOML
        raise SettingsError(f"{shown}: is not TOML: {quote(str(error))}") from None
    tool = document.get("tool")
    table = tool.get("rawsgi") if isinstance(tool, dict) else None
    if table is None:
        # A file of its own may do without the table's name; pyproject.toml belongs to others too.
        if path.name == "pyproject.toml":
            _refuse_other_table(document, shown)
            return {}
        # `[rawsgi]` in a file of our own can mean nothing else.
        own = document.get("rawsgi")
        table = own if isinstance(own, dict) and len(document) == 1 else document
    else:
        shown += " [tool.rawsgi]"
    if not isinstance(table, dict):
        raise SettingsError(f"{shown}: must be a table")
    return _read_table(table, shown)


def _refuse_other_table(document: Mapping[str, Any], shown: str) -> None:
    """`[rawsgi]` and `[tools.rawsgi]` would be passed over in silence."""
    for name, value in document.items():
        if name == "rawsgi" or (isinstance(value, dict) and isinstance(value.get("rawsgi"), dict)):
            wrong = name if name == "rawsgi" else f"{quote(name)}.rawsgi"
            raise SettingsError(f"{shown}: the table [{wrong}] is called [tool.rawsgi] here")


def _read_table(table: Mapping[str, Any], shown: str) -> dict[str, _Given]:
    result: dict[str, _Given] = {}
    known = {option.key: option for option in OPTIONS}
    for key, value in table.items():
        option = known.get(key)
        written = "true" if value is True else "false" if value is False else repr(value)
        place = f"{shown} {quote(key)} = {quote(written)}"
        if option is None:
            foreign = explain_flag("--" + key.replace("_", "-"))
            hint = f": {foreign}" if foreign else suggest(key, list(known))
            hint = " (did you mean application?)" if key == "app" else hint
            raise SettingsError(f"{place}: no such setting{hint}")
        if isinstance(value, str):
            if option.kind in ("duration", "size", "mode"):
                value = _parse_given(option, value, shown, place)
            elif option.many:
                value = (value,)
            elif option.choices:
                value = option.parse(value)
        elif isinstance(value, list) and option.many:
            value = tuple(value)
        elif option.kind == "duration" and type(value) is int:
            value = float(value)
        elif option.kind == "mode":  # 660 would be read as decimal
            raise SettingsError(f'{place}: must be a text in octal, such as "660"')
        if problem := option.find_problem(value):
            raise SettingsError(f"{place}: {problem}")
        result[option.name] = _Given(value, f"{shown} {key}", _RANK_TOML)
    return result


def show_settings(resolved: Resolved) -> str:
    """Every setting with its source, as TOML that can be pasted into a file."""
    lines = []
    for option in OPTIONS:
        if option.name in SHORTHAND_NAMES:
            continue
        value = resolved.written.get(option.name, getattr(resolved.settings, option.name))
        if value is None or value == "":
            text = f"# {option.key} is not set"
        elif option.many:
            text = f"{option.key} = [{', '.join(_quote_toml(each) for each in value)}]"
        else:
            shown = format_value(option, value)
            bare = option.kind in ("switch", "count") or (
                option.kind == "size" and shown.isdecimal()
            )
            text = f"{option.key} = {shown if bare else _quote_toml(shown)}"
        lines.append((text, resolved.sources[option.name]))
    width = max(len(text) for text, _ in lines)
    body = "".join(f"{text:{width}}  # {quote(source)}\n" for text, source in lines)
    return f"[tool.rawsgi]\n{body}"


def _quote_toml(text: str) -> str:
    escaped = "".join(
        f"\\{c}" if c in '\\"' else c if c.isprintable() else f"\\U{ord(c):08X}" for c in text
    )
    return f'"{escaped}"'
