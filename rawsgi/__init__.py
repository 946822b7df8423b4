"""rawsgi: a WSGI application server written by hand from sockets.

The path of a request, in the order of the folders:

    net/listener, net/acceptor   a client connects
    net/loop, net/connection     its bytes arrive
    protocol/head, framing       they become a Request, or are refused
    net/crew, net/exchange       a thread runs it: this one, unless it takes too long
    wsgi/environ, wsgi/gateway   the application is called, PEP 3333
    protocol/response, http1     what it answered becomes bytes
    net/buffers, net/loop        what the client does not take at once leaves later

`process/worker` joins these parts; `cli` and `config` stand in front.
"""

from rawsgi.config import Settings, SettingsError
from rawsgi.net.listener import ListenerError
from rawsgi.net.overtime import RequestTimeout
from rawsgi.serving import serve
from rawsgi.version import VERSION as __version__

__all__ = [
    "ListenerError",
    "RequestTimeout",
    "Settings",
    "SettingsError",
    "__version__",
    "serve",
]
