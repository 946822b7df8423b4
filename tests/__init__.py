"""The tests. `python -m pytest` runs them all.

Whoever starts them in the background (nohup, a script's `&`) hands on that SIGHUP and SIGINT are
ignored, and a server that inherits this respects it: the tests see what a terminal would start.
"""

import signal

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
