"""The same bytes to rawsgi and to other servers, and the answers side by side.

This package never uses `rawsgi.protocol`: a tester that shares the code under test finds
nothing. `exchanges` reads the corpus of raw exchanges (`corpus/`, described in
`docs/corpus.md`); `probe` is the application that shows what a server made of a request.
"""
