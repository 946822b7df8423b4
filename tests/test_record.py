"""`--record` and `rawsgi replay`: what is kept was on the wire, and can be sent again."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rawsgi.compare.exchanges.recorded import read_requests as read_for_compare
from rawsgi.logs import log
from rawsgi.process import replay
from rawsgi.protocol.message import ProtocolError
from rawsgi.wire.conversation import Conversation
from rawsgi.wire.facts import Facts, Link
from rawsgi.wire.recording import folder as recorder
from rawsgi.wire.recording.folder import Folder
from rawsgi.wire.recording.recorder import Recorder, make_name
from tests.serving import ROOT, serve, wait_until

INFO = str(ROOT / "examples/info.py")
GET = b"GET /info HTTP/1.1\r\nHost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
FAILED = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


def list_names(folder: Path, suffix: str = ".request") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(suffix))


def wait_for_names(folder: Path, count: int, suffix: str = ".request") -> list[Path]:
    wait_until(lambda: folder.is_dir() and len(list_names(folder, suffix)) >= count)
    found = list_names(folder, suffix)
    assert len(found) == count
    return found


def converse(folder: Path, *, errors_only: bool = False, limit: int = 100, size: int = 1000) -> Any:
    """Return a conversation that is recorded."""
    sink = Recorder(Folder(str(folder), limit), size, errors_only)
    link = Link(7, ("127.0.0.1", "40000"), ("a.example", "80"))
    return Conversation(link, [sink])


def exchange(conversation: Conversation, request: bytes, response: bytes) -> None:
    conversation.received(request)
    conversation.sent(response)
    conversation.finish("", [], True)


# -- Files ----------------------------------------------------------------------------------------


def test_the_bytes_are_kept_and_what_is_known_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    exchange(converse(folder), GET, OK)
    (request,) = list_names(folder)
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}\.\d{{6}}-{os.getpid()}-7-1\.request", request.name)
    assert request.read_bytes() == GET
    assert request.with_suffix(".response").read_bytes() == OK
    facts = json.loads(request.with_suffix(".json").read_text())
    assert facts["remote"] == ["127.0.0.1", "40000"]
    assert (facts["method"], facts["target"], facts["status"]) == ("GET", "/info", 200)
    assert (facts["request_bytes"], facts["response_bytes"]) == (len(GET), len(OK))
    assert facts["error"] is None and facts["secrets_masked"] is False
    assert facts["time"].endswith("+00:00")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(folder.iterdir())) == 3  # no draft is left


def test_secrets_are_masked_at_equal_length(tmp_path: Path) -> None:
    request = GET[:-2] + b"Cookie: id=s3cret\r\nAuthorization: Basic s3cret==\r\n\r\n"
    exchange(converse(tmp_path), request, OK[:-5] + b"\r\nSet-Cookie: a=s3cret\r\n\r\none")
    (path,) = list_names(tmp_path)
    assert path.read_bytes() == request.replace(b"s3cret==", b"********").replace(
        b"s3cret", b"******"
    )
    assert b"s3cret" not in path.with_suffix(".response").read_bytes()


def test_the_oldest_makes_room(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    conversation = converse(tmp_path, limit=3)
    for number in range(10):
        exchange(conversation, GET.replace(b"info", b"%04d" % number), OK)
    kept = [path.read_bytes()[4:9] for path in list_names(tmp_path)]
    assert kept == [b"/0007", b"/0008", b"/0009"]
    assert len(list(tmp_path.iterdir())) == 3 * 3 + 1  # and the file that is no recording
    # The next process counts what is there.
    exchange(converse(tmp_path, limit=2), GET, OK)
    assert [path.read_bytes()[4:9] for path in list_names(tmp_path)] == [b"/0009", b"/info"]


def test_processes_that_share_a_folder_keep_to_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_LOOK_AGAIN", 4)
    conversations = [converse(tmp_path, limit=10) for _ in range(3)]
    for conversation in conversations:
        conversation.link.number = conversations.index(conversation)
    for _ in range(20):
        for conversation in conversations:
            exchange(conversation, GET, OK)
    assert len(list_names(tmp_path)) <= 10 + 2 * 4


def test_a_large_request_is_cut_and_says_so(tmp_path: Path) -> None:
    conversation = converse(tmp_path, size=200)
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    exchange(conversation, head + b"x" * 1000, OK + b"")
    assert list_names(tmp_path) == []  # `compare` takes these, and half a request is none
    (path,) = list_names(tmp_path, ".request.cut")
    assert path.read_bytes() == (head + b"x" * 1000)[:200]


def test_errors_only(tmp_path: Path) -> None:
    conversation = converse(tmp_path, errors_only=True)
    exchange(conversation, GET, OK)
    exchange(conversation, GET, OK.replace(b"200 OK", b"404 No"))
    assert list_names(tmp_path) == []
    exchange(conversation, GET, FAILED)
    conversation.received(GET[:20])
    conversation.refuse(ProtocolError(408, "too late", "RFC 9110 section 15.5.9"))
    conversation.sent(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n")
    conversation.shut()
    kept = [json.loads(path.read_text()) for path in list_names(tmp_path, ".json")]
    assert [facts["status"] for facts in kept] == [500, 408]
    assert kept[1]["error"] == "408: too late (RFC 9110 section 15.5.9)"


def test_a_folder_that_fails_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conversation = converse(tmp_path)

    def fail(source: str, target: str) -> None:
        if target.endswith(".request"):
            raise OSError(28, "No space left on device")
        os.replace(source, target)

    monkeypatch.setattr("rawsgi.wire.recording.folder.os.rename", fail)
    monkeypatch.setattr(log, "propagate", True)
    for _ in range(3):
        exchange(conversation, GET, OK)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: exchanges cannot be recorded: No space left on device"
    ]
    assert list(tmp_path.iterdir()) == []  # nothing half is left


@pytest.fixture
def warnings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(log, "propagate", True)
    return caplog


def test_a_folder_of_recordings_is_closed_to_others(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    for names in ((), ("20261121T090000.123456-4711-1-1.json", ".probe.1")):
        folder = tmp_path / f"open{len(names)}"
        folder.mkdir()
        folder.chmod(0o755)
        for name in names:
            (folder / name).write_text("{}")
        Folder(str(folder), 10)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert warnings.records == []


def test_a_folder_that_is_something_else_too_stays_as_it_is(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").write_text("mine")
    exchange(converse(tmp_path), GET, OK)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    (told,) = [record.getMessage() for record in warnings.records]
    assert told == f"{tmp_path}: others may look into this folder (mode 0755), " \
        "not into the recordings"  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("2*")} == {0o600}


def test_no_umask_opens_a_recording(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        exchange(converse(tmp_path / "r"), GET, OK)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "r").iterdir()} == {0o600}


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    name = ".20261121T090000.123456-4711-1-1.request"
    (tmp_path / f"{name}.{killed.pid}").write_bytes(b"half")
    (tmp_path / f"{name}.{os.getppid()}").write_bytes(b"half")  # it may be writing still
    (tmp_path / ".mine.1").write_bytes(b"")
    Folder(str(tmp_path), 10)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{os.getppid()}", ".mine.1"}


def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    """Somebody who may write to the folder has guessed a name."""
    (tmp_path / "precious").write_bytes(b"mine")
    folder = Folder(str(tmp_path / "r"), 10)
    draft = tmp_path / "r" / f".a.request.{os.getpid()}"
    draft.symlink_to(tmp_path / "precious")
    folder.keep("a", {"request": GET})
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_a_folder_that_goes_away_costs_recordings_only(
    tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    conversation = converse(tmp_path / "r")
    exchange(conversation, GET, OK)
    shutil.rmtree(tmp_path / "r")
    for _ in range(3):
        exchange(conversation, GET, OK)
    (told,) = [record.getMessage() for record in warnings.records]
    assert told == f"{tmp_path}/r: exchanges cannot be recorded: No such file or directory"
    (tmp_path / "r").mkdir()
    exchange(conversation, GET, OK)
    assert len(list_names(tmp_path / "r")) == 1


def test_threads_record_thousands_within_the_limit(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path), 200)
    made: list[str] = []

    def record(number: int) -> None:
        link = Link(number, ("127.0.0.1", "40000"), ("a.example", "80"))
        conversation = Conversation(link, [Recorder(folder, 1000, False)])
        for _ in range(400):
            exchange(conversation, GET, OK)
        made.append("")

    threads = [threading.Thread(target=record, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 5
    kept = list_names(tmp_path)
    assert len(kept) == 200
    assert len(list(tmp_path.iterdir())) == 3 * 200
    assert all(path.read_bytes() == GET for path in kept)


def test_names_sort_by_time() -> None:
    link = Link(1, ("", ""), ("", ""))
    facts = [Facts(link, number, False) for number in range(20)]
    for number, each in enumerate(facts):
        each.time = 1.8e9 + number * 12345.678
    names = [make_name(each) for each in facts]
    assert names == sorted(names)


STUCK = """
import time

def app(environ, start_response):
    open("begun", "w").close()
    time.sleep(30)
"""
MOVING = """
import os

os.chdir("elsewhere")

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""

# -- A server -------------------------------------------------------------------------------------


def test_a_server_records(tmp_path: Path) -> None:
    with serve(INFO, "--record", f"{tmp_path}/r") as server:
        with server.connect() as client:
            client.sendall(GET + GET.replace(b"info", b"none"))
            wait_for_names(tmp_path / "r", 2)
        server.exchange(b"nonsense\r\n")
        names = wait_for_names(tmp_path / "r", 3)
    assert [path.read_bytes().split(b" ")[1][:5] for path in names[:2]] == [b"/info", b"/none"]
    assert names[2].read_bytes() == b"nonsense\r\n"
    responses = [path.with_suffix(".response").read_bytes() for path in names]
    assert [response[9:12] for response in responses] == [b"200", b"404", b"400"]
    # The same files are taken by `rawsgi compare --requests`.
    exchanges, notes = read_for_compare(tmp_path / "r")
    assert [each.steps[0].data for each in exchanges] == [path.read_bytes() for path in names]
    assert notes == []


def test_a_server_records_errors_only(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(
        "import time\n"
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/late':\n"
        "        time.sleep(1.5)\n"
        "    if environ['PATH_INFO'] != '/bad':\n"
        "        start_response('200 OK', [])\n"
        "        return [b'fine']\n"
        "    raise RuntimeError('it failed')\n"
    )
    flags = ("--record", "r", "--record-errors", "--head-timeout", "600ms")
    with serve("failing:app", *flags, "--request-timeout", "600ms", cwd=tmp_path) as server:
        for target in (b"/", b"/bad", b"/late"):
            server.exchange(GET.replace(b"/info", target))
        server.exchange(GET[:-2])
        names = wait_for_names(tmp_path / "r", 3)
    facts = [json.loads(path.with_suffix(".json").read_text()) for path in names]
    assert {each["status"] for each in facts} == {500, 504, 408}


@pytest.mark.parametrize("flags", [(), ("--record-errors",)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_requests_that_are_cut_at_the_stop_are_recorded(
    number: signal.Signals, flags: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    more = ("--record", "r", "--graceful-timeout", "300ms", *flags)
    with serve("stuck:app", *more, cwd=tmp_path) as server, server.connect() as client:
        client.sendall(GET)
        wait_until((tmp_path / "begun").exists)
        os.kill(server.pid, number)
        wait_until(lambda: server.process.poll() is not None)
        (path,) = list_names(tmp_path / "r")
    assert path.read_bytes() == GET
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["status"] is None
    assert facts["error"] == "the server is stopping, before the response"


@pytest.mark.parametrize("line", ["time.sleep(60)", "raise OSError"])
def test_a_recorder_that_is_stuck_or_fails_keeps_no_server_from_stopping(
    line: str, tmp_path: Path
) -> None:
    patch = (
        "from rawsgi.wire.conversation import Conversation\n"
        f"def close(self, reason):\n    {line}\n"
        "Conversation.close = close\n"
    )
    (tmp_path / "stuck.py").write_text(STUCK + patch)
    with serve("stuck:app", "--record", "r", cwd=tmp_path) as server, server.connect() as client:
        client.sendall(GET)
        wait_until((tmp_path / "begun").exists)
        os.kill(server.pid, signal.SIGQUIT)
        wait_until(lambda: server.process.poll() is not None)
        assert "Traceback" not in server.stderr()


@pytest.mark.parametrize("flag", ["--record-errors", "--record-limit=9", "--record-size-limit=9"])
def test_a_flag_that_does_nothing_without_a_folder_is_refused(flag: str) -> None:
    done = run("rawsgi", INFO, "--port", "0", flag)
    name = flag.partition("=")[0]
    assert done.returncode == 2
    assert done.stderr == f"rawsgi: {name}: does nothing without --record DIR\n"


def test_an_application_that_changes_the_folder_moves_no_recordings(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moving.py").write_text(MOVING)
    flags = ("--record", "r", "--access-log-file", "access.log")
    with serve("moving:app", *flags, cwd=tmp_path) as server:
        server.exchange(GET)
        wait_for_names(tmp_path / "r", 1)
        wait_until(lambda: "GET /info" in (tmp_path / "access.log").read_text())
        (tmp_path / "access.log").rename(tmp_path / "access.log.1")
        os.kill(server.pid, signal.SIGUSR1)
        wait_until((tmp_path / "access.log").exists)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("flag", ["--record", "--access-log-file"])
def test_a_folder_that_is_gone_is_one_line(flag: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = 'cd gone && rmdir ../gone && exec "$0" -m rawsgi "$@"'
    command = ["sh", "-c", script, sys.executable, INFO, "--port", "0", flag, "kept"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=30,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"rawsgi: {flag}: the current folder is gone: write the whole path of kept"
    )
    assert "Traceback" not in done.stderr


def test_the_paths_are_shown_as_they_were_written(tmp_path: Path) -> None:
    flags = ("--record", "r", "--access-log-file", "../access.log", "--print-config")
    done = run("rawsgi", *flags, cwd=tmp_path)
    assert re.search(r'^record = "r" +# --record$', done.stdout, re.MULTILINE)
    assert re.search(r'^access-log-file = "\.\./access\.log" ', done.stdout, re.MULTILINE)


def test_a_folder_that_cannot_be_written_to_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("rawsgi", INFO, "--port", "0", "--record", f"{tmp_path}/file")
    assert done.returncode == 2
    assert done.stderr == f"rawsgi: --record {tmp_path}/file: File exists\n"


# -- Replay ---------------------------------------------------------------------------------------


def run(*command: str, cwd: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, input=stdin,
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_a_recording_is_replayed(tmp_path: Path) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    head += b"Cookie: a=b\r\n\r\n"
    with serve(INFO, "--record", str(tmp_path)) as server:
        server.exchange(head + b"5\r\nhello\r\n0\r\n\r\n")
        (request,) = wait_for_names(tmp_path, 1)
    response = request.with_suffix(".response").read_text()
    for name in (request, request.with_suffix(".json"), request.with_suffix("")):
        done = run("rawsgi", "replay", str(name), INFO)
        assert done.returncode == 0
        assert without_date(done.stdout) == without_date(response.replace("\r\n", "\n"))
        assert "answered with 200; so it did when it was recorded" in done.stderr
        assert "a secret in it was masked" in done.stderr
    other = run("rawsgi", "replay", str(request), str(ROOT / "examples/pages.py"))
    assert "answered with 405; when it was recorded, with 200" in other.stderr


def without_date(text: str) -> str:
    return re.sub(r"Date: .*", "Date: -", text)


def test_the_application_sees_who_asked(tmp_path: Path) -> None:
    facts = {"remote": ["192.0.2.1", "77"], "server": ["shop.example", "443"]}
    path = write(tmp_path / "a.request", GET)
    write(tmp_path / "a.json", json.dumps(facts).encode())
    done = run("rawsgi", "replay", path, INFO)
    seen = json.loads(done.stdout.partition("\n\n")[2])["connection"]
    assert seen["client"] == ["192.0.2.1", "77"]
    assert seen["server"] == ["shop.example", "443"]


def test_pipelined_requests_are_replayed_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.request", GET + GET.replace(b"info", b"none") + GET)
    done = run("rawsgi", "replay", path, INFO)
    assert re.findall(r"^HTTP/1.1 (\d+)", done.stdout, re.MULTILINE) == ["200", "404", "200"]
    assert "answered with 200, 404, 200\n" in done.stderr


APPLICATION = """\
import logging

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/stop":
        breakpoint()
    if path == "/late":
        return fail_late(start_response)
    if path == "/caught":
        try:
            fail()
        except ZeroDivisionError:
            logging.getLogger("a.framework").exception("caught")
        start_response("500 Oops", [])
        return [b"sorry"]
    if path == "/fail":
        fail()
    if path == "/file":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    start_response("200 OK", [("X-Escape", "a")])
    return [b"\\x1b[2Jfine"]

def fail():
    hidden = "in the wreck"
    1 / 0

def fail_late(start_response):
    start_response("200 OK", [])
    yield b"one"
    fail()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "failing.py").write_text(APPLICATION)
    for name in ("stop", "late", "caught", "fail", "file", "fine"):
        write(tmp_path / f"{name}.request", GET.replace(b"info", name.encode()))
    return tmp_path


def test_a_debugger_stops_in_the_application(folder: Path) -> None:
    done = run("rawsgi", "replay", "stop.request", "failing", cwd=folder, stdin="p path\nc\n")
    assert "'/stop'" in done.stdout
    assert done.stdout.rstrip().endswith("fine")
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["fail", "late", "caught"])
def test_the_wreck_can_be_looked_at(folder: Path, name: str) -> None:
    """Also where a framework made a 500 of the exception, and where the head had gone out."""
    flags = ("rawsgi", "replay", f"{name}.request", "failing", "--pdb")
    done = run(*flags, cwd=folder, stdin="p hidden\nq\n")
    assert "'in the wreck'" in done.stdout
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert done.returncode == 1
    if name == "late":
        assert "HTTP/1.1 200 OK" in done.stdout and "0\r\n\r\n" not in done.stdout


def test_without_a_debugger_the_traceback_is_in_the_log(folder: Path) -> None:
    done = run("rawsgi", "replay", "fail.request", "failing", cwd=folder)
    assert done.returncode == 1
    assert done.stdout.startswith("HTTP/1.1 500 Internal Server Error\n")
    assert "ZeroDivisionError" in done.stderr


def test_a_file_is_sent(folder: Path) -> None:
    done = run("rawsgi", "replay", "file.request", "failing", cwd=folder)
    assert done.stdout.partition("\n\n")[2] == APPLICATION


def test_a_terminal_is_spared() -> None:
    stream = io.BytesIO()
    output = replay._Output(stream, terminal=True)
    output.write(b"HTTP/1.1 200 OK\r\nX: \x1b[2J\r\n\r\na\\b\nfine")
    output.end()
    assert stream.getvalue() == b"HTTP/1.1 200 OK\nX: \\x1b[2J\n\na\\b\nfine\n"
    raw = io.BytesIO()
    output = replay._Output(raw, terminal=False)
    output.write(b"\x1b[2J\r\n")
    output.end()
    assert raw.getvalue() == b"\x1b[2J\r\n"


REFUSED = [
    (b"GET /info HTTP/1.1\r\n\r\n", "refused with 400: an HTTP/1.1 request needs a Host field"),
    (GET.replace(b"\r\n", b"\n"), "a line ends in a bare line feed"),
    (GET[:-2], "the connection ended within the head of a request"),
    (b"", "there is no request in it"),
]


@pytest.mark.parametrize(("data", "text"), REFUSED)
def test_what_is_no_request_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    done = run("rawsgi", "replay", write(tmp_path / "a.request", data), INFO)
    assert done.returncode == 1
    assert text in done.stderr and "Traceback" not in done.stderr


def test_relaxations_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.request", b"GET /info HTTP/1.1\n\n")
    flags = ("--allow", "bare-lf", "--allow", "missing-host")
    assert run("rawsgi", "replay", path, INFO, *flags).returncode == 0


def test_misuse(tmp_path: Path) -> None:
    done = run("rawsgi", "replay", f"{tmp_path}/none", INFO)
    assert (done.returncode, done.stderr) == (
        2, f"rawsgi: replay {tmp_path}/none: there is no such file\n",
    )  # fmt: skip
    path = write(tmp_path / "a.request", GET)
    assert run("rawsgi", "replay", path, "nowhere:app").returncode == 1
    assert run("rawsgi", "replay", path, INFO, "--nonsense").returncode == 2
    assert "NAME.request" in run("rawsgi", "replay", "--help").stdout
