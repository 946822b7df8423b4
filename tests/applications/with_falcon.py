"""The application of test_frameworks.py in Falcon."""

import os
import time

import falcon


class Hello:
    def on_get(self, request, response):
        response.text = "Hello, World!"


class Greeting:
    def on_get(self, request, response, name):
        response.text = f"Hello, {name}"


class Form:
    def on_post(self, request, response):
        form = request.get_media()
        response.text = f"{form['name']} from {form['city']}"


class Json:
    def on_post(self, request, response):
        response.media = {"received": request.get_media()}


class CookieSetter:
    def on_get(self, request, response):
        response.set_cookie("first", "1", secure=False)
        response.set_cookie("second", "2", secure=False)
        response.text = "set"


class CookieGetter:
    def on_get(self, request, response):
        response.text = f"{request.cookies['first']} and {request.cookies['second']}"


class Redirection:
    def on_get(self, request, response):
        raise falcon.HTTPFound("/hello")


class Stream:
    def on_get(self, request, response):
        def blocks():
            for number in range(3):
                yield f"block {number}\n".encode()
                time.sleep(0.05)

        response.content_type = falcon.MEDIA_TEXT
        response.stream = blocks()


class Download:
    def on_get(self, request, response):
        path = os.environ["DOWNLOAD"]
        response.content_type = "application/octet-stream"
        response.downloadable_as = os.path.basename(path)
        # Falcon wraps a file in wsgi.file_wrapper.
        response.set_stream(open(path, "rb"), os.path.getsize(path))  # noqa: SIM115


class Failure:
    def on_get(self, request, response):
        raise RuntimeError("failed on purpose")


app = falcon.App()
app.add_route("/hello", Hello())
app.add_route("/greet/{name}", Greeting())
app.add_route("/form", Form())
app.add_route("/json", Json())
app.add_route("/set-cookies", CookieSetter())
app.add_route("/get-cookies", CookieGetter())
app.add_route("/redirect", Redirection())
app.add_route("/stream", Stream())
app.add_route("/download", Download())
app.add_route("/fail", Failure())
