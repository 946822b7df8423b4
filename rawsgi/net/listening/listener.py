"""Listening sockets: what a person wrote after --bind becomes sockets, or one line says why not.

The rule of this file: every failure is a `ListenerError` of one line, and after it no socket of
the call is left open. Nothing here reads settings, and nothing here accepts.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rawsgi.net.listening.neighbour import find_tcp_owner, find_unix_owner

# sun_path of unix(7) with its final NUL; the BSDs have less.
UNIX_PATH_BYTES = 107 if sys.platform == "linux" else 103
# A socket file only tells who may connect, and any local user may connect to a TCP port as well.
# gunicorn does the same (umask 0): a proxy that runs as another user gets in without more ado.
# Who wants it narrower says so (`--unix-mode 660`).
UNIX_MODE = 0o666
# How often `localhost:0` looks for one port that is free in every family.
FREE_PORT_ATTEMPTS = 20

_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_SHAPES = "an address is HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH"


class ListenerError(Exception):
    """A listening socket cannot be had. The text is one line for the user."""


@dataclass(frozen=True, slots=True)
class Bind:
    """One --bind, taken apart: `path` for a Unix socket, else `host` and `port`."""

    text: str
    host: str = ""
    port: int = 0
    path: str = ""


class Listener:
    """One listening socket, non-blocking. `close()` by the process that opened it, any thread."""

    __slots__ = (
        "_identity",
        "_owner_pid",
        "address",
        "family",
        "is_unix",
        "reach",
        "path",
        "server_name",
        "server_port",
        "socket",
    )

    def __init__(self, listening: socket.socket, host: str = "", path: str = "") -> None:
        """Own `listening`. `host`: the name that the person gave, "" for none; `path`: of a
        Unix socket, which is removed on close while it is still the same file."""
        self.socket = listening
        self.family = listening.family
        self.is_unix = bool(path)
        self.path = path
        self.reach = ""
        """Where it listens at more than `address`: "all IPv4 addresses", "all IPv6 addresses"."""
        self._owner_pid = os.getpid()
        self._identity: tuple[int, int] | None = None
        self.address: str
        """What a person can type: `http://127.0.0.1:3000`, `http://[::1]:3000`, `unix:/path`."""
        self.server_name: str
        """SERVER_NAME (RFC 3875 section 4.1.14): IPv6 in brackets; "localhost" for Unix."""
        self.server_port: str
        """SERVER_PORT; never empty (PEP 3333), so "80" for Unix, as other servers have it."""
        if path:
            self.address = f"unix:{path}"
            self.server_name, self.server_port = "localhost", "80"
            self._identity = _identify(path)
            return
        try:
            bound_host, port = listening.getsockname()[:2]
        except OSError:
            listening.close()
            raise
        if bound_host == "0.0.0.0":
            bound_host, self.reach = "127.0.0.1", "all IPv4 addresses"
        elif bound_host == "::":
            bound_host, self.reach = "::1", "all IPv6 addresses"
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        self.address = f"http://{shown}:{port}"
        self.server_name = host or shown
        self.server_port = str(port)

    def close(self) -> None:
        """Close the socket and remove its file, if it is still ours. May be called twice."""
        self.socket.close()
        identity, self._identity = self._identity, None
        # A forked child closes its copy only; a successor may have put its own file there.
        if identity and os.getpid() == self._owner_pid and _identify(self.path) == identity:
            _remove(self.path)


def parse_bind(text: str) -> Bind:
    """Take one address apart; raises ListenerError. Resolves nothing."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        size = len(os.fsencode(path))
        if not path or "\0" in path:
            raise ListenerError(f"{text!r} names no path; write unix:PATH")
        if size > UNIX_PATH_BYTES:
            raise ListenerError(
                f"{text}: the path is too long for a Unix socket: "
                f"{size} bytes, {UNIX_PATH_BYTES} are possible"
            )
        return Bind(text, path=path)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not _PORT.fullmatch(port) or (":" in host and not bracketed):
        raise ListenerError(f"{text!r}: {_SHAPES}{_guess_address(text)}")
    if int(port) > 65535:
        raise ListenerError(f"{text!r}: a port is at most 65535")
    if bracketed:
        host = host[1:-1]
        if not _is_ipv6(host.partition("%")[0]):
            raise ListenerError(f"{text!r}: {host!r} is no IPv6 address")
    elif re.search(r"[\s/\[\]@?#\\]", host):
        raise ListenerError(f"{text!r}: {_SHAPES}")
    return Bind(text, host=host, port=int(port))


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True


def _guess_address(text: str) -> str:
    """What the person may have meant."""
    if _PORT.fullmatch(text):
        return f"; did you mean 127.0.0.1:{text}?"
    if text.startswith("fd:"):
        return "; there is no socket activation yet"
    if "://" in text:
        return "; leave the scheme out"
    if text.startswith(("/", "./")):
        return f"; did you mean unix:{text}?"
    host, _, port = text.rpartition(":")
    host = "::" if host == ":" else host
    # One digit is rather the end of an address, as in ::1.
    if _PORT.fullmatch(port) and len(port) > 1 and _is_ipv6(host):
        return f"; did you mean [{host}]:{port}?"
    if text.startswith("[") and text.endswith("]") and _is_ipv6(text[1:-1]):
        return f"; did you mean {text}:8000?"
    if _is_ipv6(text):
        return f"; did you mean [{text}]:8000?"
    if re.fullmatch(r"[A-Za-z0-9.-]+", text):
        return f"; did you mean {text}:8000?"
    return ""


def open_listeners(
    binds: Sequence[str], backlog: int, unix_mode: int = UNIX_MODE
) -> list[Listener]:
    """Listen at every address, or at none: raises ListenerError and closes what it opened.

    A host name is bound at each address it resolves to, IPv4 first, all on the same port.
    `unix_mode`: the permissions of socket files.
    """
    listeners: list[Listener] = []
    known: set[tuple[str, str, int]] = set()
    try:
        for bind in [parse_bind(text) for text in binds]:
            place = bind.path, bind.host, bind.port
            if place in known and (bind.path or bind.port):
                raise ListenerError(f"cannot listen at {bind.text}: it is given twice")
            known.add(place)
            if bind.path:
                listeners.append(_open_unix(bind, backlog, unix_mode))
            else:
                listeners.extend(_open_host(bind, backlog))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _open_host(bind: Bind, backlog: int) -> list[Listener]:
    """All addresses of one host. With port 0 the first finds the port and the others follow."""
    addresses = _resolve(bind)
    name = bind.host if _is_name(bind.host) else ""
    for attempt in range(FREE_PORT_ATTEMPTS):
        listeners: list[Listener] = []
        port = bind.port
        try:
            for family, sockaddr in addresses:
                try:
                    listening = _listen_tcp(family, (sockaddr[0], port, *sockaddr[2:]), backlog)
                except OSError as error:
                    # A hosts file often knows ::1 on a machine that has no IPv6.
                    absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                    if absent and len(addresses) > 1:
                        problem = error
                        continue
                    raise
                listeners.append(Listener(listening, name))
                port = port or listening.getsockname()[1]
            if not listeners:
                raise problem
            return listeners
        except OSError as error:
            for listener in listeners:
                listener.close()
            last = attempt == FREE_PORT_ATTEMPTS - 1
            if bind.port == 0 and listeners and error.errno == errno.EADDRINUSE and not last:
                continue
            raise ListenerError(describe_failure(bind, error)) from None
    raise AssertionError("unreachable")


def _is_name(host: str) -> bool:
    if host in ("", "*") or ":" in host:
        return False
    return not re.fullmatch(r"[0-9.]+", host, re.ASCII)


def _resolve(bind: Bind) -> list[tuple[int, tuple[str, int, *tuple[int, ...]]]]:
    """Socket addresses of a host, IPv4 before IPv6, without repetition."""
    try:
        found = socket.getaddrinfo(
            bind.host or "0.0.0.0", bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is no host name"
        raise ListenerError(f"cannot listen at {bind.text}: {bind.host!r}: {reason}") from None
    unique = {(int(family), sockaddr): None for family, _, _, _, sockaddr in found}
    return sorted(unique, key=lambda each: each[0] != socket.AF_INET)  # type: ignore[arg-type]


def _listen_tcp(family: int, sockaddr: tuple[str | int, ...], backlog: int) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Without it a restart fails for a minute while old connections are in TIME_WAIT.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # [::] means IPv6 alone, whatever the system's default, so that 0.0.0.0 fits beside it.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(sockaddr)
        listening.listen(backlog)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _open_unix(bind: Bind, backlog: int, mode: int) -> Listener:
    try:
        path = os.path.abspath(bind.path)
    except OSError:
        raise ListenerError(f"cannot listen at {bind.text}: the current folder is gone") from None
    # A path that fits only as it was written, relative to a deep folder, is used so.
    if len(os.fsencode(path)) > UNIX_PATH_BYTES:
        path = bind.path
    try:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenerError(describe_failure(bind, error)) from None
    bound = False
    try:
        _remove_stale(bind, path)
        listening.bind(path)
        bound = True
        os.chmod(path, mode)  # before it listens: nobody gets in earlier
        listening.listen(backlog)
        listening.setblocking(False)
        return Listener(listening, path=path)
    except OSError as error:
        listening.close()
        if bound:
            _remove(path)
        raise ListenerError(describe_failure(bind, error)) from None
    except BaseException:
        listening.close()
        raise


def _remove_stale(bind: Bind, path: str) -> None:
    """Remove a socket file that nobody answers on; raise ListenerError for anything else."""
    identity = _identify(path)
    if identity is None:
        return
    mode = os.lstat(path).st_mode
    if not stat.S_ISSOCK(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "file"
        raise ListenerError(
            f"cannot listen at {bind.text}: a {kind} that is no socket is there; it is left alone"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
    # A full backlog says EAGAIN: somebody is there. Only a refusal proves that nobody is.
    if answer != errno.ECONNREFUSED:
        if answer in (errno.EACCES, errno.EPERM):
            raise OSError(answer, os.strerror(answer))
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if _identify(path) == identity:
        _remove(path)


def describe_failure(bind: Bind, error: OSError) -> str:
    """One line: what cannot be had, why, and what helps."""
    code = error.errno
    if code == errno.EADDRINUSE:
        owner = find_unix_owner(bind.path) if bind.path else find_tcp_owner(bind.port)
        what = "it is" if bind.path else f"port {bind.port} is"
        reason = f"{what} taken by {owner}" if owner else f"{what} taken by another process"
    elif code in (errno.EACCES, errno.EPERM) and not bind.path and bind.port < 1024:
        reason = f"permission denied: port {bind.port} is below 1024 and needs root; try 8000"
    elif code == errno.EADDRNOTAVAIL:
        reason = f"{bind.host} is no address of this machine"
    elif code == errno.EAFNOSUPPORT:
        reason = f"this machine does not do {'IPv6' if ':' in bind.host else 'this family'}"
    elif code == errno.ENOENT and bind.path:
        reason = f"there is no folder {os.path.dirname(bind.path) or '.'}"
    else:
        reason = (error.strerror or str(error)).lower()
    return f"cannot listen at {bind.text}: {reason}"


def _identify(path: str) -> tuple[int, int] | None:
    """Which file stands there (device, inode); None for none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
