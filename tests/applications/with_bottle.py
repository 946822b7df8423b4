"""The application of test_frameworks.py in Bottle."""

import os
import time
from pathlib import Path

from bottle import Bottle, redirect, request, response, static_file

app = Bottle()


@app.get("/hello")
def hello():
    return "Hello, World!"


@app.get("/greet/<name>")
def greet(name):
    return f"Hello, {name}"


@app.post("/form")
def form():
    return f"{request.forms.getunicode('name')} from {request.forms.getunicode('city')}"


@app.post("/json")
def parse():
    return {"received": request.json}


@app.get("/set-cookies")
def set_cookies():
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return "set"


@app.get("/get-cookies")
def get_cookies():
    return f"{request.get_cookie('first')} and {request.get_cookie('second')}"


@app.get("/redirect")
def lead_on():
    redirect("/hello")


@app.get("/stream")
def stream():
    response.content_type = "text/plain"
    for number in range(3):
        yield f"block {number}\n"
        time.sleep(0.05)


@app.get("/download")
def download():
    path = Path(os.environ["DOWNLOAD"])
    return static_file(path.name, root=path.parent, download=True)


@app.get("/fail")
def fail():
    raise RuntimeError("failed on purpose")
