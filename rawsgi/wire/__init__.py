"""Seeing the bytes: transcripts and recordings of exchanges as they are on the wire.

    net/tap.py --events--> Conversation --parts--> transcript/ (stderr), recording/ (files)

    observation    settings -> who looks on, if anybody
    conversation   the events of one connection, told as exchanges; `facts` is what is known
    scanner        one message cut into lines, content, chunks; `secrets/` masks them
    visible        bytes that no terminal obeys
    relaxations    which of them were needed, in the log

The rule of this package: it looks on. It never decides anything about a message: what the server
decided, and why, it is told by whoever decided (`net`), and it knows no socket. What it keeps is
bounded, and what may be secret is masked before it is kept.
"""
