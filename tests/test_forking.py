"""Children that an application forks have nothing of the server, and it notices nothing of them."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.serving import serve, wait_until

APPLICATION = """
import os, signal, time
from pathlib import Path

FOLDER = Path(__file__).parent

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/terminated":
        child = os.fork()
        if child == 0:
            FOLDER.joinpath("begun").touch()
            time.sleep(60)
            os._exit(0)
        while not FOLDER.joinpath("begun").exists():
            time.sleep(0.01)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        content = str(os.waitstatus_to_exitcode(status))
    elif path == "/soon":
        statuses = set()
        for _ in range(50):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            statuses.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        content = str(statuses)
    elif path == "/left":
        child = os.fork()
        if child == 0:
            os.setsid()
            time.sleep(60)
            os._exit(0)
        FOLDER.joinpath("left").write_text(str(child))
        content = "left"
    elif path.startswith("/back"):
        with FOLDER.joinpath("calls").open("a") as calls:
            calls.write("x")
        if path == "/back/generator":
            return go_on_twice(start_response)
        child = os.fork()
        content = f"the parent of {os.waitpid(child, 0)[1]}" if child else "the child"
    else:
        content = "served"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [content.encode()]
"""

GENERATOR = """
def go_on_twice(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"both\\n"
    child = os.fork()
    for _ in range(50):
        yield b"parent" * 100 if child else b"child" * 100
    if child:
        yield b"of %d" % os.waitpid(child, 0)[1]
"""

GET = b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

pytestmark = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no fork here")


@pytest.mark.parametrize("poller", ["epoll", "portable"])
@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_signal_to_a_child_is_not_taken_for_the_servers(
    threads: str, poller: str, tmp_path: Path
) -> None:
    (tmp_path / "forking.py").write_text(APPLICATION)
    options = ("--threads", threads, "--poller", poller)
    with serve(str(tmp_path / "forking.py"), *options) as server:
        answer = server.exchange(GET % b"/terminated")
        assert answer.endswith(b"\r\n\r\n%d" % -signal.SIGTERM)
        assert server.exchange(GET % b"/").endswith(b"\r\n\r\nserved")


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_signal_to_a_child_that_was_just_forked_is_the_childs(
    threads: str, tmp_path: Path
) -> None:
    """It comes before the child has run a line, and so before it has left the server."""
    (tmp_path / "forking.py").write_text(APPLICATION)
    with serve(str(tmp_path / "forking.py"), "--threads", threads) as server:
        for _ in range(2):
            answer = server.exchange(GET % b"/soon")
            assert answer.endswith(b"\r\n\r\n{%d}" % -signal.SIGTERM)
        assert server.exchange(GET % b"/").endswith(b"\r\n\r\nserved")
        assert "stopping" not in server.stderr()


def test_a_child_holds_neither_the_client_nor_the_port(tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(APPLICATION)
    child = None
    try:
        with serve(str(tmp_path / "forking.py")) as server:
            began = time.monotonic()
            # The end of the connection is the end of the answer: the child must not hold it.
            with server.connect() as client:
                client.sendall(GET % b"/left")
                answer = b""
                while piece := client.recv(4096):
                    answer += piece
            assert answer.endswith(b"\r\n\r\nleft")
            assert time.monotonic() - began < 30
            child = int((tmp_path / "left").read_text())
            assert server.exchange(GET % b"/").endswith(b"\r\n\r\nserved")
            address = (server.host, server.port)
            assert server.stop() == 0
            with socket.socket() as free:
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(address)
                free.listen()
    finally:
        if child is not None:
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: not is_running(child))


@pytest.mark.parametrize("options", [(), ("--threads", "1"), ("--request-timeout", "20")])
@pytest.mark.parametrize("target", [b"/back/list", b"/back/generator"])
def test_a_child_that_comes_back_ends(
    target: bytes, options: tuple[str, ...], tmp_path: Path
) -> None:
    """It answers nobody, and runs none of the requests that wait for the parent."""
    (tmp_path / "forking.py").write_text(APPLICATION + GENERATOR)
    with serve(str(tmp_path / "forking.py"), *options) as server:
        for _ in range(3):
            clients = [server.connect() for _ in range(4)]
            for client in clients:
                client.sendall(GET % target)
            for client in clients:
                with client:
                    answer = b""
                    while piece := client.recv(65536):
                        answer += piece
                assert answer.count(b"HTTP/1.1 200 OK") == 1
                assert b"parent" in answer and b"of 0" in answer and b"child" not in answer
        wait_until(lambda: server.stderr().count("came back from it: it ends") == 12)
        assert (tmp_path / "calls").read_text() == "x" * 12
        assert "Traceback" not in server.stderr()


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
