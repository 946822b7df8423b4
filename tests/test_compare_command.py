"""`rawsgi compare` as a person runs it: real processes, real peers, exit statuses, nothing left."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rawsgi.compare import command as command_module
from rawsgi.compare.command import main
from rawsgi.compare.run import PROBE
from rawsgi.compare.servers.kinds import KINDS
from rawsgi.compare.servers.process import Server
from tests.compare_fakes import fake, flood, trickle
from tests.serving import serve

ROOT = Path(__file__).resolve().parent.parent
HELLO = "examples/hello.py:app"
# By the variable every process of a run is found again, whoever its parent is by then.
# Not RAWSGI_...: what begins so is kept from the probe application.
MARK = "TEST_MARK_OF_RAWSGI"
SIMPLE = f"""\
import sys
sys.path.insert(0, {str(ROOT)!r})
from wsgiref import simple_server
class Handler(simple_server.WSGIRequestHandler):
    def log_message(self, *arguments):
        pass
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Peer", "1")])
    return [b"peer"]
if "probe" in sys.argv:
    from rawsgi.compare.probe import app
simple_server.make_server("127.0.0.1", int(sys.argv[1]), app, handler_class=Handler).serve_forever()
"""
RAWSGI = f"{shlex.quote(sys.executable)} -m rawsgi {{app}} --host {{host}} --port {{port}}"


def start(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"PYTHONPATH": str(ROOT), MARK: str(os.getpid())} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "rawsgi", "compare", *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str, str]:
    with start(*arguments, cwd=cwd, **variables) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, err


def find_marked() -> list[str]:
    """Return the command lines of the processes that runs of this module have left."""
    found = []
    mark = f"{MARK}={os.getpid()}".encode("ascii")
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_text("latin-1").replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    deadline_s = time.monotonic() + 30
    while (left := find_marked()) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert left == []


def write_peer(folder: Path, text: str = SIMPLE, *arguments: str) -> str:
    """Write a server and return the command that starts it."""
    path = folder / "peer.py"
    path.write_text(text)
    words = [sys.executable, str(path), "{port}", *arguments]
    return shlex.join(words).replace("'{port}'", "{port}")


def names(document: dict[str, object]) -> list[str]:
    servers = document["servers"]
    assert isinstance(servers, list)
    return [server["name"] for server in servers]


# -- Who is compared ---------------------------------------------------------------------------


def test_a_server_and_itself_do_not_differ() -> None:
    status, out, err = run("--with", RAWSGI, "--corpus", "conformance/host", "--json", "-")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["same"] is True
    assert names(document)[0] == "rawsgi" and len(names(document)) == 2
    assert len(document["exchanges"]) > 20
    assert all(server["score"]["right"] > 15 for server in document["servers"])


def test_wsgiref_differs(tmp_path: Path) -> None:
    peer = write_peer(tmp_path, SIMPLE, "probe")
    report = tmp_path / "report.html"
    status, out, err = run(
        "--with", peer, "--corpus", "conformance/host", "--html", str(report)
    )  # fmt: skip
    assert (status, err) == (1, "")
    assert "conformance/host" in out and "missing" in out
    assert max(map(len, out.splitlines())) <= 80 and "\x1b" not in out
    assert report.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["werkzeug"])
def test_known_peer(name: str) -> None:
    status, out, err = run(HELLO, "--with", name, "--corpus", "yours", "--json", "-")
    assert (status, err) == (1, "")
    document = json.loads(out)
    assert names(document) == ["rawsgi", name]
    assert document["servers"][1]["version"]
    assert {exchange["id"] for exchange in document["exchanges"]} > {"yours/get", "yours/head"}


def test_running_server() -> None:
    with serve(PROBE, cwd=ROOT) as server:
        status, out, err = run(
            "--against", server.url, "--corpus", "conformance/framing/length", "--json", "-"
        )
        assert (status, err) == (0, "")
        assert names(json.loads(out)) == ["rawsgi", f"127.0.0.1:{server.port}"]


def test_running_server_without_the_probe_is_compared_by_your_requests() -> None:
    with serve(HELLO, cwd=ROOT) as server:
        status, out, _ = run(HELLO, "--against", server.url, "--json", "-")
    document = json.loads(out)
    assert status == 0
    assert {exchange["id"].split("/")[0] for exchange in document["exchanges"]} == {"yours"}
    assert "does not run the probe application" in document["notes"][0]


def test_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = next(
        (name for name, kind in KINDS.items() if name != "rawsgi" and not kind.is_installed()), None
    )
    if missing is None:
        # Where all are installed, none is for a Python without site packages.
        command = [sys.executable, "-S", "-c", "import sys; from rawsgi.compare import command; "
                   "sys.exit(command.main(sys.argv[1:]))"]  # fmt: skip
        missing = "gunicorn"
    else:
        command = [sys.executable, "-m", "rawsgi", "compare"]
    result = subprocess.run(
        [*command, HELLO, "--with", missing],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 2
    hint = result.stderr.splitlines()[0]
    assert f"{missing} is not installed" in hint and "-m pip install " in hint


def test_file_is_found_by_servers_that_know_modules_only(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text((ROOT / HELLO.partition(":")[0]).read_text())
    status, out, err = run(
        "hello.py:app", "--with", "gunicorn", "--with", "waitress", "--corpus", "yours", "--json",
        "-", cwd=tmp_path,
    )  # fmt: skip
    assert (status, err) == (1, "")
    assert names(json.loads(out)) == ["rawsgi", "gunicorn", "waitress"]


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        ("hello:app", True),
        ("shop.wsgi:app", True),
        ("py:app", True),
        ("happy.py_files:app", True),
        ("shop.py.main:app", True),
        ("hello.py:app", False),
        ("shop.wsgi.py:app", False),
        ("examples/hello.py:app", False),
        ("hello.py", False),
        ("hello:make_app()", False),
    ],
)
def test_other_servers_get_plain_names_as_they_are(
    spec: str, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server("gunicorn", KINDS["gunicorn"], spec)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **options: options["env"])
    server.start()
    server._process = None
    server.stop()
    assert (server.command[-1] == spec) is plain


# -- With which settings -----------------------------------------------------------------------

SETTINGS = """\
[tool.rawsgi]
access-log = true
access-log-file = "access.log"
record = "kept"
allow = ["missing-host"]
wire = true
"""
WITHOUT_HOST = b"GET /hello HTTP/1.1\r\nX: 1\r\n\r\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an application, a request without Host, and the settings of production."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "hello.py").write_text((ROOT / HELLO.partition(":")[0]).read_text())
    (folder / "one.request").write_bytes(WITHOUT_HOST)
    (folder / "pyproject.toml").write_text(SETTINGS)
    return folder


def read_statuses(out: str) -> dict[str, list[int]]:
    (exchange,) = json.loads(out)["exchanges"]
    return {name: answer["statuses"] for name, answer in exchange["servers"].items()}


@pytest.mark.parametrize("place", ["pyproject.toml", "variables", "file"])
def test_probe_application_runs_without_the_settings_of_yours(project: Path, place: str) -> None:
    variables = {"PORT": "none"}
    if place == "variables":
        (project / "pyproject.toml").unlink()
        variables |= {
            "RAWSGI_ACCESS_LOG_FILE": "access.log",
            "RAWSGI_RECORD": "kept",
            "RAWSGI_ALLOW": "missing-host",
        }
    elif place == "file":
        (project / "pyproject.toml").rename(project / "rawsgi.toml")
        variables["RAWSGI_CONFIG"] = "rawsgi.toml"
    before = sorted(project.iterdir())
    status, out, err = run(
        "--with", RAWSGI, "--corpus", "conformance/host/missing", "--json", "-", cwd=project,
        **variables,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert set(map(tuple, read_statuses(out).values())) == {(400,)}
    assert sorted(path for path in project.iterdir() if path.name != "__pycache__") == before


def test_yours_runs_with_your_settings_but_writes_nothing(project: Path) -> None:
    before = sorted(project.iterdir())
    status, out, err = run(
        "hello:app", "--with", "werkzeug", "--requests", "one.request", "--json", "-", cwd=project
    )  # fmt: skip
    assert (status, err) == (1, "")
    assert read_statuses(out)["rawsgi"] == [200]
    assert sorted(path for path in project.iterdir() if path.name != "__pycache__") == before


def test_variables_of_gunicorn_are_kept_from_it(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    status, _, err = run(
        "--with", "gunicorn", "--corpus", "conformance/host/missing",
        GUNICORN_CMD_ARGS=f"--access-logfile {log}", WEB_CONCURRENCY="2",
    )  # fmt: skip
    assert (status, err) == (1, "")
    assert not log.exists()


# -- What a script sees ------------------------------------------------------------------------


def test_accepted_differences_give_exit_status_0(tmp_path: Path) -> None:
    peer = write_peer(tmp_path)
    accept = tmp_path / "accepted"
    base = (HELLO, "--with", peer, "--corpus", "yours")
    status, out, _ = run(*base, "--write-accept", str(accept))
    assert status == 1 and "differences written to" in out
    assert any("responses:" in line for line in accept.read_text().splitlines())
    status, out, err = run(*base, "--accept", str(accept))
    assert (status, err) == (0, "")
    assert "Nothing differs" in out and "differ as accepted" in out
    text = accept.read_text()
    accept.write_text("\n".join(line for line in text.splitlines() if "responses:" not in line))
    status, out, _ = run(*base, "--accept", str(accept))
    assert status == 1 and "differ" in out


def test_ignored_names_do_not_count(tmp_path: Path) -> None:
    peer = write_peer(tmp_path)
    requests = tmp_path / "mine.txt"
    requests.write_text("GET /hello HTTP/1.0\n")
    base = (HELLO, "--with", peer, "--requests", str(requests), "--json", "-")
    ignored = [word for name in ("x-peer", "content", "content-type", "framing", "field")
               for word in ("--ignore", name)]  # fmt: skip
    assert run(*base)[0] == 1
    status, out, _ = run(*base, *ignored)
    assert status == 0, out


def test_requests_go_to_your_application_and_are_shown(tmp_path: Path) -> None:
    requests = tmp_path / "mine.txt"
    requests.write_text("### Greeting\nGET /hello\n\n### Login\nPOST /login\n\nusername=a\n")
    status, out, _ = run(HELLO, "--with", RAWSGI, "--requests", str(requests), "-v")
    assert status == 0
    assert "yours/Greeting" in out and "yours/Login" in out
    assert "1 of your requests may change something" in out.replace("\n      ", " ")


def test_diff_shows_both_sides(tmp_path: Path) -> None:
    peer = write_peer(tmp_path, SIMPLE, "probe")
    status, out, _ = run("--with", peer, "--diff", "host/missing")
    assert status == 1
    assert "GET / HTTP/1.1\\r\\n" in out and "400 Bad Request\\r\\n" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((HELLO,), "there is nothing to compare with"),
        ((HELLO, "--with", "nginx"), "no such server. Known: gunicorn"),
        ((HELLO, "--with", "serve {app}"), "must say where {port} goes"),
        ((HELLO, "--with", "'a {port}"), "No closing quotation"),
        ((HELLO, "--against", "https://a"), "without TLS"),
        ((HELLO, "--against", "http://127.0.0.1:1"), "did not answer"),
        ((HELLO, "--with", RAWSGI, "--corpus", "nowhere"), "no exchange is called"),
        ((HELLO, "--with", RAWSGI, "--diff", "nowhere"), "is no exchange"),
        ((HELLO, "--with", RAWSGI, "--requests", "/none"), "No such file"),
        ((HELLO, "--with", RAWSGI, "--accept", "/none"), "No such file"),
        (("--with", RAWSGI, "--corpus", "yours"), "needs APP"),
        ((HELLO, "--with", RAWSGI, "--timeout", "0"), "--timeout must be"),
        (("nothing_of_this_name:app", "--with", RAWSGI, "--corpus", "yours"), "rawsgi itself"),
    ],
)
def test_mistake_gets_one_line_and_exit_status_2(
    arguments: Sequence[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flag", "name", "message"),
    [
        ("--markdown", ".", ".: Is a directory"),
        ("--markdown", "latin.md", "latin.md: it is not UTF-8 text"),
        ("--markdown", "nowhere/page.md", "nowhere/page.md: there is no such folder"),
        ("--html", ".", ".: Is a directory"),
        ("--json", "nowhere/a.json", "nowhere/a.json: there is no such folder"),
        ("--write-accept", ".", ".: Is a directory"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_run(
    flag: str,
    name: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.md").write_bytes(b"caf\xe9\n")
    monkeypatch.setattr(command_module, "Run", lambda _: pytest.fail("it runs"))
    assert main(["hello:app", "--with", "gunicorn", flag, name]) == 2
    assert capsys.readouterr() == ("", f"rawsgi compare: {message}\n")


def test_markdown_page_keeps_what_else_is_in_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Café\n", "utf-8")
    base = ("--with", RAWSGI, "--corpus", "conformance/host/missing", "--markdown", str(page))
    assert run(*base)[0] == 0
    first = page.read_text("utf-8")
    assert first.startswith("# Café\n") and "| rawsgi " in first
    assert run(*base)[0] == 0
    assert page.read_text("utf-8").count("# Café") == 1


def test_differences_of_recordings_can_be_accepted_whatever_their_names(tmp_path: Path) -> None:
    accept, requests = tmp_path / "accepted", tmp_path / "kept"
    (requests / "my shop").mkdir(parents=True)
    (requests / "my shop" / "a b.request").write_bytes(WITHOUT_HOST)
    base = (HELLO, "--with", write_peer(tmp_path), "--requests", str(requests))
    status, out, _ = run(*base, "--write-accept", str(accept))
    assert status == 1 and "--diff yours/my-shop/a-b" in out
    status, out, err = run(*base, "--accept", str(accept))
    assert (status, err) == (0, ""), accept.read_text()
    assert "accept nothing any more" not in out
    status, out, err = run(*base, "--diff", "yours/my-shop/a-b")
    assert (status, err) == (1, "")


# -- Servers that misbehave --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit('no such luck')", "no such luck"),
        ("import os; os.abort()", "did not start"),
    ],
    ids=["exits", "aborts"],
)
def test_peer_that_never_starts(tmp_path: Path, text: str, said: str) -> None:
    status, _, err = run(HELLO, "--with", write_peer(tmp_path, text))
    assert status == 2
    assert said in err and "no server is left to compare with" in err


def test_one_bad_peer_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = write_peer(tmp_path, "raise RuntimeError('not today')")
    status, out, err = run(
        "--with", bad, "--with", RAWSGI, "--corpus", "conformance/host/missing", "--json", "-"
    )
    assert status == 0
    assert "not today" in err
    document = json.loads(out)
    assert len(names(document)) == 2
    assert any("not today" in note for note in document["notes"])


def test_peer_that_crashes_is_reported_and_restarted(tmp_path: Path) -> None:
    text = SIMPLE.replace(
        "def app(environ",
        "import os\n"
        "class Handler(Handler):\n"
        "    def handle(self):\n"
        "        import socket\n"
        "        if b'broken' in self.connection.recv(65536, socket.MSG_PEEK):\n"
        "            os._exit(3)\n"
        "        super().handle()\n"
        "def app(environ",
    )
    requests = tmp_path / "mine.txt"
    requests.write_text("### a\nGET /a\n### b\nGET /broken\n### c\nGET /c\n")
    status, out, err = run(
        HELLO, "--with", write_peer(tmp_path, text), "--requests", str(requests), "--json", "-",
        "--timeout", "2",
    )  # fmt: skip
    assert (status, err) == (1, "")
    document = json.loads(out)
    endings = {
        exchange["id"]: exchange["servers"][names(document)[1]]["connection"]
        for exchange in document["exchanges"]
    }
    assert endings == {"yours/a": "closed", "yours/b": "crashed", "yours/c": "closed"}
    assert document["servers"][1]["score"]["crashes"] == 1
    assert any("died and was started again" in note for note in document["notes"])


@pytest.mark.parametrize("behaviour", [flood(b"HTTP/1.1 200 OK\r\n\r\n"), trickle(b"HTTP/1.1 ")])
def test_running_server_without_end(behaviour: object) -> None:
    with fake(behaviour) as server:  # type: ignore[arg-type]
        url = f"http://127.0.0.1:{server.address[1]}"
        status, out, err = run(
            HELLO, "--against", url, "--corpus", "yours", "--diff", "yours/get", "--timeout", "0.3",
            "--json", "-",
        )  # fmt: skip
    assert (status, err) == (1, "")
    (exchange,) = json.loads(out)["exchanges"]
    assert exchange["differs"]
    assert exchange["servers"][url.removeprefix("http://")]["connection"] == "endless"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing(tmp_path: Path, number: int) -> None:
    # It answers once, so that the replay begins, and then hangs.
    text = SIMPLE.replace(
        "def app(environ, start_response):\n",
        "def app(environ, start_response):\n"
        "    if 'ready' not in environ['QUERY_STRING']:\n"
        f"        open({str(tmp_path / 'asked')!r}, 'w').close()\n"
        "        import time; time.sleep(60)\n",
    )
    process = start(HELLO, "--with", write_peer(tmp_path, text), "--corpus", "yours")
    deadline_s = time.monotonic() + 30
    while not (tmp_path / "asked").exists() and time.monotonic() < deadline_s:
        assert process.poll() is None
        time.sleep(0.02)
    began_s = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began_s < 15
    assert (process.returncode, out) == (130, "")
    assert err == "rawsgi compare: interrupted; all servers are stopped.\n"


def test_killed_run_leaves_nothing(tmp_path: Path) -> None:
    text = SIMPLE.replace("serve_forever()", f"serve_forever({0.1})")
    process = start("--with", write_peer(tmp_path, text, "probe"), "--corpus", "conformance")
    deadline_s = time.monotonic() + 30
    while len(find_marked()) < 4 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=30)
    # The fixture waits until the guards have ended the servers.


def test_terminal_gets_colours_unless_it_is_told_not_to(tmp_path: Path) -> None:
    import pty

    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "rawsgi", "compare", "--with", RAWSGI, "--corpus",
             "conformance/host/missing"],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if key != "NO_COLOR"}
            | {"TERM": "xterm", "PYTHONPATH": str(ROOT)} | variables,
            stdin=slave, stdout=slave, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:
            pass  # the other side is closed
        os.close(master)
        assert process.wait(30) == 0
        assert (b"\x1b[" in shown) is coloured
