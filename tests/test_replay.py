"""`rawsgi replay` with several files, with folders, and with what is no request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT, serve, wait_until

PAGES = str(ROOT / "examples/pages.py")
FAILING = "def app(environ, start_response):\n    1 / 0\n"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder as `--record` leaves it: two exchanges of three files each."""
    folder = tmp_path / "kept"
    folder.mkdir()
    for name, target, status in (("1", "/", 200), ("2", "/nowhere", 404)):
        head = f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"
        (folder / f"{name}.request").write_bytes(head.encode())
        (folder / f"{name}.response").write_bytes(b"HTTP/1.1 200 OK\r\n\r\n")
        (folder / f"{name}.json").write_text(json.dumps({"status": status}))
    return folder


def replay(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "rawsgi", "replay", *arguments], cwd=cwd, env=environ,
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_several_files_are_replayed_in_order(kept: Path) -> None:
    done = replay(str(kept / "1.request"), str(kept / "2.request"), PAGES)
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("HTTP/")] == [
        "HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found",
    ]  # fmt: skip
    assert done.stderr.splitlines() == [
        f"rawsgi replay: {kept}/1.request: {PAGES}:app answered with 200; "
        "so it did when it was recorded",
        f"rawsgi replay: {kept}/2.request: {PAGES}:app answered with 404; "
        "so it did when it was recorded",
        "rawsgi replay: 2 requests",
    ]


def test_a_folder_stands_for_its_requests(kept: Path) -> None:
    (kept / "3.request.cut").write_bytes(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx"
    )
    done = replay(str(kept), PAGES)
    assert done.returncode == 1
    assert "1.request: " in done.stderr and "2.request: " in done.stderr
    assert "3.request.cut: not all of this request was kept" in done.stderr
    assert done.stderr.endswith("rawsgi replay: 3 requests, 1 failed\n")


def test_the_three_files_of_an_exchange_are_one_request(kept: Path) -> None:
    done = replay(*sorted(map(str, kept.iterdir())), PAGES)
    assert done.returncode == 0
    assert done.stdout.count("HTTP/1.1 ") == 2
    assert done.stderr.endswith("rawsgi replay: 2 requests\n")


@pytest.mark.parametrize("suffix", [".json", ".response", ""])
def test_a_file_beside_a_request_says_what_is_replayed(kept: Path, suffix: str) -> None:
    done = replay(str(kept / f"1{suffix}"), PAGES)
    assert done.returncode == 0
    assert done.stderr.startswith(f"rawsgi replay: this is {kept}/1.request\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("kept/1.request", "kept/2.request"), "the application is missing: rawsgi replay FILE..."),
        (("kept/1.json", "kept/1.response"), "the application is missing"),
        (("lone.json", PAGES), "replay lone.json: there is no lone.request beside it"),
        (("empty", PAGES), "replay empty: there is no .request in this folder"),
        (("kept/9.request", PAGES), "replay kept/9.request: there is no such file"),
        (("a" * 300, PAGES), f"rawsgi: replay {'a' * 300}: File name too long"),
    ],
)
def test_what_is_no_request(kept: Path, arguments: tuple[str, ...], expected: str) -> None:
    (kept.parent / "lone.json").write_text("{}")
    (kept.parent / "empty").mkdir()
    done = replay(*arguments, cwd=kept.parent)
    assert done.returncode == 2 and done.stdout == ""
    assert expected in done.stderr and done.stderr.count("\n") == 1


LARGE_CHUNK = b"5;a=" + b"e" * 5000 + b"\r\nhello\r\n0\r\n"


@pytest.mark.parametrize(
    ("flag", "data"),
    [
        ("--field-limit 300", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n"),
        ("--head-limit 1MiB", b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"),
        ("--request-line-limit 16KiB", b"GET /?" + b"q" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("", b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + LARGE_CHUNK
         + b"X: y\r\n" * 101 + b"\r\n"),
    ],
)  # fmt: skip
def test_what_a_server_with_other_limits_took_is_not_refused(
    flag: str, data: bytes, tmp_path: Path
) -> None:
    """It is on the disk already: there is nothing to protect from."""
    path = tmp_path / "1.request"
    if flag:
        with serve(PAGES, *flag.split(), "--record", str(tmp_path)) as server:
            assert server.exchange(data).startswith(b"HTTP/1.1 200 ")
            wait_until(lambda: list(tmp_path.glob("*.request")))
        (path,) = tmp_path.glob("*.request")
    else:
        path.write_bytes(data)
    done = replay(str(path), PAGES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP/1.1 200 OK")


def test_the_verdict_stands_on_its_own_line_and_the_content_is_untouched(tmp_path: Path) -> None:
    text = "def app(e, s):\n    s('200 OK', [])\n    return [b'no line feed']\n"
    (tmp_path / "plain.py").write_text(text)
    (tmp_path / "a.request").write_bytes(b"GET / HTTP/1.0\r\n\r\n")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rawsgi", "replay", "a.request", "plain"]
    together = subprocess.run(
        command, cwd=tmp_path, env=environ, timeout=30, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert together.stdout.endswith(
        "\n\nno line feed\nrawsgi replay: plain:app answered with 200\n"
    )
    apart = subprocess.run(command, cwd=tmp_path, env=environ, timeout=30, capture_output=True)
    assert apart.stdout.endswith(b"\r\n\r\nno line feed")


def test_one_that_fails_does_not_keep_the_others_from_being_replayed(kept: Path) -> None:
    (kept.parent / "failing.py").write_text(FAILING)
    done = replay("kept", "failing", cwd=kept.parent)
    assert done.returncode == 1
    assert done.stdout.count("HTTP/1.1 500 ") == 2
    assert done.stderr.endswith("rawsgi replay: 2 requests, 2 failed\n")


def test_a_refused_request_has_no_wreck_to_look_at(kept: Path) -> None:
    (kept / "1.request").write_bytes(b"nonsense\r\n\r\n")
    done = replay(str(kept / "1.request"), PAGES, "--pdb")
    assert done.returncode == 1
    assert "refused with 400" in done.stderr and "exception" not in done.stderr
