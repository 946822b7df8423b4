"""The kinds of server that can be compared, and the command that starts each.

The rule: every server runs with its own defaults, but for what the comparison needs: one process
with several threads, since else one incomplete request would stop everything, and no access log.
rawsgi alone takes the user's settings for the user's application (see `process`): a difference
that a setting mends must be seen to be gone. What it would write is turned off all the same.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

THREADS: Final = 16
_FOLDER: Final = Path(__file__).parent


class ServerError(Exception):
    """A server cannot be started. The message is one or two lines for the user."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server that we know how to start.

    distribution: what to install, and whose version is shown. command: from application
    (`MODULE:ATTR`), host and port to the argument list.
    """

    name: str
    distribution: str
    command: Callable[[str, str, int], list[str]]
    # A server whose command finds the application as rawsgi does needs no plain MODULE:ATTR.
    any_spec: bool = False
    # The environment variables that are settings of it, and are kept from it.
    variables: tuple[str, ...] = ()

    def is_installed(self) -> bool:
        """Say whether it can be started with this Python."""
        try:
            importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return self.name == "rawsgi"
        return True

    def version(self) -> str:
        """Return the version of the installed distribution, or ""."""
        if not self.distribution:
            return ""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return ""


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _launch(name: str) -> Callable[[str, str, int], list[str]]:
    def command(app: str, host: str, port: int) -> list[str]:
        return [sys.executable, "-P", str(_FOLDER / "launch.py"), name, app, host, str(port)]

    return command


def _find_program(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def _rawsgi(app: str, host: str, port: int) -> list[str]:
    return _module(
        "rawsgi", app, "--host", host, "--port", str(port),
        "--no-access-log", "--log-level", "error",
        # pyproject.toml may name those of a server in production.
        "--access-log-file", os.devnull, "--record", "",
    )  # fmt: skip


def _gunicorn(app: str, host: str, port: int) -> list[str]:
    # The defaults but for threads: with one sync worker an incomplete request stops everything.
    # -c: a gunicorn.conf.py in the current folder would make a different server of it.
    return _module(
        "gunicorn", "-c", os.devnull, "-k", "gthread", "--threads", str(THREADS),
        "--log-level", "warning", "-b", f"{host}:{port}", app,
    )  # fmt: skip


def _waitress(app: str, host: str, port: int) -> list[str]:
    return _module("waitress", f"--threads={THREADS}", f"--listen={host}:{port}", app)


def _cheroot(app: str, host: str, port: int) -> list[str]:
    return _module("cheroot", "--threads", str(THREADS), "--bind", f"{host}:{port}", app)


def _granian(app: str, host: str, port: int) -> list[str]:
    return _module(
        "granian", "--interface", "wsgi", "--blocking-threads", str(THREADS),
        "--log-level", "warning", "--host", host, "--port", str(port), app,
    )  # fmt: skip


def _uwsgi(app: str, host: str, port: int) -> list[str]:
    module, _, attribute = app.partition(":")
    return [
        _find_program("uwsgi"), "--http-socket", f"{host}:{port}", "--threads", str(THREADS),
        "--module", module, "--callable", attribute,
        "--die-on-term", "--need-app", "--disable-logging",
    ]  # fmt: skip


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("rawsgi", "rawsgi", _rawsgi, any_spec=True),
        Kind("gunicorn", "gunicorn", _gunicorn, variables=("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY")),
        Kind("waitress", "waitress", _waitress),
        Kind("cheroot", "cheroot", _cheroot),
        Kind("granian", "granian", _granian),
        Kind("bjoern", "bjoern", _launch("bjoern"), any_spec=True),
        Kind("uwsgi", "uwsgi", _uwsgi),
        Kind("gevent", "gevent", _launch("gevent"), any_spec=True),
        Kind("werkzeug", "werkzeug", _launch("werkzeug"), any_spec=True),
    )
}


def command_kind(template: str) -> Kind:
    """Make a kind of `COMMAND {app} {host} {port}`. Raises ServerError if it is no command."""
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ServerError(f"--with {template!r}: {error}") from error
    if not words:
        raise ServerError("--with: the command is empty")
    if not any("{port}" in word for word in words):
        raise ServerError(f"--with {template!r}: the command must say where {{port}} goes")

    def command(app: str, host: str, port: int) -> list[str]:
        replaced = {"{app}": app, "{host}": host, "{port}": str(port)}
        return [re.sub(r"\{(?:app|host|port)\}", lambda m: replaced[m[0]], word) for word in words]

    program = next((word for word in words if "=" not in word), words[0])
    return Kind(os.path.basename(program), "", command, any_spec=True)


def install_hint(kind: Kind) -> str:
    """Say how to install a peer that is missing."""
    return (
        f"{kind.name} is not installed for this Python. Install it with: "
        f"{shlex.quote(sys.executable)} -m pip install {kind.distribution}"
    )
