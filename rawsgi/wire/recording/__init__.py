"""Exchanges kept as files: `--record DIR`.

    20261121T090000.123456-4711-12-1.request     the bytes of the request, secrets masked
    20261121T090000.123456-4711-12-1.response    the bytes of the response
    20261121T090000.123456-4711-12-1.json        when, who, what came of it

Time (UTC), process, connection, exchange: the names sort by time. A request of which not all was
kept is `.request.cut`, so that nobody replays half of it unawares.

The rule of this package: a file is there whole or not at all, for the owner's eyes only, and what
was asked for bounds the folder: the oldest exchange makes room for the newest.
"""
