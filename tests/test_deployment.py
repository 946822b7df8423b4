"""docs/deployment.md is true: its nginx configuration, restarts, log files and signals.

The blocks are taken from the page; only paths, ports and names are replaced by those of the test.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawsgi.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISUSED
from rawsgi.net.crew.ending import EXIT_BROKEN
from rawsgi.process.worker import EXIT_REPLACE
from tests.serving import ROOT, Reader, wait_until

PAGE = (ROOT / "docs" / "deployment.md").read_text("utf-8")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
needs_nginx = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None, reason="needs nginx and openssl"
)
HOST = b"Host: shop.example\r\n"


def find_block(name: str) -> str:
    """The block behind its marker."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


SHOP = """\
import os, time
from flask import Flask, request

app = Flask(__name__)

@app.get("/")
def tell():
    time.sleep(0.01)
    return " ".join((str(os.getpid()), request.scheme, str(request.remote_addr)))

@app.post("/length")
def measure():
    return str(len(request.get_data()))

"""


def take_ports(count: int) -> list[int]:
    """Free ports, none twice. Below those that the system gives to whoever asks for any."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                port = random.randrange(20_000, 32_000)
                probe.bind(("127.0.0.1", port))
                ports.append(port)
        return ports


class Site:
    """Two processes of the application and nginx before them, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.tls_port = take_ports(2)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """One of the two lines of the page."""
        line = find_block("two").splitlines()[int(name) - 1].removesuffix(" &")
        line = line.replace("/run/shop", str(self.folder))
        assert line.startswith("rawsgi ")
        command = [sys.executable, "-m", *line.split()]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.folder / f"{name}.log", "ab") as errors:
            self.processes[name] = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=errors, stderr=errors
            )
        path = self.folder / f"{name}.sock"
        wait_until(lambda: path.exists() and "to stop)" in self.read_log(name), 30)

    def read_log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def stop(self, name: str) -> int:
        self.processes[name].terminate()
        return self.processes[name].wait(30)

    def start_nginx(self) -> None:
        text = find_block("nginx").replace("/run/shop", str(self.folder))
        text = text.replace("/etc/ssl/", f"{self.folder}/")
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{self.tls_port} ssl;")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
             "/CN=shop.example", "-keyout", "shop.key", "-out", "shop.pem"],
            cwd=self.folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        places = "".join(
            f"{name}_temp_path {self.folder}/{name};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\npid {self.folder}/nginx.pid;\nerror_log {self.folder}/nginx.log;\n"
            + ("user root;\n" if os.geteuid() == 0 else "")
            + f"events {{}}\nhttp {{\naccess_log off;\n{places}{text}}}\n"
        )
        assert NGINX is not None
        with open(self.folder / "nginx.out", "wb") as output:
            self.processes["nginx"] = subprocess.Popen(
                [NGINX, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")],
                stdout=output, stderr=output,
            )  # fmt: skip
        wait_until(lambda: self.connects(), 30)

    def connects(self) -> bool:
        assert self.processes["nginx"].poll() is None, (self.folder / "nginx.out").read_text()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 10).close()
            return True
        return False

    def get(
        self, target: bytes = b"/", fields: bytes = b"", content: bytes = b""
    ) -> tuple[int, str]:
        """One request to nginx on a connection of its own: status and text."""
        method = b"POST" if content else b"GET"
        fields += b"Content-Length: %d\r\n" % len(content) if content else b""
        with socket.create_connection(("127.0.0.1", self.port), 10) as client:
            head = b"%s %s HTTP/1.1\r\n%s%sConnection: close\r\n\r\n"
            client.sendall(head % (method, target, HOST, fields) + content)
            with Reader(client) as reader:
                answer = reader.read_response()
        return answer.status, answer.text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # A short path: those of Unix sockets are bounded.
    folder = Path(tmp_path_factory.mktemp("s"))
    proxyfix = find_block("proxyfix")
    (folder / "shop.py").write_text(SHOP + proxyfix)
    site = Site(folder)
    try:
        site.start("1")
        site.start("2")
        site.start_nginx()
        yield site
    finally:
        codes = {}
        for name, process in site.processes.items():
            process.terminate()
            try:
                codes[name] = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
    assert codes == {"1": 0, "2": 0, "nginx": 0}
    assert [each for each in folder.iterdir() if each.suffix == ".sock"] == []


@needs_nginx
def test_nginx_spreads_requests_and_the_application_sees_the_client(site: Site) -> None:
    answers = [site.get() for _ in range(20)]
    assert {status for status, _ in answers} == {200}
    assert len({text.split()[0] for _, text in answers}) == 2, "both processes"
    assert {tuple(text.split()[1:]) for _, text in answers} == {("http", "127.0.0.1")}
    forged = site.get(fields=b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n")
    assert forged[1].split()[1:] == ["http", "127.0.0.1"], "what a client claims is not believed"


@needs_nginx
def test_nginx_ends_tls_and_the_application_knows(site: Site) -> None:
    context = ssl.create_default_context(cafile=site.folder / "shop.pem")
    with (
        socket.create_connection(("127.0.0.1", site.tls_port), 10) as plain,
        context.wrap_socket(plain, server_hostname="shop.example") as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        with Reader(client) as reader:
            assert reader.read_response().text.split()[1:] == ["https", "127.0.0.1"]


@needs_nginx
def test_uploads_pass_and_too_large_ones_do_not(site: Site) -> None:
    assert site.get(b"/length", content=bytes(5_000_000)) == (200, "5000000")
    status, _ = site.get(b"/length", fields=b"Content-Length: 99999999\r\n")
    assert status == 413, "nginx has the limit of the page"


@needs_nginx
def test_the_permissions_of_the_socket_are_as_asked(site: Site) -> None:
    assert os.stat(site.folder / "1.sock").st_mode & 0o777 == 0o660


@needs_nginx
def test_a_rolling_restart_loses_no_request(site: Site) -> None:
    """Clients go on while one process restarts, then the other, as the page has it."""
    done = threading.Event()
    statuses: list[int] = []
    failures: list[str] = []

    def ask() -> None:
        while not done.is_set():
            try:
                status, text = site.get()
            except (OSError, EOFError, AssertionError, ValueError) as error:
                failures.append(repr(error))
                continue
            statuses.append(status)
            if status != 200:
                failures.append(f"{status} {text[:100]}")

    before = {site.processes[name].pid for name in "12"}
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            for name in "12":
                assert site.stop(name) == 0
                site.start(name)
                time.sleep(0.1)  # some requests with both of them
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert len(statuses) > 50
    assert before.isdisjoint({site.processes[name].pid for name in "12"})


def test_the_unit_is_understood_by_systemd(tmp_path: Path) -> None:
    text = find_block("systemd")
    assert "rawsgi shop:app --bind unix:/run/shop/%i.sock --unix-mode 660" in text
    graceful_s = 30
    found = re.search(r"TimeoutStopSec=(\d+)", text)
    assert found and int(found[1]) > graceful_s
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # what can be said without it was said
    path = tmp_path / "shop@1.service"
    path.write_text(text.replace("/srv/shop/.venv/bin/rawsgi", "/bin/true"))
    done = subprocess.run(
        [analyze, "verify", str(path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_log_files_as_the_page_has_them(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'x']\n"
    )
    line = find_block("logs").strip().replace("/var/log/shop", str(tmp_path))
    command = f"exec {sys.executable} -m {line} --port 0"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=environ) as process:
        try:
            errors = tmp_path / "error.log"
            wait_until(lambda: errors.exists() and "to stop)" in errors.read_text(), 30)
            found = re.search(r":(\d+) ", errors.read_text())
            assert found
            access = tmp_path / "access.log"
            access.rename(tmp_path / "access.log.1")
            process.send_signal(signal.SIGUSR1)
            wait_until(access.exists)
            with socket.create_connection(("127.0.0.1", int(found[1])), 10) as client:
                client.sendall(b"GET /x HTTP/1.0\r\n\r\n")
                client.recv(4096)
            wait_until(lambda: "GET /x" in access.read_text())
        finally:
            process.terminate()
            assert process.wait(30) == 0


def test_the_exit_statuses_are_those_of_the_source() -> None:
    table = PAGE.partition("## Exit statuses")[2]
    listed = set(map(int, re.findall(r"\d+", " ".join(re.findall(r"(?m)^\| ([\d, ]+) \|", table)))))
    own = {0, EXIT_FAILED, EXIT_MISUSED, EXIT_BROKEN, EXIT_REPLACE, EXIT_INTERRUPTED}
    assert listed == own | {128 + signal.SIGTERM}


def test_links_and_flags_of_the_page_exist() -> None:
    from rawsgi.config import OPTIONS

    flags = {option.flag for option in OPTIONS}
    theirs = {
        "systemctl": {"--kill-who", "--now", "--signal"},
        "curl": {"--retry", "--retry-all-errors", "--retry-delay", "--unix-socket"},
        "pip": {"--no-cache-dir"},
    }
    for line in PAGE.splitlines():
        known = flags.union(*(theirs[each] for each in theirs if f"{each} " in line))
        assert set(re.findall(r"(?<![\w!])--[a-z][a-z-]+", line)) <= known, line
    for name in re.findall(r"\]\(([\w.-]+\.md)", PAGE):
        assert (ROOT / "docs" / name).is_file(), name
