"""HTTP by hand, from both sides.

    greeting       `rawsgi APP --by-hand`: a person is the client. What it says when it starts
    command        `rawsgi by-hand`: a person is the server
    conversation   one client of theirs, from its first request to the end
    arriving       its request, shown while it arrives
    typed          the answer, checked while it is typed
    keyboard, screen

The rule of this package: nothing of the server is used to judge what a person types. All bytes
come from them; these programs wait, tell, and close.
"""
