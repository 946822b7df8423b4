"""rawsgi/config.py, settings/ and units.py: a setting is written once and given in four ways."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawsgi.config import (
    GROUPS,
    OPTIONS,
    RELAXATIONS,
    SHORTHAND_NAMES,
    Option,
    Settings,
    SettingsError,
)
from rawsgi.protocol.message import RELAXATIONS as PROTOCOL_RELAXATIONS
from rawsgi.protocol.message import Limits
from rawsgi.settings.reference import describe_settings
from rawsgi.settings.sources import Resolved, resolve_settings, show_settings
from rawsgi.units import format_duration, format_size, parse_count, parse_duration, parse_size

ROOT = Path(__file__).resolve().parent.parent
KEPT = [option for option in OPTIONS if option.name not in SHORTHAND_NAMES]
BESIDE: dict[str, Any] = {"record": "folder"}
"""A flag that makes sense of those that are refused alone."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def resolve(
    flags: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    *,
    toml: str | None = None,
    folder: Path | None = None,
    config: str | None = None,
) -> Resolved:
    if toml is not None:
        assert folder is not None
        (folder / "pyproject.toml").write_text(toml)
    return resolve_settings(
        flags or {}, environ or {}, config, str(folder) if folder else "/nonexistent"
    )


def refuse(*args: Any, **more: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        resolve(*args, **more)
    text = str(caught.value)
    assert "\n" not in text and text.isprintable()
    return text


def choose_another(option: Option) -> tuple[str, Any]:
    """A text that is right for the option, and the value that it means: not the default."""
    if option.name == "bind":
        return "0.0.0.0:9", ("0.0.0.0:9",)
    if option.name in ("record", "access_log_file"):  # opened later, wherever it stands by then
        return "elsewhere", os.path.join(os.getcwd(), "elsewhere")
    if option.choices:
        choice = next(each for each in option.choices if each != option.default())
        return choice, (choice,) if option.many else choice
    if option.kind == "switch":
        other = not option.default()
        return str(other).lower(), other
    return {
        "text": ("elsewhere", "elsewhere"),
        "count": ("77", 77),
        "duration": ("1500ms", 1.5),
        "size": ("3KiB", 3072),
        "mode": ("0660", 0o660),
    }[option.kind]


# -- The one source of everything ---------------------------------------------------------------


@pytest.mark.parametrize("option", KEPT, ids=lambda option: option.name)
def test_each_setting_is_taken_from_each_source(option: Option, folder: Path) -> None:
    text, value = choose_another(option)
    quoted = text if option.kind in ("switch", "count") else f'"{text}"'
    toml = f"[tool.rawsgi]\n{option.key} = {quoted}\n"
    flag: Any = [text] if option.many else text
    for resolved, source in [
        (
            resolve(BESIDE | {option.name: flag}),
            "APP" if option.name == "application" else option.flag,
        ),
        (resolve({}, {option.variable: text}), option.variable),
        (resolve(toml=toml, folder=folder), f"pyproject.toml [tool.rawsgi] {option.key}"),
    ]:
        assert getattr(resolved.settings, option.name) == value
        assert resolved.sources[option.name] == source


@pytest.mark.parametrize("option", KEPT, ids=lambda option: option.name)
def test_what_is_said_nearer_wins(option: Option, folder: Path) -> None:
    text, value = choose_another(option)
    default = option.default()
    plain = {"switch": str(default).lower(), "text": "x"}.get(option.kind, "500")
    other = option.choices[-1] if option.choices else "h:5" if option.name == "bind" else plain
    assert other != text
    quoted = other if option.kind in ("switch", "count") else f'"{other}"'
    toml = f"[tool.rawsgi]\n{option.key} = {quoted}\n"
    over_toml = resolve({}, {option.variable: text}, toml=toml, folder=folder)
    assert getattr(over_toml.settings, option.name) == value
    flag: Any = [text] if option.many else text
    over_environ = resolve(
        BESIDE | {option.name: flag}, {option.variable: other}, toml=toml, folder=folder
    )
    assert getattr(over_environ.settings, option.name) == value
    source = "APP" if option.name == "application" else option.flag
    assert over_environ.sources[option.name] == source


def test_every_field_has_a_group_a_help_and_a_check() -> None:
    assert {option.group for option in OPTIONS} == set(GROUPS)
    names = [field.name for field in dataclasses.fields(Settings)]
    assert [option.name for option in KEPT] == names
    for option in OPTIONS:
        assert option.help and not option.help.endswith("."), option.name
        assert len({option.key, option.flag, option.variable}) == 3
        if option.name not in ("application", *SHORTHAND_NAMES):
            assert option.find_problem(option.default()) == "", option.name
    keys = [option.key for option in OPTIONS]
    assert len(keys) == len(set(keys))


def test_defaults_agree_with_those_of_the_protocol() -> None:
    settings, limits = Settings(application="x"), Limits()
    assert settings.request_line_limit_bytes == limits.request_line_bytes
    assert settings.field_limit == limits.fields
    assert settings.head_limit_bytes == limits.head_bytes
    assert settings.content_limit_bytes == limits.content_bytes
    assert PROTOCOL_RELAXATIONS == RELAXATIONS


def test_settings_cannot_be_changed_and_are_checked_when_made() -> None:
    settings = Settings(application="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.threads = 3  # type: ignore[misc]
    for wrong in (
        {"threads": 0}, {"threads": "4"}, {"threads": True}, {"threads": 4.0},
        {"head_timeout_s": math.nan}, {"head_timeout_s": 0}, {"head_timeout_s": math.inf},
        {"log_level": "loud"}, {"allow": ("bare-lf", "x")}, {"allow": "bare-lf"},
        {"access_log": 1}, {"server_name": "a\r\nb"}, {"server_name": "é"},
        {"content_limit_bytes": -1}, {"bind": "127.0.0.1:1"}, {"record": 1},
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Settings(application="x", **wrong)
    assert Settings(application="x", head_timeout_s=5).head_timeout_s == 5


# -- Units --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("5m", 300), ("250ms", 0.25), ("1.5s", 1.5), ("2h", 7200),
     ("1d", 86400), ("0", 0), ("10 s", 10), ("0.1", 0.1)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("64KiB", 65536), ("1MB", 10**6), ("1MiB", 1 << 20), ("2GiB", 2 << 30),
     ("1.5KiB", 1536), ("7B", 7), ("1kb", 1000), ("3GB", 3 * 10**9), ("64 KiB", 65536)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_count])
@pytest.mark.parametrize(
    "text",
    ["", "x", "1_0", "１２", "1e3", "0x10", "--1", "1,5", "inf", "nan", "5 minutes", "10q", "1 1",
     "\n3", "3\n", ".5", "5."],
)  # fmt: skip
def test_what_is_no_amount(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be"):
        parse(text)


@settings(deadline=None)
@given(st.integers(0, 1 << 59))
def test_a_size_reads_back_as_it_is_shown(size: int) -> None:
    assert parse_size(format_size(size)) == size


@settings(deadline=None)
@given(st.integers(0, 10**12).map(lambda n: n / 1000))
def test_a_duration_reads_back_as_it_is_shown(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(75.0, "75s"), (300.0, "5m"), (60.0, "60s"), (0.25, "250ms"), (7200.0, "2h"), (0.0, "0s"),
     (172800.0, "2d"), (90.0, "90s"), (1.5, "1500ms")],
)  # fmt: skip
def test_durations_are_shown_short(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


# -- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("threads", "0", "must be at least 1"),
        ("threads", "many", "must be a whole number"),
        ("threads", "-4", "must be at least 1"),
        ("threads", "99999", "must be at most 4096"),
        ("threads", "9" * 30, "must be a whole number"),
        ("port", "65536", "must be at most 65535"),
        ("port", "http", "must be a whole number"),
        ("backlog", "0", "must be at least 1"),
        ("head_timeout_s", "0", "must be at least 1ms"),
        ("head_timeout_s", "soon", "must be a duration such as 30, 30s, 5m or 250ms"),
        ("keep_alive_timeout_s", "400d", "must be at most 365d"),
        ("head_limit_bytes", "1", "must be at least 256"),
        ("unix_mode", "rw-rw----", "must be a file mode in octal such as 660"),
        ("unix_mode", "999", "must be a file mode in octal such as 660"),
        ("unix_mode", "4755", "must be a file mode in octal such as 660"),
        ("head_limit_bytes", "big", "must be a size such as 65536, 64KiB or 1MB"),
        ("access_log", "maybe", "must be true or false"),
        ("log_level", "warnin", "(did you mean warning?)"),
        ("log_level", "loud", "must be one of debug, info, warning, error, critical"),
        ("allow", "bare_lf", "(did you mean bare-lf?)"),
        ("allow", "bare-lf,x", "must be one of bare-lf, missing-host, obs-fold, underscores"),
        ("server_name", "a\x00b", "must not contain control characters"),
    ],
)
def test_a_mistake_names_the_source_the_value_and_what_is_right(
    name: str, text: str, right: str, folder: Path
) -> None:
    option = next(each for each in OPTIONS if each.name == name)
    flag: Any = [text] if option.many else text
    shown = text.replace("\x00", "\\x00")
    from_flag = refuse({name: flag})
    assert from_flag.startswith(f"{option.flag} {shown}: ") and right in from_flag
    from_environ = refuse({}, {option.variable: text})
    assert from_environ.startswith(f"{option.variable}={shown}: ") and right in from_environ
    quoted = text.replace("\x00", "\\u0000")
    from_toml = refuse(toml=f'[tool.rawsgi]\n{option.key} = "{quoted}"\n', folder=folder)
    assert from_toml.startswith(f"pyproject.toml [tool.rawsgi] {option.key} = ")
    assert shown in from_toml.replace("\\\\", "\\")
    if option.kind not in ("count", "switch"):  # in TOML these are no texts
        assert right in from_toml


IDLE = {
    "record_errors": ("true", "--record DIR"),
    "record_limit": ("7", "--record DIR"),
    "record_size_limit_bytes": ("7KiB", "--record DIR"),
    "wire_secrets": (
        "true",
        "--wire or --wire-full or --wire-errors or --record DIR or --by-hand",
    ),
}
"""A flag that does nothing alone, a value for it, and what it needs."""


@pytest.mark.parametrize("name", IDLE)
def test_a_flag_that_does_nothing_without_another_one(name: str, folder: Path) -> None:
    text, needed = IDLE[name]
    option = next(each for each in OPTIONS if each.name == name)
    assert refuse({name: text}) == f"{option.flag}: does nothing without {needed}"
    value = getattr(resolve(BESIDE | {name: text}).settings, name)
    assert value != option.default()
    # The other one may come from anywhere, and must be on.
    for flag in re.findall(r"--([a-z-]+)", needed):
        other = next(each for each in OPTIONS if each.key == flag)
        on, quoted = ("folder", '"folder"') if other.kind == "text" else ("true", "true")
        assert getattr(resolve({name: text}, {other.variable: on}).settings, name) == value
        toml = f"[tool.rawsgi]\n{other.key} = {quoted}\n"
        assert getattr(resolve({name: text}, toml=toml, folder=folder).settings, name) == value
    assert "does nothing without" in refuse({name: text}, {"RAWSGI_WIRE": "false"})
    assert "does nothing without" in refuse({name: text, "access_log": "true"})
    # In a file or a variable it stands ready for when it is needed.
    assert getattr(resolve({}, {option.variable: text}).settings, name) == value
    quoted = text if option.kind in ("switch", "count") else f'"{text}"'
    toml = f"[tool.rawsgi]\n{option.key} = {quoted}\n"
    assert getattr(resolve(toml=toml, folder=folder).settings, name) == value


@pytest.mark.parametrize("name", ["record_errors", "wire_secrets"])
def test_a_switch_that_is_off_needs_nothing(name: str) -> None:
    assert getattr(resolve({name: "false"}, {}).settings, name) is False


def test_a_mistake_is_told_also_where_a_nearer_source_overrides_it() -> None:
    assert "RAWSGI_THREADS=none" in refuse({"threads": "4"}, {"RAWSGI_THREADS": "none"})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("thread = 4", "thread = 4: no such setting (did you mean threads"),
        ("keep_alive_timeout = 5", "(did you mean keep-alive-timeout"),
        ("zzz = true", "zzz = true: no such setting"),
        ('app = "x"', "no such setting (did you mean application?)"),
        ("workers = 4", "workers = 4: no such setting: one process serves"),
        ("access_logfile = '-'", "no such setting: write --access-log"),
        ("threads = 4.5", "threads = 4.5: must be a whole number"),
        ("threads = true", "threads = true: must be a whole number"),
        ("access-log = 1", "access-log = 1: must be true or false"),
        ("bind = [1]", "bind = [1]: must be a text"),
        (
            "bind = 3000",
            'bind = 3000: must be a text or a list of texts, such as "127.0.0.1:8000"',
        ),
        ("allow = true", 'must be a text or a list of texts, such as "bare-lf"'),
        ("unix-mode = 660", 'unix-mode = 660: must be a text in octal, such as "660"'),
        ("app-dir = 2020-01-01", "app-dir = datetime.date(2020, 1, 1): must be a text"),
        ("head-timeout = nan", "must be at most"),
        ('"a\\nb" = 1', "a\\nb = 1: no such setting"),
        ("threads = {a = 1}", "must be a whole number"),
    ],
)
def test_mistakes_in_toml(line: str, expected: str, folder: Path) -> None:
    text = refuse(toml=f"[tool.rawsgi]\n{line}\n", folder=folder)
    assert expected in text and text.startswith("pyproject.toml [tool.rawsgi] ")


def test_toml_takes_numbers_for_times_and_sizes(folder: Path) -> None:
    toml = "[tool.rawsgi]\nhead-timeout = 7\nwrite-timeout = 0.5\nhead-limit = 1000\nbind = 'h:1'"
    settings = resolve(toml=toml, folder=folder).settings
    assert (settings.head_timeout_s, settings.write_timeout_s) == (7.0, 0.5)
    assert isinstance(settings.head_timeout_s, float)
    assert settings.head_limit_bytes == 1000
    assert settings.bind == ("h:1",)


def test_a_level_may_be_written_in_capitals(folder: Path) -> None:
    toml = '[tool.rawsgi]\nlog-level = "Warning"\n'
    for resolved, expected in [
        (resolve({"log_level": "INFO"}), "info"),
        (resolve({}, {"RAWSGI_LOG_LEVEL": "DEBUG"}), "debug"),
        (resolve(toml=toml, folder=folder), "warning"),
    ]:
        assert resolved.settings.log_level == expected


def test_a_variable_that_is_nearly_ours_is_a_slip_and_others_are_not_ours() -> None:
    text = refuse({}, {"RAWSGI_TREADS": "4"})
    assert text == "RAWSGI_TREADS=4: no such setting (did you mean RAWSGI_THREADS?)"
    others = {"RAWSGI_SERVICE_HOST": "10.0.0.1", "RAWSGI_PORT_80_TCP_ADDR": "x", "HOME": "/"}
    assert resolve({}, others).settings.threads == 16


def test_the_port_that_kubernetes_sets_is_not_ours() -> None:
    resolved = resolve({}, {"RAWSGI_PORT": "tcp://10.0.0.1:80"})
    assert resolved.settings.bind == ("127.0.0.1:8000",)


def test_an_empty_variable_is_none() -> None:
    assert resolve({}, {"RAWSGI_THREADS": "", "PORT": ""}).sources["threads"] == "default"


# -- Files --------------------------------------------------------------------------------------


def test_a_file_of_its_own_may_leave_the_table_out(folder: Path) -> None:
    path = folder / "rawsgi.toml"
    path.write_text("threads = 3\n")
    (folder / "pyproject.toml").write_text("[tool.rawsgi]\nthreads = 5\n")
    assert resolve(folder=folder, config=str(path)).settings.threads == 3
    assert resolve({}, {"RAWSGI_CONFIG": str(path)}, folder=folder).settings.threads == 3
    path.write_text("[tool.rawsgi]\nthreads = 7\n")
    resolved = resolve(folder=folder, config=str(path))
    assert resolved.settings.threads == 7
    assert resolved.sources["threads"] == f"{path} [tool.rawsgi] threads"


def test_the_name_of_the_table(folder: Path) -> None:
    """`[rawsgi]` is a slip in a pyproject.toml, and can mean nothing else in a file of ours."""
    for name in ("rawsgi", "tools.rawsgi"):
        text = refuse(toml=f"[{name}]\nthreads = 3\n", folder=folder)
        assert text == f"pyproject.toml: the table [{name}] is called [tool.rawsgi] here"
    path = folder / "rawsgi.toml"
    path.write_text("[rawsgi]\nthreads = 3\n")
    assert resolve(config=str(path)).settings.threads == 3


@pytest.mark.parametrize("toml", ["", "[tool]\n", "[tool.black]\nx = 1\n", "[project]\nname='x'\n"])
def test_a_pyproject_of_others_says_nothing(toml: str, folder: Path) -> None:
    assert set(resolve(toml=toml, folder=folder).sources.values()) == {"default"}


def test_files_that_cannot_be_read(folder: Path) -> None:
    missing = str(folder / "missing.toml")
    assert refuse(config=missing) == f"{missing}: there is no such file"
    assert refuse({}, {"RAWSGI_CONFIG": missing}).startswith(missing)
    assert "cannot be read" in refuse(config=str(folder))
    assert "is not TOML" in refuse(toml="threads = = 4", folder=folder)
    (folder / "pyproject.toml").write_bytes(b"\xff\xfe")
    assert "is not TOML" in refuse(folder=folder)
    assert "must be a table" in refuse(toml="[tool]\nrawsgi = 3\n", folder=folder)
    # tool may be anything where it is not ours to say
    assert resolve(toml="tool = 3", folder=folder).settings.threads == 16


# -- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "environ", "bind", "source"),
    [
        ({}, {}, ["127.0.0.1:8000"], "default"),
        ({}, {"PORT": "5000"}, ["0.0.0.0:5000"], "PORT"),
        ({"port": "3000"}, {}, ["127.0.0.1:3000"], "--port"),
        ({"port": "3000"}, {"PORT": "5000"}, ["127.0.0.1:3000"], "--port"),
        ({"host": "::1"}, {}, ["[::1]:8000"], "--host"),
        ({"host": "[::1]"}, {}, ["[::1]:8000"], "--host"),
        ({"host": "::", "port": "1"}, {}, ["[::]:1"], "--host and --port"),
        ({"host": "a"}, {"PORT": "5000"}, ["a:5000"], "--host and PORT"),
        ({"port": "3000"}, {"RAWSGI_HOST": "a"}, ["a:3000"], "RAWSGI_HOST and --port"),
        ({"bind": ["a:1", "unix:/x"]}, {"PORT": "5"}, ["a:1", "unix:/x"], "--bind"),
        ({"bind": ["a:1"]}, {"RAWSGI_PORT": "5"}, ["a:1"], "--bind"),
        ({"port": "3000"}, {"RAWSGI_BIND": "a:1"}, ["127.0.0.1:3000"], "--port"),
        ({}, {"RAWSGI_BIND": "a:1,unix:/x"}, ["a:1", "unix:/x"], "RAWSGI_BIND"),
        ({"bind": ["unix:/a, b"]}, {}, ["unix:/a, b"], "--bind"),
    ],
)
def test_one_list_of_addresses(
    flags: dict[str, Any], environ: dict[str, str], bind: list[str], source: str
) -> None:
    resolved = resolve(flags, environ)
    assert list(resolved.settings.bind) == bind
    assert resolved.sources["bind"] == source


def test_bind_and_port_from_one_source_are_a_mistake() -> None:
    text = refuse({"bind": ["a:1"], "port": "3"})
    assert text == "--port: cannot stand beside --bind; give one of them"
    assert "RAWSGI_HOST" in refuse({}, {"RAWSGI_BIND": "a:1", "RAWSGI_HOST": "b"})


def test_a_bad_port_variable() -> None:
    assert refuse({}, {"PORT": "web"}) == "PORT=web: must be a whole number"


def test_by_hand_is_patient_and_what_was_asked_for_stays() -> None:
    resolved = resolve({"by_hand": "true", "head_timeout_s": "7", "allow": ["obs-fold"]})
    settings = resolved.settings
    assert settings.keep_alive_timeout_s == settings.content_timeout_s == 600.0
    assert settings.content_rate_bytes == 0
    assert settings.head_timeout_s == 7.0
    assert settings.allow == ("bare-lf", "missing-host", "obs-fold")
    assert resolved.sources["keep_alive_timeout_s"] == "--by-hand"
    assert resolved.sources["head_timeout_s"] == "--head-timeout"


# -- What is shown ------------------------------------------------------------------------------


def test_what_print_config_shows_is_toml_that_gives_the_same_settings(folder: Path) -> None:
    first = resolve(
        {option.name: [choose_another(option)[0]] if option.many else choose_another(option)[0]
         for option in KEPT}
    )  # fmt: skip
    shown = show_settings(first)
    again = resolve(toml=shown, folder=folder)
    assert again.settings == first.settings
    default = show_settings(resolve())
    assert resolve(toml=default, folder=folder).settings == resolve().settings
    for option in KEPT:
        assert f"{option.key} " in default


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30))
def test_any_text_is_quoted_right(text: str) -> None:
    resolved = resolve({"record": text, "bind": [text]})
    table = tomllib.loads(show_settings(resolved))["tool"]["rawsgi"]
    assert table["record"] == text
    assert table["bind"] == [text]


def test_the_page_of_settings_is_current() -> None:
    page = ROOT / "docs" / "settings.md"
    command = (
        'python -c "from rawsgi.settings.reference import describe_settings as d; '
        "print(d(), end='')\""
        " > docs/settings.md"
    )
    assert page.read_text("utf-8") == describe_settings(), f"run: {command}"


def test_the_page_tells_what_an_access_line_means_and_what_is_hidden() -> None:
    page = describe_settings()
    assert "in\nseconds from the complete request" in page
    assert "- `--poller`: how sockets are waited for: auto, epoll, portable [auto]\n" in page
    assert "| `-b, --bind ADDRESS`<br>" in page


def test_the_page_names_every_setting_that_is_not_hidden() -> None:
    page = describe_settings()
    for option in OPTIONS:
        assert (f"`{option.variable}`" in page) is not option.hidden
