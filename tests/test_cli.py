"""rawsgi/cli.py: flags, help, start lines, and one line for each mistake."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rawsgi import cli
from rawsgi.config import OPTIONS, Settings
from rawsgi.logs import log
from rawsgi.net.listening.listener import Listener
from rawsgi.process import worker
from rawsgi.settings.newcomers import FOREIGN_FAMILIES, FOREIGN_FLAGS
from rawsgi.version import VERSION
from tests.serving import ROOT, serve, wait_until
from tests.test_listener import count_waiting

HELLO = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hi']\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with an application, an environment without settings of ours."""
    for name in list(os.environ):
        if name.startswith("RAWSGI_") or name in ("PORT", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    (tmp_path / "hello.py").write_text(HELLO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    modules = set(sys.modules)
    state = log.level, log.propagate, log.disabled
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    log.level, log.propagate, log.disabled = state
    for handler in log.handlers[:]:
        if type(handler).__module__ == "rawsgi.logs":
            log.removeHandler(handler)


class FakeWorker:
    """Stands where the worker is: remembers what it was given, and is ready at once."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.application: Any = None
        self.addresses: list[str] = []
        self.result: int | BaseException = 0

    def run(
        self,
        settings: Settings,
        application: Any,
        listeners: Sequence[Listener],
        on_ready: Callable[[], None],
    ) -> int:
        self.settings, self.application = settings, application
        self.addresses = [each.address for each in listeners]
        on_ready()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    fake = FakeWorker()
    monkeypatch.setattr(worker, "run", fake.run)
    return fake


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run with a mistake; the one line without its beginning."""
    assert cli.main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rawsgi: ") and err.count("\n") == 1, err
    return err.removeprefix("rawsgi: ").rstrip("\n")


def run(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "rawsgi", *arguments],
        capture_output=True, text=True, timeout=30, env=environ, **more,
    )  # fmt: skip


# -- Serving ------------------------------------------------------------------------------------


def test_what_is_served_where_and_how_to_stop(
    fake: FakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["hello", "--port", "0", "--threads", "3"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"Serving hello:app at {fake.addresses[0]} (Ctrl-C to stop)\n"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", fake.addresses[0])
    assert fake.settings is not None and fake.settings.threads == 3
    assert list(fake.application({}, lambda *_: None)) == [b"hi"]


def test_one_start_line_for_each_address(
    fake: FakeWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    binds = ["--bind", "127.0.0.1:0", "--bind", "0.0.0.0:0", "--bind", "unix:x.sock"]
    assert cli.main(["hello.py:app", *binds]) == 0
    err = capsys.readouterr().err
    first, second, third = err.splitlines()
    assert re.fullmatch(r"Serving hello\.py:app at http://127\S+ \(Ctrl-C to stop\)", first)
    expected = r"Serving .* at http://127\S+ \(at all IPv4 addresses; Ctrl-C to stop\)"
    assert re.fullmatch(expected, second)
    assert third == f"Serving hello.py:app at unix:{os.getcwd()}/x.sock (Ctrl-C to stop)"
    assert not os.path.exists("x.sock"), "closed at the end"


@pytest.mark.parametrize("result", [0, 1, 3])
def test_the_exit_code_is_that_of_the_worker(fake: FakeWorker, result: int) -> None:
    fake.result = result
    assert cli.main(["hello", "--port", "0"]) == result


def test_listeners_are_closed_when_the_worker_fails(fake: FakeWorker) -> None:
    fake.result = RuntimeError("a fault of ours")
    with pytest.raises(RuntimeError):
        cli.main(["hello", "--bind", "unix:x.sock"])
    assert not os.path.exists("x.sock")


def test_ctrl_c_before_the_worker_runs(fake: FakeWorker, folder: Path) -> None:
    (folder / "slow.py").write_text("raise KeyboardInterrupt\n")
    assert cli.main(["slow", "--port", "0"]) == 130


def test_every_flag_reaches_its_setting(fake: FakeWorker) -> None:
    arguments = ["hello", "--port", "0", "--record", "r"]  # some do nothing without --record
    for option in OPTIONS:
        if option.kind == "switch":
            for flag, expected in ((option.flag, True), (f"--no-{option.key}", False)):
                assert cli.main([*arguments, flag]) == 0
                assert getattr(fake.settings, option.name) is expected
        elif option.kind in ("duration", "size", "count") and option.name != "port":
            assert cli.main([*arguments, option.flag, "700"]) == 0
            assert getattr(fake.settings, option.name) == 700
    arguments = ["--allow", "bare-lf", "--allow", "obs-fold,underscores"]
    assert cli.main(["hello", "--port=0", *arguments]) == 0
    assert fake.settings is not None
    assert fake.settings.allow == ("bare-lf", "obs-fold", "underscores")


def test_settings_from_everywhere(
    fake: FakeWorker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pyproject.toml").write_text(
        '[tool.rawsgi]\napplication = "hello:app"\nthreads = 2\nqueue = 2\nbacklog = 2\n'
    )
    monkeypatch.setenv("RAWSGI_QUEUE", "3")
    monkeypatch.setenv("RAWSGI_BACKLOG", "3")
    assert cli.main(["--backlog", "4", "--port", "0"]) == 0
    settings = fake.settings
    assert settings is not None
    assert (settings.threads, settings.queue, settings.backlog) == (2, 3, 4)
    (folder / "other.toml").write_text("threads = 9\n")
    assert cli.main(["hello", "--config", "other.toml", "--port", "0"]) == 0
    assert fake.settings is not None and fake.settings.threads == 9


def test_app_dir(fake: FakeWorker, folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "inner.py").write_text(HELLO)
    assert cli.main(["inner:app", "--app-dir", "deep", "--port", "0"]) == 0
    assert sys.path[0] == str(folder / "deep")


# -- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no application given; try: rawsgi hello:app (rawsgi --help says more)"),
        (["hello", "--prot", "3"], "there is no option --prot; did you mean --port"),
        (["hello", "--prot=3"], "there is no option --prot; did you mean --port"),
        (["hello", "--zzzzz"], "there is no option --zzzzz; rawsgi --help lists them"),
        (["hello", "--thread", "3"], "there is no option --thread; did you mean --threads"),
        (["hello", "--port"], "--port: expected one argument"),
        (["hello", "other"], "unexpected 'other': one application is served"),
        (["hello", "--port", "http"], "--port http: must be a whole number"),
        (["hello", "--port", "-1"], "--port -1: must be at least 0"),
        (["hello", "--threads", "0"], "--threads 0: must be at least 1"),
        (["hello", "--bind", "3000"], "--bind: '3000': an address is HOST:PORT"),
        (["hello", "--bind", "unix:" + "x" * 200], "is too long for a Unix socket: 200 bytes"),
        (["--", "hello", "--port", "3"], "--port stands after --, where nothing is an option"),
        (["hello", "--acces-log"], "there is no option --acces-log; did you mean --access-log?"),
        (["hello", "--wire=maybe"], "--wire=maybe: must be true or false"),
        (["hello", "-port", "3"], "there is no option -port; did you mean --port?"),
        (["hello", "-bind", "a:3"], "there is no option -bind; did you mean --bind?"),
        (["hello", "-b", "::1:3000"], "did you mean [::1]:3000?"),
        (["-w", "4", "hello"], "there is no option -w: one process serves"),
        (["hello", "-w4"], "there is no option -w4: one process serves"),
        (["hello", "--workers=4"], "there is no option --workers: one process serves"),
        (["hello", "-k", "gthread"], "there is no option -k: write --threads N"),
        (["hello", "-t", "30"], "there is no option -t: write --request-timeout TIME"),
        (["hello", "--timeout", "30"], "no option --timeout: write --request-timeout TIME"),
        (
            ["-c", "gunicorn.conf.py", "hello"],
            "no option -c: write --config FILE, in TOML",
        ),
        (["hello", "--reload"], "there is no option --reload: there is no reload yet"),
        (["hello", "--daemon"], "no option --daemon: it stays in the foreground"),
        (["hello", "--ssl-keyfile", "x"], "there is no option --ssl-keyfile: there is no TLS yet"),
        (["hello", "--http2-max-frame-size", "1"], "HTTP/1.1 is all that is spoken yet"),
        (["hello", "--certfile", "x"], "there is no option --certfile: there is no TLS yet"),
        (["hello", "--log-file", "x"], "no option --log-file: errors go to standard error"),
        (["hello", "--access-logfile", "-"], "write --access-log, and --access-log-file FILE"),
        (["hello", "--max-requests", "9"], "no option --max-requests: there is no replacement"),
        (["hello", "--preload"], "there is no option --preload: one process serves"),
        (["--listen=*:8080", "hello"], "there is no option --listen: write --bind ADDRESS"),
        (["hello", "--forwarded-allow-ips", "*"], "there is no trust in a proxy's fields yet"),
        (
            ["serve", "hello:app"],
            "no command 'serve', since serving needs none: rawsgi h",
        ),
        (
            ["run", "--port", "3", "hello:app"],
            "no command 'run', since serving needs none: ",
        ),
        (["compar", "hello:app"], "there is no command 'compar'; did you mean rawsgi compare?"),
        (["by_hand", "--listen", "1"], "no command 'by_hand'; did you mean rawsgi by-hand?"),
        (["help"], "there is no command 'help'; write rawsgi --help"),
        (
            ["deploy", "--help"],
            "there is no command 'deploy'; the commands are compare, ",
        ),
        (["hello", "--config", "none.toml"], "none.toml: there is no such file"),
        (["hello", "--log-level", "loud"], "--log-level loud: must be one of debug, info"),
    ],
)
def test_mistakes_of_use(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in refuse(capsys, *arguments)


def test_a_bad_address_names_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAWSGI_BIND", "nonsense")
    assert refuse(capsys, "hello").startswith("RAWSGI_BIND: 'nonsense': an address is")
    monkeypatch.delenv("RAWSGI_BIND")
    assert "--host" in refuse(capsys, "hello", "--host", "a b")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("helo:app", "no module named 'helo' in "),
        ("hello:ap", "hello has no attribute 'ap'; what may be meant: hello:app"),
        ("helo.py", "helo.py: there is no such file; did you mean hello.py?"),
        ("hello:app()", "if it is the application itself, write hello:app"),
        ("hello:__name__", "hello:__name__ is a str, not callable"),
    ],
)
def test_no_application(capsys: pytest.CaptureFixture[str], spec: str, expected: str) -> None:
    text = refuse(capsys, spec, "--port", "0", code=1)
    assert expected in text


def test_an_application_that_fails_shows_its_traceback_then_the_line(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "broken.py").write_text("import not_there_at_all\n")
    assert cli.main(["broken", "--bind", "unix:x.sock"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "ModuleNotFoundError: No module named 'not_there_at_all'"
    assert lines[-1].startswith("rawsgi: cannot import 'broken': it imports 'not_there_at_all'")
    assert [line for line in lines if "File" in line] == [
        f'  File "{folder}/broken.py", line 1, in <module>'
    ]
    assert not os.path.exists("x.sock")


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = refuse(capsys, "hello", "--port", str(port), code=1)
    assert text.startswith(f"cannot listen at 127.0.0.1:{port}: port {port} is taken by ")


def test_a_switch_may_be_given_a_value(fake: FakeWorker) -> None:
    for text, expected in (("--access-log=false", False), ("--access-log=ON", True)):
        assert cli.main(["hello", "--port", "0", text]) == 0
        assert fake.settings is not None and fake.settings.access_log is expected


def test_b_is_short_for_bind(fake: FakeWorker) -> None:
    for arguments in (["-b", "127.0.0.1:0"], ["-b127.0.0.1:0"], ["-b", "unix:x.sock"]):
        assert cli.main(["hello", *arguments]) == 0
    assert fake.addresses == [f"unix:{os.getcwd()}/x.sock"]


def test_every_hint_is_one_line_that_names_what_is_there() -> None:
    flags = {option.flag for option in OPTIONS} | {"--config", "--print-config", "--version"}
    for start in FOREIGN_FAMILIES:
        assert not any(flag.startswith(start) for flag in flags), start
    for flag, hint in {**FOREIGN_FLAGS, **FOREIGN_FAMILIES}.items():
        assert flag not in flags, "a flag of ours"
        assert hint.isprintable() and not hint.endswith("."), flag
        assert set(re.findall(r"--[a-z-]+", hint)) <= flags, flag
        for page in re.findall(r"docs/\S+\.md", hint):
            assert (ROOT / page).is_file()


def test_words_that_are_modules_are_served(
    fake: FakeWorker, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "serve.py").write_text(HELLO)
    (folder / "deep").mkdir()
    (folder / "deep" / "compares.py").write_text(HELLO)
    assert cli.main(["serve", "--port", "0"]) == 0
    assert cli.main(["compares", "--app-dir=deep", "--port", "0"]) == 0
    assert cli.main(["compares", "--app-dir", "deep", "--port", "0"]) == 0
    assert "Serving compares:app" in capsys.readouterr().err
    assert cli.main(["serve", "--help"]) == 0
    (folder / "deep" / "start.py").write_text(HELLO)
    (folder / "pyproject.toml").write_text('[tool.rawsgi]\napp-dir = "deep"\n')
    assert cli.main(["start", "--port", "0"]) == 0
    sys.path.insert(0, str(folder / "deep"))  # a copy: see the fixture
    (folder / "deep" / "server.py").write_text(HELLO)
    assert cli.main(["server", "--port", "0"]) == 0


def test_the_permissions_of_a_socket_file(
    fake: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    run = fake.run

    def look(*arguments: Any, **more: Any) -> int:
        modes.append(os.stat("x.sock").st_mode & 0o777)
        return run(*arguments, **more)

    monkeypatch.setattr(worker, "run", look)
    for flags in ([], ["--unix-mode", "660"], ["--unix-mode=0600"]):
        assert cli.main(["hello", "-b", "unix:x.sock", *flags]) == 0
    assert modes == [0o666, 0o660, 0o600]


def test_so_many_wait_to_be_accepted(fake: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def look(settings: Settings, app: Any, listeners: Sequence[Listener], **_: Any) -> int:
        counts.append(count_waiting(listeners[0], 50))
        return 0

    monkeypatch.setattr(worker, "run", look)
    assert cli.main(["hello", "-b", "unix:x.sock", "--backlog", "5"]) == 0
    assert 5 <= counts[0] <= 10


def test_the_folder_example_says_in_one_line_that_its_folder_is_missing() -> None:
    done = run(str(ROOT / "examples/folder.py"), "--port", "0", env={"FOLDER": "/nonexistent"})
    assert done.returncode == 1
    assert done.stderr.endswith(": FOLDER=/nonexistent: there is no such folder\n")
    assert done.stderr.count("\n") == 1


# -- What is shown ------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["60", "80", "200"])
def test_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("usage: rawsgi [options] APP\n")
    assert "rawsgi hello:app --port 3000" in out
    for option in OPTIONS:
        if option.name != "application":
            assert (f" {option.flag}" in out) is not option.hidden
    assert out.index("--port") < out.index("--threads") < out.index("--keep-alive-timeout")
    assert "--no-wire" not in out and "--no-access-log" in out
    assert "%" not in out
    options = out[out.index("\nAddress:") :].partition("\nOther commands")[0]
    assert max(len(line) for line in options.splitlines()) <= min(int(columns), 100)


def test_help_without_an_application_wins_over_mistakes_that_follow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--help", "--port", "x"]) == 0
    assert capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    python = ".".join(map(str, sys.version_info[:3]))
    assert capsys.readouterr().out == f"rawsgi {VERSION} (Python {python})\n"


def test_print_config(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAWSGI_QUEUE", "3")
    assert cli.main(["hello", "--print-config", "--head-timeout", "5m", "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("[tool.rawsgi]\n")
    for text in (
        r'application = "hello" +# APP',
        r'head-timeout = "5m" +# --head-timeout',
        r"queue = 3 +# RAWSGI_QUEUE",
        r"threads = 16 +# default",
        r'bind = \["127.0.0.1:0"\] +# --port',
    ):
        assert re.search(f"(?m)^{text}$", out), text


@pytest.mark.parametrize("flag", ["--help", "--version", "--print-config"])
def test_a_reader_that_leaves_early_is_no_mistake(flag: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rawsgi", flag], stdout=writer, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=30,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# -- Commands -----------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """`compare` is there and remembers its arguments; `replay` and `by-hand` are not."""
    called: list[list[str]] = []
    module = types.ModuleType("rawsgi.compare.command")

    def main(argv: list[str]) -> int:
        called.append(argv)
        return 7

    module.main = main  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader("rawsgi.compare.command", None)
    monkeypatch.setitem(sys.modules, "rawsgi.compare.command", module)
    gone = {"replay": "rawsgi.compare.nothing", "by-hand": "rawsgi.nowhere.nothing"}
    for name, path in gone.items():
        monkeypatch.setitem(cli.COMMANDS, name, (path, "help"))
    return called


def test_a_command_gets_the_rest_of_the_line(command: list[list[str]]) -> None:
    assert cli.main(["compare", "hello:app", "--with", "gunicorn", "--help"]) == 7
    assert command == [["hello:app", "--with", "gunicorn", "--help"]]


def test_a_command_that_is_not_there_is_not_offered(
    command: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(cli.find_commands()) == ["compare"]
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "rawsgi compare ..." in out and "rawsgi replay" not in out
    # What is no command is an application.
    assert "no module named 'replay'" in refuse(capsys, "replay", "--port", "0", code=1)


def test_a_module_with_the_name_of_a_command_can_be_served(
    command: list[list[str]], fake: FakeWorker, folder: Path
) -> None:
    (folder / "compare.py").write_text(HELLO)
    assert cli.main(["compare:app", "--port", "0"]) == 0
    assert command == []


# -- A process ----------------------------------------------------------------------------------


def test_python_m_calls_itself_rawsgi() -> None:
    shown = run("--help", env={"COLUMNS": "80"})
    assert shown.returncode == 0 and shown.stdout.startswith("usage: rawsgi [options] APP")
    wrong = run("hello", "--prot", "3")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("rawsgi: there is no option --prot; did you mean --port")
    assert wrong.stderr.count("\n") == 1


def test_a_module_is_found_in_the_current_folder_first(folder: Path) -> None:
    (folder / "hello.py").write_text("import sys\nraise SystemExit(sys.path[0])\n")
    result = run("hello", "--port", "0")
    assert result.returncode == 1
    assert f"stopped while it was imported: {folder}\n" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_serves_and_stops(folder: Path, number: int) -> None:
    with serve("hello:app", "--app-dir", str(folder)) as server:
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with client.makefile("rb") as file:
                assert file.read().endswith(b"hi")
        os.kill(server.pid, number)
        wait_until(lambda: server.process.poll() is not None)


def test_the_start_line_is_bold_at_a_terminal_and_the_access_log_is_on(folder: Path) -> None:
    primary, secondary = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "rawsgi", "hello", "--port", "0"],
        stdin=secondary, stdout=secondary, stderr=secondary, env=environ,
    ) as process:  # fmt: skip
        os.close(secondary)
        os.set_blocking(primary, False)
        shown = b""

        def read() -> bytes:
            nonlocal shown
            try:
                shown += os.read(primary, 4096)
            except OSError:  # nothing yet, or the other end is closed
                pass
            return shown

        try:
            wait_until(lambda: b"to stop)" in read(), 20)
            match = re.search(rb"at \x1b\[1m(http://127\.0\.0\.1:(\d+))\x1b\[0m \(Ctrl", shown)
            assert match, shown
            with socket.create_connection(("127.0.0.1", int(match[2])), 10) as client:
                client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
                while client.recv(4096):
                    pass
            wait_until(lambda: b'"GET /x HTTP/1.0" \x1b[32m200\x1b[0m 2 ' in read())
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
            os.close(primary)


def test_closed_standard_descriptors_are_not_taken_by_sockets(folder: Path) -> None:
    program = """
import os
os.closerange(0, 3)
from rawsgi import cli
from rawsgi.process import worker

def run(settings, application, listeners, on_ready):
    on_ready()
    return listeners[0].socket.fileno()

worker.run = run
os._exit(cli.main(["hello", "--port", "0"]))
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, timeout=30)
    assert done.returncode > 2


def test_a_closed_stderr_is_no_reason_not_to_serve(fake: FakeWorker) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    original = sys.stderr
    sys.stderr = stream
    try:
        assert cli.main(["hello", "--port", "0"]) == 0
        assert cli.main(["--prot"]) == 2
    finally:
        sys.stderr = original
        try:
            stream.close()
        except BrokenPipeError:
            pass
