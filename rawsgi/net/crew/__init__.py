"""The threads of a worker: `crew` is who leads and who runs what, `member` one thread.

`overtime` watches requests that take too long, `parking` threads that wait for their clients.
"""
