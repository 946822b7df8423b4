"""The application of test_frameworks.py in Django, in one file."""

import json
import os
import time

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import (
    FileResponse,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

settings.configure(
    SECRET_KEY="of no use to anybody",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)


@require_GET
def hello(request):
    return HttpResponse("Hello, World!")


@require_GET
def greet(request, name):
    return HttpResponse(f"Hello, {name}")


@require_POST
def form(request):
    return HttpResponse(f"{request.POST['name']} from {request.POST['city']}")


@require_POST
def parse(request):
    return JsonResponse({"received": json.loads(request.body)})


@require_GET
def set_cookies(request):
    response = HttpResponse("set")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2")
    return response


@require_GET
def get_cookies(request):
    return HttpResponse(f"{request.COOKIES['first']} and {request.COOKIES['second']}")


@require_GET
def lead_on(request):
    return HttpResponseRedirect("/hello")


@require_GET
def stream(request):
    def blocks():
        for number in range(3):
            yield f"block {number}\n"
            time.sleep(0.05)

    return StreamingHttpResponse(blocks(), content_type="text/plain")


@require_GET
def download(request):
    return FileResponse(open(os.environ["DOWNLOAD"], "rb"), as_attachment=True)  # noqa: SIM115


@require_GET
def fail(request):
    raise RuntimeError("failed on purpose")


urlpatterns = [
    path("hello", hello),
    path("greet/<name>", greet),
    path("form", form),
    path("json", parse),
    path("set-cookies", set_cookies),
    path("get-cookies", get_cookies),
    path("redirect", lead_on),
    path("stream", stream),
    path("download", download),
    path("fail", fail),
]

app = get_wsgi_application()
