"""How it is asked: an own small client over plain sockets.

In reading order: `responses` splits what a server sent, `transcript` is what is kept of it,
`client` does one exchange, `heartbeat` is its clock, `replayer` does many and survives crashes.
"""
