"""The application of test_frameworks.py in Pyramid."""

import os
import time

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import FileResponse, Response


def hello(request):
    return Response("Hello, World!")


def greet(request):
    return Response(f"Hello, {request.matchdict['name']}")


def form(request):
    return Response(f"{request.POST['name']} from {request.POST['city']}")


def parse(request):
    return Response(json={"received": request.json_body})


def set_cookies(request):
    response = Response("set")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


def get_cookies(request):
    return Response(f"{request.cookies['first']} and {request.cookies['second']}")


def lead_on(request):
    return HTTPFound("/hello")


def stream(request):
    def blocks():
        for number in range(3):
            yield f"block {number}\n".encode()
            time.sleep(0.05)

    return Response(app_iter=blocks(), content_type="text/plain")


def download(request):
    path = os.environ["DOWNLOAD"]
    response = FileResponse(path, request, content_type="application/octet-stream")
    response.content_disposition = f"attachment; filename={os.path.basename(path)}"
    return response


def fail(request):
    raise RuntimeError("failed on purpose")


ROUTES = {
    "/hello": (hello, "GET"),
    "/greet/{name}": (greet, "GET"),
    "/form": (form, "POST"),
    "/json": (parse, "POST"),
    "/set-cookies": (set_cookies, "GET"),
    "/get-cookies": (get_cookies, "GET"),
    "/redirect": (lead_on, "GET"),
    "/stream": (stream, "GET"),
    "/download": (download, "GET"),
    "/fail": (fail, "GET"),
}

with Configurator() as configurator:
    for pattern, (view, method) in ROUTES.items():
        configurator.add_route(pattern, pattern, request_method=method)
        configurator.add_view(view, route_name=pattern)
    app = configurator.make_wsgi_app()
