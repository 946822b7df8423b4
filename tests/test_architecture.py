"""The shape of the source, held by tests: layers, sizes, names, and what one request may cost.

Where a rule has an exception it stands here with its reason, and with a ceiling of its own.
"""

from __future__ import annotations

import ast
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rawsgi.config import Settings
from rawsgi.net.listening.listener import open_listeners
from rawsgi.process.worker import Worker

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rawsgi"
MODULES = sorted(PACKAGE.rglob("*.py"))

# -- Layers ------------------------------------------------------------------------------------

# What each part may import of rawsgi, besides itself. Imports point down only.
LEAVES = {"units", "version", "logs"}
LAYERS: dict[str, set[str]] = {
    "units": set(),
    "version": set(),
    "logs": {"units"},
    "config": {"units"},
    "settings": {"config", "units"},
    "protocol": set(),
    "wsgi": {"protocol", "logs"},
    "net": {"protocol", "logs", "config", "units"},
    # Looks on from outside: nothing below knows that it is there.
    "wire": {"protocol", "logs", "config", "units"},
    # The only place where all parts meet.
    "process": {"net", "wsgi", "wire", "protocol", "logs", "config", "units", "version"},
    # What is told to a person is not judged by the server's own code.
    "byhand": {"config", "logs", "units"},
    # A tester that shares the code under test finds nothing.
    "compare": {"version"},
    "cli": {
        "byhand", "compare", "process", "net", "wsgi", "logs", "config", "settings", "units",
        "version",
    },
    "__main__": {"cli"},
    # The public names.
    "serving": {"cli", "net", "wsgi", "config", "settings"},
    "__init__": {"config", "net", "serving", "version"},
}  # fmt: skip
# The sans-IO part may know of the standard library no more than this.
PURE_MODULES = {"__future__", "collections.abc", "dataclasses", "http", "re", "typing"}
SOCKET_MODULES = {"socket", "select", "selectors", "ssl", "asyncio", "socketserver"}


def name_part(path: Path) -> str:
    """Return the layer that a module belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@cache
def read_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def find_imports(path: Path) -> Iterator[str]:
    """Yield the full name of each module that is imported, wherever in the file."""
    for node in ast.walk(read_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            if node.module == "rawsgi":
                yield from (f"rawsgi.{alias.name}" for alias in node.names)
            else:
                yield node.module


def find_own_imports(path: Path) -> Iterator[str]:
    """Yield the parts of rawsgi that are imported."""
    for name in find_imports(path):
        if name == "rawsgi" or name.startswith("rawsgi."):
            yield (name.split(".") + ["__init__"])[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    part = name_part(path)
    assert part in LAYERS, "a new part: give it a place in LAYERS"
    allowed = LAYERS[part] | {part}
    assert set(find_own_imports(path)) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_sans_io_parts_import_no_io(path: Path) -> None:
    part = name_part(path)
    others = {name for name in find_imports(path) if not name.startswith("rawsgi")}
    if part == "protocol":
        assert others <= PURE_MODULES
    if part == "wsgi":
        assert not others & SOCKET_MODULES


def test_layers_have_no_cycle() -> None:
    left = {part: set(below) for part, below in LAYERS.items()}
    while left:
        free = {part for part, below in left.items() if not below & left.keys()}
        assert free, f"a cycle among {sorted(left)}"
        left = {part: below for part, below in left.items() if part not in free}
    assert all(LAYERS[leaf] <= LEAVES for leaf in LEAVES)


# -- Names, sizes, classes ---------------------------------------------------------------------

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "tools"}
MODULE_LINES = 500
FUNCTION_LINES = 60
FOLDER_MODULES = 9

LONG_MODULES: dict[str, tuple[int, str]] = {
    "net/client/connection.py": (
        640,
        "the states of a connection and their events read as one table",
    ),
    "net/crew/crew.py": (
        580,
        "the hand-over of the loop is one argument; it cannot be told in halves",
    ),
}
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}
FULL_FOLDERS: dict[str, tuple[int, str]] = {}


def find_functions(path: Path) -> Iterable[ast.FunctionDef]:
    return (node for node in ast.walk(read_tree(path)) if isinstance(node, ast.FunctionDef))


def test_modules_are_short_and_say_what_they_are_for() -> None:
    for path in MODULES:
        name = str(path.relative_to(PACKAGE))
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines < LONG_MODULES.get(name, (MODULE_LINES, ""))[0], name
        assert not lines or ast.get_docstring(read_tree(path)), f"{name} has no docstring"
        assert path.stem not in VAGUE_NAMES, name
        assert not VAGUE_NAMES & set(path.relative_to(PACKAGE).parts), name


def test_functions_are_short() -> None:
    for path in MODULES:
        for function in find_functions(path):
            name = f"{path.relative_to(PACKAGE)}:{function.name}"
            assert function.end_lineno is not None
            lines = function.end_lineno - function.lineno + 1
            assert lines < LONG_FUNCTIONS.get(name, (FUNCTION_LINES, ""))[0], name


def test_folders_are_small() -> None:
    folders = Counter(
        str(path.parent.relative_to(PACKAGE)) for path in MODULES if path.name != "__init__.py"
    )
    for name, count in folders.items():
        assert count < FULL_FOLDERS.get(name, (FOLDER_MODULES, ""))[0], name


def test_own_classes_do_not_inherit_from_each_other() -> None:
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for path in MODULES
        for node in ast.walk(read_tree(path))
        if isinstance(node, ast.ClassDef)
    }

    def is_exception(name: str) -> bool:
        if name in bases:
            return any(map(is_exception, bases[name]))
        return name.endswith(("Exception", "Error"))

    for name, own in bases.items():
        for base in own:
            assert base not in bases or is_exception(base), f"{name}({base})"


# -- The repository ----------------------------------------------------------------------------

TOP_LEVEL = {"LICENSE", "README.md", "docs", "examples", "pyproject.toml", "rawsgi", "tests"}
MADE_BY_TOOLS = {"__pycache__", "build", "dist", "venv"}


def test_top_level_holds_nothing_else() -> None:
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    names = {name for name in names - MADE_BY_TOOLS if not name.endswith(".egg-info")}
    assert names == TOP_LEVEL


def find_texts() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name[0] != ".")
    for folder in (".ci", "docs", "examples", "rawsgi", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not MADE_BY_TOOLS & set(path.parts):
                yield path


def test_nothing_names_a_machine() -> None:
    """Paths of whoever wrote it, and hosts that a checkout has no business with."""
    paths = r"(?<![\w./])/(?:wo" r"rk|ro" r"ot|ho" r"me/[a-z]+|Us" r"ers)/"
    hosts = r"pypi" r"\.org|python" r"hosted\.org"
    seen = 0
    for path in find_texts():
        text = path.read_bytes().decode("latin-1")
        seen += 1
        assert re.findall(f"{paths}|{hosts}", text) == [], path
    assert seen > 100


# -- What a request costs ----------------------------------------------------------------------

CALLS = 15


def answer_hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, World!\n"]


class CallLog:
    """The Python functions that a thread calls, as `sys.setprofile` reports them."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self.names.append(frame.f_code.co_qualname)

    def split_requests(self) -> list[list[str]]:
        """Return the calls from one event of a connection to the next."""
        requests: list[list[str]] = []
        for name in self.names:
            if name == "Connection.on_event":
                requests.append([])
            if requests:
                requests[-1].append(name)
        return requests


def record_calls(request: bytes, count: int) -> CallLog:
    """Serve `count` requests on one connection by a real worker in a thread of this process."""
    settings = Settings(bind=("127.0.0.1:0",), access_log=False)
    listeners = open_listeners(settings.bind, settings.backlog)
    worker = Worker(settings, answer_hello, listeners)
    calls = CallLog()

    def serve() -> None:
        sys.setprofile(calls.note)
        try:
            worker.loop.crew.run()
        finally:
            sys.setprofile(None)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with socket.create_connection(listeners[0].socket.getsockname(), timeout=10) as client:
            for _ in range(count):
                client.sendall(request)
                assert client.recv(65536).endswith(b"Hello, World!\n")
    finally:
        # As if the signal had come: its number arrives in the loop by this socket.
        worker.loop.wakeup_socket.send(bytes([signal.SIGTERM]))
        thread.join(10)
        worker.loop.close()
        for listener in listeners:
            listener.close()
    assert not thread.is_alive()
    return calls


def test_small_request_costs_few_calls() -> None:
    """From the event of the socket to the next: the application's two calls are among them."""
    request = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
    requests = record_calls(request, 100).split_requests()
    # The first fills the caches; a take-over by another thread may take some out of our sight.
    cost, times = Counter(map(len, requests)).most_common(1)[0]
    assert times > 50
    typical = next(names for names in requests if len(names) == cost)
    assert typical.count("answer_hello") == 1
    assert cost <= CALLS, typical
