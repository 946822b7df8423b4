"""rawsgi from Python: `rawsgi.serve(app, port=3000)` at the end of a script.

The rule of this file: it says nothing of its own. A keyword argument is the flag of that name,
with the same values, the same checks and the same rank over variables and TOML.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from rawsgi.cli import serve_settings
from rawsgi.config import OPTIONS, Option, SettingsError, format_value, suggest
from rawsgi.net.listening.listener import ListenerError, parse_bind
from rawsgi.settings.newcomers import explain_flag
from rawsgi.settings.sources import Resolved, resolve_settings
from rawsgi.wsgi.gateway import Application
from rawsgi.wsgi.loading.failure import ApplicationError as ApplicationError  # a public name

_NAMES = {
    option.key.replace("-", "_"): option for option in OPTIONS if option.name != "application"
}


def serve(
    application: Application,
    *,
    on_ready: Callable[[list[str]], object] | None = None,
    **settings: Any,
) -> int:
    """Serve a WSGI application until a signal ends it; return the exit status, mostly 0.

    `settings` are the flags of the command line with underscores: `port=3000`, `threads=4`,
    `keep_alive_timeout="60s"`, `bind=["unix:/run/app.sock"]`. `on_ready` is called once with the
    addresses when clients can connect; port 0 is any free one.

    In the main thread SIGTERM and Ctrl-C end it when the requests in flight are answered; where
    one does not end in time, the process ends with it, since nothing can end a thread. In
    another thread nothing ends it but the end of the process: make that thread a daemon.

    Raises `SettingsError` for settings that make no sense, `ListenerError` for an address that
    cannot be had, `TypeError` for an application that cannot be called, `ApplicationError` for one
    that replaced Python's threads after rawsgi was imported.
    """
    return serve_settings(_resolve(application, settings), application, on_ready)


def serve_paste(application: Application, global_settings: object, **settings: str) -> None:
    """`[server:main] use = egg:rawsgi` of a PasteDeploy file: `pserve development.ini`.

    `listen = HOST:PORT [HOST:PORT ...]`, as Pyramid's templates have it for waitress, is `bind`.
    """
    given: dict[str, Any] = {key.replace("-", "_"): text for key, text in settings.items()}
    try:
        if "listen" in given:
            if "bind" in given:
                raise SettingsError("listen: cannot stand beside bind; give one of them")
            given["bind"] = given.pop("listen").split()
        serve_settings(_resolve(application, given), application)
    except (SettingsError, ListenerError, ApplicationError) as error:
        # pserve shows this in one line, and a traceback of anything else.
        raise SystemExit(f"rawsgi: {error}") from None


def _resolve(application: Application, settings: dict[str, Any]) -> Resolved:
    """Check what can be checked before anything is opened. Raises as `serve` says."""
    if not callable(application):
        raise TypeError(f"the application is not callable: {type(application).__name__}")
    given: dict[str, Any] = {"application": name_application(application)}
    for name, value in settings.items():
        option = _NAMES.get(name)
        if option is None:
            foreign = explain_flag("--" + name.replace("_", "-"))
            hint = f": {foreign}" if foreign else suggest(name, list(_NAMES))
            raise SettingsError(f"there is no setting {name!r}{hint}")
        if value is None:
            continue
        if option.many and not isinstance(value, str):
            given[option.name] = [str(part) for part in value]
        else:
            given[option.name] = _write(option, value)
    resolved = resolve_settings(given, os.environ)
    for text in resolved.settings.bind:
        parse_bind(text)
    return resolved


def _write(option: Option, value: Any) -> str:
    """A value of Python as the flag would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if option.kind == "mode" and isinstance(value, int):
        if not option.minimum <= value <= option.maximum:
            name = option.key.replace("-", "_")
            raise SettingsError(f"{name}={value}: must be from 0 to 0o777, such as 0o660")
        return format_value(option, value)
    return str(value)


def name_application(application: Any) -> str:
    """Return what the start line calls an application: `hello:app`, or the name of its class."""
    name = getattr(application, "__name__", None) or type(application).__name__
    module = getattr(application, "__module__", None)
    return f"{module}:{name}" if module and module != "__main__" else str(name)
