"""`rawsgi by-hand`: a process that is typed at, with real clients at the other side.

The rule: what is typed is read by a client, and what the program says of it is read here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rawsgi.byhand import command as byhand
from rawsgi.byhand.arriving import ArrivingRequest
from rawsgi.byhand.screen import Screen, show_bytes
from rawsgi.byhand.typed import TypedAnswer
from tests.serving import ROOT, wait_until

GET = b"GET /hello HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n"
DATE = "Date: Sat, 21 Nov 2026 09:00:00 GMT"
OK = "HTTP/1.1 200 OK"

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="no curl")


class Hand:
    """The program, and the hand that types. `terminal`: through a pseudo-terminal."""

    def __init__(self, *flags: str, terminal: bool = False, **environ: str) -> None:
        command = [sys.executable, "-m", "rawsgi", "by-hand", "--listen", "0", *flags]
        environment = {**os.environ, "TERM": "xterm", **environ}
        if "NO_COLOR" not in environ:
            environment.pop("NO_COLOR", None)
        self._typed, keyboard = pty.openpty() if terminal else os.pipe()[::-1]
        self._shown, screen = (os.dup(self._typed), os.dup(keyboard)) if terminal else os.pipe()
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=keyboard, stdout=screen, stderr=screen
        )
        os.close(keyboard)
        os.close(screen)
        os.set_blocking(self._shown, False)
        self.text = ""
        self.ended = False
        self._port = 0

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.stop_typing()
        os.close(self._shown)

    def type(self, *lines: str, end: str = "\n") -> None:
        os.write(self._typed, "".join(f"{line}{end}" for line in lines).encode())

    def resize(self, columns: int) -> None:
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self._typed, termios.TIOCSWINSZ, size)

    def stop_typing(self) -> None:
        if self._typed >= 0:
            os.close(self._typed)
        self._typed = -1

    def read(self) -> str:
        with contextlib.suppress(BlockingIOError):
            try:
                data = os.read(self._shown, 65536)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
                data = b""  # Linux says EIO where a pseudo-terminal ends
            self.ended = not data
            self.text += data.decode().replace("\r\n", "\n")
        return self.text

    def expect(self, *texts: str) -> None:
        """Wait for the texts, in this order, and drop what came up to them."""
        for text in texts:

            def find(text: str = text) -> bool:
                return text in self.read() or self.ended

            try:
                wait_until(find)
            except AssertionError:
                pass
            assert text in self.text, f"{text!r} is not in:\n{self.text}"
            self.text = self.text.partition(text)[2]

    def find_port(self) -> int:
        if self._port:
            return self._port
        wait_until(lambda: re.search(r"http://127\.0\.0\.1:\d+/\n", self.read()))
        match = re.search(r"http://127\.0\.0\.1:(\d+)", self.text)
        assert match is not None
        self._port = int(match[1])
        return self._port

    def connect(self, data: bytes = b"") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.find_port()), timeout=10)
        client.sendall(data)
        return client

    def wait(self) -> int:
        """Wait for the end, and return the exit status; what was shown is in `text`."""
        wait_until(lambda: (self.read(), self.ended)[1])
        return self.process.wait(10)


@pytest.fixture
def hand() -> Iterator[Hand]:
    with Hand() as running:
        yield running


def read_all(client: socket.socket) -> bytes:
    parts = []
    while data := client.recv(65536):
        parts.append(data)
    return b"".join(parts)


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


# -- With clients ---------------------------------------------------------------------------------


@needs_curl
def test_curl_gets_the_typed_answer(hand: Hand) -> None:
    url = f"http://127.0.0.1:{hand.find_port()}/hello"
    with subprocess.Popen(["curl", "-s", "-m", "20", url], stdout=subprocess.PIPE) as curl:
        hand.expect("start-line  GET /hello HTTP/1.1\\r\\n\n  field line  Host: 127.0.0.1:")
        hand.expect("  blank line  \\r\\n\n", "* The request is complete.", "status-line")
        hand.type(OK, DATE, "Content-Length: 6", "", "Hello!")
        hand.expect("Now the content: 6 bytes", "The answer is complete: 6 bytes.", "kept")
        assert curl.stdout is not None
        assert curl.stdout.read() == b"Hello!"
    assert curl.returncode == 0
    hand.expect("The client has closed the connection.")
    hand.stop_typing()
    assert hand.wait() == 0


@needs_curl
def test_curl_gets_chunks_and_sends_content_when_it_is_told_to(hand: Hand) -> None:
    url = f"http://127.0.0.1:{hand.find_port()}/"
    command = ["curl", "-s", "-m", "20", "--expect100-timeout", "20"]
    command += ["-H", "Expect: 100-continue", "-d", "a=1", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        hand.expect("The client asks before it sends its content")
        assert "a=1" not in hand.text
        hand.type("HTTP/1.1 100 Continue", "")
        hand.expect("That was an interim answer", "content     a=1\n", "request is complete")
        hand.type(OK, "Transfer-Encoding: chunked", "", "5", "Hello", "9", ", World", "", "0", "")
        hand.expect("chunk of 5", "The chunk is full.", "full with this line end", "is complete")
        assert curl.stdout is not None
        assert curl.stdout.read() == b"Hello, World\r\n"
    assert curl.returncode == 0


def test_lines_from_a_pipe_wait_for_the_request(hand: Hand) -> None:
    """Typed before anybody came; the last has no line end."""
    hand.type(OK, "Connection: close", "", "by", end="\n")
    hand.type("e", end="")
    hand.stop_typing()
    with hand.connect(GET[:20]) as client:
        hand.expect("so far      GET /hello HTTP/1.1\\r\n")
        client.sendall(GET[20:])
        assert read_all(client) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nby\r\ne"
    hand.expect("No length", "The content ends here, because the connection does.")
    assert hand.wait() == 0


def test_a_connection_is_kept_and_requests_may_be_pipelined(hand: Hand) -> None:
    with hand.connect(GET + GET.replace(b"hello", b"again")) as client:
        hand.expect("GET /hello", "request is complete")
        hand.type("HTTP/1.1 204 No Content", DATE, "")
        hand.expect("complete: a 204 answer has no content", "kept", "GET /again", "is complete")
        hand.type("HTTP/1.1 304 Not Modified", DATE, "")
        hand.expect("a 304 answer has no content", "kept")
        hand.type("surplus")
        hand.expect("! The answer was complete before this line")
        assert read_until(client, b"surplus\r\n").count(b"HTTP/1.1") == 2
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        hand.expect("HEAD / ", "is complete")
        hand.type(OK, DATE, "Content-Length: 7", "")
        hand.expect("an answer to HEAD has no content", "closed: the client asked for it")
        assert read_all(client).endswith(b"Length: 7\r\n\r\n")


def test_a_dot_closes_and_the_next_client_is_served(hand: Hand) -> None:
    with hand.connect(GET) as client:
        hand.type(OK, "Content-Length: 10", "", "short", ".")
        assert read_all(client).endswith(b"\r\n\r\nshort\r\n")
        hand.expect("7 of 10 bytes, 3 missing", "! 3 bytes missing: Content-Length says 10", "next")
    with hand.connect(GET) as client:
        hand.expect("A client has connected", "is complete")
        hand.type(".")
        assert read_all(client) == b""
        hand.expect("Closed without an answer")


def test_a_request_in_chunks_and_what_is_no_request(hand: Hand) -> None:
    port = hand.find_port()
    chunks = b"5;a=b\r\nHello\r\n0\r\nX: y\r\n\r\n"
    with hand.connect(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) as client:
        hand.expect("chunk-size  5;a=b\\r\\n\n  chunk data  Hello\n  chunk end   \\r\\n\n")
        hand.expect("chunk-size  0\\r\\n\n  trailer     X: y\\r\\n\n  blank line", "is complete")
        client.shutdown(socket.SHUT_WR)
        hand.expect("The client has closed its side.")
        hand.type(OK, "Content-Length: 0", "")
        hand.expect("is complete: Content-Length: 0.", "closed: the client asked for it")
        assert read_all(client)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"\x16\x03\x01\x00\x1b[2J\xff\n")
        hand.expect(r"bytes       \x16\x03\x01\x00\x1b[2J\xff\n", "! This is TLS")
        client.sendall(b"hello\n")
        hand.expect("start-line  hello", "! No request-line")
    hand.expect("in the middle of its request")
    hand.type(".")
    hand.expect("Waiting for the next client")


def test_a_client_that_has_gone(hand: Hand) -> None:
    with hand.connect(GET):
        hand.expect("is complete")
    hand.expect("The client has closed its side. Perhaps it has gone.")
    hand.type(OK, DATE, "Content-Length: 100", "", "a", "b")
    hand.expect("! The client has gone")


def test_a_line_without_end_is_given_up(hand: Hand) -> None:
    with hand.connect(GET[:-2]) as client:
        client.sendall(b"X: " + b"x" * (1 << 20))
        with contextlib.suppress(OSError):
            client.sendall(b"x" * (1 << 20))
        hand.expect("! A line of more than 1,048,576 bytes", "next client")
    with hand.connect(GET):
        hand.expect("is complete")


def test_a_client_that_sends_on_and_on_has_to_wait(hand: Hand) -> None:
    with hand.connect(GET) as client:
        hand.expect("is complete")
        client.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 100 << 20:
                if select.select([], [client], [], 0.5)[1]:
                    sent += client.send(b"x" * 65536)
                else:
                    break
        assert sent < 50 << 20  # what the kernel holds, and a MiB
        hand.type(OK, DATE, "Content-Length: 2", "", "ok")
        client.setblocking(True)
        hand.expect("The answer is complete", "so far", "! A line of more than", "next client")


def test_an_answer_that_comes_too_early_closes(hand: Hand) -> None:
    with hand.connect(POST + b"Expect: 100-continue\r\n\r\n") as client:
        hand.type("HTTP/1.1 417 Expectation Failed", DATE, "Content-Length: 0", "")
        hand.expect("closed: the request was not complete")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith(b"HTTP/1.1 417 ")


def test_once_and_the_end_of_standard_input() -> None:
    with Hand("--once") as hand:
        with hand.connect(GET) as client:
            hand.type("HTTP/1.0 200 OK", "", "x", ".")
            assert read_all(client) == b"HTTP/1.0 200 OK\r\n\r\nx\r\n"
        assert hand.wait() == 0
    with Hand() as hand:
        hand.stop_typing()
        assert hand.wait() == 0


def test_ctrl_c_is_quiet(hand: Hand) -> None:
    hand.find_port()
    hand.process.send_signal(signal.SIGINT)
    assert hand.wait() == 130
    assert "Traceback" not in hand.text


def test_at_a_terminal() -> None:
    with Hand(terminal=True) as hand:
        port = hand.find_port()
        hand.type("hello?")
        hand.expect("\x1b[36m*\x1b[0m No client is there yet")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(POST + b"\r\nHe")
            hand.expect("\x1b[2mcontent    \x1b[0m He\n")
            hand.type("HTTP/1.1 200")
            hand.expect("You answer before the request is complete", "Hint: a space")
            client.sendall(b"llo")
            hand.expect("request is complete")
            hand.type("Content-Length 3")
            hand.expect("\x1b[1;31m!\x1b[0m No colon")
            hand.type("\x04", end="")
            hand.expect("The empty line that ends the field lines is missing", "next client")
            assert read_all(client) == b"HTTP/1.1 200\r\nContent-Length 3\r\n"
        hand.type("\x04", end="")
        assert hand.wait() == 0
    with Hand(terminal=True, NO_COLOR="1") as hand:
        hand.find_port()
        hand.type("\x03", end="")
        hand.process.send_signal(signal.SIGINT)  # it is not the terminal's foreground group
        assert hand.wait() == 130
        assert "\x1b" not in hand.text


def test_notes_are_broken_between_words_at_a_terminal() -> None:
    with Hand(terminal=True, NO_COLOR="1") as hand:
        hand.resize(60)
        with hand.connect(b"GET / HTTP/1.1\r\nX: " + b"y" * 90 + b"\r\n\r\n"):
            hand.expect("y" * 90)  # what came is shown as it is
            hand.type(OK, "")
            hand.expect("closes. A\n  dot closes.")


def test_misuse_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert byhand.main(["--listen", "70000"]) == 2
    assert byhand.main(["--nothing"]) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert byhand.main(["--listen", str(taken.getsockname()[1])]) == 1
    assert byhand.main(["--listen", "0", "--host", "256.1.1.1.1"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("rawsgi by-hand: ") for line in lines)
    assert byhand.main(["--help"]) == 0


# -- What is said of an answer --------------------------------------------------------------------


def check(*lines: str, method: str = "GET", version: str = "HTTP/1.1") -> tuple[str, Any, bytes]:
    """Type the lines; the notes that say what is wrong, the answer, and the bytes sent."""
    notes: list[str] = []
    answer = TypedAnswer(method.encode(), version.encode(), lambda *note: notes.append(note))  # type: ignore[arg-type,misc]
    sent = b"".join(answer.take(line.encode()) for line in lines)
    answer.finish()
    return "\n".join(f"{kind} {text}" for kind, text in notes), answer, sent


LENGTH = "Content-Length: 6"
CHUNKED = "Transfer-Encoding: chunked"
WRONG = [
    (["Hello"], "No status-line"),
    (["Content-Length: x"], "not a number"),
    ([""], "no status-line before it"),
    (["HTTP/3.0 200 OK"], "The version HTTP/3.0 is unknown"),
    (["http/1.1 200 OK"], "The version http/1.1 is unknown"),
    (["HTTP/1.1 20 OK"], "The status code 20 is not three digits"),
    (["HTTP/1.1"], "The status code that is missing"),
    (["HTTP/1.1 700 Odd"], "No status code is 700"),
    ([OK, "Content-Type text/plain"], "No colon"),
    ([OK, "Hello!"], "an empty line has to come before it"),
    ([OK, '{"a": 1}'], "is no field name. If this is the content"),
    ([OK, "Content-Type : text/plain"], "A space before the colon"),
    ([OK, " Content-Type: text/plain"], "begins with its name"),
    ([OK, "A: \x1b[2J"], "control character"),
    ([OK, "Content-Length: six"], "Content-Length is not a number: six"),
    ([OK, "Content-Length: -1"], "Content-Length is not a number: -1"),
    ([OK, LENGTH, "Content-Length: 7"], "A second Content-Length that differs"),
    ([OK, LENGTH, CHUNKED], "one or the other, not both"),
    ([OK, CHUNKED, LENGTH], "one or the other, not both"),
    ([OK, "Transfer-Encoding: gzip"], "Clients know one coding"),
    (["HTTP/1.1 204 No Content", LENGTH, ""], "A 204 answer has no content"),
    ([OK, LENGTH], "The empty line that ends the field lines is missing"),
    ([OK, LENGTH, "", "Hello"], "1 byte too many (a line end is two bytes"),
    ([OK, LENGTH, "", "Hello, World!"], "9 bytes too many: Content-Length is 6"),
    ([OK, LENGTH, "", "Hi"], "2 bytes missing: Content-Length says 6"),
    ([OK, CHUNKED, "", "five"], "No chunk-size"),
    ([OK, CHUNKED, "", "5", "Hello!"], "1 byte too many: the chunk-size says 5"),
    ([OK, CHUNKED, "", "6", "Hello"], "1 byte too few: the chunk-size says 6"),
    ([OK, CHUNKED, "", "4", "Hi", "0"], "A line end has to follow the data"),
    ([OK, CHUNKED, "", "5", "Hello"], "The last chunk is missing"),
    ([OK, CHUNKED, "", "0", LENGTH], "Too late"),
    (["HTTP/1.1 100 Continue", ""], "its status-line has not come"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "words"), WRONG)
def test_a_mistake_is_told_and_sent_all_the_same(lines: list[str], words: str) -> None:
    notes, _, sent = check(*lines)
    assert [note for note in notes.splitlines() if note.startswith("! ") and words in note], notes
    assert sent == "".join(f"{line}\r\n" for line in lines).encode()


RIGHT = [
    ([OK, DATE, LENGTH, "", "Hello!"], "complete: 6 bytes. The end of the last line"),
    ([OK, DATE, LENGTH, "", "Hell", ""], "complete: 6 bytes."),
    ([OK, DATE, LENGTH, "", "a", "b"], "3 of 6 bytes, 3 missing"),
    ([OK, DATE, "", "anything"], "No length: the content ends when the connection closes"),
    ([OK, LENGTH, "", "Hello!"], "Hint: no Date"),
    ([OK, DATE, CHUNKED, "", "4;a=b", "ab", "", "0", "X: y", ""], "is complete: the last chunk"),
    (["HTTP/1.1 101 Switching Protocols", "", "any"], "another protocol"),
    (["HTTP/1.1 103 Early Hints", "", OK, DATE, "Content-Length: 0", ""], "interim answer"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "words"), RIGHT)
def test_what_is_right_is_only_commented(lines: list[str], words: str) -> None:
    notes, _, _ = check(*lines)
    assert words in notes
    assert not [note for note in notes.splitlines() if note.startswith("! ")]


NEXT = [
    ([OK], "Now field lines, such as Content-Length: 6, then an empty line."),
    ([OK, LENGTH, "Content-Length: 7", ""], "No length that can be believed: the content ends"),
    (["HTTP/1.1 100 Continue"], "An interim answer. An empty line ends it; it has no content."),
    (["HTTP/1.1 204 No Content"], "Now field lines, then an empty line. No content follows."),
]


@pytest.mark.parametrize(("lines", "words"), NEXT)
def test_what_comes_next_is_told(lines: list[str], words: str) -> None:
    assert words in check(*lines)[0]


def test_content_that_fits_is_sent_without_its_line_end() -> None:
    notes, answer, sent = check(OK, DATE, "Content-Length: 7", "", "H\u00e4llo!")
    assert sent.endswith("\r\n\r\nH\u00e4llo!".encode())
    assert answer.complete and not answer.closes and "!" not in re.sub(r"\w!", "", notes)


def test_a_chunk_size_in_decimal_is_suspected() -> None:
    notes, _, _ = check(OK, CHUNKED, "", "10", "0123456789")
    assert "12 of 16 bytes of the chunk, 4 missing. 10 in hexadecimal is 16." in notes


def test_chunks_are_not_for_http_1_0() -> None:
    assert "it knows no chunks" in check(OK, CHUNKED, "", version="HTTP/1.0")[0]


def test_what_a_client_sends_cannot_write_to_the_terminal() -> None:
    shown = show_bytes(b"a\\\t\x1b[2J\x00\xff\xc3\xa9\xe2\x80\xae\xc2\x9b\r\n")
    assert shown == r"a\\\t\x1b[2J\x00\xff" + "\u00e9" + r"\u202e\x9b\r\n"


def test_long_content_is_shortened_and_any_split_is_understood(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = threading.active_count()
    request = ArrivingRequest(Screen())
    request.feed(POST.replace(b" 5", b" 100000") + b"\r\n" + b"a" * 100000 + b"GET")
    assert request.complete and request.buffer == b"GET"
    shown = capsys.readouterr().out
    assert len(shown) < 3000 and "... and 98000 bytes more" in shown
    request = ArrivingRequest(Screen())
    for each in POST + b"\r\nHello":
        assert not request.complete
        request.feed(bytes([each]))
    assert request.complete and not request.buffer
    assert threading.active_count() <= threads
