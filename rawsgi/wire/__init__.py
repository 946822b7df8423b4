"""Seeing the bytes: transcripts and recordings of exchanges as they are on the wire.

    net/tap.py --events--> Conversation --parts--> Transcript (stderr), Recorder (files)

The rule of this package: it looks on. It never decides anything about a message: what the server
decided, and why, it is told by whoever decided (`net`), and it knows no socket. What it keeps is
bounded, and what may be secret is masked before it is kept.
"""
