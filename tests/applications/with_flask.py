"""The application of test_frameworks.py in Flask."""

import os
import time

from flask import Flask, jsonify, make_response, redirect, request, send_file

app = Flask(__name__)


@app.get("/hello")
def hello():
    return "Hello, World!"


@app.get("/greet/<name>")
def greet(name):
    return f"Hello, {name}"


@app.post("/form")
def form():
    return f"{request.form['name']} from {request.form['city']}"


@app.post("/json")
def parse():
    return jsonify(received=request.get_json())


@app.get("/set-cookies")
def set_cookies():
    response = make_response("set")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


@app.get("/get-cookies")
def get_cookies():
    return f"{request.cookies['first']} and {request.cookies['second']}"


@app.get("/redirect")
def lead_on():
    return redirect("/hello")


@app.get("/stream")
def stream():
    def blocks():
        for number in range(3):
            yield f"block {number}\n"
            time.sleep(0.05)

    return blocks(), {"Content-Type": "text/plain"}


@app.get("/download")
def download():
    return send_file(os.environ["DOWNLOAD"], as_attachment=True)


@app.get("/fail")
def fail():
    raise RuntimeError("failed on purpose")
