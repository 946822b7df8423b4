"""Processes that are started as service managers, pipes and full disks leave them.

Each is a real process at a Unix socket, so that no line of its output is needed to find it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT, serve, wait_until

APPLICATION = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/raise":
        raise ValueError("é")
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""


def ask(path: str, target: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(b"GET " + target + b" HTTP/1.0\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def is_listening(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@pytest.mark.parametrize(
    ("redirections", "options", "variables"),
    [
        pytest.param("2>&-", "", {}, id="no stderr"),
        pytest.param(">&-", "", {}, id="no stdout"),
        pytest.param("<&- >&- 2>&-", "", {}, id="no descriptors"),
        pytest.param(">/dev/full", "", {}, id="full stdout"),
        pytest.param("2>/dev/full", "", {}, id="full stderr"),
        pytest.param("", "-I", {}, id="isolated"),
        pytest.param("", "-OO", {}, id="optimized"),
        pytest.param("", "-X dev -W error", {}, id="development mode"),
        pytest.param(
            "",
            "",
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            id="ASCII locale",
        ),
    ],
)
def test_serves_whatever_the_process_was_given(
    redirections: str, options: str, variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "bare.py").write_text(APPLICATION, encoding="utf-8")
    path = str(tmp_path / "s")
    # Isolated mode does not look at PYTHONPATH.
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from rawsgi.cli import main"
    command = (
        f"exec {sys.executable} {options} -c {program + '; sys.exit(main())'!r}"
        f" bare:app --bind unix:{path} --access-log {redirections}"
    )
    # What may not be in there: a home folder, and variables of the tests.
    environ = {"PATH": os.environ["PATH"], **variables}
    process = subprocess.Popen(
        ["sh", "-c", command],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: process.poll() is not None or is_listening(path), 30)
        assert ask(path, b"/a").endswith(b"\r\n\r\nserved")
        assert ask(path, b"/raise").startswith(b"HTTP/1.1 500 ")
        assert ask(path, b"/b").endswith(b"\r\n\r\nserved")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


# What asyncio does to signals in the main thread, which may be the one that runs a request.
SIGNALS_TAKEN = """
import asyncio, signal

async def listen_for_a_while():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, print)
    loop.remove_signal_handler(signal.SIGUSR2)

def app(environ, start_response):
    asyncio.run(listen_for_a_while())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"listened"]
"""


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_signal_arrives_after_the_application_took_the_wake_up_away(
    threads: str, tmp_path: Path
) -> None:
    (tmp_path / "taking.py").write_text(SIGNALS_TAKEN)
    with serve(str(tmp_path / "taking.py"), "--threads", threads) as server:
        answer = server.exchange(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nlistened")
        assert server.stop() == 0


def refuses(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(address) != 0


def ask_while_stopping(path: str) -> bytes:
    """Return the answer to a request on a kept connection that is sent after SIGTERM."""
    with serve(path) as server, server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(4096)
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: refuses((server.host, server.port)))
        answer = b""
        try:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            while piece := client.recv(4096):
                answer += piece
        except ConnectionError:
            pass
        wait_until(lambda: server.process.poll() is not None)  # a second SIGTERM would be another
        return answer


def test_a_busy_client_is_answered_once_more_when_the_server_stops(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(APPLICATION, encoding="utf-8")
    for _ in range(5):  # the wait for it is short, and this machine may be busy
        answer = ask_while_stopping(str(tmp_path / "bare.py"))
        if answer:
            break
    assert answer.endswith(b"\r\n\r\nserved")
    assert b"\r\nConnection: close\r\n" in answer


def test_an_application_that_configures_logging_late_and_looks_for_its_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "late.py").write_text("""
import logging.config, os
FOUND = os.environ["SERVER_SOFTWARE"]
def app(environ, start_response):
    logging.config.dictConfig({"version": 1})
    assert environ["SERVER_SOFTWARE"] == FOUND
    raise ValueError("seen")
""")
    with serve(str(tmp_path / "late.py")) as server:
        assert server.request("GET", "/").status == 500
        wait_until(lambda: "ValueError: seen" in server.stderr())
