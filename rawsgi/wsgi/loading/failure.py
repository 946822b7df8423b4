"""What went wrong while an application was loaded: one line, and the frames that are its own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from types import TracebackType


class ApplicationError(Exception):
    """The application cannot be had. The text is one line for the user.

    `traceback` is the formatted traceback of the application's own frames, or None where the
    mistake is not inside the application.
    """

    def __init__(self, message: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


def describe_import_failure(name: str, error: BaseException) -> ApplicationError:
    """An error inside the module: its own traceback, then one line."""
    frames = trim(error.__traceback__)
    reason = describe_exception(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason = f"it imports {error.name!r}, which is not found"
        if not _exists(error.name.partition(".")[0]):
            reason += f"; is it installed for {sys.executable}?"
    elif isinstance(error, SystemExit) and isinstance(error.code, str):
        # It says itself what is wrong, as sys.exit("...") is meant.
        return ApplicationError(f"{name!r} stopped while it was imported: {_make_line(error.code)}")
    elif isinstance(error, SystemExit):
        reason = f"it stopped while it was imported: {describe_exception(error)}"
    elif isinstance(error, ImportError) and frames and error.path == _find_place(frames)[0]:
        reason = f"it imports itself instead of the package {error.name!r}: rename the file"
    if frames:
        reason += f" ({describe_place(frames)})"
    elif isinstance(error, SyntaxError) and error.filename:
        reason += f" ({error.filename}, line {error.lineno})"
    return ApplicationError(f"cannot import {name!r}: {reason}", format_own(error, frames))


def _exists(name: str) -> bool:
    """Is there a top-level module of this name, imported or not?"""
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def describe_exception(error: BaseException) -> str:
    text = _make_line(error.msg if isinstance(error, SyntaxError) else str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _make_line(text: str) -> str:
    """One line that steers no terminal."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in text)


def describe_place(frames: TracebackType) -> str:
    filename, line = _find_place(frames)
    return f"{filename}, line {line}"


def _find_place(frames: TracebackType) -> tuple[str, int]:
    """File and line of the last own frame."""
    last = frames
    while last.tb_next is not None and not _is_machinery(last.tb_next):
        last = last.tb_next
    return last.tb_frame.f_code.co_filename, last.tb_lineno


def _is_machinery(frames: TracebackType) -> bool:
    """Frames of this folder and of importlib tell the user nothing."""
    filename = frames.tb_frame.f_code.co_filename
    return (
        os.path.dirname(filename) == os.path.dirname(__file__)
        or filename.startswith("<frozen importlib")
        or (os.path.dirname(filename) == os.path.dirname(importlib.__file__))
    )


def trim(frames: TracebackType | None) -> TracebackType | None:
    """Drop machinery from the front; None when nothing of the application is left."""
    while frames is not None and _is_machinery(frames):
        frames = frames.tb_next
    return frames


def format_own(error: BaseException, frames: TracebackType | None) -> str:
    """The traceback from its first own frame on, without frames of the import machinery."""
    formatted = traceback.TracebackException(type(error), error, frames)
    for each in (formatted, formatted.__cause__, formatted.__context__):
        if each is not None:
            each.stack = traceback.StackSummary.from_list(
                [
                    frame
                    for frame in each.stack
                    if not frame.filename.startswith("<frozen importlib")
                ]
            )
    return "".join(formatted.format())
