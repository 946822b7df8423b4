"""The module that holds the application: by its name, or by the path of its file.

The rule of this file: a module that does not exist, one that imports something missing, and one
that fails are three different mistakes, and each is told as what it is.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from rawsgi.wsgi.loading.failure import ApplicationError, describe_import_failure, trim

_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def import_module(spec: str, name: str, app_dir: str) -> ModuleType:
    if not os.path.isdir(app_dir):
        raise ApplicationError(f"--app-dir {app_dir}: there is no such folder")
    folder = _make_absolute(app_dir)
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
        if missing and _is_part(error.name, name) and not trim(error.__traceback__):  # type: ignore[attr-defined]
            raise ApplicationError(_describe_missing(name, error.name, folder)) from None  # type: ignore[attr-defined]
        raise describe_import_failure(name, error) from None


def import_file(path: str) -> ModuleType:
    if not os.path.isfile(path):
        raise ApplicationError(f"{path}: {_describe_no_file(path)}")
    file = Path(_make_absolute(path))
    # A file in a package is imported as a part of it: relative imports work then.
    folder, names = file.parent, [file.stem]
    if file.name == "__init__.py":
        names = []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    _put_first(str(folder))
    if len(names) > 1 and all(name.isidentifier() for name in names):
        return import_module(path, ".".join(names), str(folder))
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
        raise describe_import_failure(path, error) from None
    return module


def _make_absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # as after a deployment that puts another folder in its place
        raise ApplicationError("the current folder is gone; change to it again") from None


def _describe_no_file(path: str) -> str:
    try:
        os.stat(path)
    except PermissionError:
        return "permission denied"
    except (OSError, ValueError):
        return "there is no such file" + _suggest(Path(path).name, _list_files(Path(path).parent))
    return "is a folder" if os.path.isdir(path) else "is no file"


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
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"no module named {missing!r} can be looked for in {folder}: permission denied"
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
