"""rawsgi.wsgi.static and rawsgi.wsgi.folder: what is served, what never is, and how.

Everything runs on both ways of opening a file: by descriptors, and the fallback by paths.
Every call goes through wsgiref.validate. Real sockets: test_examples.py, and the end of this file.
"""

from __future__ import annotations

import contextlib
import email.utils
import html.parser
import os
import random
import socket
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from rawsgi.wsgi import folder as folder_module
from rawsgi.wsgi.folder import ResolvedFolder, WalkedFolder
from rawsgi.wsgi.static import (
    FilePart,
    StaticFiles,
    guess_type,
    read_date,
    render_listing,
    show_name,
    show_size,
)
from tests.serving import Reader, serve, wait_until

LONG_AGO_S = 1_000_000_000
SECRET = b"the secret outside\n"


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    before = sorted(os.listdir("/dev/fd"))
    yield
    assert sorted(os.listdir("/dev/fd")) == before


@pytest.fixture(params=["walked", "resolved"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    assert folder_module.DESCRIPTORS_SUPPORTED
    if request.param == "resolved":
        monkeypatch.setattr(folder_module, "DESCRIPTORS_SUPPORTED", False)
    value: str = request.param
    return value


@pytest.fixture
def root(tmp_path: Path, way: str) -> Path:
    """A folder with a little of everything, and a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    write(root / "hello.txt", b"Hello, file!\n")
    write(root / "sub" / "page.html", b"<p>page</p>\n")
    write(root / "sub" / "deep" / "data.bin", bytes(range(256)))
    write(root / "empty", b"")
    return root


def write(path: Path, content: bytes) -> Path:
    """Write a file that has not changed for long, so that its entity-tag is strong."""
    path.write_bytes(content)
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


class Answer:
    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[str, str] = {}
        self.content = b""


def call(application: Any, target: str | bytes, method: str = "GET", **fields: str) -> Answer:
    """Call an application as a server does. `target` is decoded once; fields by environ name."""
    path, _, query = (target.encode() if isinstance(target, str) else target).partition(b"?")
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {
        "REQUEST_METHOD": method,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        **fields,
    }
    answer = Answer()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answer.status = int(status[:3])
        assert len({name.lower() for name, _ in headers}) == len(headers), "a field came twice"
        answer.fields = dict(headers)

    blocks = validator(application)(environ, start_response)
    try:
        answer.content = b"".join(blocks)
    finally:
        blocks.close()  # type: ignore[attr-defined]
    if method != "HEAD" and answer.status != 304:
        assert len(answer.content) == int(answer.fields["Content-Length"])
    return answer


# Names


def test_files_and_folders(root: Path) -> None:
    app = StaticFiles(root)
    answer = call(app, "/hello.txt")
    assert (answer.status, answer.content) == (200, b"Hello, file!\n")
    assert answer.fields["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.fields["X-Content-Type-Options"] == "nosniff"
    assert call(app, "/sub/deep/data.bin").content == bytes(range(256))
    assert call(app, "/empty").content == b""
    assert call(app, "/nothing").status == 404
    assert call(app, "/hello.txt/").status == 404
    assert call(app, "/hello.txt/x").status == 404
    assert call(app, "/sub/").status == 200


@pytest.mark.parametrize(
    "target",
    [
        "/../outside/secret.txt",
        "/sub/../../outside/secret.txt",
        "/%2e%2e/outside/secret.txt",
        "/%2e./outside/secret.txt",
        "/..%2foutside%2fsecret.txt",
        "/%252e%252e/outside/secret.txt",
        "/..%252foutside/secret.txt",
        "/..\\outside\\secret.txt",
        "/..%5coutside%5csecret.txt",
        "/sub/..%00/../outside/secret.txt",
        "/hello.txt%00",
        "/%00",
        "/./hello.txt",
        "/sub/../hello.txt",
        "//hello.txt",
        "/sub//page.html",
        "/sub/./",
        "/sub/../",
        "/..",
        "/.",
        "/...",
        "/%c0%ae%c0%ae/outside/secret.txt",
        "/%uff0e%uff0e/outside/secret.txt",
        "/ /hello.txt",
        "/~root",
    ],
)
def test_names_that_lead_nowhere(root: Path, target: str) -> None:
    answer = call(StaticFiles(root, hidden=True), target)
    assert answer.status == 404
    assert answer.content == b"404 Not Found\n"


@pytest.mark.parametrize("path", ["*", "hello.txt", "..", "a.example:80"])
def test_paths_without_a_slash(root: Path, path: str) -> None:
    """A server gives these for `OPTIONS *` or not at all, and the validator none of them."""
    statuses = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    StaticFiles(root)(environ, lambda status, _: statuses.append(status))  # type: ignore[arg-type]
    assert statuses == ["404 Not Found"]


def test_an_absolute_path_is_taken_beneath_the_folder(root: Path) -> None:
    secret = root.parent / "outside" / "secret.txt"
    assert call(StaticFiles(root), f"/{secret}").status == 404
    assert call(StaticFiles(root), f"{secret}").status == 404


def test_names_too_long(root: Path) -> None:
    app = StaticFiles(root)
    assert call(app, "/" + "a" * 300).status == 404
    assert call(app, "/a" * 4000).status == 404
    assert call(app, "/sub" * 4000).status == 404


def test_random_paths_stay_inside(root: Path) -> None:
    """No path, whatever it is made of, gives anything but what lies in the folder."""
    (root / "out").symlink_to(root.parent / "outside")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "self").symlink_to(".")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    parts = [b"/", b"//", b"..", b".", b"sub", b"deep", b"out", b"up", b"loop", b"self",
             b"hello.txt", b"secret.txt", b"outside", b"root", b"\\", b"%2e", b"\0", b"\xff",
             b"\xe2\x80\xae", b"~", b" ", os.fsencode(root)]  # fmt: skip
    app = StaticFiles(root, hidden=True)
    statuses = set()
    for _ in range(3000):
        path = b"/" + b"".join(chance.choice(parts) for _ in range(chance.randrange(8)))
        answer = call(app, quote(path))
        statuses.add(answer.status)
        assert SECRET not in answer.content, path
        assert b"secret.txt" not in answer.content, path
    assert statuses == {200, 301, 404}


def test_hidden_names(root: Path) -> None:
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("x")
    (root / ".env").write_text("PASSWORD=x")
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_text("Contact: x\n")
    app = StaticFiles(root)
    for target in ("/.git/config", "/.git/", "/.git", "/.env", "/sub/.env", "/%2eenv"):
        assert call(app, target).status == 404, target
    assert call(app, "/.well-known/security.txt").status == 200
    listing = call(app, "/").content
    assert b".env" not in listing
    assert b".git" not in listing
    shown = StaticFiles(root, hidden=True)
    assert call(shown, "/.env").content == b"PASSWORD=x"
    assert b".env" in call(shown, "/").content


# Links


def test_links_within_the_folder(root: Path) -> None:
    (root / "to-file").symlink_to("hello.txt")
    (root / "to-folder").symlink_to("sub/deep")
    (root / "sub" / "back").symlink_to("../hello.txt")
    (root / "sub" / "absolute").symlink_to(root / "hello.txt")
    (root / "to-root").symlink_to(root)
    (root / "twice").symlink_to("to-folder/../deep/data.bin")
    (root / "self").symlink_to(".")
    app = StaticFiles(root)
    for target in (
        "/to-file",
        "/sub/back",
        "/sub/absolute",
        "/to-root/hello.txt",
        "/self/self/hello.txt",
        "/to-root/to-root/self/to-file",
    ):
        assert call(app, target).content == b"Hello, file!\n", target
    for target in ("/to-folder/data.bin", "/twice"):
        assert call(app, target).content == bytes(range(256)), target
    assert call(app, "/to-folder").fields["Location"] == "/to-folder/"
    listing = call(app, "/").content
    for link in (b'"to-file"', b'"to-folder/"', b'"to-root/"', b'"self/"'):
        assert link in listing


def test_links_out_of_the_folder(root: Path) -> None:
    outside = root.parent / "outside"
    sibling = root.parent / "root-2"  # begins with the folder's name
    sibling.mkdir()
    (sibling / "secret.txt").write_bytes(SECRET)
    targets: dict[str, str | Path] = {
        "file": outside / "secret.txt",
        "folder": outside,
        "relative": "../outside/secret.txt",
        "sibling": sibling,
        "up": "..",
        "slash": "/",
        "device": "/dev/null",
        "disguised": root / ".." / "outside",
        "process": "/proc/self/cwd",
        "broken": "nowhere",
        "loop": "loop",
        "empty-parts": "sub/..//../outside",
    }
    for name, leads_to in targets.items():
        (root / name).symlink_to(leads_to)
    (root / "chain").symlink_to("folder/secret.txt")
    app = StaticFiles(root)
    for name in os.listdir(root):
        if not (root / name).is_symlink():
            continue
        for target in (f"/{name}", f"/{name}/", f"/{name}/secret.txt", f"/{name}/hello.txt"):
            answer = call(app, target)
            assert (answer.status, answer.content) == (404, b"404 Not Found\n"), target
        assert f'"{name}' not in call(app, "/").content.decode()


def test_a_link_to_a_file_as_if_it_were_a_folder(root: Path) -> None:
    (root / "link").symlink_to("hello.txt/")
    assert call(StaticFiles(root), "/link/").status == 404
    assert call(StaticFiles(root), "/link/x").status == 404


def test_a_link_that_leaves_and_comes_back(root: Path, way: str) -> None:
    """Walking by descriptors refuses it; resolving first cannot tell. Both stay inside."""
    (root / "there-and-back").symlink_to("../root/hello.txt")
    status = call(StaticFiles(root), "/there-and-back").status
    assert status == (404 if way == "walked" else 200)


def test_too_many_links(root: Path) -> None:
    (root / "link0").symlink_to("hello.txt")
    for number in range(1, 60):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    app = StaticFiles(root)
    assert call(app, "/link39").status == 200
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert call(app, "/a").status == 404


def test_a_walk_follows_no_more_links_than_the_limit(tmp_path: Path) -> None:
    (tmp_path / "link0").symlink_to("file")
    (tmp_path / "file").write_text("x")
    for number in range(1, 60):
        (tmp_path / f"link{number}").symlink_to(f"link{number - 1}")
    walked = WalkedFolder(tmp_path)
    walked.open_file([b"link39"]).close()
    with pytest.raises(OSError, match="too many links"):
        walked.open_file([b"link40"])


def test_the_folder_itself_may_be_a_link_and_replaced(root: Path) -> None:
    current = root.parent / "current"
    current.symlink_to("root")
    (root / "absolute").symlink_to(current / "hello.txt")
    app = StaticFiles(current)
    assert call(app, "/hello.txt").status == 200
    assert call(app, "/absolute").status == 200
    current.unlink()
    current.symlink_to("outside")
    assert call(app, "/secret.txt").content == SECRET
    current.unlink()
    assert call(app, "/secret.txt").status == 404
    assert call(app, "/").status == 404


def test_the_root_of_the_file_system(way: str, tmp_path: Path) -> None:
    write(tmp_path / "file", b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    app = StaticFiles("/", hidden=True)
    assert call(app, str(tmp_path / "file")).content == b"content"
    assert call(app, str(tmp_path / "link")).content == b"content"


# What lies between check and open


def swap(path: Path, replacement: Path) -> None:
    path.rename(path.with_name(path.name + "-aside"))
    path.symlink_to(replacement)


@pytest.mark.parametrize("victim", ["sub", "sub/deep", "sub/deep/data.bin"])
def test_a_component_replaced_between_check_and_open(
    root: Path, way: str, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deterministic: right after each component was looked at, it becomes a link outwards."""
    outside = root.parent / "outside"
    (outside / "deep").mkdir()
    for path in (outside / "data.bin", outside / "deep" / "data.bin"):
        path.write_bytes(SECRET)
    is_file = victim.endswith("data.bin")
    real_stat, real_open = os.stat, os.open
    swapped: list[bool] = []

    def swap_once() -> None:
        if not swapped:
            swapped.append(True)
            swap(root / victim, outside / "data.bin" if is_file else outside)

    def stat_then_swap(path: Any, **options: Any) -> os.stat_result:
        status = real_stat(path, **options)
        if os.fsencode(path) == os.path.basename(victim).encode() and "dir_fd" in options:
            swap_once()
        return status

    def swap_then_open(path: Any, flags: int, **options: Any) -> int:
        if way == "resolved":
            swap_once()
        return real_open(path, flags, **options)

    monkeypatch.setattr(os, "stat", stat_then_swap)
    monkeypatch.setattr(os, "open", swap_then_open)
    answer = call(StaticFiles(root), "/sub/deep/data.bin")
    assert swapped
    assert answer.status == 404
    assert SECRET not in answer.content


def test_a_race_for_a_second(root: Path, way: str) -> None:
    """One thread swaps a folder for a link outwards and back, as fast as it can."""
    if way == "resolved":
        return  # its documented limit
    outside = root.parent / "outside"
    (outside / "page.html").write_bytes(SECRET)
    stopped = threading.Event()
    swaps = 0

    def swap_back_and_forth() -> None:
        nonlocal swaps
        aside = root / "aside"
        while not stopped.is_set():
            (root / "sub").rename(aside)
            (root / "sub").symlink_to(outside)
            (root / "sub").unlink()
            aside.rename(root / "sub")
            swaps += 1

    thread = threading.Thread(target=swap_back_and_forth)
    thread.start()
    try:
        app = StaticFiles(root)
        contents = set()
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            contents.add(call(app, "/sub/page.html").content)
            contents.add(b"" if b"secret" in call(app, "/sub/").content else b"404 Not Found\n")
    finally:
        stopped.set()
        thread.join()
    assert swaps > 10
    assert contents <= {b"<p>page</p>\n", b"404 Not Found\n"}


def test_a_fifo_put_in_the_place_of_a_file_blocks_nobody(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def swap_then_open(path: Any, flags: int, **options: Any) -> int:
        if os.path.basename(os.fsencode(path)) == b"hello.txt":
            (root / "hello.txt").unlink()
            os.mkfifo(root / "hello.txt")
        return real_open(path, flags, **options)

    monkeypatch.setattr(os, "open", swap_then_open)
    assert call(StaticFiles(root), "/hello.txt").status == 403


@pytest.mark.parametrize("failing", ["open", "stat", "fstat", "readlink", "listdir"])
def test_each_system_call_fails_in_turn(
    root: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails, wherever: an answer or the error, and no descriptor is left."""
    (root / "link").symlink_to("sub/deep")
    app = StaticFiles(root)
    targets = ("/link/data.bin", "/link/", "/sub/deep/")
    real: Callable[..., Any] = getattr(os, failing)
    for error in (FileNotFoundError(2, "gone"), PermissionError(13, "no"), OSError(5, "I/O")):
        for turn in range(12):
            left = turn

            def fail_in_turn(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == -1:  # noqa: B023
                    raise error  # noqa: B023
                return real(*arguments, **options)

            monkeypatch.setattr(os, failing, fail_in_turn)
            for target in targets:
                with contextlib.suppress(OSError):
                    assert call(app, target).status in (200, 403, 404)
            monkeypatch.setattr(os, failing, real)
    assert call(app, "/link/data.bin").status == 200


# What is no file


def test_special_files_are_never_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "fifo")
    (root / "fifo-link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(root):
        listening.bind("socket")
    opened = []
    real_open = os.open

    def note_open(path: Any, *arguments: Any, **options: Any) -> int:
        opened.append(os.path.basename(os.fsencode(path)))
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", note_open)
    app = StaticFiles(root)
    for name in ("fifo", "fifo-link", "socket"):
        assert call(app, f"/{name}").status == 403
        assert call(app, f"/{name}/").status in (403, 404)
        assert call(app, f"/{name}/x").status in (403, 404)
    listing = call(app, "/").content
    assert b"fifo" not in listing
    assert b"socket" not in listing
    assert not {b"fifo", b"fifo-link", b"socket"} & set(opened)


def test_devices(way: str) -> None:
    app = StaticFiles("/dev")
    assert call(app, "/null").status == 403
    assert call(app, "/zero").status == 403
    assert b'"null"' not in call(app, "/").content


@pytest.fixture
def as_nobody() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Root may read everything, so permissions are tried as somebody who may not."""

    @contextlib.contextmanager
    def become_nobody() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    yield become_nobody


def test_no_permission(
    way: str, as_nobody: Callable[[], contextlib.AbstractContextManager[None]]
) -> None:
    # Not tmp_path: its parents are closed to others.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "closed").mkdir()
        (root / "closed" / "file.txt").write_text("x")
        (root / "drop").mkdir()
        write(root / "drop" / "file.txt", b"dropped")
        (root / "file.txt").write_text("x")
        (root / "link").symlink_to("file.txt")
        (root / "site").mkdir()
        (root / "site" / "index.html").write_text("x")
        (root / "site" / "index.html").chmod(0)
        (root / "file.txt").chmod(0)
        (root / "closed").chmod(0)
        (root / "drop").chmod(0o711)  # may be passed through, not listed
        app = StaticFiles(root)
        try:
            with as_nobody():
                statuses = {
                    target: call(app, target).status
                    for target in (
                        "/file.txt",
                        "/link",
                        "/closed/file.txt",
                        "/closed/",
                        "/closed/nothing",
                        "/site/",
                        "/drop/",
                        "/drop/file.txt",
                        "/",
                    )
                }
        finally:
            (root / "closed").chmod(0o755)
        assert statuses == {
            "/file.txt": 403,
            "/link": 403,
            "/closed/file.txt": 403,
            "/closed/": 403,
            "/closed/nothing": 403,
            "/site/": 403,
            "/drop/": 403,
            "/drop/file.txt": 200,
            "/": 200,
        }


# Folders


def test_index_pages(root: Path) -> None:
    app = StaticFiles(root)
    assert b"page.html" in call(app, "/sub/").content
    write(root / "sub" / "index.htm", b"htm")
    assert call(app, "/sub/").content == b"htm"
    write(root / "sub" / "index.html", b"html")
    answer = call(app, "/sub/")
    assert answer.content == b"html"
    assert answer.fields["Content-Type"] == "text/html; charset=utf-8"
    assert call(StaticFiles(root, index=("page.html",)), "/sub/").content == b"<p>page</p>\n"
    assert b"index.htm" in call(StaticFiles(root, index=()), "/sub/").content


def test_an_index_that_is_none(root: Path) -> None:
    (root / "sub" / "index.html").mkdir()
    (root / "sub" / "index.htm").symlink_to(root.parent / "outside" / "secret.txt")
    answer = call(StaticFiles(root), "/sub/")
    assert (answer.status, SECRET in answer.content) == (200, False)
    assert b"page.html" in answer.content


def test_without_listings(root: Path) -> None:
    app = StaticFiles(root, listing=False)
    assert call(app, "/sub/").status == 404
    assert call(app, "/sub/page.html").status == 200
    write(root / "sub" / "index.html", b"html")
    assert call(app, "/sub/").content == b"html"


def test_a_folder_without_its_slash(root: Path) -> None:
    app = StaticFiles(root)
    answer = call(app, "/sub")
    assert (answer.status, answer.fields["Location"]) == (301, "/sub/")
    assert call(app, "/sub/deep?q=%20&x=1").fields["Location"] == "/sub/deep/?q=%20&x=1"
    assert call(app, "/sub", SCRIPT_NAME="/files").fields["Location"] == "/files/sub/"
    assert call(app, "", SCRIPT_NAME="/files").fields["Location"] == "/files/"
    (root / 'o"d d\n\\é').mkdir()
    assert call(app, "/o%22d%20d%0A%5C%C3%A9").fields["Location"] == "/o%22d%20d%0A%5C%C3%A9/"
    assert call(app, "/sub", QUERY_STRING="\xe9").fields["Location"] == "/sub/?%E9"


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "//evil.example/..", "//evil.example/%2e%2e", "/\\evil.example",
     "///evil.example", "/%2fevil.example", "/%5cevil.example", "/evil.example//",
     "/./evil.example", "/evil.example/../evil.example"],
)  # fmt: skip
def test_no_redirect_leads_to_another_host(root: Path, target: str) -> None:
    (root / "evil.example").mkdir()
    (root / "\\evil.example").mkdir()
    answer = call(StaticFiles(root), target)
    location = answer.fields.get("Location", "/")
    assert urlsplit(urljoin("http://a.example/", location)).netloc == "a.example"
    assert location[:2] not in ("//", "/\\")


class LinkReader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self.tags: list[str] = []
        self.current: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "a":
            assert [name for name, _ in attributes] == ["href"]
            self.current = attributes[0][1]
            assert self.current is not None
            self.links[self.current] = ""

    def handle_data(self, data: str) -> None:
        if self.current is not None:
            self.links[self.current] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self.current = None


ODD_NAMES: list[str | bytes] = [
    'quo"te.txt',
    "apos'trophe.txt",
    "<script>alert(1)<",
    "<img src=x onerror=alert(1)>",
    "a&b.txt",
    "&lt;",
    "sp ace.txt",
    " leading",
    "trailing ",
    "new\nline.txt",
    "tab\t.txt",
    "return\r.txt",
    "\x1b[31mred",
    "javascript:alert(1)",
    "http:",
    "what?x=1",
    "ha#sh",
    "100%",
    "%41",
    "%2e%2e",
    "..\\..\\x",
    "back\\slash",
    "...",
    "-",
    "~",
    "+plus",
    ";semicolon=1",
    "@at",
    "$dollar",
    "{brace}",
    "café.txt",
    "日本語.txt",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe",
    "\N{ZERO WIDTH SPACE}",
    "\N{GRINNING FACE}",
    b"caf\xe9.txt",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "é" * 100,
]


def test_odd_names_are_listed_and_their_links_work(root: Path) -> None:
    odd = root / "odd & <names>"
    odd.mkdir()
    names = [os.fsencode(name) for name in ODD_NAMES]
    for number, name in enumerate(names):
        with open(os.path.join(os.fsencode(odd), name), "wb") as file:
            file.write(str(number).encode())
    (odd / 'fol"der <1>').mkdir()
    app = StaticFiles(root, hidden=True)
    page = call(app, quote("/odd & <names>/"))
    assert page.fields["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.fields["Content-Security-Policy"]
    reader = LinkReader()
    reader.feed(page.content.decode())
    assert set(reader.tags) <= {"html", "head", "meta", "title", "style", "body", "h1", "table",
                                "tr", "td", "a"}  # fmt: skip
    base = "http://a.example" + quote("/odd & <names>/")
    found = {}
    for link, text in reader.links.items():
        assert text.isprintable()
        url = urljoin(base, link)
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == (
            "http",
            "a.example",
            "",
            "",
        ), link
        if link not in ("../", "fol%22der%20%3C1%3E/"):
            found[int(call(app, parts.path).content)] = text
    assert len(found) == len(names)
    assert found[ODD_NAMES.index("new\nline.txt")] == "new\\nline.txt"
    assert found[ODD_NAMES.index(b"caf\xe9.txt")] == "caf\\xe9.txt"
    assert found[ODD_NAMES.index("café.txt")] == "café.txt"
    assert found[ODD_NAMES.index("\N{RIGHT-TO-LEFT OVERRIDE}txt.exe")] == "\\u202etxt.exe"
    assert call(app, quote("/odd & <names>/") + "fol%22der%20%3C1%3E/").status == 200
    assert call(app, urlsplit(urljoin(base, "../")).path).status == 200


def test_a_listing_shows_sizes_dates_and_folders_first(root: Path) -> None:
    os.utime(root / "hello.txt", (0, 0))
    os.utime(root / "empty", (2**40, 2**40))  # past the last year that has a date
    page = call(StaticFiles(root), "/").content.decode()
    assert page.index('"sub/"') < page.index('"empty"') < page.index('"hello.txt"')
    assert "13 B" in page
    assert "1970-01-01 00:00" in page
    assert "../" not in page, "there is nothing above the top"
    assert call(StaticFiles(root), "/empty").status == 200
    assert "../" in call(StaticFiles(root), "/sub/").content.decode()


def test_what_vanishes_while_it_is_listed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_listdir = os.listdir

    def list_then_remove(path: Any) -> Any:
        names = real_listdir(path)
        (root / "hello.txt").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", list_then_remove)
    answer = call(StaticFiles(root), "/")
    assert answer.status == 200
    assert b"hello.txt" not in answer.content


def test_small_words() -> None:
    assert [show_size(size) for size in (0, 1023, 1024, 1536, 2**20, 2**30, 2**40, 2**50)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "1.0 TiB", "1024.0 TiB",
    ]  # fmt: skip
    assert show_name(b"a\x00\xff") == "a\\x00\\xff"
    assert "<h1>/</h1>" in render_listing([], [])
    assert "<h1>/a/&lt;/</h1>" in render_listing([b"a", b"<"], [])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"a.html", "text/html; charset=utf-8"),
        (b"a.txt", "text/plain; charset=utf-8"),
        (b"A.TXT", "text/plain; charset=utf-8"),
        (b"a.css", "text/css; charset=utf-8"),
        (b"a.png", "image/png"),
        (b"a.json", "application/json"),
        (b"a.tar.gz", "application/gzip"),
        (b"a.txt.bz2", "application/x-bzip2"),
        (b"a.unheard-of", "application/octet-stream"),
        (b"a", "application/octet-stream"),
        (b"data:text/html,x", "application/octet-stream"),
        (b"data:,a.png", "image/png"),
        (b"http:a.png", "image/png"),
        (b"\xff.txt", "text/plain; charset=utf-8"),
    ],
)
def test_types(name: bytes, kind: str) -> None:
    assert guess_type(name) == kind


# Methods


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods(root: Path, method: str) -> None:
    for target in ("/hello.txt", "/", "/nothing"):
        answer = call(StaticFiles(root), target, method)
        assert (answer.status, answer.fields["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("target", ["/hello.txt", "/", "/sub", "/sub/deep/data.bin", "/empty"])
def test_head_says_what_get_would(root: Path, target: str) -> None:
    app = StaticFiles(root)
    got, asked = call(app, target), call(app, target, "HEAD")
    assert (asked.status, asked.fields) == (got.status, got.fields)
    if asked.status == 200:
        assert asked.content == b""


# Conditions


def test_conditions_by_entity_tag(root: Path) -> None:
    app = StaticFiles(root)
    tag = call(app, "/hello.txt").fields["ETag"]
    assert tag[0] == '"'
    for known in (tag, f"W/{tag}", f'"x", {tag}', f'"x",W/{tag} , "y"', "*"):
        answer = call(app, "/hello.txt", HTTP_IF_NONE_MATCH=known)
        assert (answer.status, answer.content) == (304, b""), known
        assert answer.fields["ETag"] == tag
        assert "Content-Length" not in answer.fields
        assert call(app, "/hello.txt", "HEAD", HTTP_IF_NONE_MATCH=known).status == 304
    for known in ('"x"', tag.strip('"'), "", '"', f"'{tag}'".replace('"', "")):
        assert call(app, "/hello.txt", HTTP_IF_NONE_MATCH=known).status == 200, known
    os.utime(root / "hello.txt", (LONG_AGO_S, LONG_AGO_S + 0.5))
    assert call(app, "/hello.txt", HTTP_IF_NONE_MATCH=tag).status == 200
    assert call(app, "/nothing", HTTP_IF_NONE_MATCH="*").status == 404
    # A date counts only where there is no entity-tag (RFC 9110 section 13.2.2).
    later = email.utils.formatdate(usegmt=True)
    answer = call(app, "/hello.txt", HTTP_IF_NONE_MATCH='"x"', HTTP_IF_MODIFIED_SINCE=later)
    assert answer.status == 200


def test_conditions_by_date(root: Path) -> None:
    app = StaticFiles(root)
    modified = call(app, "/hello.txt").fields["Last-Modified"]
    assert modified == "Sun, 09 Sep 2001 01:46:40 GMT"
    for date in (
        modified,
        "Sun, 09 Sep 2001 01:46:41 GMT",
        "Sunday, 09-Sep-01 01:46:40 GMT",
        "Sun Sep  9 01:46:40 2001",
    ):
        assert call(app, "/hello.txt", HTTP_IF_MODIFIED_SINCE=date).status == 304, date
        assert call(app, "/hello.txt", HTTP_IF_UNMODIFIED_SINCE=date).status == 200, date
    earlier = "Sun, 09 Sep 2001 01:46:39 GMT"
    assert call(app, "/hello.txt", HTTP_IF_MODIFIED_SINCE=earlier).status == 200
    assert call(app, "/hello.txt", HTTP_IF_UNMODIFIED_SINCE=earlier).status == 412
    assert call(app, "/hello.txt", HTTP_IF_MODIFIED_SINCE="yesterday").status == 200


@pytest.mark.parametrize(
    "text",
    ["", "x", "Sun, 09 Sep 2001 01:46:40 +0200", "Sun, 9 Sep 2001 01:46:40 GMT",
     "Sun, 09 Sep 0000 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:40 GMT, x",
     "Sun, 09 Sep 2001 01:46:40 GMT\n", "Sun, 09 Sep 12001 01:46:40 GMT",
     "١٢, 09 Sep 2001 01:46:40 GMT", "1000000000"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert read_date(text) is None


def test_if_match(root: Path) -> None:
    app = StaticFiles(root)
    tag = call(app, "/hello.txt").fields["ETag"]
    assert call(app, "/hello.txt", HTTP_IF_MATCH=tag).status == 200
    assert call(app, "/hello.txt", HTTP_IF_MATCH="*").status == 200
    assert call(app, "/hello.txt", HTTP_IF_MATCH='"x"').status == 412
    assert call(app, "/hello.txt", HTTP_IF_MATCH=f"W/{tag}").status == 412
    assert call(app, "/nothing", HTTP_IF_MATCH='"x"').status == 404


def test_a_file_that_just_changed_has_a_weak_tag(root: Path) -> None:
    (root / "new.txt").write_bytes(b"new")
    app = StaticFiles(root)
    tag = call(app, "/new.txt").fields["ETag"]
    assert tag.startswith('W/"')
    assert call(app, "/new.txt", HTTP_IF_NONE_MATCH=tag).status == 304
    assert call(app, "/new.txt", HTTP_IF_MATCH=tag).status == 412
    answer = call(app, "/new.txt", HTTP_RANGE="bytes=0-0", HTTP_IF_RANGE=tag)
    assert answer.status == 200


def test_a_file_from_the_future(root: Path) -> None:
    tomorrow = time.time() + 86400
    os.utime(root / "hello.txt", (tomorrow, tomorrow))
    answer = call(StaticFiles(root), "/hello.txt")
    modified = email.utils.parsedate_to_datetime(answer.fields["Last-Modified"]).timestamp()
    assert modified <= time.time()


# Ranges


@pytest.mark.parametrize(
    ("wanted", "content_range", "content"),
    [
        ("bytes=0-4", "bytes 0-4/13", b"Hello"),
        ("bytes=0-0", "bytes 0-0/13", b"H"),
        ("bytes=7-", "bytes 7-12/13", b"file!\n"),
        ("bytes=12-", "bytes 12-12/13", b"\n"),
        ("bytes=0-", "bytes 0-12/13", b"Hello, file!\n"),
        ("bytes=7-999999999999999999", "bytes 7-12/13", b"file!\n"),
        ("bytes=-6", "bytes 7-12/13", b"file!\n"),
        ("bytes=-13", "bytes 0-12/13", b"Hello, file!\n"),
        ("bytes=-9999", "bytes 0-12/13", b"Hello, file!\n"),
        ("Bytes=1-1", "bytes 1-1/13", b"e"),
    ],
)
def test_ranges(root: Path, wanted: str, content_range: str, content: bytes) -> None:
    answer = call(StaticFiles(root), "/hello.txt", HTTP_RANGE=wanted)
    assert (answer.status, answer.content) == (206, content)
    assert answer.fields["Content-Range"] == content_range
    assert answer.fields["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.fields["ETag"]


@pytest.mark.parametrize("wanted", ["bytes=13-", "bytes=13-20", "bytes=999999-", "bytes=-0"])
def test_ranges_outside(root: Path, wanted: str) -> None:
    answer = call(StaticFiles(root), "/hello.txt", HTTP_RANGE=wanted)
    assert (answer.status, answer.fields["Content-Range"]) == (416, "bytes */13")


@pytest.mark.parametrize(
    "wanted",
    ["", "bytes", "bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "bytes=+1-2",
     "bytes=1_0-20", "bytes= 0-1", "bytes=0 - 1", "lines=0-1", "bytes=٠-١", "bytes=-1-2",
     "bytes=0-1\n", "bytes=" + "9" * 5000 + "-", "bytes=0-0,-1" + ",0-0" * 1000],
)  # fmt: skip
def test_ranges_that_are_ignored(root: Path, wanted: str) -> None:
    answer = call(StaticFiles(root), "/hello.txt", HTTP_RANGE=wanted)
    assert (answer.status, answer.content) == (200, b"Hello, file!\n")
    assert answer.fields["Accept-Ranges"] == "bytes"
    assert "Content-Range" not in answer.fields


def test_ranges_of_an_empty_file(root: Path) -> None:
    assert call(StaticFiles(root), "/empty", HTTP_RANGE="bytes=0-").status == 416
    assert call(StaticFiles(root), "/empty", HTTP_RANGE="bytes=-1").status == 200
    assert call(StaticFiles(root), "/empty", HTTP_RANGE="bytes=-0").status == 416


def test_ranges_and_conditions(root: Path) -> None:
    app = StaticFiles(root)
    whole = call(app, "/hello.txt").fields
    tag, modified = whole["ETag"], whole["Last-Modified"]
    some = {"HTTP_RANGE": "bytes=0-4"}
    assert call(app, "/hello.txt", HTTP_IF_RANGE=tag, **some).status == 206
    for other in ('"x"', f"W/{tag}", modified, ""):
        assert call(app, "/hello.txt", HTTP_IF_RANGE=other, **some).status == 200, other
    assert call(app, "/hello.txt", HTTP_IF_NONE_MATCH=tag, **some).status == 304
    head = call(app, "/hello.txt", "HEAD", **some)
    assert (head.status, head.fields["Content-Length"]) == (200, "13")
    assert call(app, "/", **some).status == 200


# The file as it is handed to the server


def test_wsgi_file_wrapper_is_used(root: Path) -> None:
    wrapped = []

    def wrap(file: Any, block_bytes: int) -> Iterator[bytes]:
        wrapped.append((type(file).__name__, block_bytes))
        with contextlib.closing(file):
            yield from iter(lambda: file.read(block_bytes), b"")

    app = StaticFiles(root)
    assert call(app, "/hello.txt", **{"wsgi.file_wrapper": wrap}).content == b"Hello, file!\n"  # type: ignore[arg-type]
    options: Any = {"wsgi.file_wrapper": wrap, "HTTP_RANGE": "bytes=0-4"}
    assert call(app, "/hello.txt", **options).content == b"Hello"
    assert wrapped == [("FileIO", 65536), ("FilePart", 65536)]


def test_a_server_that_gives_up_has_the_file_closed(root: Path) -> None:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = "/sub/deep/data.bin"
    for range_field in ("", "bytes=1-5"):
        environ["HTTP_RANGE"] = range_field
        blocks: Any = StaticFiles(root)(environ, lambda *_: lambda _: None)
        blocks.close()


def test_an_error_of_the_server_leaves_no_file_open(root: Path) -> None:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ["PATH_INFO"] = "/hello.txt"

    def fail(*_: Any) -> Any:
        raise RuntimeError("the head cannot be sent")

    with pytest.raises(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("error")
        StaticFiles(root)(environ, fail)


def test_a_file_that_grows_while_it_is_sent(root: Path) -> None:
    path = write(root / "log.txt", b"0123456789")
    with open(path, "rb", buffering=0) as file:
        part = FilePart(file, 5)
        assert part.find_span() == (0, 5)
        assert part.read(3) == b"012"
        with path.open("ab") as log:
            log.write(b"more")
        assert part.find_span() == (3, 2)
        assert part.fileno() == file.fileno()
        assert part.read(0) == b""
        assert part.read() == b"34"
        assert (part.read(), part.read(10)) == (b"", b"")
        part.close()
        assert file.closed


# Folders by themselves


@pytest.mark.parametrize("kind", [WalkedFolder, ResolvedFolder])
def test_errors_of_a_folder(kind: type[WalkedFolder], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "sub").mkdir()
    folder = kind(tmp_path)
    for names in ([b""], [b"."], [b".."], [b"a/b"], [b"\0"], [b"nothing"], [b"sub", b"nothing"]):
        with pytest.raises(FileNotFoundError):
            folder.open_file(names)
    with pytest.raises(IsADirectoryError):
        folder.open_file([b"sub"])
    with pytest.raises(IsADirectoryError):
        folder.open_file([])
    with pytest.raises(NotADirectoryError):
        folder.open_file([b"file", b"x"])
    with pytest.raises(NotADirectoryError):
        folder.list_entries([b"file"])
    assert sorted(entry.name for entry in folder.list_entries([])) == [b"file", b"sub"]
    with pytest.raises(FileNotFoundError):
        kind(tmp_path / "nothing").list_entries([])
    with folder.open_file([b"file"]) as file:
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        assert not os.get_inheritable(file.fileno())


# Over a socket


def test_a_big_file_over_a_socket(tmp_path: Path) -> None:
    """20 MB by sendfile and by ranges, on one connection."""
    content = random.Random(2).randbytes(20_000_000)
    write(tmp_path / "big.bin", content)
    with (
        serve("examples/folder.py", env={"FOLDER": str(tmp_path)}) as server,
        server.connect() as connection,
        Reader(connection) as reader,
    ):
        for wanted, expected in (
            ("", content),
            ("Range: bytes=1000-\r\n", content[1000:]),
            ("Range: bytes=5-10000004\r\n", content[5:10_000_005]),
            ("Range: bytes=-1\r\n", content[-1:]),
            ("", content),
        ):
            head = f"GET /big.bin HTTP/1.1\r\nHost: a.example\r\n{wanted}\r\n"
            connection.sendall(head.encode())
            response = reader.read_response()
            assert response.status == (206 if wanted else 200)
            assert response.content == expected
        before = len(os.listdir(f"/proc/{server.pid}/fd"))
        for _ in range(5):
            with server.connect() as leaving:
                leaving.sendall(b"GET /big.bin HTTP/1.1\r\nHost: a.example\r\n\r\n")
                leaving.recv(1000)
        # The clients that left half-way have their files closed.
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) <= before)


@pytest.mark.parametrize("wanted", ["", "Range: bytes=1-\r\n", "Range: bytes=0-19999990\r\n"])
def test_slow_readers_hold_no_thread(tmp_path: Path, wanted: str) -> None:
    """Three clients that do not read, two threads: a fourth client is served all the same."""
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(20_000_000)
    with (
        serve("examples/folder.py", "--threads", "2", env={"FOLDER": str(tmp_path)}) as server,
        contextlib.ExitStack() as clients,
    ):
        for _ in range(3):
            client = clients.enter_context(server.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(f"GET /big.bin HTTP/1.1\r\nHost: a.example\r\n{wanted}\r\n".encode())
            assert client.recv(5) == b"HTTP/"
        assert server.request("GET", "/").status == 200
