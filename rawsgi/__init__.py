"""rawsgi: a WSGI application server written by hand from sockets.

The path of a request, in the order of the folders:

    net/listening      a client connects
    net/loop, client   its bytes arrive
    protocol/head      they become a Request, or are refused; framing says where they end
    net/crew           a thread runs it: this one, unless it takes too long
    wsgi               the application is called, PEP 3333: environ, gateway
    protocol/response  what it answered becomes bytes
    net/client, loop   what the client does not take at once leaves later

`process/worker` joins these parts; `cli` and `config` stand in front.
"""

from rawsgi.config import Settings, SettingsError
from rawsgi.net.crew.interruption import RequestTimeout
from rawsgi.net.listening.listener import ListenerError
from rawsgi.serving import ApplicationError, serve
from rawsgi.version import VERSION as __version__

__all__ = [
    "ApplicationError",
    "ListenerError",
    "RequestTimeout",
    "Settings",
    "SettingsError",
    "__version__",
    "serve",
]
