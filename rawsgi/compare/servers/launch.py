"""Load an application for a server under comparison, and run the servers that have no command.

Two uses, both in the server's own process. `python launch.py NAME APP HOST PORT` runs bjoern,
gevent or werkzeug. `rawsgi.compare.servers.launch:app` is the application that is named by
RAWSGI_COMPARE_APP, for servers whose command knows `module:attribute` only. The rule: the
application is found as `rawsgi APP` finds it, but nothing of the server is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from typing import Any, Final

APP_VARIABLE: Final = "RAWSGI_COMPARE_APP"
_DEFAULT_NAMES: Final = ("app", "application", "create_app", "make_app")


def load(spec: str) -> Any:
    """Load `MODULE[:ATTR]`, `MODULE:FACTORY()` or `FILE.py[:ATTR]`. Raises what the import does."""
    module_name, _, attribute = spec.partition(":")
    module = _load_file(module_name) if module_name.endswith(".py") else None
    if module is None:
        module = importlib.import_module(module_name)
    if not attribute:
        attribute = next((name for name in _DEFAULT_NAMES if hasattr(module, name)), "app")
        if attribute in _DEFAULT_NAMES[2:]:
            attribute += "()"
    found: Any = module
    for name in attribute.removesuffix("()").split("."):
        found = getattr(found, name)
    return found() if attribute.endswith("()") else found


def _load_file(path: str) -> Any:
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    return importlib.import_module(os.path.basename(path).removesuffix(".py"))


def __getattr__(name: str) -> Any:
    if name == "app" and APP_VARIABLE in os.environ:
        return load(os.environ[APP_VARIABLE])
    raise AttributeError(name)


def run(server: str, spec: str, host: str, port: int) -> None:
    """Run one of the servers that are libraries, in this thread, until the process is ended."""
    # Other people's modules, and not installed with rawsgi: looked up by name on purpose.
    if server == "bjoern":
        importlib.import_module("bjoern").run(load(spec), host, port)
    elif server == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
        pywsgi = importlib.import_module("gevent.pywsgi")
        pywsgi.WSGIServer((host, port), load(spec), log=None).serve_forever()
    elif server == "werkzeug":
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        serving = importlib.import_module("werkzeug.serving")
        serving.run_simple(host, port, load(spec), threaded=True)
    else:
        raise SystemExit(f"launch: no such server: {server}")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
