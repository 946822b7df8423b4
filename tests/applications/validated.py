"""Any application, with wsgiref.validate between it and the server.

VALIDATED_APPLICATION is the path of the file whose `app` is wrapped. What the validator finds
is an AssertionError, so a 500 with a traceback in the server's log.
"""

import importlib.util
import os
import sys
from pathlib import Path
from wsgiref.validate import validator


class ForgivingInput:
    """wsgi.input for frameworks that read it without a size, which the validator forbids them.

    It is the server that is tested: what reaches its input still goes through the validator.
    """

    def __init__(self, checked):
        self.checked = checked

    def read(self, size=-1):
        return self.checked.read(size)

    def readline(self, *size):
        return self.checked.readline(*size)

    def readlines(self, *hint):
        return self.checked.readlines(*hint)

    def __iter__(self):
        return iter(self.checked)


def load(path):
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.app


def forgive(application):
    def run(environ, start_response):
        environ["wsgi.input"] = ForgivingInput(environ["wsgi.input"])
        return application(environ, start_response)

    return run


app = validator(forgive(load(os.environ["VALIDATED_APPLICATION"])))
