"""Exchanges as text, for a person at a terminal: `--wire`.

    #1.2 > GET /hello HTTP/1.1\\r\\n      the client, in the second exchange of connection 1
    #1.2 < HTTP/1.1 200 OK\\r\\n          the server
    #1.2 * kept alive: ...              why

The rule of this package: a byte is shown as itself only if it is a printable ASCII character;
whatever else it is, no terminal will take it for a command.
"""
