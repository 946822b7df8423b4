"""Who replaced Python's own threads and sockets, and when.

Why it exists: gevent and eventlet exchange parts of the standard library while a program runs
(monkey patching). Done before rawsgi is imported, all of it is theirs and works. Done later, as
by an application that was written for their servers, half of the threads are theirs and half are
not: nothing would be answered, and nothing said. Its rule: it looks, and changes nothing.
"""

from __future__ import annotations

import sys

from rawsgi.wsgi.loading.failure import ApplicationError


def find_patcher() -> str:
    """Return the package that has replaced parts of the standard library; "" for none."""
    for package, module, record in (
        ("gevent", "gevent.monkey", "saved"),
        ("eventlet", "eventlet.patcher", "already_patched"),
    ):
        if getattr(sys.modules.get(module), record, None):
            return package
    return ""


_PATCHED_BEFORE = bool(find_patcher())


def check_patching() -> None:
    """Raise `ApplicationError` if somebody began to patch after rawsgi was imported."""
    package = find_patcher()
    if package and not _PATCHED_BEFORE:
        raise ApplicationError(
            f"the application replaces Python's threads by those of {package} (monkey patching), "
            "which cannot be done once a server runs; leave it out: rawsgi runs requests in threads"
        )
