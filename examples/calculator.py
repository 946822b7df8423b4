"""A calculator: `GET /add/2/3` answers 5. Also subtract, multiply and divide.

The same as a JSON API: `POST /calc` with {"operation": "add", "operands": [2, 3]}.

rawsgi calculator:app --port 3000
docs/by-hand.md shows how to ask it without any client: GET /add/2/3 HTTP/1.1
"""

import json
import operator
import re
from fractions import Fraction

OPERATIONS = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}
# Bounded, and without exponents: 1e999999999 is short to write and long to compute.
NUMBER = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
CONTENT_LIMIT_BYTES = 4096


class Refusal(Exception):
    """Carries the sentence that says what is wrong, and the status to say it with."""

    def __init__(self, sentence, status="400 Bad Request"):
        super().__init__(sentence)
        self.status = status


def read_number(text):
    """Return the exact value of a decimal number, so that 0.1 + 0.2 is 0.3."""
    if not NUMBER.fullmatch(text):
        raise Refusal(f"{text[:60]!r} is not a number (-2, 3 and 0.5 are)")
    return Fraction(text)


def write_number(value):
    return int(value) if value.denominator == 1 else float(value)


def calculate(name, operands):
    if len(operands) != 2:
        raise Refusal(f"{name} takes 2 operands, not {len(operands)}")
    try:
        return write_number(OPERATIONS[name](*operands))
    except ZeroDivisionError:
        raise Refusal("nothing can be divided by zero") from None


def answer_path(path):
    """Answer `/add/2/3` in plain text."""
    name, *operands = path.removeprefix("/").split("/")
    if name not in OPERATIONS:
        raise Refusal(f"the operations are {', '.join(OPERATIONS)}", "404 Not Found")
    return f"{calculate(name, [read_number(text) for text in operands])}\n"


def answer_json(content):
    """Answer a JSON question with a JSON object."""
    try:
        # Numbers go through read_number as they were written, never through a float.
        question = json.loads(
            content, parse_int=read_number, parse_float=read_number, parse_constant=read_number
        )
    except (ValueError, RecursionError) as error:
        raise Refusal(f"this is not JSON: {error}") from None
    if not isinstance(question, dict) or not {"operation", "operands"} <= question.keys():
        raise Refusal('write {"operation": "add", "operands": [2, 3]}')
    name, operands = question["operation"], question["operands"]
    if not isinstance(name, str) or name not in OPERATIONS:
        raise Refusal(f"operation is one of {', '.join(OPERATIONS)}")
    if not isinstance(operands, list) or not all(isinstance(x, Fraction) for x in operands):
        raise Refusal("operands is a list of numbers")
    result = calculate(name, operands)
    shown = [write_number(operand) for operand in operands]
    return json.dumps({"operation": name, "operands": shown, "result": result}) + "\n"


def read_content(environ):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length > CONTENT_LIMIT_BYTES:
        raise Refusal(f"ask in {CONTENT_LIMIT_BYTES} bytes at most", "413 Content Too Large")
    return environ["wsgi.input"].read(length)


def app(environ, start_response):
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    is_api = path == "/calc"
    allowed = ("POST",) if is_api else ("GET", "HEAD")
    kind = "application/json" if is_api else "text/plain; charset=utf-8"
    fields = [("Content-Type", kind), ("X-Content-Type-Options", "nosniff")]
    status = "200 OK"
    try:
        if method not in allowed:
            fields.append(("Allow", ", ".join(allowed)))
            raise Refusal(f"use {' or '.join(allowed)} here", "405 Method Not Allowed")
        if is_api:
            text = answer_json(read_content(environ))
        else:
            text = __doc__ if path == "/" else answer_path(path)
    except Refusal as refusal:
        status = refusal.status
        text = json.dumps({"error": str(refusal)}) + "\n" if is_api else f"{refusal}\n"
    content = text.encode()
    start_response(status, [*fields, ("Content-Length", str(len(content)))])
    return [content]
