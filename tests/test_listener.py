"""The listener: sockets from what a person wrote, or one line that says why not."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawsgi.net.listening import listener as listener_module
from rawsgi.net.listening import neighbour
from rawsgi.net.listening.listener import (
    UNIX_PATH_BYTES,
    Bind,
    Listener,
    ListenerError,
    describe_failure,
    open_listeners,
    parse_bind,
)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="needs /proc")


@contextmanager
def listening(*binds: str) -> Iterator[list[Listener]]:
    listeners = open_listeners(binds, 16)
    try:
        yield listeners
    finally:
        for each in listeners:
            each.close()


def refuse(*binds: str) -> str:
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
    with pytest.raises(ListenerError) as caught:
        open_listeners(binds, 16)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= len(before), "a socket was left open"
    text = str(caught.value)
    assert "\n" not in text
    return text


def connect(each: Listener) -> None:
    """Somebody answers there."""
    if each.is_unix:
        client = socket.socket(socket.AF_UNIX)
        with client:
            client.settimeout(5)
            client.connect(each.path)
        return
    host, _, port = each.address.removeprefix("http://").rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), 5).close()


def count_waiting(each: Listener, most: int) -> int:
    """How many clients can connect although nobody accepts them."""
    clients: list[socket.socket] = []
    try:
        while len(clients) < most:
            client = socket.socket(each.family)
            clients.append(client)
            client.settimeout(0.3)
            try:
                client.connect(each.socket.getsockname())
            except (TimeoutError, BlockingIOError):
                return len(clients) - 1
        return most
    finally:
        for client in clients:
            client.close()


# -- TCP ----------------------------------------------------------------------------------------


def test_an_ipv4_listener() -> None:
    with listening("127.0.0.1:0") as [each]:
        port = each.socket.getsockname()[1]
        assert port != 0
        assert each.address == f"http://127.0.0.1:{port}"
        assert (each.server_name, each.server_port) == ("127.0.0.1", str(port))
        assert each.family == socket.AF_INET
        assert not each.is_unix and each.reach == ""
        assert not each.socket.getblocking()
        assert each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not os.get_inheritable(each.socket.fileno())
        connect(each)


@needs_ipv6
def test_an_ipv6_listener() -> None:
    with listening("[::1]:0") as [each]:
        port = each.socket.getsockname()[1]
        assert each.address == f"http://[::1]:{port}"
        assert (each.server_name, each.server_port) == ("[::1]", str(port))
        assert each.family == socket.AF_INET6
        connect(each)


@pytest.mark.parametrize("bind", ["0.0.0.0:0", ":0"])
def test_all_addresses_are_shown_by_one_that_can_be_typed(bind: str) -> None:
    with listening(bind) as [each]:
        assert each.socket.getsockname()[0] == "0.0.0.0"
        assert each.address.startswith("http://127.0.0.1:")
        assert each.reach == "all IPv4 addresses"
        connect(each)


@needs_ipv6
def test_both_families_can_have_one_port() -> None:
    with listening("0.0.0.0:0") as [first]:
        port = first.server_port
        with listening(f"[::]:{port}") as [second]:
            assert second.address == f"http://[::1]:{port}"
            assert second.reach == "all IPv6 addresses"
            assert second.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            connect(first)
            connect(second)


@needs_ipv6
def test_a_star_is_all_addresses_of_both_families() -> None:
    with listening("*:0") as listeners:
        assert [each.reach for each in listeners] == ["all IPv4 addresses", "all IPv6 addresses"]
        assert len({each.server_port for each in listeners}) == 1
        assert [each.server_name for each in listeners] == ["127.0.0.1", "[::1]"]
        for each in listeners:
            connect(each)


def test_a_port_can_be_had_again_at_once() -> None:
    with listening("127.0.0.1:0") as [first]:
        bind = first.address.removeprefix("http://")
        client = socket.create_connection(("127.0.0.1", int(first.server_port)))
        accepted = None
        while accepted is None:
            try:
                accepted, _ = first.socket.accept()
            except BlockingIOError:
                continue
        accepted.close()  # the server closes first: this end waits in TIME_WAIT
        client.close()
    with listening(bind) as [second]:
        assert second.address == first.address


def fake_resolution(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_localhost_is_an_address_of_this_machine() -> None:
    with listening("localhost:0") as listeners:
        assert {each.server_name for each in listeners} == {"localhost"}
        assert len({each.server_port for each in listeners}) == 1
        for each in listeners:
            connect(each)


@needs_ipv6
def test_a_name_is_bound_at_each_of_its_addresses_on_one_port_ipv4_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_resolution(monkeypatch, "::1", "127.0.0.1", "127.0.0.1", "127.0.0.2")
    with listening("somewhere:0") as listeners:
        hosts = [each.socket.getsockname()[0] for each in listeners]
        assert hosts == ["127.0.0.1", "127.0.0.2", "::1"]
        assert len({each.server_port for each in listeners}) == 1


def test_a_name_may_know_an_address_that_this_machine_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_resolution(monkeypatch, "203.0.113.77", "127.0.0.1")
    with listening("somewhere:0") as listeners:
        assert [each.socket.getsockname()[0] for each in listeners] == ["127.0.0.1"]
    fake_resolution(monkeypatch, "203.0.113.77", "203.0.113.78")
    assert refuse("somewhere:0") == (
        "cannot listen at somewhere:0: somewhere is no address of this machine"
    )


def test_a_free_port_is_looked_for_again_when_another_address_has_it_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_resolution(monkeypatch, "127.0.0.1", "127.0.0.2")
    real, tried = listener_module._listen_tcp, []

    def listen(family: int, sockaddr: tuple[str | int, ...], backlog: int) -> socket.socket:
        tried.append(sockaddr[:2])
        if len(tried) in (2, 4):
            raise OSError(errno.EADDRINUSE, "taken")
        return real(family, sockaddr, backlog)

    monkeypatch.setattr(listener_module, "_listen_tcp", listen)
    with listening("somewhere:0") as listeners:
        assert len(listeners) == 2
    assert [host for host, _ in tried] == ["127.0.0.1", "127.0.0.2"] * 3


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "unix:x.sock"])
def test_so_many_wait_to_be_accepted(
    bind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for backlog in (3, 12):
        [each] = open_listeners([bind], backlog)
        try:
            # Linux takes one more than it was told, and the BSDs half as many more.
            assert backlog <= count_waiting(each, 4 * backlog) <= 2 * backlog
        finally:
            each.close()


# -- TCP that cannot be had ---------------------------------------------------------------------


@needs_proc
def test_a_port_that_is_taken_by_whom() -> None:
    program = (
        "import socket, sys; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, "a\x1b[2Jb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        port = int(other.stdout.readline())
        text = refuse(f"127.0.0.1:{port}")
        other.stdin.close()
    start = f"cannot listen at 127.0.0.1:{port}: port {port} is taken by process {other.pid} ("
    assert text.startswith(start + sys.executable) and text.isprintable()
    assert len(text) < len(start) + neighbour.COMMAND_LIMIT + 10


def test_a_port_that_is_taken_by_nobody_that_we_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour, "_read_table", lambda path: iter(()))
    with listening("127.0.0.1:0") as [each]:
        text = refuse(f"127.0.0.1:{each.server_port}")
    assert text.endswith(f"port {each.server_port} is taken by another process")


def test_one_that_fails_closes_the_others(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    with listening("127.0.0.1:0") as [each]:
        taken = each.address.removeprefix("http://")
        assert "taken" in refuse("127.0.0.1:0", f"unix:{path}", taken)
        assert not path.exists()
        # What is written wrong is told before anything is opened.
        assert "HOST:PORT" in refuse(f"unix:{path}", "nonsense")


def test_the_same_address_twice() -> None:
    with listening("127.0.0.1:0") as [each]:
        bind = each.address.removeprefix("http://")
    for binds in ((bind, bind), (bind, "127.0.0.1:0", bind)):
        assert refuse(*binds) == f"cannot listen at {bind}: it is given twice"
    # Any free port, twice: two ports.
    with listening("127.0.0.1:0", "127.0.0.1:0") as listeners:
        assert len({each.server_port for each in listeners}) == 2


def test_an_address_of_another_machine() -> None:
    assert refuse("203.0.113.77:0") == (
        "cannot listen at 203.0.113.77:0: 203.0.113.77 is no address of this machine"
    )


def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert refuse("nosuch.invalid:1") == (
        "cannot listen at nosuch.invalid:1: 'nosuch.invalid': Name or service not known"
    )
    monkeypatch.undo()
    assert "is no host name" in refuse(f"{'a' * 64}..b:1")


@pytest.mark.parametrize(
    ("bind", "code", "expected"),
    [
        (Bind("h:80", "h", 80), errno.EACCES, "port 80 is below 1024 and needs root; try 8000"),
        (Bind("h:8080", "h", 8080), errno.EACCES, "permission denied"),
        (Bind("[::1]:1", "::1", 1), errno.EAFNOSUPPORT, "this machine does not do IPv6"),
        (Bind("unix:/a/b", path="/a/b"), errno.EACCES, "permission denied"),
        (Bind("unix:/a/b", path="/a/b"), errno.ENOENT, "there is no folder /a"),
        (Bind("h:1", "h", 1), errno.EMFILE, "too many open files"),
    ],
)
def test_other_failures(bind: Bind, code: int, expected: str) -> None:
    text = describe_failure(bind, OSError(code, os.strerror(code)))
    assert text.startswith(f"cannot listen at {bind.text}: ") and expected in text


# -- How an address is written ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:3000", ("127.0.0.1", 3000, "")),
        ("localhost:0", ("localhost", 0, "")),
        (":80", ("", 80, "")),
        ("[::1]:65535", ("::1", 65535, "")),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1, "")),
        ("unix:/run/x.sock", ("", 0, "/run/x.sock")),
        ("unix:x y.sock", ("", 0, "x y.sock")),
    ],
)
def test_addresses(text: str, bind: tuple[str, int, str]) -> None:
    parsed = parse_bind(text)
    assert (parsed.host, parsed.port, parsed.path) == bind
    assert parsed.text == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3000", "did you mean 127.0.0.1:3000?"),
        ("localhost", "did you mean localhost:8000?"),
        ("http://127.0.0.1:80/", "leave the scheme out"),
        ("fd://3", "there is no socket activation yet"),
        ("/run/x.sock", "did you mean unix:/run/x.sock?"),
        ("::1", "did you mean [::1]:8000?"),
        ("::1:80", "did you mean [::1]:80?"),
        ("::1:3000", "did you mean [::1]:3000?"),
        ("::8000", "did you mean [::]:8000?"),
        ("2001:db8::2", "did you mean [2001:db8::2]:8000?"),
        ("[::1]", "did you mean [::1]:8000?"),
        ("[127.0.0.1]:80", "'127.0.0.1' is no IPv6 address"),
        ("[::g]:80", "is no IPv6 address"),
        ("a:65536", "a port is at most 65535"),
        ("a:", "HOST:PORT"),
        ("a:+1", "HOST:PORT"),
        ("a:１", "HOST:PORT"),
        ("a:1_0", "HOST:PORT"),
        ("a b:1", "HOST:PORT"),
        ("user@a:1", "HOST:PORT"),
        ("", "HOST:PORT"),
        ("unix:", "names no path"),
        ("unix:a\0b", "names no path"),
        (f"unix:/{'x' * UNIX_PATH_BYTES}", f"{UNIX_PATH_BYTES + 1} bytes, {UNIX_PATH_BYTES} are"),
        (f"unix:/{'é' * 54}", "109 bytes"),
    ],
)
def test_what_is_no_address(text: str, expected: str) -> None:
    with pytest.raises(ListenerError) as caught:
        parse_bind(text)
    assert expected in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        bind = parse_bind(text)
    except ListenerError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= bind.port <= 65535


# -- Unix sockets -------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Relative: the folder of a test may be too deep for a socket.
    monkeypatch.chdir(tmp_path)
    return tmp_path / "x.sock"


def test_a_unix_listener(path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with listening("unix:x.sock") as [each]:
            assert each.address == f"unix:{path}"
            assert each.is_unix and each.family == socket.AF_UNIX
            assert (each.server_name, each.server_port) == ("localhost", "80")
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            assert not each.socket.getblocking()
            connect(each)
    finally:
        os.umask(umask)
    assert not path.exists()


def test_close_removes_the_file_also_from_another_folder(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening("unix:x.sock"):
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert not path.exists()


def test_the_same_socket_file_twice(path: Path) -> None:
    text = "cannot listen at unix:x.sock: it is given twice"
    assert refuse("unix:x.sock", "127.0.0.1:0", "unix:x.sock") == text
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("x.sock")
    assert path.exists()
    with listening("unix:x.sock") as [each]:
        connect(each)
    assert not path.exists()


@needs_proc
def test_a_socket_file_that_somebody_answers_on_stays(path: Path) -> None:
    with listening("unix:x.sock") as [each]:
        text = refuse("unix:x.sock")
        assert text.startswith(
            f"cannot listen at unix:x.sock: it is taken by process {os.getpid()}"
        )
        connect(each)


def test_a_full_backlog_is_somebody_too(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("x.sock")
        other.listen(0)
        clients = []
        try:
            while True:
                client = socket.socket(socket.AF_UNIX)
                clients.append(client)
                client.setblocking(False)
                if client.connect_ex("x.sock") == errno.EAGAIN:
                    break
                assert len(clients) < 100
            assert "is taken" in refuse("unix:x.sock")
        finally:
            for client in clients:
                client.close()
    assert path.exists()


def test_a_datagram_socket_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind("x.sock")
        assert "is taken" in refuse("unix:x.sock")
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert refuse("unix:x.sock") == (
        f"cannot listen at unix:x.sock: a {kind} that is no socket is there; it is left alone"
    )
    assert path.is_symlink() if kind == "link" else path.exists()


def test_close_leaves_a_successor_alone(path: Path) -> None:
    [first] = open_listeners(["unix:x.sock"], 16)
    path.rename(path.with_name("old.sock"))
    with listening("unix:x.sock") as [second]:
        first.close()
        first.close()
        assert path.exists()
        connect(second)
    assert not path.exists()


def test_a_forked_child_leaves_the_file_alone(path: Path) -> None:
    with listening("unix:x.sock") as [each]:
        pid = os.fork()
        if pid == 0:
            try:
                each.close()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert path.exists()
        connect(each)


def test_a_folder_that_is_not_there(path: Path) -> None:
    assert refuse("unix:deep/x.sock") == (
        "cannot listen at unix:deep/x.sock: there is no folder deep"
    )


def test_a_deep_folder_needs_no_absolute_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = path.parent / ("d" * 100)
    deep.mkdir()
    monkeypatch.chdir(deep)
    with listening("unix:x.sock") as [each]:
        assert each.address == "unix:x.sock"
        connect(each)
    assert not (deep / "x.sock").exists()


def test_a_failure_after_bind_removes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", chmod)
    assert refuse("unix:x.sock").endswith("operation not permitted")
    assert not path.exists()
