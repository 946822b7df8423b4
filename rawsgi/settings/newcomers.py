"""What people bring along from other servers: flags and words, and what rawsgi has instead.

The rule of this file: it only explains. Nothing here is understood as another server would; a
flag with the same name and another meaning would be worse than none.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Sequence

_NO_WORKERS = (
    "one process serves, with up to --threads threads; there are no worker processes yet "
    "(start several behind nginx: docs/deployment.md)"
)
_NO_TLS = "there is no TLS yet: let nginx or another proxy end it (docs/deployment.md)"
_NO_TRUST = (
    "there is no trust in a proxy's fields yet: the application does it, as with werkzeug's "
    "ProxyFix (docs/deployment.md)"
)
_NO_RELOAD = "there is no reload yet: stop it and start it again"
_NO_RECYCLING = "there is no replacement of processes yet: a supervisor such as systemd restarts it"
_IN_THE_FOREGROUND = "it stays in the foreground: let systemd or another supervisor start it"
_ACCESS_LOG = "write --access-log, and --access-log-file FILE for a file"
_ERROR_LOG = "errors go to standard error: redirect that (2>>error.log)"
_TIMEOUT = (
    "write --request-timeout TIME, which answers a slow request with 504 and ends nothing else"
)
_ENVIRON = "set the variables before: set -a; . ./FILE"
_PASTE = "write use = egg:rawsgi below [server:main] of the file, and start it with pserve"
_FORMAT = "its format is fixed: combined, with the duration at the end"
_RELAX = "write --allow NAME for what may be relaxed (docs/settings.md)"
_NO_METRICS = "there are no metrics yet"
_BIND = "write --bind ADDRESS"
_HEAD_LIMIT = "write --head-limit SIZE"
_CONTENT_LIMIT = "write --content-limit SIZE"
_KEEP_ALIVE = "write --keep-alive-timeout TIME"
_CONFIG = "write --config FILE, in TOML (gunicorn's own file is Python: rawsgi does not read it)"

# gunicorn, waitress, uvicorn, granian, uWSGI, flask, manage.py.
FOREIGN_FLAGS = {
    "-w": _NO_WORKERS,
    "--workers": _NO_WORKERS,
    "--processes": _NO_WORKERS,
    "-p": "write --port PORT",
    "-k": "write --threads N: there are no worker classes, one kind of worker does it all",
    "--worker-class": "write --threads N: there are no worker classes, one kind does it all",
    "--worker-connections": "write --connections N",
    "--worker-tmp-dir": "there is no heartbeat file: nothing to place",
    "--blocking-threads": "write --threads N",
    "--max-threads": "write --threads N",
    "--accepted-queue-size": "write --queue N",
    "--request-queue-size": "write --backlog N",
    "--backpressure": "write --queue N",
    "-t": _TIMEOUT,
    "--timeout": _TIMEOUT,
    "--channel-timeout": _KEEP_ALIVE,
    "-c": _CONFIG,
    "--env-file": _ENVIRON,
    "--env-files": _ENVIRON,
    "--env": _ENVIRON,
    "-e": _ENVIRON,
    "--paste": _PASTE,
    "--paster": _PASTE,
    "--reuse-port": "one process has the port; several share one behind nginx",
    "--no-sendfile": "files are sent by sendfile wherever that is possible: nothing to set",
    "--protocol": "rawsgi speaks HTTP/1.1, and nothing else",
    "--listen": _BIND,
    "--unix-socket": "write --bind unix:PATH",
    "--uds-permissions": "write --unix-mode MODE",
    "--unix-socket-perms": "write --unix-mode MODE",
    "--uds": "write --bind unix:PATH",
    "--socket": "write --bind ADDRESS: rawsgi speaks HTTP, and nothing else",
    "--http": _BIND,
    "-m": "write --unix-mode MODE for the socket file",
    "--umask": "write --unix-mode MODE for the socket file",
    "--fd": "there is no socket activation yet: write --bind ADDRESS",
    "--auto-reload": _NO_RELOAD,
    "--debug": "the application has its own debug mode; --log-level debug is the server's",
    "-D": _IN_THE_FOREGROUND,
    "--daemon": _IN_THE_FOREGROUND,
    "--daemonize": _IN_THE_FOREGROUND,
    "--pid": _IN_THE_FOREGROUND,
    "--pidfile": _IN_THE_FOREGROUND,
    "--pid-file": _IN_THE_FOREGROUND,
    "-u": "start it as that user (User= in systemd)",
    "--user": "start it as that user (User= in systemd)",
    "-g": "start it as that group (Group= in systemd)",
    "--group": "start it as that group (Group= in systemd)",
    "-n": "there is no process title",
    "--name": "there is no process title",
    "--proc-name": "there is no process title",
    "--certfile": _NO_TLS,
    "--keyfile": _NO_TLS,
    "--ca-certs": _NO_TLS,
    "--cert-reqs": _NO_TLS,
    "--ciphers": _NO_TLS,
    "--cert": _NO_TLS,
    "--key": _NO_TLS,
    "--https": _NO_TLS,
    "--forwarded-allow-ips": _NO_TRUST,
    "--proxy-allow-from": _NO_TRUST,
    "--proxy-protocol": _NO_TRUST,
    "--proxy-headers": _NO_TRUST,
    "--url-scheme": _NO_TRUST,
    "--url-prefix": "there is no prefix yet: the application sets SCRIPT_NAME (docs/deployment.md)",
    "--root-path": "there is no prefix yet: the application sets SCRIPT_NAME (docs/deployment.md)",
    "--log": _ERROR_LOG,
    "--no-log": "write --log-level critical",
    "--log-file": _ERROR_LOG,
    "--error-logfile": _ERROR_LOG,
    "--errorlog": _ERROR_LOG,
    "--capture-output": _ERROR_LOG,
    "--access-logfile": _ACCESS_LOG,
    "--access-logformat": _FORMAT,
    "--access-log-format": _FORMAT,
    "--access-log-fmt": _FORMAT,
    "--logto": _ERROR_LOG,
    "--max-requests": _NO_RECYCLING,
    "--max-requests-jitter": _NO_RECYCLING,
    "--limit-max-requests": _NO_RECYCLING,
    "--preload": "one process serves: the application is loaded once, before the first request",
    "--preload-app": "one process serves: the application is loaded once, before the first request",
    "--working-dir": "write --app-dir DIR, or change the folder before",
    "--chdir": "write --app-dir DIR, or change the folder before",
    "--pythonpath": "write --app-dir DIR",
    "--call": 'write rawsgi "MODULE:factory()"',
    "--factory": 'write rawsgi "MODULE:factory()"',
    "--app": "write rawsgi MODULE:ATTR, without a flag",
    "--interface": "rawsgi serves WSGI, and nothing else",
    "--keep-alive": _KEEP_ALIVE,
    "--timeout-keep-alive": _KEEP_ALIVE,
    "--http1-header-read-timeout": "write --head-timeout TIME",
    "--http1-keep-alive": _KEEP_ALIVE,
    "--timeout-graceful-shutdown": "write --graceful-timeout TIME",
    "--shutdown-timeout": "write --graceful-timeout TIME",
    "--workers-kill-timeout": "write --graceful-timeout TIME",
    "--limit-concurrency": "write --connections N or --queue N",
    "--connection-limit": "write --connections N",
    "--limit-request-line": "write --request-line-limit SIZE",
    "--limit-request-fields": "write --field-limit N",
    "--limit-request-field_size": _HEAD_LIMIT,
    "--max-request-header-size": _HEAD_LIMIT,
    "--max-request-body-size": _CONTENT_LIMIT,
    "--ident": "write --server-name TEXT",
    "--no-server-header": 'write --server-name ""',
    "--check-config": "write --print-config",
    "-V": "write --version",
    "-v": "write --version",
}

# Whole families of flags, by how they begin.
FOREIGN_FAMILIES = {
    "--ssl": _NO_TLS,
    "--reload": _NO_RELOAD,
    "--http2": "HTTP/1.1 is all that is spoken yet: let nginx speak HTTP/2 to clients",
    "--ws": "there are no WebSockets: WSGI has none",
    "--websocket": "there are no WebSockets: WSGI has none",
    "--asgi": "rawsgi serves WSGI, and nothing else",
    "--uwsgi": "rawsgi speaks HTTP, and nothing else",
    "--trusted-proxy": _NO_TRUST,
    "--static": "static files are an application's: rawsgi.wsgi.static.StaticFiles, or nginx",
    "--metrics": _NO_METRICS,
    "--statsd": _NO_METRICS,
    "--log-syslog": _ERROR_LOG,
    "--log-config": "the logger is called rawsgi.error: the application may configure it",
    "--permit": _RELAX,
    "--header-map": _RELAX,
    "--strip-header": _RELAX,
    "--casefold": _RELAX,
    "--dirty": _NO_WORKERS,
    "--workers-": _NO_RECYCLING,
    "--respawn": _NO_RECYCLING,
}

# Words that other programs want before the application.
SERVING_WORDS = frozenset(
    ("serve", "run", "start", "server", "runserver", "up", "dev", "wsgi", "launch")
)
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


def explain_flag(name: str) -> str:
    """What to do instead of a flag of another server; "" if it is none that is known."""
    known = FOREIGN_FLAGS.get(name)
    if known is None and re.match(r"-[A-Za-z][^-]", name):  # -w4, -t30
        known = FOREIGN_FLAGS.get(name[:2])
    if known is None:
        families = (hint for start, hint in FOREIGN_FAMILIES.items() if name.startswith(start))
        known = next(families, None)
    return known or ""


def explain_word(word: str, following: Sequence[str], commands: Sequence[str], folder: str) -> str:
    """One line for a first word that looks like a command and is none; "" if it may be a module.

    `following`: the words after it; `folder`: where the application would be looked for.
    """
    if not _WORD.fullmatch(word) or word in commands or _is_module(folder, word):
        return ""
    close = difflib.get_close_matches(word, commands, n=1, cutoff=0.75)
    if close:
        return f"there is no command {word!r}; did you mean rawsgi {close[0]}?"
    if word == "help":
        return "there is no command 'help'; write rawsgi --help"
    if word in SERVING_WORDS:
        plain = [each for each in following if not each.startswith("-")]
        likely = [each for each in plain if ":" in each or each.endswith(".py")]
        app = (likely or plain or ["hello:app"])[0]
        return f"there is no command {word!r}, since serving needs none: rawsgi {app}"
    if "-h" in following or "--help" in following:
        listed = ", ".join(commands)
        return f"there is no command {word!r}; the commands are {listed}; or write rawsgi --help"
    return ""


def _is_module(folder: str, name: str) -> bool:
    """Is there something in the folder, or on the path, that `rawsgi NAME` would serve?"""
    path = os.path.join(folder, name)
    if os.path.isfile(f"{path}.py") or os.path.isdir(path):
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a name with a hyphen is none
        return False
