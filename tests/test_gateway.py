"""PEP 3333 from the caller's side, clause by clause, without a socket.

Each test class is one section of the PEP; its files are in test_file_wrapper.py.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from rawsgi.protocol.http1 import HTTP1
from rawsgi.protocol.message import ClientDisconnected, ProtocolError, ResponseError
from rawsgi.protocol.response import HeadEncoder
from rawsgi.wsgi.file_wrapper import FileWrapper
from rawsgi.wsgi.gateway import Gateway
from tests.exchange import PARSER, TEXT, Blocks, Exchange, Log, SizedBlocks, answer, run, watch_log

__all__ = ["watch_log"]


class TestStartResponse:
    def test_arguments_are_positional_and_environ_is_a_plain_dict(self) -> None:
        seen: list[Any] = []

        def application(*arguments: Any) -> Any:
            seen.extend(arguments)
            arguments[1]("200 OK", [TEXT])
            return [b"x"]

        assert run(application).status == 200
        assert len(seen) == 2
        assert type(seen[0]) is dict

    def test_is_not_sent_before_there_is_content(self) -> None:
        exchange = Exchange()
        states = []

        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            states.append(exchange.wire)
            yield b""
            states.append(exchange.wire)
            yield b"x"
            states.append(exchange.wire)

        Gateway(application).run(exchange)
        assert states[:2] == [b"", b""]
        assert states[2].endswith(b"1\r\nx\r\n")

    def test_may_be_called_by_the_first_iteration(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            yield b""
            yield b""
            start_response("202 Accepted", [TEXT])
            yield b"late"

        assert run(application).status == 202

    def test_may_be_a_class_whose_instances_are_iterated(self) -> None:
        class Application:
            def __init__(self, environ: dict[str, Any], start_response: Any) -> None:
                self.start = start_response

            def __iter__(self) -> Iterator[bytes]:
                self.start("200 OK", [TEXT])
                yield b"from a class"

        assert b"from a class" in run(Application).framed

    def test_second_call_needs_exc_info(self, log: Log) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT])
            start_response("201 Created", [TEXT])
            return [b"never sent"]

        assert run(application).status == 500
        assert "second time without exc_info" in log.text

    @pytest.mark.parametrize("nothing", [None, (), False])
    def test_exc_info_that_says_nothing_is_none(self, nothing: Any) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT], nothing)
            start_response("201 Created", [TEXT], nothing)
            return [b"never sent"]

        assert run(application).status == 500

    def test_exc_info_replaces_a_head_that_was_not_sent(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT, ("X-First", "1")])
            try:
                raise ValueError
            except ValueError:
                start_response("503 Later", [TEXT, ("X-Second", "2")], sys.exc_info())
            return [b"sorry"]

        exchange = run(application)
        assert exchange.status == 503
        assert exchange.values("X-First") == []
        assert exchange.values("X-Second") == ["2"]

    def test_exc_info_in_a_first_call(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            try:
                raise ValueError
            except ValueError:
                start_response("503 Later", [TEXT], sys.exc_info())
            return [b"sorry"]

        assert run(application).status == 503

    def test_exc_info_after_empty_blocks_still_replaces(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b""
            try:
                raise ValueError
            except ValueError:
                start_response("500 Oh", [TEXT], sys.exc_info())
            yield b"sorry"

        assert run(application).wire.startswith(b"HTTP/1.1 500 Oh\r\n")

    def test_exc_info_after_the_head_raises_the_error_again(self, log: Log) -> None:
        raised = []

        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b"out"
            try:
                raise ValueError("the first error")
            except ValueError:
                try:
                    start_response("500 Oh", [TEXT], sys.exc_info())
                except ValueError as error:
                    raised.append(error)
                    raise
            yield b"never sent"

        exchange = run(application)
        assert exchange.status == 200
        assert exchange.framed == b"3\r\nout\r\n"
        assert exchange.aborted
        assert str(raised[0]) == "the first error"
        assert 'raise ValueError("the first error")' in log.text

    def test_no_reference_to_exc_info_is_kept(self) -> None:
        class Witness:
            pass

        import weakref

        kept: list[weakref.ref[Witness]] = []
        callables = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            callables.append(start_response)
            witness = Witness()
            kept.append(weakref.ref(witness))
            try:
                raise ValueError(witness)
            except ValueError:
                start_response("500 Oh", [TEXT], sys.exc_info())
            return [b""]

        run(application)
        assert callables and kept[0]() is None

    def test_never_called(self, log: Log) -> None:
        for result in ([b"x"], [], Blocks(b"x"), Blocks()):
            log.texts.clear()
            exchange = run(lambda environ, start_response, result=result: result)
            assert exchange.status == 500
            assert log.texts == [
                "GET /: the application did not call start_response, or not successfully"
            ]

    def test_never_called_with_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"x")
        with path.open("rb") as file:
            assert run(lambda environ, start: environ["wsgi.file_wrapper"](file)).status == 500
            assert file.closed


class TestWriteWhileTheIterableRuns:
    """PEP 3333 forbids it of applications, and Mercurial, Dulwich and klaus do it."""

    @pytest.mark.parametrize("length", [(), (("Content-Length", "6"),)])
    @pytest.mark.parametrize(
        ("written", "blocks"),
        [(b"abcdef", []), (b"abcdef", [b""]), (b"abc", [b"def"]), (b"a", [b"", b"bcd", b"ef"])],
    )
    @pytest.mark.parametrize("head", ["GET / HTTP/1.1", "GET / HTTP/1.0", "HEAD / HTTP/1.1"])
    @pytest.mark.parametrize("late", [False, True])
    def test_one_head_and_all_the_bytes(
        self, head: str, written: bytes, blocks: list[bytes], length: Any, late: bool
    ) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            def generate(write: Any = None) -> Iterator[bytes]:
                write = write or start_response("200 OK", [TEXT, *length])
                write(written)
                yield from blocks

            return generate(None if late else start_response("200 OK", [TEXT, *length]))

        exchange = run(application, head)
        assert exchange.wire.count(b"HTTP/1.1 200 OK") == 1
        content = exchange.framed
        if exchange.values("Transfer-Encoding"):
            content = b"".join(re.findall(rb"[1-9]\r\n([a-f]+)\r\n", content))
        assert content == (b"" if head.startswith("HEAD") else b"abcdef")
        assert exchange.protocol.reusable == ("1.1" in head)

    def test_by_a_file(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            write = start_response("200 OK", [TEXT])

            class Source:
                blocks = [b"two", b""]

                def read(self, size: int) -> bytes:
                    write(b"one")
                    return self.blocks.pop(0)

            return environ["wsgi.file_wrapper"](Source())

        exchange = run(application)
        assert exchange.wire.count(b"HTTP/1.1") == 1
        assert re.findall(rb"\d\r\n([a-z]+)", exchange.framed) == [b"one", b"two", b"one"]


class TestStartResponseRaises:
    """PEP 3333: errors in the head are told at the call, while the application runs."""

    @pytest.mark.parametrize(
        ("status", "fields"),
        [
            ("OK", []), (None, []), (b"200 OK", []), ("100 Continue", []), ("200 OK\n", []),
            ("200 OK", None), ("200 OK", [("X", "a\nb")]), ("200 OK", [("X A", "a")]),
            ("200 OK", [("X", 1)]), ("200 OK", [("Content-Length", "x")]),
        ],
    )  # fmt: skip
    def test_the_application_can_answer_instead(self, status: Any, fields: Any, log: Log) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            try:
                start_response(status, fields)
            except ResponseError as error:
                assert str(error)
                start_response("503 Sorry", [TEXT], sys.exc_info())
            else:
                raise AssertionError("nothing was raised")
            return [b"sorry"]

        exchange = run(application)
        assert (exchange.status, exchange.framed) == (503, b"sorry")
        assert not log.texts

    def test_the_log_shows_the_call(self, log: Log) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("200 OK", [("X", "a\r\nb")])  # here
            return [b""]

        assert run(application).status == 500
        assert "# here" in log.text and "control character" in log.text

    def test_a_list_that_changes_later_changes_nothing(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            fields = [TEXT]
            start_response("200 OK", fields)
            fields.append(("X", "bad\n"))
            return [b"good"]

        exchange = run(application)
        assert (exchange.status, exchange.framed) == (200, b"good")

    def test_after_the_end(self) -> None:
        kept: list[Any] = []

        def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            kept.append(start_response)
            raise ValueError

        assert run(application).status == 500
        with pytest.raises(AssertionError, match="after the end"):
            kept[0]("200 OK", [])


class TestHeadThatCannotBeSent:
    @pytest.mark.parametrize(
        "status",
        [200, b"200 OK", None, ["200 OK"], "OK", "200  OK\r\n", "20 OK", "100 Continue", "2000"],
        ids=repr,
    )
    def test_status(self, status: Any, log: Log) -> None:
        assert run(answer([b"x"], status=status)).status == 500
        assert log.text.startswith("GET /: ")

    @pytest.mark.parametrize(
        "fields",
        [
            None,
            7,
            "Content-Type",
            [("X-Bytes", b"1")],
            [(b"X-Bytes", "1")],
            [("X-Number", 1)],
            [("X-One",)],
            [("X-Three", "1", "2")],
            [("X-Newline", "1\r\nX-Injected: 1")],
            [("X-Euro", "\u20ac")],
            [("X Space", "1")],
            [("", "1")],
            [("Content-Length", "-1")],
            [("Content-Length", "1"), ("Content-Length", "2")],
        ],
        ids=repr,
    )
    def test_fields(self, fields: Any, log: Log) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", fields)
            return [b"x"]

        exchange = run(application)
        assert exchange.status == 500
        assert "Injected" not in exchange.head
        assert log.text.startswith("GET /: ")

    def test_hop_by_hop_fields_are_left_out_with_one_remark(self) -> None:
        exchange = run(
            answer(
                [b"x"],
                ("Transfer-Encoding", "chunked"),
                ("Keep-Alive", "timeout=5"),
                ("Upgrade", "h2c"),
            )
        )
        assert exchange.status == 200
        for name in ("Transfer-Encoding", "Keep-Alive", "Upgrade"):
            assert exchange.values(name) == []
        assert len(exchange.protocol.remarks) == 1
        assert "Transfer-Encoding, Keep-Alive, Upgrade" in exchange.protocol.remarks[0]

    def test_repeated_fields_stay_apart_and_in_order(self) -> None:
        exchange = run(answer([b"x"], ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")))
        assert exchange.values("Set-Cookie") == ["a=1", "b=2"]

    def test_date_and_server_of_the_application_are_kept(self) -> None:
        exchange = run(answer([b"x"], ("dATE", "long ago"), ("server", "mine")))
        assert exchange.values("Date") == ["long ago"]
        assert exchange.values("Server") == ["mine"]


class TestContentLength:
    def test_one_block_is_the_whole(self) -> None:
        for result in ([b"whole"], (b"whole",), SizedBlocks(b"whole")):
            exchange = run(answer(result))
            assert exchange.values("Content-Length") == ["5"]
            assert exchange.framed == b"whole"

    def test_of_a_list_all_blocks_are_known(self) -> None:
        exchange = run(answer([b"one", b"", b"two"]))
        assert exchange.values("Content-Length") == ["6"]
        assert exchange.framed == b"onetwo"
        assert exchange.events == ["response"]  # and no thread waits for the client

    def test_of_a_long_list_too(self) -> None:
        exchange = run(answer([b"x" * 1_000_000] * 5))
        assert exchange.values("Content-Length") == ["5000000"]
        assert exchange.events == ["response"]

    def test_several_sized_blocks_are_sent_one_by_one(self) -> None:
        exchange = run(answer(SizedBlocks(b"one", b"two")))
        assert exchange.values("Transfer-Encoding") == ["chunked"]
        assert exchange.framed == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    def test_one_empty_block(self) -> None:
        for result in ([b""], (b"",), SizedBlocks(b""), Blocks(b""), [], (), Blocks()):
            exchange = run(answer(result))
            assert exchange.values("Content-Length") == ["0"], result
            assert exchange.framed == b""

    def test_len_that_fails_is_no_length(self) -> None:
        class Broken(Blocks):
            def __len__(self) -> int:
                raise NotImplementedError

        exchange = run(answer(Broken(b"one")))
        assert exchange.framed == b"3\r\none\r\n0\r\n\r\n"

    def test_len_that_lies_is_believed_and_the_rest_cut(self) -> None:
        class Liar(Blocks):
            def __len__(self) -> int:
                return 1

        exchange = run(answer(liar := Liar(b"one", b"two", b"three")))
        assert exchange.framed == b"one"
        assert exchange.protocol.reusable
        assert exchange.protocol.remarks == ["content past the Content-Length was cut off"]
        assert (liar.taken, liar.closed) == (2, 1)

    @pytest.mark.parametrize("length", [0, 2, 3, 4])
    def test_too_long_is_cut_at_any_place(self, length: int) -> None:
        for result in ([b"abc", b"def"], Blocks(b"abc", b"def"), [b"abcdef"]):
            exchange = run(answer(result, ("Content-Length", str(length))))
            assert exchange.framed == b"abcdef"[:length]
            assert exchange.protocol.remarks == ["content past the Content-Length was cut off"]
            assert exchange.protocol.reusable

    def test_too_long_stops_an_iterable_without_end(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [TEXT, ("Content-Length", "10")])
            while True:
                yield b"abc"

        assert run(application).framed == b"abcabcabca"

    def test_exactly_reached_the_iterable_runs_to_its_end(self) -> None:
        """What stands after the last yield is part of the application."""
        ends = []

        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [TEXT, ("Content-Length", "6")])
            yield b"abc"
            yield b"def"
            ends.append("reached")

        exchange = run(application)
        assert exchange.framed == b"abcdef"
        assert ends == ["reached"]
        assert exchange.protocol.remarks == []

    def test_too_short_closes_the_connection(self) -> None:
        for result in ([b"abc"], Blocks(b"abc"), Blocks(), []):
            exchange = run(answer(result, ("Content-Length", "9")))
            assert exchange.values("Content-Length") == ["9"]
            assert not exchange.protocol.reusable
            assert "shorter than its Content-Length" in exchange.protocol.remarks[0]

    def test_too_long_by_write(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            write = start_response("200 OK", [TEXT, ("Content-Length", "4")])
            write(b"abc")
            write(b"def")
            return [b"ghi"]

        exchange = run(application)
        assert exchange.framed == b"abcd"
        assert exchange.protocol.remarks == ["content past the Content-Length was cut off"]


class TestNoContent:
    """HEAD, 204 and 304: nothing is sent, nothing runs on, everything is closed."""

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            ("HEAD / HTTP/1.1", "200 OK"),
            ("GET / HTTP/1.1", "204 No Content"),
            ("GET / HTTP/1.1", "304 Not Modified"),
            ("HEAD / HTTP/1.0", "200 OK"),
        ],
    )
    def test_infinite_generator(self, head: str, status: str) -> None:
        log = []

        def blocks() -> Iterator[bytes]:
            try:
                while True:
                    log.append("block")
                    yield b"x" * 100
            finally:
                log.append("closed")

        exchange = run(answer(blocks(), status=status), head)
        assert exchange.framed == b""
        assert log == ["block", "closed"]
        assert exchange.protocol.finish() == head.endswith("1.1")
        assert exchange.protocol.remarks == []
        assert exchange.events.count("begin") == 1

    @pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
    def test_every_kind_of_result(self, status: str, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        file = path.open("rb")
        for result in (
            [b"content"],
            [b"con", b"tent"],
            [b"x" * 2_000_000],
            SizedBlocks(b"content"),
            Blocks(b"content"),
            Blocks(b"", b"content"),
            FileWrapper(file),
            FileWrapper(io.BytesIO(b"content")),
        ):
            exchange = run(answer(result, status=status), "HEAD / HTTP/1.1")
            assert exchange.framed == b"", result
            assert exchange.protocol.finish(), result
        assert file.closed

    def test_head_tells_the_length_that_get_would(self) -> None:
        for result in ([b"content"], SizedBlocks(b"content"), FileWrapper(io.BytesIO(b"content"))):
            head = run(answer(result), "HEAD / HTTP/1.1")
            assert head.values("Content-Length") == (
                [] if isinstance(result, FileWrapper) else ["7"]
            )

    def test_head_with_an_empty_result_tells_no_length(self) -> None:
        """Frameworks leave the content out of an answer to HEAD: it is not what GET would say."""
        for result in ([], [b""], Blocks()):
            assert run(answer(result), "HEAD / HTTP/1.1").values("Content-Length") == []

    def test_write(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            write = start_response("200 OK", [TEXT])
            write(b"content")
            write(b"content")
            return [b"content"]

        exchange = run(application, "HEAD / HTTP/1.1")
        assert exchange.framed == b""
        assert exchange.protocol.finish()


class TestWrite:
    def test_each_block_is_out_when_write_returns(self) -> None:
        exchange = Exchange()
        seen = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            write = start_response("200 OK", [TEXT])
            write(b"")
            seen.append(exchange.framed)
            write(b"one")
            seen.append(exchange.framed)
            write(b"two")
            seen.append(exchange.framed)
            return []

        Gateway(application).run(exchange)
        assert seen == [b"", b"3\r\none\r\n", b"3\r\none\r\n3\r\ntwo\r\n"]
        assert exchange.framed == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    @pytest.mark.parametrize("kind", [list, tuple, iter, lambda blocks: Blocks(*blocks)])
    def test_what_is_returned_follows_what_was_written(self, kind: Any) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            write = start_response("200 OK", [TEXT])
            write(b"one")
            return kind([b"two", b"three"])

        exchange = run(application)
        assert exchange.framed == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"

    def test_a_file_follows_what_was_written(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"file")

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            write = start_response("200 OK", [TEXT, ("Content-Length", "8")])
            write(b"and ")
            return environ["wsgi.file_wrapper"](path.open("rb"))

        assert run(application).framed == b"and file"

    def test_a_block_of_text_is_refused_where_it_is_written(self, log: Log) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT])("text")
            return []

        assert run(application).status == 500
        assert "block of str instead of bytes" in log.text
        assert 'start_response("200 OK", [TEXT])("text")' in log.text  # where

    def test_kept_beyond_the_response_it_puts_nothing_on_the_wire(self, log: Log) -> None:
        """The bytes would stand where the client expects its next response."""
        kept: list[Any] = []

        class Closing(Blocks):
            def close(self) -> None:
                super().close()
                kept[0](b"in close()")

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            kept.append(start_response("200 OK", [TEXT]))
            kept.append(start_response)
            return Closing(b"content")

        exchange = run(application)
        assert exchange.framed == b"7\r\ncontent\r\n0\r\n\r\n"
        assert "after the end of the response" in log.text
        with pytest.raises(AssertionError, match="after the end"):
            kept[0](b"later")
        with pytest.raises(AssertionError, match="second time"):
            kept[1]("200 OK", [])
        try:
            raise KeyError("late")
        except KeyError:
            with pytest.raises(KeyError, match="late"):
                kept[1]("500 Oh", [], sys.exc_info())
        assert exchange.framed == b"7\r\ncontent\r\n0\r\n\r\n"


class TestResult:
    @pytest.mark.parametrize(
        ("result", "name"),
        [(None, "None"), ("text", "str"), (b"bytes", "bytes"), (42, "int"), (1.5, "float")],
    )
    def test_that_is_no_iterable_of_blocks(self, result: Any, name: str, log: Log) -> None:
        assert run(answer(result)).status == 500
        assert log.texts == [
            f"GET /: the application returned {name} instead of an iterable of bytes"
        ]

    def test_of_an_async_application(self, log: Log) -> None:
        async def application(environ: dict[str, Any], start_response: Any) -> Any:
            return [b""]

        assert run(application).status == 500  # and no "never awaited": it is closed
        assert "it is async: this is a WSGI server" in log.text

    @pytest.mark.parametrize("block", ["text", None, 7, ["x"]], ids=repr)
    def test_with_a_block_that_is_none(self, block: Any, log: Log) -> None:
        for result in ([block], [b"x", block], (block,), Blocks(block)):
            log.texts.clear()
            assert run(answer(result)).status == 500
            kind = type(block).__name__
            assert log.texts == [f"GET /: the application gave a block of {kind} instead of bytes"]

    def test_with_a_bad_block_after_a_good_one(self) -> None:
        exchange = run(answer(Blocks(b"good", "bad")))
        assert exchange.framed == b"4\r\ngood\r\n"
        assert exchange.aborted

    def test_with_other_kinds_of_bytes(self) -> None:
        """More than the PEP asks for; the length counts bytes, not items."""

        class Bytes(bytes):
            pass

        numbers = memoryview(b"12345678").cast("i")
        for block in (bytearray(b"12345678"), memoryview(b"12345678"), numbers, Bytes(b"12345678")):
            for result in ([block], [b"", block], Blocks(block)):
                assert b"12345678" in run(answer(result)).framed
            assert run(answer([block, block])).values("Content-Length") == ["16"]

    def test_by_the_old_protocol_of_iteration(self) -> None:
        class Old:
            def __getitem__(self, index: int) -> bytes:
                return [b"one", b"two"][index]

        assert run(answer(Old())).framed == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    def test_empty_blocks_are_never_sent(self) -> None:
        exchange = run(answer(Blocks(b"", b"", b"one", b"", b"two", b"")))
        assert exchange.framed == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"

    def test_no_block_is_delayed(self) -> None:
        exchange = Exchange()
        seen = []

        def blocks() -> Iterator[bytes]:
            for number in range(4):
                yield b"%d" % number
                seen.append(exchange.framed)

        Gateway(answer(blocks())).run(exchange)
        assert seen == [b"".join(b"1\r\n%d\r\n" % n for n in range(k + 1)) for k in range(4)]

    def test_in_http_1_0_ends_with_the_connection(self) -> None:
        exchange = run(answer(Blocks(b"one", b"two")), "GET / HTTP/1.0")
        assert exchange.framed == b"onetwo"
        assert exchange.values("Transfer-Encoding") == []
        assert not exchange.protocol.finish()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


FAILURES: list[Callable[[], BaseException]] = [
    lambda: ValueError("of the application"),
    lambda: SystemExit(3),
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    MemoryError,
    RecursionError,
    BrokenPipeError,
    Unprintable,
    lambda: BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError()]),
]


@pytest.fixture(params=FAILURES, ids=lambda make: type(make()).__name__)
def failure(request: pytest.FixtureRequest) -> BaseException:
    made: BaseException = request.param()
    return made


class TestFailure:
    def test_in_the_call(self, failure: BaseException, log: Log) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            raise failure

        exchange = run(application, "GET /a%0Ab?c HTTP/1.1")
        assert exchange.status == 500
        assert b"of the application" not in exchange.wire
        assert exchange.protocol.reusable
        assert log.text.startswith("GET /a%0Ab?c: the application failed\n")
        assert "Traceback (most recent call last)" in log.text
        assert type(failure).__name__ in log.text

    def test_after_start_response(self, failure: BaseException) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT, ("X-First", "1")])
            raise failure

        exchange = run(application)
        assert exchange.status == 500
        assert exchange.values("X-First") == []

    def test_in_the_first_iteration(self, failure: BaseException) -> None:
        exchange = run(answer(blocks := Blocks(failure)))
        if isinstance(failure, StopIteration):
            return  # a generator turns it into a RuntimeError
        assert exchange.status == 500
        assert blocks.closed == 1

    def test_in_a_later_iteration(self, failure: BaseException, log: Log) -> None:
        class Failing(Blocks):
            def __iter__(self) -> Any:
                return self

            def __next__(self) -> bytes:
                self.taken += 1
                if self.taken == 1:
                    return b"one"
                raise failure

        exchange = run(answer(blocks := Failing()))
        if isinstance(failure, StopIteration):
            assert exchange.framed.endswith(b"0\r\n\r\n")
        else:
            assert exchange.framed == b"3\r\none\r\n"
            assert exchange.aborted
            assert not exchange.protocol.finish()
            assert "GET /: the application failed\n" in log.text
        assert blocks.closed == 1

    def test_after_write(self, failure: BaseException) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [TEXT])(b"one")
            raise failure

        exchange = run(application)
        assert exchange.framed == b"3\r\none\r\n"
        assert exchange.aborted

    def test_in_iter(self, failure: BaseException) -> None:
        class Failing(Blocks):
            def __iter__(self) -> Any:
                raise failure

        exchange = run(answer(blocks := Failing()))
        assert (exchange.status, blocks.closed) == (500, 1)

    def test_in_close(self, failure: BaseException, log: Log) -> None:
        class Failing(Blocks):
            def close(self) -> None:
                super().close()
                raise failure

        exchange = run(answer(blocks := Failing(b"one")))
        assert exchange.framed == b"3\r\none\r\n0\r\n\r\n"
        assert exchange.protocol.reusable
        assert blocks.closed == 1
        assert "GET /: close() of the response failed\n" in log.text

    def test_in_finding_close(self, failure: BaseException, log: Log) -> None:
        class Failing:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"one"])

            @property
            def close(self) -> Any:
                raise failure

        assert run(answer(Failing())).framed == b"3\r\none\r\n0\r\n\r\n"
        assert "close() of the response failed" in log.text

    def test_in_the_log(self, failure: BaseException) -> None:
        """A handler that somebody added must not take the request with it."""
        if not isinstance(failure, Exception):
            return

        class Failing(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise failure

        handler = Failing()
        logger = logging.getLogger("rawsgi.error")
        logger.addHandler(handler)
        try:
            assert run(answer(None)).status == 500
            assert run(answer(Blocks(ValueError()))).status == 500
        finally:
            logger.removeHandler(handler)


class TestClose:
    def test_close_that_cannot_be_called(self, log: Log) -> None:
        class Odd(Blocks):
            close = "soon"  # type: ignore[assignment]

        assert run(answer(Odd(b"one"))).framed.endswith(b"0\r\n\r\n")
        assert "close() of the response failed" in log.text

    def test_once_in_every_way_to_end(self) -> None:
        endings: list[tuple[Blocks, dict[str, Any]]] = [
            (Blocks(), {}),
            (Blocks(b"one"), {}),
            (SizedBlocks(b"one"), {}),
            (Blocks(b"one", ValueError()), {}),
            (Blocks(ValueError()), {}),
            (Blocks("text"), {}),
            (Blocks(b"one", "text"), {}),
            (Blocks(b"one", b"two"), {"leaves_after": 0}),
            (Blocks(b"one", b"two"), {"leaves_after": 1}),
            (Blocks(), {"leaves_after": 0}),
            (SizedBlocks(b"one"), {"leaves_after": 0}),
        ]
        for blocks, settings in endings:
            for head in ("GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"):
                blocks.closed = 0
                run(answer(blocks), head, **settings)
                assert blocks.closed == 1, (blocks.blocks, head)
            blocks.closed = 0
            run(lambda environ, start_response, blocks=blocks: blocks)
            assert blocks.closed == 1, "without start_response"

    def test_of_a_list_with_close(self) -> None:
        class ClosingList(list[bytes]):
            closed = 0

            def close(self) -> None:
                self.closed += 1

        blocks = ClosingList([b"one"])
        assert run(answer(blocks)).values("Content-Length") == ["3"]
        assert blocks.closed == 1

    def test_a_client_that_left_stops_the_iteration(self, log: Log) -> None:
        run(answer(blocks := Blocks(*[b"x"] * 100)), leaves_after=200)
        assert 2 < blocks.taken < 100
        assert blocks.closed == 1
        assert log.texts == []  # no failure of the application

    def test_a_generator_gets_its_exit(self) -> None:
        log = []

        def blocks() -> Iterator[bytes]:
            try:
                while True:
                    yield b"x"
            except GeneratorExit:
                log.append("exit")
                raise
            finally:
                log.append("finally")

        run(answer(blocks()), leaves_after=200)
        assert log == ["exit", "finally"]


class TestStreamedContent:
    """The content is still arriving: `content_bytes` is None, and `content` is its source."""

    class Source:
        def __init__(self, blocks: list[bytes], error: Any = None) -> None:
            self.blocks = blocks
            self.error = error

        def get(self, limit_bytes: int) -> bytes:
            return self.blocks.pop(0) if self.blocks else b""

    @staticmethod
    def echo(environ: dict[str, Any], start_response: Any) -> Any:
        content = environ["wsgi.input"].read()
        start_response("200 OK", [TEXT])
        return [content]

    def test_is_read(self) -> None:
        source = self.Source([b"one ", b"two"])
        exchange = run(self.echo, content=source, content_bytes=None)
        assert exchange.framed == b"one two"

    def test_length_of_chunks_is_not_known(self) -> None:
        seen: list[dict[str, Any]] = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            seen.append(environ)
            return self.echo(environ, start_response)

        exchange = Exchange()
        head = b"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
        exchange.protocol = HTTP1(PARSER, HeadEncoder())
        request = exchange.protocol.receive(head)
        assert request is not None
        exchange.request = request
        exchange.content = self.Source([b"x"])
        exchange.content_bytes = None
        Gateway(application).run(exchange)
        assert "CONTENT_LENGTH" not in seen[0]
        assert "HTTP_TRANSFER_ENCODING" not in seen[0]
        assert seen[0]["wsgi.input_terminated"] is True

    def test_cut_off_by_a_mistake_of_the_client(self, log: Log) -> None:
        error = ProtocolError(413, "the content is too long", "RFC 9110 section 15.5.14")
        exchange = run(self.echo, content=self.Source([b"x"], error), content_bytes=None)
        assert exchange.status == 413
        assert exchange.framed.startswith(b"413 ")
        assert b"The content is too long" in exchange.framed
        assert len(log.texts) == 1
        assert "Traceback" not in log.text

    def test_cut_off_after_the_head(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", [TEXT])
            yield b"out"
            yield environ["wsgi.input"].read()

        error = ProtocolError(400, "broken chunk", "RFC 9112 section 7.1")
        exchange = run(application, content=self.Source([], error), content_bytes=None)
        assert exchange.status == 200
        assert exchange.aborted

    def test_cut_off_because_the_client_left(self, log: Log) -> None:
        source = self.Source([], ClientDisconnected())
        exchange = run(self.echo, content=source, content_bytes=None)
        assert exchange.wire == b""
        assert exchange.aborted
        assert "Traceback" not in log.text

    def test_is_an_os_error_that_the_application_may_handle(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            try:
                environ["wsgi.input"].read()
            except OSError:
                start_response("400 Bad Request", [TEXT])
                return [b"try again"]

        exchange = run(
            application, content=self.Source([], ClientDisconnected()), content_bytes=None
        )
        assert exchange.framed == b"try again"

    def test_who_decides(self) -> None:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            return []

        assert not Gateway(application).streams_request
        assert Gateway(application, True).streams_request
        application.stream_request = True  # type: ignore[attr-defined]
        assert Gateway(application).streams_request
        application.stream_request = False  # type: ignore[attr-defined]
        assert not Gateway(application, True).streams_request


class TestNothingEscapes:
    """Whatever fails in the exchange itself, the thread survives and the iterable is closed."""

    METHODS = ["send_response", "begin_response", "send_data", "send_end", "send_file"]

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("error", [ClientDisconnected(), OSError(5, "odd"), ValueError()])
    def test_send(self, method: str, error: Exception, path_to_file: Path) -> None:
        results: list[Any] = [
            lambda: [b"x"],
            lambda: Blocks(b"x", b"y"),
            lambda: FileWrapper(path_to_file.open("rb")),
        ]
        if method == "send_response" and not isinstance(error, ClientDisconnected):
            return  # the 500 cannot be sent either: only a fault of the server itself
        for make in results:
            result = make()
            exchange = Exchange()

            def fail(*_: Any) -> None:
                raise error

            setattr(exchange, method, fail)
            Gateway(answer(result)).run(exchange)
            if isinstance(result, Blocks):
                assert result.closed == 1
            if isinstance(result, FileWrapper):
                assert result.file.closed

    @pytest.fixture
    def path_to_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.write_bytes(b"content")
        return path

    def test_interruption_while_the_failure_is_answered(self) -> None:
        """An asynchronous exception may come anywhere: close() is called all the same."""
        exchange = Exchange()

        class Interruption(BaseException):
            pass

        def interrupted(*_: Any) -> None:
            raise Interruption

        exchange.send_response = interrupted  # type: ignore[assignment, method-assign]
        blocks = Blocks(ValueError())
        with pytest.raises(Interruption):
            Gateway(answer(blocks)).run(exchange)
        assert blocks.closed == 1


def test_errors_name_the_request_and_nobody_can_forge_them(log: Log) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        raise ValueError

    exchange = Exchange()
    exchange.request.target = '/a\r\n"b\xff'  # more than a parser would let through
    Gateway(application).run(exchange)
    assert log.text.splitlines()[0] == r"GET /a\x0D\x0A\x22b\xFF: the application failed"


def test_the_traceback_leads_to_the_application(log: Log) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        local: dict[str, bytes] = {}
        return local["missing"]

    run(application)
    assert 'return local["missing"]' in log.text
    assert "KeyError: 'missing'" in log.text


def test_exc_info_of_an_application_that_gives_only_a_type() -> None:
    """Broken exc_info must not become a second head."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield b"out"
        empty: tuple[None, None, TracebackType | None] = (None, None, None)
        start_response("500 Oh", [TEXT], empty)
        yield b"never"

    exchange = run(application)
    assert exchange.framed == b"3\r\nout\r\n"
    assert exchange.aborted


def test_an_interruption_that_the_log_has_told_of_is_not_told_again(log: Log) -> None:
    class Interruption(BaseException):
        is_logged = True

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        raise Interruption

    exchange = Exchange()
    Gateway(application).run(exchange)
    assert exchange.status == 500
    assert log.text == ""
