"""Who is asked: the servers, each a process of its own.

In reading order: `kinds` knows how each is started, `process` starts and ends one, `guard` ends
it when the tester is gone, `launch` runs inside it and finds the application.
"""
