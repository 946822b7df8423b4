"""`rawsgi.serve`: the server inside somebody's own program."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rawsgi
from rawsgi import serving
from rawsgi.logs import log

ROOT = Path(__file__).parents[1]

PROGRAM = """
import threading
import rawsgi

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [threading.current_thread().name.encode()]

def ready(addresses):
    print(addresses[0], flush=True)

"""

IN_MAIN = PROGRAM + "raise SystemExit(rawsgi.serve(app, port=0, threads=2, on_ready=ready))\n"
IN_THREAD = (
    PROGRAM
    + """
options = {"port": 0, "on_ready": ready}
threading.Thread(target=rawsgi.serve, args=(app,), kwargs=options, daemon=True, name="own").start()
input()
"""
)


def start(program: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that runs `program`, and the address at which it serves."""
    path = folder / "program.py"
    path.write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(path)], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=10) as response:
        content: bytes = response.read()
    return content


@pytest.fixture(autouse=True)
def _error_log_as_it_was() -> Iterator[None]:
    """Settings that are right configure the error log, also where serving fails afterwards."""
    state = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = state[:2]
    log.setLevel(state[2])


def test_a_program_serves_and_ends_with_a_signal(tmp_path: Path) -> None:
    process, address = start(IN_MAIN, tmp_path)
    try:
        assert get(address) == b"MainThread"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert f"Serving app at {address} (Ctrl-C to stop)" in errors


def test_a_thread_of_a_program_serves(tmp_path: Path) -> None:
    """As tests and desktop programs do it: the program goes on, and ends when it likes."""
    process, address = start(IN_THREAD, tmp_path)
    try:
        assert get(address) == b"own"
        _, errors = process.communicate("done\n", timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"thread": 4}, "there is no setting 'thread' (did you mean threads?)"),
        ({"workers": 4}, "there is no setting 'workers': one process serves, with up to --threads"),
        ({"listen": "*:80"}, "there is no setting 'listen': write --bind ADDRESS"),
        ({"trusted_proxy_count": 1}, "there is no setting 'trusted_proxy_count': there is no"),
        ({"bind": []}, "--bind: there is no address to listen at"),
        ({"threads": 0}, "--threads"),
        ({"threads": "many"}, "--threads"),
        ({"bind": "nowhere", "port": 1}, "--port: cannot stand beside --bind"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(rawsgi.SettingsError) as caught:
        rawsgi.serve(lambda environ, start_response: [], **settings)
    assert str(caught.value).startswith(message)


def test_an_application_that_began_to_patch_is_refused_with_a_public_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gevent.monkey", SimpleNamespace(saved={"threading": True}))
    with pytest.raises(rawsgi.ApplicationError, match="gevent"):
        rawsgi.serve(lambda environ, start_response: [], port=0)
    with pytest.raises(SystemExit, match="rawsgi: the application replaces Python's threads"):
        serve_as_paste(lambda environ, start_response: [], port="0")


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o660, 0o660), ("660", 0o660), (0o7, 0o7), (0, 0), (511, 0o777)]
)
def test_a_mode_is_the_number_that_it_is(
    mode: object, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def remember(resolved: Any, *_: object) -> int:
        seen.append(resolved.settings.unix_mode)
        return 0

    monkeypatch.setattr(serving, "serve_settings", remember)
    rawsgi.serve(lambda environ, start_response: [], bind="unix:/x", unix_mode=mode)
    assert seen == [expected]


@pytest.mark.parametrize("mode", [660, -1, 0o1777])
def test_a_mode_that_is_none_is_refused(mode: int) -> None:
    with pytest.raises(rawsgi.SettingsError) as caught:
        rawsgi.serve(lambda environ, start_response: [], unix_mode=mode)
    assert str(caught.value) == f"unix_mode={mode}: must be from 0 to 0o777, such as 0o660"


AGAIN_AND_AGAIN = """
import gc, os, signal, weakref
import rawsgi
from rawsgi.net.loop import Loop

loops = []
init = Loop.__init__

def remember(self, *arguments):
    loops.append(weakref.ref(self))
    init(self, *arguments)

Loop.__init__ = remember
def app(environ, start_response):
    return []
def ready(addresses):
    os.kill(os.getpid(), signal.SIGTERM)
for _ in range(3):
    rawsgi.serve(app, port=0, on_ready=ready)
gc.collect()
print(len(loops), sum(loop() is not None for loop in loops), gc.get_freeze_count())
gc.freeze()
frozen = gc.get_freeze_count()
rawsgi.serve(app, port=0, on_ready=ready)
print(gc.get_freeze_count() >= frozen)

gc.disable()
names = os.listdir("/dev/fd")
for _ in range(3):
    try:
        rawsgi.serve(app, port=0, record="program.py", access_log_file="access.log")
    except rawsgi.SettingsError as error:
        print(error)
print(len(os.listdir("/dev/fd")) - len(names))
"""


def test_a_server_that_has_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    """A test suite or a notebook serves again and again in one process."""
    (tmp_path / "program.py").write_text(AGAIN_AND_AGAIN)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    refused = f"--record {tmp_path}/program.py: File exists"
    assert done.stdout.splitlines() == ["3 0 0", "True", refused, refused, refused, "0"]
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="not callable: module"):
        rawsgi.serve(sys)  # type: ignore[arg-type]


def test_values_are_those_of_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def remember(resolved: Any, *_: object) -> int:
        seen.append(resolved.settings)
        return 0

    monkeypatch.setattr("rawsgi.serving.serve_settings", remember)
    monkeypatch.delenv("PORT", raising=False)
    for given in (
        {"host": "::1", "port": 1, "access_log": False},
        {"bind": "unix:/x", "keep_alive_timeout": "2m", "threads": None},
        {"bind": ("a:1", "b:2"), "access_log": True},
    ):
        assert rawsgi.serve(lambda environ, start_response: [], **given) == 0
    assert [settings.bind for settings in seen] == [("[::1]:1",), ("unix:/x",), ("a:1", "b:2")]
    assert seen[1].keep_alive_timeout_s == 120
    assert seen[1].threads == rawsgi.Settings().threads
    assert [seen[0].access_log, seen[2].access_log] == [False, True]


def serve_as_paste(application: Any, **section: str) -> None:
    """As PasteDeploy calls it: application, global settings, the rest of the section."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, name = entry["paste.server_runner"]["main"].partition(":")
    assert module == serving.__name__
    getattr(serving, name)(application, {"here": "/"}, **section)


INI = """
[loggers]
keys = root, rawsgi
[handlers]
keys = file
[formatters]
keys =
[logger_root]
level = INFO
handlers =
[handler_file]
class = FileHandler
args = ("app.log",)
"""
FROM_INI = "import logging.config\nlogging.config.fileConfig('app.ini')\n"
FAILING = """
import rawsgi

def app(environ, start_response):
    raise LookupError("on purpose")

rawsgi.serve(app, port=0, on_ready=lambda addresses: print(addresses[0], flush=True))
"""


@pytest.mark.parametrize("block", ["dictconfig", "ini"])
def test_the_error_log_has_further_handlers(block: str, tmp_path: Path) -> None:
    """As docs/deployment.md shows it: a file, beside standard error."""
    page = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    found = re.search(rf"<!-- {block} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found
    (tmp_path / "app.ini").write_text(INI + found[1])
    configure = FROM_INI if block == "ini" else found[1].replace("/var/log/shop/", "")
    process, address = start(configure + FAILING, tmp_path)
    try:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            get(address)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    text = (tmp_path / "app.log").read_text()
    assert [each.count("LookupError: on purpose") for each in (text, errors)] == [1, 1]


def test_settings_of_a_paste_file_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def remember(resolved: Any, application: Any, *_: object) -> int:
        seen.append((resolved.settings, application))
        return 0

    def application(environ: Any, start_response: Any) -> list[bytes]:
        return []

    monkeypatch.setattr(serving, "serve_settings", remember)
    serve_as_paste(application, host="::1", port="6543", **{"app-dir": "/"})
    serve_as_paste(application, listen="localhost:6543\n*:6544")
    assert [(settings.bind, settings.app_dir, given) for settings, given in seen] == [
        (("[::1]:6543",), "/", application),
        (("localhost:6543", "*:6544"), ".", application),
    ]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"workers": "4"}, "rawsgi: there is no setting 'workers': one process serves"),
        ({"listen": "6543"}, "rawsgi: '6543': an address is HOST:PORT"),
        ({"listen": ""}, "rawsgi: --bind: there is no address"),
        ({"listen": ":1", "bind": ":2"}, "rawsgi: listen: cannot stand beside bind"),
        ({"listen": ":1", "port": "2"}, "rawsgi: --port: cannot stand beside --bind"),
        ({"threads": "many"}, "rawsgi: --threads many: must be"),
    ],
)
def test_a_mistake_in_a_paste_file_is_one_line(section: dict[str, str], message: str) -> None:
    """pserve shows the text of `SystemExit`, and a traceback of anything else."""
    with pytest.raises(SystemExit) as caught:
        serve_as_paste(lambda environ, start_response: [], **section)
    text = caught.value.code
    assert isinstance(text, str) and text.startswith(message) and text.isprintable()


def test_what_cannot_be_opened_for_a_paste_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for section, message in (
            ({"listen": address}, f"rawsgi: cannot listen at {address}: "),
            ({"port": "0", "record": f"{tmp_path}/file"}, f"rawsgi: --record {tmp_path}/file: "),
        ):
            with pytest.raises(SystemExit) as caught:
                serve_as_paste(lambda environ, start_response: [], **section)
            text = caught.value.code
            assert isinstance(text, str) and text.startswith(message) and text.isprintable()
