"""The Flask application of the benchmark: one route, one line."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.route("/")
def say_hello() -> str:
    return "Hello, world!\n"
