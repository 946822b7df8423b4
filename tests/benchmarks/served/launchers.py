"""Start servers that have no command line of their own: bjoern and gevent's pywsgi.

`python -m tests.benchmarks.served.launchers NAME MODULE:ATTR HOST PORT`
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def load(spec: str) -> Any:
    """The object that `MODULE:ATTR` names."""
    module, _, attribute = spec.partition(":")
    return getattr(importlib.import_module(module), attribute)


def run_bjoern(spec: str, host: str, port: int) -> None:
    importlib.import_module("bjoern").run(load(spec), host, port)


def run_gevent(spec: str, host: str, port: int) -> None:
    # As gevent's own documentation has it: patched before the application is imported, so
    # that an application's sleep gives way to other greenlets.
    importlib.import_module("gevent.monkey").patch_all()
    server = importlib.import_module("gevent.pywsgi").WSGIServer
    server((host, port), load(spec), log=None).serve_forever()


LAUNCHERS = {"bjoern": run_bjoern, "gevent": run_gevent}


if __name__ == "__main__":
    name, application, address, number = sys.argv[1:]
    LAUNCHERS[name](application, address, int(number))
