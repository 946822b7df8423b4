"""Speed, memory and robustness of rawsgi beside other servers, measured on this machine.

Not collected by the tests: `python -m tests.benchmarks --help` shows the commands, and the
README.md beside this file explains how the figures are made. Importing this package costs
nothing, because every server under measurement imports it for its application.
"""
