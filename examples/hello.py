"""A Flask application to talk to by hand: start it on port 3000 and type HTTP into netcat.

    GET  /                  this page
    GET  /hello             a greeting
    GET  /user?name=arpit   the name, back
    POST /login             a form with username and password
    POST /save              a user in JSON, such as {"id": 1092, "name": "Arpit"}

rawsgi hello:app --port 3000 --by-hand
docs/by-hand.md walks through it, a request at a time.
"""

from flask import Flask, abort, request
from markupsafe import escape

app = Flask(__name__)


@app.get("/")
def show_index() -> tuple[str, dict[str, str]]:
    return __doc__ or "", {"Content-Type": "text/plain; charset=utf-8"}


@app.get("/hello")
def hello() -> str:
    return "Hello, World!"


@app.get("/user")
def show_user() -> str:
    # Flask sends text as HTML, so what a stranger wrote is escaped.
    return f"Requested for name = {escape(request.args['name'])}"


@app.post("/login")
def log_in() -> str:
    username = escape(request.form["username"])
    password = escape(request.form["password"])
    return f"Login successful for {username}:{password}"


@app.post("/save")
def save_user() -> str:
    user = request.get_json()
    if not isinstance(user, dict) or not isinstance(user.get("id"), int):
        abort(400, "a user is a JSON object whose id is a whole number")
    return f"Saving user with id = {user['id']}"
