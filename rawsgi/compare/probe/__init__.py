"""The probe: a WSGI application that shows what a server made of a request.

Any path outside `/probe/` answers 200 with `environ` as JSON. A path below it selects one
behaviour of an application (a kind of response, a way of reading, an error at a point), so that
the corpus can ask for each over the wire. The query string is the behaviour's argument.
It depends on PEP 3333 alone and must run under any server: `rawsgi.compare.probe:app`.
"""

from __future__ import annotations

import json
from typing import Any

from rawsgi.compare.probe import errors, reading, responses
from rawsgi.compare.probe.behaviours import Environ, StartResponse, answer, describe_environ

__all__ = ["app"]

BEHAVIOURS = {**reading.BEHAVIOURS, **responses.BEHAVIOURS, **errors.BEHAVIOURS}


def app(environ: Environ, start_response: StartResponse) -> Any:
    """Answer with `environ` as JSON, or behave as the path below `/probe/` says. Any thread."""
    path = environ.get("PATH_INFO", "")
    if path.startswith("/probe/"):
        behaviour = BEHAVIOURS.get(path.removeprefix("/probe/"))
        if behaviour is None:
            return answer(start_response, b"no such behaviour", status="404 Not Found")
        return behaviour(environ, start_response)
    content = json.dumps(describe_environ(environ), indent=1, sort_keys=True).encode("ascii")
    return answer(start_response, content, media_type="application/json")
