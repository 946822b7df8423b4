"""Bytes to messages and back, for the server side of HTTP/1.1 (RFC 9110, RFC 9112).

The rule of this folder: sans-IO. No socket, clock, thread, logger or setting is known here, and
nothing is imported from the rest of rawsgi. Bytes come in as arguments, facts and bytes go out as
return values, and a peer's mistake is a `ProtocolError`.

Reading order: `grammar` (the patterns), `message` (the nouns), `head` (request heads),
`explanation` (what is wrong with a refused line), `framing` (how long is the content), `response`
(response heads), `http1` (one connection).
"""
