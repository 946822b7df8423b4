"""docs/settings.md, made from the settings, so that it cannot say anything else.

The rule of this file: what a setting means is in `config`; here stands only how it is given.
"""

from __future__ import annotations

from rawsgi.config import GROUPS, LOGS, OPTIONS, RELAXATIONS, format_value

_SETTINGS_PAGE = """\
# Settings

Every setting can be given in three ways. What is said nearer wins:

1. a flag: `--keep-alive-timeout 30s`
2. an environment variable: `RAWSGI_KEEP_ALIVE_TIMEOUT=30s`
3. TOML: `keep-alive-timeout = "30s"` in the table `[tool.rawsgi]` of `pyproject.toml` in the
   current folder, or in the file that `--config FILE` (or `RAWSGI_CONFIG`) names. In a file of
   its own the table's name may be left out.

`rawsgi --print-config` shows each value and where it came from, as TOML.

Times are written `30` (seconds), `30s`, `5m`, `250ms`; sizes `65536` (bytes), `64KiB` (1024
each), `1MB` (1000 each). A switch has a second flag that begins with `--no-`; its variable takes
`true` or `false`. 0 turns a setting off where its row says so, and is refused elsewhere. A setting
that may be repeated is a list in TOML, and its variable holds names
with commas between them.

`host` and `port` are short for one `bind`. Of `bind` on one side and `host` and `port` on the
other, the side that was said nearer counts; both from one source are a mistake. Where neither
`bind` nor `port` is given and the variable `PORT` is set, as hosting platforms do, rawsgi listens
on that port, at `host` if that is given and at all IPv4 addresses if not. `[::]:PORT` is IPv6
alone; `*:PORT` is both.

An unknown key in TOML is an error. An unknown variable is one only if it is nearly the name of a
setting, because the environment is shared with other programs.

Two more flags are no settings: `--config FILE` and `--print-config`. `-b` is short for `--bind`.

This page is made from `rawsgi/config.py` by `rawsgi/settings/reference.py`.
"""

_ACCESS_LOG_TEXT = """
An access line is the combined log format of other servers, with the duration at its end, in
seconds from the complete request to the end of its response:

```text
127.0.0.1 - - [21/Nov/2026:09:00:00 +0000] "GET /hello HTTP/1.1" 200 13 "-" "curl/7.88.1" 0.000482
```

The number after the status counts the bytes of the content, without the head. A request that was
refused shows as much of its first line as was read, or `-`. Bytes from the wire that are not
printable ASCII, quotes and backslashes are written as `\\xHH`. The status 499 stands for a client
that left before its answer.
"""


def describe_settings() -> str:
    """docs/settings.md: how settings are given, and one table for each group."""
    parts = [_SETTINGS_PAGE]
    for group in GROUPS:
        parts.append(f"\n## {group}\n\n")
        parts.append("| flag, TOML key, variable | default | meaning |\n|---|---|---|\n")
        for option in OPTIONS:
            if option.group != group or option.hidden:
                continue
            flag = option.flag + (f" {option.metavar}" if option.metavar else "")
            flag = f"{option.short}, {flag}" if option.short else flag
            if option.name == "application":
                flag = option.metavar
            names = f"`{flag}`<br>`{option.key}`<br>`{option.variable}`"
            meaning = option.help
            if option.choices:
                meaning += ": " + ", ".join(f"`{choice}`" for choice in option.choices)
            if option.by_hand is not None:
                meaning += f" (`--by-hand`: {format_value(option, option.by_hand)})"
            parts.append(f"| {names} | {option.show_default()} | {meaning} |\n")
        if group == LOGS:
            parts.append(_ACCESS_LOG_TEXT)
    parts.append("\nThe names that `--allow` takes:\n\n")
    parts.extend(f"- `{name}`: {meaning}\n" for name, meaning in RELAXATIONS.items())
    parts.append("\nNot shown by `--help`, since only tests need them:\n\n")
    parts.extend(
        f"- `{option.flag}`: {option.help}: {', '.join(option.choices)} [{option.show_default()}]\n"
        for option in OPTIONS
        if option.hidden
    )
    return "".join(parts)
