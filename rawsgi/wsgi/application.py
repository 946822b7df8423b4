"""From `hello:app` to a callable: find the module, then the application inside it.

The rule of this file: whatever goes wrong is an `ApplicationError` that says in one line what is
wrong and what would be right. A module that does not exist, one that imports something missing,
and one that fails are three different mistakes. Only literals are evaluated, never an expression.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any
from wsgiref.types import WSGIApplication

ATTRIBUTES = ("app", "application")
FACTORIES = ("create_app", "make_app")
CANDIDATES_SHOWN = 5

_PATH = re.compile(r"(?P<path>.+?\.py)(?::(?P<attribute>.*))?", re.DOTALL)
# A callable without arguments may be anything; one with such a name makes an application.
_FACTORY = re.compile("app|wsgi|create|make|build|factory", re.I)
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


class ApplicationError(Exception):
    """The application cannot be had. The text is one line for the user.

    `traceback` is the formatted traceback of the application's own frames, or None where the
    mistake is not inside the application.
    """

    def __init__(self, message: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True, slots=True)
class Reference:
    """An attribute taken apart: `a.b.make("x", debug=True)`; `call` without parentheses: None."""

    names: tuple[str, ...]
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def dotted(self) -> str:
        return ".".join(self.names)


def load_application(spec: str, app_dir: str) -> WSGIApplication:
    """The application that `spec` names; raises ApplicationError. Main thread, once.

    `spec` is MODULE[:ATTR] or a path to a .py file with [:ATTR]. `app_dir` goes first on sys.path;
    for a path the folder of the file does, or of the package that the file belongs to.
    """
    return find_application(spec, app_dir)[1]


def find_application(spec: str, app_dir: str) -> tuple[str, WSGIApplication]:
    """The same, with the name under which it was found: `hello` becomes `hello:app`."""
    match = _PATH.fullmatch(spec)
    if match is not None:
        target, text = match["path"], match["attribute"]
    else:
        target, colon, rest = spec.partition(":")
        text = rest if colon else None
    reference = None if text is None else parse_reference(spec, text)
    if match is not None:
        module = _import_file(target)
    else:
        module = _import_module(spec, target, app_dir)
    if reference is None:
        name, found = _search_defaults(module, target)
    else:
        name, found = text or "", _take(module, target, reference)
    shown = f"{target}:{name}"
    check_callable(found, shown)
    return shown, found


def parse_reference(spec: str, text: str) -> Reference:
    """Read ATTR with the grammar of Python, but accept names, dots and one call with literals."""
    refusal = ApplicationError(
        f"{spec!r}: after the colon comes a name, such as app, api.app or make_app('x', debug=True)"
    )
    try:
        node: ast.expr = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise refusal from None
    call = None
    if isinstance(node, ast.Call):
        try:
            arguments = tuple(ast.literal_eval(each) for each in node.args)
            keywords = {each.arg or "": ast.literal_eval(each.value) for each in node.keywords}
        except (ValueError, TypeError, MemoryError, RecursionError):
            raise ApplicationError(
                f"{spec!r}: only literals can be given: texts, numbers, True, None, lists, ..."
            ) from None
        if "" in keywords or len(keywords) < len(node.keywords):
            raise refusal
        call = (arguments, keywords)
        node = node.func
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise refusal
    return Reference((node.id, *reversed(names)), call)


def _import_module(spec: str, name: str, app_dir: str) -> ModuleType:
    if not os.path.isdir(app_dir):
        raise ApplicationError(f"--app-dir {app_dir}: there is no such folder")
    folder = os.path.abspath(app_dir)
    if not _MODULE.fullmatch(name):
        hint = "a module is written with dots, such as shop.web"
        if os.path.exists(name):
            hint = "is that a path? It must lead to a .py file"
        raise ApplicationError(f"{spec!r}: {name!r} is no module name; {hint}")
    _put_first(folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if missing and _is_part(error.name, name) and not _trim(error.__traceback__):  # type: ignore[attr-defined]
            raise ApplicationError(_describe_missing(name, error.name, folder)) from None  # type: ignore[attr-defined]
        raise _describe_import_failure(name, error) from None


def _import_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "there is no such file"
        near = _suggest(Path(path).name, _list_files(Path(path).parent))
        raise ApplicationError(f"{path}: {what}{near}")
    file = Path(os.path.abspath(path))
    # A file in a package is imported as a part of it: relative imports work then.
    folder, names = file.parent, [file.stem]
    if file.name == "__init__.py":
        names = []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    _put_first(str(folder))
    if len(names) > 1 and all(name.isidentifier() for name in names):
        return _import_module(path, ".".join(names), str(folder))
    name = names[0] if names else file.parent.name
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(file):
            return loaded
        name = f"application_{name}"  # the file is called like a module that is in use already
    package = [str(file.parent)] if file.name == "__init__.py" else None
    found = importlib.util.spec_from_file_location(name, file, submodule_search_locations=package)
    assert found is not None and found.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.modules.pop(name, None)
        raise _describe_import_failure(path, error) from None
    return module


def _put_first(folder: str) -> None:
    if not sys.path or sys.path[0] != folder:
        sys.path.insert(0, folder)


def _is_part(missing: str, name: str) -> bool:
    """Is the missing module the wanted one, or a package that it would be in?"""
    return name == missing or name.startswith(missing + ".")


def _describe_missing(name: str, missing: str, folder: str) -> str:
    """One line for a module that does not exist, with what the person may have meant."""
    parent, _, last = missing.rpartition(".")
    if parent:
        package = sys.modules.get(parent)
        places = getattr(package, "__path__", None)
        if places is None:  # `hello.app` where `hello:app` was meant
            return (
                f"no module named {name!r}: {parent!r} is no package; did you mean {parent}:{last}?"
            )
        near = _suggest(last, (each for place in places for each in _list_modules(Path(place))))
        return f"no module named {name!r}: the package {parent!r} has no {last!r}{near}"
    near = _suggest(missing, _list_modules(Path(folder)))
    help = "--app-dir says in which folder it is"
    if deeper := _find_deeper(Path(folder), missing):
        near, help = "", f"did you mean {deeper}?"
    return f"no module named {missing!r} in {folder} or on sys.path{near}; {help}"


def _find_deeper(folder: Path, name: str) -> str:
    """The file of that module one folder below, such as examples/hello.py; "" for none."""
    try:
        found = sorted(folder.glob(f"*/{name}.py"))
    except OSError:
        return ""
    return os.path.relpath(found[0]) if found else ""


def _list_modules(folder: Path) -> list[str]:
    """Names of the modules and packages in a folder."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        each.stem
        for each in entries
        if each.stem.isidentifier() and (each.suffix == ".py" or (each / "__init__.py").is_file())
    ]


def _list_files(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.suffix == ".py")
    except OSError:
        return []


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _describe_import_failure(name: str, error: BaseException) -> ApplicationError:
    """An error inside the module: its own traceback, then one line."""
    frames = _trim(error.__traceback__)
    reason = _describe_exception(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason = f"it imports {error.name!r}, which is not found"
        if not _exists(error.name.partition(".")[0]):
            reason += f"; is it installed for {sys.executable}?"
    elif isinstance(error, SystemExit) and isinstance(error.code, str):
        # It says itself what is wrong, as sys.exit("...") is meant.
        return ApplicationError(f"{name!r} stopped while it was imported: {_make_line(error.code)}")
    elif isinstance(error, SystemExit):
        reason = f"it stopped while it was imported: {_describe_exception(error)}"
    if frames:
        reason += f" ({_describe_place(frames)})"
    elif isinstance(error, SyntaxError) and error.filename:
        reason += f" ({error.filename}, line {error.lineno})"
    return ApplicationError(f"cannot import {name!r}: {reason}", _format(error, frames))


def _exists(name: str) -> bool:
    """Is there a top-level module of this name, imported or not?"""
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _describe_exception(error: BaseException) -> str:
    text = _make_line(error.msg if isinstance(error, SyntaxError) else str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _make_line(text: str) -> str:
    """One line that steers no terminal."""
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in text)


def _describe_place(frames: TracebackType) -> str:
    """Where the last own frame stands."""
    last = frames
    while last.tb_next is not None and not _is_machinery(last.tb_next):
        last = last.tb_next
    return f"{last.tb_frame.f_code.co_filename}, line {last.tb_lineno}"


def _is_machinery(frames: TracebackType) -> bool:
    """Frames of this module and of importlib tell the user nothing."""
    filename = frames.tb_frame.f_code.co_filename
    return (
        filename == __file__
        or filename.startswith("<frozen importlib")
        or (os.path.dirname(filename) == os.path.dirname(importlib.__file__))
    )


def _trim(frames: TracebackType | None) -> TracebackType | None:
    """Drop machinery from the front; None when nothing of the application is left."""
    while frames is not None and _is_machinery(frames):
        frames = frames.tb_next
    return frames


def _format(error: BaseException, frames: TracebackType | None) -> str:
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


def _search_defaults(module: ModuleType, target: str) -> tuple[str, Any]:
    """Nothing was said after the module: `app`, `application`, then a factory without arguments."""
    present = []
    for name in ATTRIBUTES:
        found = getattr(module, name, None)
        if callable(found):
            return name, found
        if found is not None:
            present.append(f"{name!r} is {_describe_value(found)}, not callable")
    for name in FACTORIES:
        found = getattr(module, name, None)
        if callable(found):
            return f"{name}()", _call_factory(found, f"{target}:{name}", (), {})
    if present:
        raise ApplicationError(f"{target}: {'; '.join(present)}{_offer(module, target, '')}")
    names = ", ".join((*ATTRIBUTES, *FACTORIES))
    raise ApplicationError(f"{target}: none of {names} is there{_offer(module, target, '')}")


def _take(module: ModuleType, target: str, reference: Reference) -> Any:
    """Follow the names, then make the call if there is one."""
    found: Any = module
    for index, name in enumerate(reference.names):
        try:
            found = getattr(found, name)
        except AttributeError:
            owner = ":".join(filter(None, (target, ".".join(reference.names[:index]))))
            offer = _offer(found, target, name, ".".join(reference.names[:index]))
            raise ApplicationError(f"{owner} has no attribute {name!r}{offer}") from None
    if reference.call is None:
        return found
    shown = f"{target}:{reference.dotted}"
    if not callable(found):
        raise ApplicationError(f"{shown} is {_describe_value(found)}; it cannot be called")
    return _call_factory(found, shown, *reference.call)


def _call_factory(
    factory: Callable[..., Any], shown: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    signature = _find_signature(factory)
    if signature is not None:
        try:
            signature.bind(*arguments, **keywords)
        except TypeError as error:
            hint = f"; write the arguments, as in {shown}('x', debug=True)"
            if arguments or keywords:
                hint = ""
            elif _accepts(signature, {}, None):
                hint = f"; if it is the application itself, write {shown}"
            raise ApplicationError(f"{shown}{signature}: {error}{hint}") from None
    try:
        made = factory(*arguments, **keywords)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = _trim(error.__traceback__)
        place = f" ({_describe_place(frames)})" if frames else ""
        raise ApplicationError(
            f"the factory {shown} failed: {_describe_exception(error)}{place}",
            _format(error, frames),
        ) from None
    if not callable(made):
        raise ApplicationError(
            f"the factory {shown} returned {_describe_value(made)}, not a WSGI application"
        )
    return made


def _find_signature(value: Any) -> inspect.Signature | None:
    try:
        # Not that of a wrapped function: a decorator may have changed it.
        return inspect.signature(value, follow_wrapped=False)
    except Exception:  # builtins and objects with ideas of their own
        return None


def check_callable(found: Any, shown: str) -> None:
    """Raise ApplicationError for what cannot be called as application(environ, start_response)."""
    if not callable(found):
        raise ApplicationError(f"{shown} is {_describe_value(found)}, not callable")
    call = found if inspect.isroutine(found) else getattr(type(found), "__call__", None)  # noqa: B004
    if inspect.iscoroutinefunction(call):
        raise ApplicationError(
            f"{shown} is an async (ASGI) application; rawsgi serves WSGI: "
            "use an ASGI server, or wrap it with a2wsgi"
        )
    signature = _find_signature(found)
    if inspect.isclass(found) and _makes_applications(found):
        bare = signature is None or _accepts(signature)
        write = f"write {shown}{'()' if bare else '(...) with its arguments'}"
        raise ApplicationError(f"{shown} is a class, and its instances are applications: {write}")
    if signature is None:
        return
    if not _accepts(signature, {}, None):
        hint = ""
        if not inspect.isclass(found) and _accepts(signature):
            hint = f"; if it makes the application, write {shown}()"
        raise ApplicationError(f"{shown}{signature} does not take (environ, start_response){hint}")


def _accepts(signature: inspect.Signature, *arguments: object) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _describe_value(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def _offer(owner: Any, target: str, wanted: str, prefix: str = "") -> str:
    """Applications that may have been meant: close spelling first, then what is defined here."""
    ranked = []
    try:
        members = vars(owner)
    except TypeError:
        return ""
    for name, value in members.items():
        if name.startswith("_") or not callable(value) or not (form := _find_form(name, value)):
            continue
        likeness = difflib.SequenceMatcher(None, wanted.lower(), name.lower()).ratio()
        if inspect.isclass(value) or inspect.isroutine(value):
            own = getattr(value, "__module__", None) == getattr(owner, "__name__", None)
            if not own and likeness < 0.6:
                continue
            rank = 2 if inspect.isclass(value) else 1
        else:
            rank = 0  # an object that can be called is what frameworks make
        ranked.append((likeness < 0.6, rank, -likeness, form))
    names = [f"{target}:{prefix}{'.' if prefix else ''}{entry[3]}" for entry in sorted(ranked)]
    return f"; what may be meant: {', '.join(names[:CANDIDATES_SHOWN])}" if names else ""


def _find_form(name: str, value: Any) -> str:
    """How a callable would be written to be served; "" if it can be no application."""
    call = value if inspect.isroutine(value) else getattr(type(value), "__call__", None)  # noqa: B004
    if inspect.iscoroutinefunction(call):
        return ""
    signature = _find_signature(value)
    if inspect.isclass(value):
        if not _makes_applications(value):
            return name if hasattr(value, "__iter__") and _takes_request(signature) else ""
        return f"{name}()" if signature is None or _accepts(signature) else ""
    if _takes_request(signature):
        return name
    is_factory = signature is not None and _accepts(signature) and _FACTORY.search(name)
    return f"{name}()" if is_factory else ""


def _takes_request(signature: inspect.Signature | None) -> bool:
    return signature is None or _accepts(signature, {}, None)


def _makes_applications(value: type) -> bool:
    """Are instances of the class applications, and not the class itself (PEP 3333 knows both)?"""
    call = getattr(value, "__call__", None)  # noqa: B004
    if not inspect.isfunction(call) or hasattr(value, "__iter__"):
        return False
    signature = _find_signature(call)
    return signature is None or _accepts(signature, value, {}, None)
