"""Run a command, and end it when the process that asked for it is gone, however it went.

`python guard.py COMMAND...` runs the command as its child in the same process group. Its standard
input is a pipe from the tester: end of file there means that the tester closed it, was killed or
crashed, and then the whole group is ended. The rule: nothing of rawsgi is imported here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_GRACE_S = 3.0


def main(argv: list[str]) -> int:
    """Run `argv` and return its exit status (128 + the signal's number if one ended it)."""
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        return 127
    # The group is ended by a signal to all of it; this process stays to see that it worked.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _watch(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _signal_group(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    # Also when the child has ended: its own children may live. This ends the guard too.
    _signal_group(signal.SIGKILL)


def _signal_group(number: int) -> None:
    with contextlib.suppress(OSError):
        if os.getpgrp() == os.getpid():
            os.killpg(0, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
