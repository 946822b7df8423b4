"""One thread of the crew, and the orders it gets.

The rule of this file: a member is told what to do by an order in its inbox, by the leader and
one at a time; in parentheses stands what it does by itself. It is never in two states, since
each is left by one order or act. STOP ends any of them, once the request that it runs is over.

    state        comes by                             goes by
    resting      (posts `_release`)                   an exchange, STAND_BY, LEAD
    standing by  STAND_BY                             (takes the token), an exchange
    leading      (took the token), LEAD               (finds the token gone), `abdicate`
    running      (found the token gone), an exchange  (queue empty: posts `_release`), `replace`
    lost         `replace`                            (its request ends, and so does the thread)
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from rawsgi.net.crew.interruption import absorb_interruption

if TYPE_CHECKING:
    from rawsgi.net.client.exchange import Exchange


class Order:
    """What a member is told to do, other than to run an exchange."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


LEAD: Final = Order("LEAD")
STAND_BY: Final = Order("STAND_BY")
WAKE: Final = Order("WAKE")
TAKE_OVER: Final = Order("TAKE_OVER")
STOP: Final = Order("STOP")


class Member:
    """One thread of the crew."""

    __slots__ = ("asleep", "exchange", "ident", "inbox", "leads", "lock", "lost",
                 "runs_applications", "thread")  # fmt: skip

    def __init__(self, runs_applications: bool) -> None:
        self.runs_applications = runs_applications
        self.inbox: SimpleQueue[Order | Exchange] = SimpleQueue()
        """Orders. Any thread puts, the member gets."""
        self.thread: threading.Thread | None = None
        """None: the thread that called `Crew.run`."""
        self.ident = 0
        """Set by the member before it runs anything."""
        self.asleep = False
        """It stands by and waits without a time limit. The member's."""
        self.leads = False
        """It holds the token, or runs a request that it began as the leader. The member's."""
        self.lock = threading.Lock()
        """Guards `exchange` against an interruption that comes too late."""
        self.exchange: Exchange | None = None
        """What it runs. Written by the member, and by nobody else."""
        self.lost = False
        """Its request has timed out and it was replaced; with `lock`, by the leader."""

    def absorb_interruption(self) -> None:
        """The member: if it is lost already, nothing will be raised in it any more."""
        with self.lock:  # what the leader has decided it has also sent
            if self.lost:
                absorb_interruption()
