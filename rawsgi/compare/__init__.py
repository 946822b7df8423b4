"""The same bytes to rawsgi and to other servers, and the answers side by side.

In reading order: `command` is the command line, `run` the order of work, `rounds` asks all servers
the same. What they use lies in rooms of its own: `exchanges` (what is sent), `servers` (to whom),
`replay` (how), `judgement` (what the answers mean) and `report` (how a person reads it). `corpus`
holds the shipped exchanges, one file each, and `probe` is the application that shows what a server
made of a request.

This package never uses `rawsgi.protocol`: a tester that shares the code under test finds nothing.
"""
