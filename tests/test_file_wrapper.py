"""wsgi.file_wrapper: which files are sent by their descriptor, and that each is closed once.

PEP 3333, "Optional Platform-Specific File Handling".
"""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from rawsgi.protocol.message import ClientDisconnected
from rawsgi.wsgi.file_wrapper import FileWrapper
from rawsgi.wsgi.gateway import Gateway
from rawsgi.wsgi.static import FilePart
from tests.exchange import TEXT, Exchange, Log, answer, run, watch_log

__all__ = ["watch_log"]


class CountingFile(io.BytesIO):
    closes = 0

    def close(self) -> None:
        self.closes += 1
        super().close()


class TestFileWrapper:
    CONTENT = bytes(range(256)) * 1000

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.write_bytes(self.CONTENT)
        return path

    def run(self, file: Any, *fields: tuple[str, str], head: str = "GET / HTTP/1.1") -> Exchange:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT, *fields])
            return environ["wsgi.file_wrapper"](file)

        return run(application, head)

    def test_a_plain_file_is_sent_by_its_descriptor(self, path: Path) -> None:
        for open_file in (
            lambda: path.open("rb"),
            lambda: path.open("rb", buffering=0),
            lambda: path.open("r+b"),
        ):
            file = open_file()
            exchange = self.run(file)
            assert exchange.events == ["file"]
            assert file.closed
            assert exchange.framed == self.CONTENT
            assert exchange.values("Content-Length") == [str(len(self.CONTENT))]

    def test_from_the_position_that_reading_would_begin_at(self, path: Path) -> None:
        file = path.open("rb")
        file.read(10)  # the descriptor's own position is much further now
        exchange = self.run(file)
        assert exchange.framed == self.CONTENT[10:]

    def test_after_a_part_was_taken_from_the_wrapper(self, path: Path) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            blocks = environ["wsgi.file_wrapper"](path.open("rb"), 100)
            assert next(blocks) == self.CONTENT[:100]
            start_response("200 OK", [TEXT])
            return blocks

        exchange = run(application)
        assert exchange.framed == self.CONTENT[100:]

    def test_until_the_content_length_of_the_application(self, path: Path) -> None:
        exchange = self.run(path.open("rb"), ("Content-Length", "1000"))
        assert exchange.framed == self.CONTENT[:1000]
        assert exchange.protocol.reusable

    def test_shorter_than_the_content_length_closes(self, path: Path) -> None:
        exchange = self.run(path.open("rb"), ("Content-Length", "1000000"))
        assert not exchange.protocol.finish()

    def test_temporary_files(self) -> None:
        for make in (
            lambda: tempfile.TemporaryFile(),
            lambda: tempfile.NamedTemporaryFile(),
            lambda: tempfile.SpooledTemporaryFile(10),
        ):
            file: Any = make()
            file.write(self.CONTENT)
            file.seek(0)
            exchange = self.run(file)
            assert exchange.events == ["file"]
            assert exchange.framed == self.CONTENT
            assert file.closed

    def test_what_was_written_and_not_flushed_is_sent(self) -> None:
        file = tempfile.TemporaryFile()
        file.write(b"a" * 100)
        file.seek(0)
        file.read(10)
        file.seek(0)
        file.write(b"bb")
        file.seek(0)
        exchange = self.run(file)
        assert exchange.framed == b"bb" + b"a" * 98

    def test_files_that_read_other_bytes_than_their_descriptor(self, tmp_path: Path) -> None:
        path = tmp_path / "file.gz"
        with gzip.open(path, "wb") as packed:
            packed.write(self.CONTENT)

        class Upper(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                return (super().read(size) or b"").upper()

        plain = tmp_path / "plain"
        plain.write_bytes(b"abc" * 1000)
        small: Any = tempfile.SpooledTemporaryFile(1_000_000)
        small.write(b"small")
        small.seek(0)
        for file, content in (
            (gzip.open(path), self.CONTENT),
            (io.BufferedReader(gzip.open(path)), self.CONTENT),  # type: ignore[arg-type]
            (Upper(plain), b"ABC" * 1000),
            (io.BufferedReader(Upper(plain)), None),
            (io.BytesIO(b"in memory"), b"in memory"),
            (small, b"small"),
        ):
            exchange = self.run(file, ("Content-Length", str(len(content)))) if content else None
            if exchange is not None:
                assert "file" not in exchange.events, file
                assert exchange.framed == content
            else:
                assert self.run(file).events[0] == "begin"
            assert file.closed

    def test_text_files_are_refused_as_any_text(self, path: Path, log: Log) -> None:
        raw = io.FileIO(path)
        for file in (path.open(encoding="latin-1"), io.TextIOWrapper(raw, "latin-1")):  # type: ignore[type-var]
            log.texts.clear()
            assert self.run(file).status == 500
            assert "block of str instead of bytes" in log.text
            assert file.closed

    def test_descriptors_that_are_no_files_on_a_disk(self) -> None:
        reading, writing = os.pipe()
        os.write(writing, b"through a pipe")
        os.close(writing)
        exchange = self.run(open(reading, "rb"))
        assert exchange.framed == b"e\r\nthrough a pipe\r\n0\r\n\r\n"

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
    def test_files_that_the_kernel_makes_up(self) -> None:
        """Their size is 0 although they can be read."""
        exchange = self.run(open("/proc/self/status", "rb"))
        assert b"VmHWM" in exchange.framed

    def test_file_that_cannot_be_read(self, path: Path) -> None:
        for file in (path.open("ab"), io.FileIO(path, "a")):
            assert self.run(file).status == 500
            assert file.closed
        closed = path.open("rb")
        closed.close()
        assert self.run(closed).status == 500
        detached = path.open("rb")
        raw = detached.detach()
        assert self.run(detached).status == 500
        raw.close()

    def test_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty"
        path.touch()
        file = path.open("rb")
        exchange = self.run(file)
        assert exchange.values("Content-Length") == ["0"]
        assert file.closed

    def test_past_the_end_of_the_file(self, path: Path) -> None:
        file = path.open("rb")
        file.seek(10_000_000)
        assert self.run(file).values("Content-Length") == ["0"]

    def test_part_of_a_file(self, path: Path) -> None:
        file = path.open("rb", buffering=0)
        file.seek(1000)
        exchange = self.run(FilePart(file, 50))
        assert exchange.events == ["file"]
        assert exchange.framed == self.CONTENT[1000:1050]
        assert file.closed

    def test_part_that_the_file_does_not_have_any_more(self, path: Path) -> None:
        file = path.open("rb", buffering=0)
        file.seek(len(self.CONTENT) - 10)
        exchange = self.run(FilePart(file, 50), ("Content-Length", "50"))
        assert exchange.framed == self.CONTENT[-10:]
        assert not exchange.protocol.finish()
        assert file.closed

    def test_block_size_is_a_suggestion(self) -> None:
        wrapper = FileWrapper(io.BytesIO(b"abcdef"), 4)
        assert list(wrapper) == [b"abcd", b"ef"]
        for size in (0, None, -1):
            assert b"".join(FileWrapper(io.BytesIO(b"abcdef"), size)) == b"abcdef"  # type: ignore[arg-type]

    def test_needs_no_more_than_read(self) -> None:
        class Readable:
            blocks = [b"one", b"two", b""]

            def read(self, size: int) -> bytes:
                return self.blocks.pop(0)

        assert self.run(Readable()).framed == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    def test_is_closed_once_in_every_way_to_end(self, path: Path) -> None:
        file = CountingFile(b"content")
        self.run(file)
        assert file.closes == 1

    def test_is_closed_when_the_client_was_answered_meanwhile(self, path: Path) -> None:
        file = path.open("rb")
        exchange = Exchange()

        def send_file(*_: Any) -> None:
            raise ClientDisconnected

        exchange.send_file = send_file  # type: ignore[assignment, method-assign]
        Gateway(answer(FileWrapper(file))).run(exchange)
        assert file.closed

    def test_close_that_fails_hurts_nobody(self, path: Path, log: Log) -> None:
        class Failing(FilePart):
            def close(self) -> None:
                super().close()
                raise OSError("no")

        exchange = self.run(Failing(path.open("rb", buffering=0), 10))
        assert exchange.events == ["file"]
        assert exchange.framed == self.CONTENT[:10]
        assert "GET /: close() of the response failed" in log.text

    def test_middleware_may_look_at_it_and_drop_it(self, path: Path) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT])
            blocks = environ["wsgi.file_wrapper"](path.open("rb"))
            try:
                return [b"".join(blocks).upper()[:10]]
            finally:
                blocks.close()

        assert run(application).framed == self.CONTENT[:10].upper()
