"""The threads of a worker: `crew` is who leads and who runs what, `member` one thread.

`overtime` watches requests that take too long, which `interruption` ends, `parking` threads that
wait for their clients, and `ending` ends forked children.
"""
