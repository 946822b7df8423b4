"""From `hello:app` to a callable: find the module, then the application inside it.

The rule of this file: whatever goes wrong is an `ApplicationError` that says in one line what is
wrong and what would be right. Only literals are evaluated, never an expression.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from wsgiref.types import WSGIApplication

from rawsgi.wsgi.loading.failure import (
    ApplicationError,
    describe_exception,
    describe_place,
    format_own,
    trim,
)
from rawsgi.wsgi.loading.importing import import_file, import_module

ATTRIBUTES = ("app", "application")
FACTORIES = ("create_app", "make_app")
CANDIDATES_SHOWN = 5

_PATH = re.compile(r"(?P<path>.+?\.py)(?::(?P<attribute>.*))?", re.DOTALL)
# A callable without arguments may be anything; one with such a name makes an application.
_FACTORY = re.compile("app|wsgi|create|make|build|factory", re.I)


@dataclass(frozen=True, slots=True)
class Reference:
    """An attribute taken apart: `a.b.make("x", debug=True)`; `call` without parentheses: None."""

    names: tuple[str, ...]
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def dotted(self) -> str:
        return ".".join(self.names)


def find_application(spec: str, app_dir: str) -> tuple[str, WSGIApplication]:
    """The application that `spec` names, and the name under which it was found: `hello` becomes
    `hello:app`. Raises ApplicationError. Main thread, once.

    `spec` is MODULE[:ATTR] or a path to a .py file with [:ATTR]. `app_dir` goes first on sys.path;
    for a path the folder of the file does, or of the package that the file belongs to.
    """
    match = _PATH.fullmatch(spec)
    if match is not None:
        target, text = match["path"], match["attribute"]
    else:
        target, colon, rest = spec.partition(":")
        text = rest if colon else None
    reference = None if text is None else parse_reference(spec, text)
    if match is not None:
        module = import_file(target)
    else:
        module = import_module(spec, target, app_dir)
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
        frames = trim(error.__traceback__)
        place = f" ({describe_place(frames)})" if frames else ""
        raise ApplicationError(
            f"the factory {shown} failed: {describe_exception(error)}{place}",
            format_own(error, frames),
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
