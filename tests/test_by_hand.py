"""`--by-hand`, and the pages about it: each command that they show is run, and its output read.

How a page is written, so that it can be run:

- a block `console` begins with `$ COMMAND`. `$ rawsgi ... --port N` starts a server that the
  commands after it talk to; N in the page is the port that it really got.
- in a session with netcat `> ` is typed and `< ` must come back, in this order.
- a netcat that listens, and `rawsgi by-hand`, is played while the command of the next block runs.
- a block `wire` is what the last server must have written to stderr.
- a line `...` stands for any lines. Dates, times and ports are not compared.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rawsgi.byhand.greeting import greet_typist, name_netcat, spell_duration
from rawsgi.config import OPTIONS, Settings
from tests.serving import ROOT, Server, serve, wait_until

TIMEOUT_S = 10.0
BLOCK = re.compile(r"^```(console|wire)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"--port (\d+)")
VARIABLE = [
    (re.compile(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "DATE"),
    (re.compile(r"(?<=[a-z] )\d+\.\d(?=,|$)", re.MULTILINE), "TIME"),
    (re.compile(r"curl/[\d.]+"), "curl/VERSION"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"), "MOMENT"),
    (re.compile(r"\d{8}T\d{6}\.\d{6}-\d+-"), "NAME-"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(re.escape(str(ROOT)) + "/"), ""),
    (re.compile(r"(?<= in )/\S+/(?=kept)"), ""),
]

needs_netcat = pytest.mark.skipif(
    not shutil.which("nc") or "OpenBSD" not in subprocess.run(
        ["nc", "-h"], capture_output=True, text=True
    ).stderr,
    reason="no netcat of OpenBSD",
)  # fmt: skip


@dataclass
class Block:
    """One block of a page."""

    kind: str
    lines: list[str]
    number: int

    @property
    def command(self) -> str:
        assert self.lines[0].startswith("$ ")
        return self.lines[0][2:]

    @property
    def output(self) -> list[str]:
        return self.lines[1:]

    @property
    def is_session(self) -> bool:
        return self.kind == "console" and self.command.startswith("nc ")

    @property
    def listens(self) -> bool:
        netcat = self.is_session and "-l" in self.command.split()
        return netcat or self.command.startswith("rawsgi by-hand ")


def read_blocks(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    return [
        Block(match[1], match[2].splitlines(), text.count("\n", 0, match.start()) + 2)
        for match in BLOCK.finditer(text)
    ]


def normalise(text: str) -> str:
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    return text


def make_pattern(expected: list[str]) -> re.Pattern[str]:
    """A pattern for lines; `...` is any number of them, the last may lack its end."""
    parts = []
    for line in expected:
        if line == "...":
            parts.append(r"(?:.*\r?\n)*?")
        else:
            parts.append(re.escape(normalise(line + "\n")[:-1]).replace(r"\ ", " ") + r"\r?\n")
    if parts and expected[-1] != "...":
        parts[-1] = parts[-1].removesuffix(r"\r?\n") + r"(?:\r?\n|\Z)"
    return re.compile(r"(?:\r?\n)?" + "".join(parts))


class Process:
    """A command whose output is read while it runs. Ended when it is left."""

    def __init__(self, command: str, cwd: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self.process = subprocess.Popen(
            ["bash", "-c", command], cwd=cwd, env=environment, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self.text = ""
        self.ended = False

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()
        self.process.stdout.close()

    def type(self, lines: list[str]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def read(self) -> None:
        assert self.process.stdout is not None
        data = self.process.stdout.read()
        if data:
            self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
        self.ended = data == b""

    def expect(self, lines: list[str], whole: bool = False) -> None:
        """Wait until the lines have come, and drop them. `whole`: nothing may follow."""
        pattern = make_pattern(lines)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            self.read()
            text = normalise(self.text)
            match = pattern.fullmatch(text) if whole else pattern.match(text)
            if match is not None and (self.ended or not whole):
                self.text = text[match.end() :]
                return
            if self.ended or time.monotonic() > deadline:
                raise AssertionError("expected:\n" + "\n".join(lines) + f"\n\ngot:\n{self.text}")
            time.sleep(0.005)


class Reader:
    """Runs a page from top to bottom, as a person would."""

    def __init__(self, path: Path, cwd: Path) -> None:
        self.blocks = read_blocks(path)
        self.cwd = cwd
        self.ports: dict[str, str] = {}
        self.stack = contextlib.ExitStack()
        self.server: Server | None = None
        self.ran = 0

    def run(self) -> None:
        blocks = iter(self.blocks)
        with self.stack:
            for block in blocks:
                try:
                    self.run_block(block, blocks)
                except BaseException as error:
                    error.add_note(f"--- the block at line {block.number}: {block.lines[0]}")
                    raise

    def run_block(self, block: Block, rest: Iterator[Block]) -> None:
        self.ran += 1
        if block.kind == "wire":
            self.check_wire(block.lines)
        elif block.command.startswith("rawsgi ") and PORT.search(block.command):
            self.start_server(block)
        elif block.listens:
            self.play_listener(block, next(rest))
        elif block.is_session:
            with Process(self.place_ports(block.command), self.cwd) as process:
                self.play(process, block.output)
        else:
            with Process(self.place_ports(name_program(block.command)), self.cwd) as process:
                process.expect(block.output, whole=True)

    def place_ports(self, text: str) -> str:
        for shown, real in self.ports.items():
            text = re.sub(rf"\b{shown}\b", real, text)
        return text

    def start_server(self, block: Block) -> None:
        self.stack.close()
        words = shlex.split(block.command)
        port = words.index("--port")
        flags = words[2:port] + words[port + 2 :]
        self.server = self.stack.enter_context(serve(words[1], *flags, cwd=self.cwd))
        self.ports[words[port + 1]] = str(self.server.port)
        self.check_wire(block.output)

    def check_wire(self, lines: list[str]) -> None:
        server = self.server
        assert server is not None
        pattern = make_pattern(lines)

        def find() -> bool:
            text = self.place_shown(server.stderr())
            return pattern.search(normalise(text)) is not None

        try:
            wait_until(find)
        except AssertionError:
            expected = "\n".join(lines)
            raise AssertionError(f"{expected}\n\nis not in:\n\n{server.stderr()}") from None

    def place_shown(self, text: str) -> str:
        for shown, real in self.ports.items():
            text = re.sub(rf"\b{real}\b", shown, text)
        return text

    def play(self, process: Process, lines: list[str]) -> None:
        """Type and read in turn."""
        at = 0
        while at < len(lines):
            typed = lines[at].startswith(">")
            end = at
            while end < len(lines) and lines[end].startswith(">") == typed:
                end += 1
            if typed:
                process.type([line[2:] for line in lines[at:end]])
            else:
                process.expect([line if line == "..." else line[2:] for line in lines[at:end]])
            at = end

    def play_listener(self, block: Block, client: Block) -> None:
        shown = block.command.split()[-1]
        self.ports[shown] = str(find_free_port())
        self.ran += 1
        command = self.place_ports(name_program(block.command))
        with Process(command, self.cwd) as server:
            wait_until(lambda: is_listening(int(self.ports[shown])))
            with Process(self.place_ports(client.command), self.cwd) as process:
                self.play(server, block.output)
                process.expect(client.output, whole=True)


def name_program(command: str) -> str:
    """The command, with rawsgi as this interpreter runs it."""
    return re.sub(r"\brawsgi ", f"{sys.executable} -m rawsgi ", command, count=1)


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Look without connecting: a netcat that listens takes one connection only."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A" for row in rows)


@needs_netcat
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc")
@pytest.mark.parametrize(("page", "blocks"), [("by-hand.md", 47), ("wire.md", 11)])
def test_the_page_is_true(page: str, blocks: int, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    reader = Reader(ROOT / "docs" / page, tmp_path)
    reader.run()
    assert reader.ran == len(reader.blocks) >= blocks


# Flags of curl and netcat that the pages explain.
FOREIGN_FLAGS = {"-C", "-c", "-N", "-w"}
COMMAND_MODULES = ["byhand.command", "compare.command", "process.replay"]


@pytest.mark.parametrize("page", ["by-hand.md", "wire.md"])
def test_nothing_on_the_page_escapes_the_test(page: str) -> None:
    """Every block is one that is run, with one command; every flag in the text exists."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
    assert fences[1::2] == [""] * len(fences[1::2])
    assert set(fences[::2]) == {"console", "wire"}
    blocks = read_blocks(ROOT / "docs" / page)
    assert len(blocks) == len(fences) // 2
    for block in blocks:
        assert (block.kind == "console") is block.lines[0].startswith("$ "), block
        assert not any(line.startswith("$ ") for line in block.output), block
        if block.is_session:
            assert all(line == "..." or line[:1] in "<>" for line in block.output), block
    assert not re.findall(r"^(?: {4,}|\t)\S", BLOCK.sub("", text), re.MULTILINE)  # code unfenced
    known = {option.flag for option in OPTIONS} | FOREIGN_FLAGS
    known |= {f"--no-{option.key}" for option in OPTIONS if option.kind == "switch"}
    for name in COMMAND_MODULES:
        known |= set(re.findall(r"--[a-z][a-z-]+", read_help(name)))
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    flags = {word for span in spans for word in re.findall(r"(?<!\S)--?[a-zA-Z][\w-]*", span)}
    assert flags and flags <= known, flags - known


def read_help(module: str) -> str:
    code = f"from rawsgi.{module} import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    return done.stdout


# -- What the page cannot show --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("examples/info.py", "--by-hand") as running:
        yield running


CHUNKED = "POST /echo HTTP/1.1\nTransfer-Encoding: chunked\n\n"
# What people type, and what must be in the answer: the rule, the place, and how to write it.
MISTAKES = [
    ("hello", "The first line is no request-line.", "Write: GET / HTTP/1.1"),
    ("What is this?", "The first line is no request-line.", "Write: GET / HTTP/1.1"),
    ("GET /info", "without the HTTP version (byte 9 ", "Write: GET / HTTP/1.1"),
    ("GET /in fo HTTP/1.1", "The target holds a space (byte 7 ", "Percent-encode it as %20."),
    ("GET /info HTTP/1.1 ", "A space follows the version (byte 18 ", "right after"),
    ("GET info HTTP/1.1", "does not begin with a slash (byte 4 ", "GET /hello HTTP/1.1"),
    ("GET /info HTTP1.1", "not written as HTTP/1.1 is (byte 10 ", "Write: GET / HTTP/1.1"),
    ("GET /info HTTP/2", "not written as HTTP/1.1 is", "Write: GET / HTTP/1.1"),
    ("GET /info#top HTTP/1.1", "holds a # or a control character (byte 9 ", "Percent-encode"),
    ("GET / HTTP/1.1\nHost localhost", "no colon", "such as: Host: localhost"),
    ("GET / HTTP/1.1\nHost : a", "between a field name and its colon (byte 19 ", "right after"),
    ("GET / HTTP/1.1\n Host: a", "folded field lines are obsolete (byte 15 ", "in one line"),
    ("GET / HTTP/1.1\nHost: a\nHost: b\n", "Host stands there twice (byte 23 ", "Send one line"),
    ("GET / HTTP/1.1\nHost: a/b\n", "Host is not one host and port (byte 15 ", "example.org"),
    ("GET / HTTP/1.1\nContent-Length: ten\n", "is not one number (byte 15 ", "digits"),
    ("POST / HTTP/1.1\nTransfer-Encoding: chunked, chunked\n", "twice", "chunked"),
    (CHUNKED + "hi", "its size (byte 0 of the content).", "hexadecimal"),
    (CHUNKED + "2\nhi\n4\nabc\nd", "its chunk-size (byte 11 of the content).", "typed, too."),
    ("GET / HTTP/1.1\nContent-Length: 1\nTransfer-Encoding: chunked\n", "together", "never both"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "reason", "hint"), MISTAKES)
def test_a_mistake_is_explained_as_soon_as_its_line_is_there(
    server: Server, typed: str, reason: str, hint: str
) -> None:
    answer = server.exchange(typed.encode() + b"\n").decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert reason in answer
    assert hint in answer
    assert "See RFC 91" in answer


def test_it_waits_for_a_person_who_thinks(server: Server) -> None:
    """No timeout below a minute: read off the settings, not waited for."""
    shown = subprocess.run(
        [sys.executable, "-m", "rawsgi", "--by-hand", "--print-config"],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    ).stdout  # fmt: skip
    for name in ("keep-alive", "head", "content", "write"):
        assert re.search(rf'^{name}-timeout = "10m" +# --by-hand$', shown, re.MULTILINE)
    assert re.search(r"^wire = true +# --by-hand$", shown, re.MULTILINE)
    assert re.search(r'^allow = \["bare-lf", "missing-host"\] +# --by-hand$', shown, re.MULTILINE)


def test_what_was_asked_for_wins() -> None:
    with serve("examples/info.py", "--by-hand", "--no-wire", "--head-timeout", "500ms") as server:
        assert b"HTTP/1.1 408 " in server.exchange(b"GET / HTTP/1.1\n")
        text = server.stderr()
    assert "you have 500ms for a request" in text
    assert "Each exchange is shown" not in text and "#1" not in text


def greet(address: str, **changes: object) -> str:
    settings = Settings(application="x", head_timeout_s=600.0, **changes)  # type: ignore[arg-type]
    return greet_typist(settings, [address])


def test_the_greeting_says_what_the_settings_do() -> None:
    text = greet("http://127.0.0.1:3000")
    assert "\nYou have 10 minutes for a request.\n" in text
    assert "  nc -C 127.0.0.1 3000\n" in text
    assert "shown here" not in text
    text = greet("http://127.0.0.1:3000", allow=("missing-host",), wire=True)
    assert "\nHost may be left out, and you have 10 minutes for a request.\n" in text
    assert "Passwords and the like are masked." in text
    text = greet("http://127.0.0.1:3000", allow=("bare-lf",), wire=True, wire_secrets=True)
    assert "  nc 127.0.0.1 3000\n" in text
    assert "masked" not in text
    assert "docs/by-hand.md" in text
    assert max(map(len, text.splitlines())) < 80


@pytest.mark.parametrize("name", ["hello", "info", "pages", "calculator", "folder"])
def test_the_request_that_the_greeting_names_has_an_answer(name: str) -> None:
    with serve(f"examples/{name}.py", "--by-hand") as server:
        # The greeting follows the start line, for which `serve` waits.
        wait_until(lambda: "docs/by-hand.md goes on from here." in server.stderr())
        request = "".join(re.findall(r"^  (\S.*\n)", server.stderr(), re.MULTILINE)[1:])
        assert request == "GET / HTTP/1.1\nHost: localhost\n"
        answer = server.exchange(request.encode() + b"\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(600, "10 minutes"), (60, "1 minute"), (90, "90 seconds"), (1, "1 second"), (0.1, "100ms")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    assert spell_duration(seconds) == words


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("http://127.0.0.1:3000", "nc 127.0.0.1 3000"),
        ("http://0.0.0.0:3000", "nc localhost 3000"),
        ("http://[::1]:3000", "nc ::1 3000"),
        ("unix:/run/a.sock", "nc -U /run/a.sock"),
    ],
)
def test_the_command_that_connects(address: str, command: str) -> None:
    assert name_netcat(address) == command
