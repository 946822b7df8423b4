"""rawsgi/wsgi/loading: from what a person wrote to the application, or one clear line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawsgi.wsgi.loading.application import Reference, find_application, parse_reference
from rawsgi.wsgi.loading.failure import ApplicationError

APP = "def {name}(environ, start_response):\n    return [b'{name}']\n"


@pytest.fixture(autouse=True)
def clean_modules() -> Iterator[None]:
    """What a test imports is gone after it."""
    modules, path, bytecode = dict(sys.modules), sys.path[:], sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # modules of one name follow each other within a second
    yield
    sys.dont_write_bytecode = bytecode
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


class Folder:
    """A folder of modules to load from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
        return str(file)

    def find(self, spec: str) -> tuple[str, bytes]:
        """The name that was found, and what the application answers."""
        name, application = find_application(spec, str(self.path))
        return name, b"".join(application({}, lambda *_: None))  # type: ignore[arg-type]

    def refuse(self, spec: str) -> ApplicationError:
        with pytest.raises(ApplicationError) as caught:
            find_application(spec, str(self.path))
        text = str(caught.value)
        assert "\n" not in text and text.isprintable(), text
        return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def write_app(name: str) -> str:
    return APP.format(name=name)


# -- What is found ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "answer"),
    [
        (write_app("app") + write_app("application"), "app", b"app"),
        (write_app("application") + write_app("create_app"), "application", b"application"),
        (f"def create_app():\n    return made\n{write_app('made')}", "create_app()", b"made"),
        (f"def make_app(x=1):\n    return made\n{write_app('made')}", "make_app()", b"made"),
        (f"app = None\n{write_app('application')}", "application", b"application"),
        (f"import sys as app\n{write_app('application')}", "application", b"application"),
    ],
)
def test_without_an_attribute(folder: Folder, text: str, name: str, answer: bytes) -> None:
    folder.write("hello.py", text)
    assert folder.find("hello") == (f"hello:{name}", answer)


def test_named_attributes(folder: Folder) -> None:
    folder.write(
        "shop/web.py",
        """
        def api(environ, start_response):
            return [b"api"]

        class Holder:
            inner = staticmethod(api)

            @staticmethod
            def make(word="none", *, debug=False):
                return lambda environ, start_response: [f"{word} {debug}".encode()]

        class Application:
            def __init__(self, environ, start_response):
                pass

            def __iter__(self):
                yield b"class"

        class Callable:
            def __call__(self, environ, start_response):
                return [b"instance"]

        instance = Callable()
        """,
    )
    for attribute, answer in [
        ("api", b"api"),
        ("Holder.inner", b"api"),
        ("Holder.make()", b"none False"),
        ("Holder.make('x', debug=True)", b"x True"),
        ("Holder.make(['a', 1])", b"['a', 1] False"),
        ("Application", b"class"),
        ("instance", b"instance"),
        ("Callable()", b"instance"),
    ]:
        assert folder.find(f"shop.web:{attribute}") == (f"shop.web:{attribute}", answer)


def test_a_path_to_a_file(folder: Folder) -> None:
    folder.write("examples/neighbour.py", "word = b'neighbour'\n")
    path = folder.write(
        "examples/hello-there.py",
        """
        import sys
        from neighbour import word
        assert sys.modules[__name__].__dict__ is globals()
        def app(environ, start_response): return [word]
        def other(environ, start_response): return [b"other"]
        """,
    )
    assert folder.find(path) == (f"{path}:app", b"neighbour")
    assert folder.find(f"{path}:other") == (f"{path}:other", b"other")
    assert sys.path[0] == str(folder.path / "examples")


def test_a_relative_path(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("examples/hello.py", write_app("app"))
    monkeypatch.chdir(folder.path)
    assert folder.find("examples/hello.py:app") == ("examples/hello.py:app", b"app")


def test_a_file_in_a_package_is_a_part_of_it(folder: Folder) -> None:
    folder.write("shop/__init__.py", "")
    folder.write("shop/inner/__init__.py", "from . import words\n" + write_app("app"))
    folder.write("shop/inner/words.py", "word = b'relative'\n")
    path = folder.write(
        "shop/inner/web.py",
        "from .words import word\ndef app(environ, start_response): return [word]\n",
    )
    assert folder.find(path) == (f"{path}:app", b"relative")
    assert "shop.inner.web" in sys.modules
    package = str(folder.path / "shop" / "inner" / "__init__.py")
    assert folder.find(package) == (f"{package}:app", b"app")


def test_a_file_with_the_name_of_a_module_in_use_harms_neither(folder: Folder) -> None:
    path = folder.write("textwrap.py", write_app("app"))
    assert folder.find(path)[1] == b"app"
    assert sys.modules["textwrap"].dedent is dedent


def test_the_folder_goes_first_on_the_path_once(folder: Folder) -> None:
    folder.write("hello.py", write_app("app"))
    before = sys.path[:]
    folder.find("hello")
    folder.find("hello:app")
    assert sys.path == [str(folder.path), *before]


@pytest.mark.parametrize(
    "text",
    [
        "def app(*args): return [b'ok']",
        "def app(environ, start_response, extra=None): return [b'ok']",
        "import functools\napp = functools.partial(lambda x, e, s: [b'ok'], 1)",
        # A decorator that tells the signature of what it wraps, as Werkzeug's does.
        """
        import functools
        def inner(request): return b'ok'
        @functools.wraps(inner)
        def app(*args): return [inner(args)]
        """,
        "class A:\n    __signature__ = 7\n    def __call__(self, *a): return [b'ok']\napp = A()",
    ],
)
def test_unusual_callables_are_accepted(folder: Folder, text: str) -> None:
    folder.write("hello.py", text)
    assert folder.find("hello:app")[1] == b"ok"


# -- Modules that are not there, or fail --------------------------------------------------------


def test_no_such_module(folder: Folder) -> None:
    folder.write("hello.py", write_app("app"))
    error = folder.refuse("helo:app")
    assert str(error) == (
        f"no module named 'helo' in {folder.path} or on sys.path; did you mean hello?; "
        "--app-dir says in which folder it is"
    )
    assert error.traceback is None


def test_a_module_that_lies_one_folder_deeper(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("examples/hello.py", write_app("app"))
    monkeypatch.chdir(folder.path)
    error = folder.refuse("hello:app")
    assert str(error).endswith("on sys.path; did you mean examples/hello.py?")


def test_a_module_that_stops_with_a_sentence_needs_no_traceback(folder: Folder) -> None:
    folder.write("hello.py", "raise SystemExit('FOLDER=x: there is\\n no such folder')\n")
    error = folder.refuse("hello")
    assert str(error) == (
        "'hello' stopped while it was imported: FOLDER=x: there is no such folder"
    )
    assert error.traceback is None


def test_no_such_module_in_a_package(folder: Folder) -> None:
    folder.write("shop/__init__.py", "")
    folder.write("shop/web.py", "")
    text = str(folder.refuse("shop.wbe"))
    assert text == (
        "no module named 'shop.wbe': the package 'shop' has no 'wbe'; did you mean web?"
    )


def test_a_dot_where_a_colon_was_meant(folder: Folder) -> None:
    folder.write("hello.py", write_app("app"))
    error = folder.refuse("hello.app")
    assert "'hello' is no package; did you mean hello:app?" in str(error)


def test_a_module_that_imports_something_missing_is_told_apart(folder: Folder) -> None:
    path = folder.write("hello.py", "x = 1\nimport not_installed.sub\n")
    error = folder.refuse("hello:app")
    assert str(error) == (
        "cannot import 'hello': it imports 'not_installed', which is not found; "
        f"is it installed for {sys.executable}? ({path}, line 2)"
    )
    assert error.traceback is not None
    assert error.traceback.startswith("Traceback (most recent call last):\n  File ")
    assert "importlib" not in error.traceback and "application.py" not in error.traceback
    assert "import not_installed.sub" in error.traceback


def test_a_module_that_imports_a_part_of_itself_that_is_missing(folder: Folder) -> None:
    folder.write("hello.py", "import hello.part\n")
    error = folder.refuse("hello:app")
    assert str(error).startswith("cannot import 'hello': it imports 'hello.part'")
    assert "is it installed" not in str(error)


def test_a_module_that_raises_its_own_kind_of_missing(folder: Folder) -> None:
    folder.write("hello.py", "raise ModuleNotFoundError('gone', name='hello')\n")
    assert str(folder.refuse("hello")).startswith("cannot import 'hello'")


@pytest.mark.parametrize("by_path", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    1 / 0\nf()\n", "ZeroDivisionError: division by zero ("),
        ("def f(:\n", "SyntaxError: "),
        ("import sys\nsys.exit(3)\n", "it stopped while it was imported: SystemExit: 3 ("),
        ("raise ValueError('a\\nb\\x1b[2J')\n", "ValueError: a b?[2J ("),
        ("raise BaseException\n", "BaseException ("),
        ("from os import nothing_like_it\n", "ImportError: cannot import name"),
    ],
)
def test_a_module_that_fails(folder: Folder, text: str, expected: str, by_path: bool) -> None:
    path = folder.write("hello.py", text)
    error = folder.refuse(path if by_path else "hello")
    assert str(error).startswith("cannot import ") and expected in str(error)
    assert f"{path}, line " in str(error)
    assert error.traceback is not None and path in error.traceback
    assert "application.py" not in error.traceback
    assert "<frozen importlib" not in error.traceback
    assert "hello" not in sys.modules


@pytest.mark.parametrize("by_path", [True, False])
def test_a_file_that_has_the_name_of_the_package_it_imports(folder: Folder, by_path: bool) -> None:
    path = folder.write("shopkit.py", "import os\nfrom shopkit import Shop\napp = Shop(os)\n")
    error = folder.refuse(path if by_path else "shopkit")
    assert str(error) == (
        f"cannot import {path if by_path else 'shopkit'!r}: it imports itself instead of the "
        f"package 'shopkit': rename the file ({path}, line 2)"
    )
    assert error.traceback is not None and "from shopkit import Shop" in error.traceback


@pytest.mark.parametrize("by_path", [True, False])
def test_a_file_that_is_called_flask(
    folder: Folder, by_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first name that somebody gives to a first application."""
    monkeypatch.chdir(folder.path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "flask"]:
        monkeypatch.delitem(sys.modules, name)
    folder.write("flask.py", "from flask import Flask\napp = Flask(__name__)\n")
    text = str(folder.refuse("flask.py" if by_path else "flask"))
    assert "it imports itself instead of the package 'flask': rename the file (" in text


def test_two_files_that_import_each_other_are_told_apart(folder: Folder) -> None:
    folder.write("hello.py", "from other import word\nlater = 1\n")
    path = folder.write("other.py", "from hello import later\nword = 1\n")
    text = str(folder.refuse("hello"))
    assert "imports itself" not in text
    assert "ImportError: cannot import name 'later'" in text and f"({path}, line 1)" in text


def test_the_place_is_the_last_own_frame_of_another_module_too(folder: Folder) -> None:
    folder.write("hello.py", "import other\n")
    path = folder.write("other.py", "\n\n1 / 0\n")
    error = folder.refuse("hello")
    assert f"({path}, line 3)" in str(error)
    assert error.traceback is not None and error.traceback.count('  File "') == 2


def test_ctrl_c_while_importing_is_not_swallowed(folder: Folder) -> None:
    for name in ("hello.py", "other.py"):
        folder.write(name, "raise KeyboardInterrupt\n")
    for spec in ("hello", str(folder.path / "other.py")):
        with pytest.raises(KeyboardInterrupt):
            find_application(spec, str(folder.path))


def test_paths_that_are_none(folder: Folder) -> None:
    path = folder.write("hello.py", write_app("app"))
    near = path.replace("hello", "helo")
    assert str(folder.refuse(near)) == f"{near}: there is no such file; did you mean hello.py?"
    odd = folder.path / "odd.py"
    odd.mkdir()
    assert "is a folder" in str(folder.refuse(str(odd)))
    assert "It must lead to a .py file" in str(folder.refuse(str(folder.path)))
    with pytest.raises(ApplicationError, match="--app-dir /nonexistent: there is no such folder"):
        find_application("hello", "/nonexistent")


@pytest.fixture
def closed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that may not be looked into."""
    path = folder.path / "closed"
    path.mkdir(mode=0)
    if os.access(path, os.R_OK):  # root may: then as anybody else finds it
        real_access, real_stat = os.access, os.stat

        def access(name: str, mode: int) -> bool:
            return Path(name) != path and real_access(name, mode)

        def stat(name: str, *rest: Any, **more: Any) -> os.stat_result:
            if isinstance(name, str | Path) and path in Path(name).parents:
                raise PermissionError(errno.EACCES, "Permission denied", name)
            return real_stat(name, *rest, **more)

        monkeypatch.setattr(os, "access", access)
        monkeypatch.setattr(os, "stat", stat)
    yield path
    path.chmod(0o700)


def test_a_folder_that_may_not_be_looked_into(closed: Path) -> None:
    with pytest.raises(ApplicationError) as caught:
        find_application("hello:app", str(closed))
    assert str(caught.value) == (
        f"no module named 'hello' can be looked for in {closed}: permission denied"
    )
    with pytest.raises(ApplicationError) as caught:
        find_application(f"{closed}/hello.py:app", ".")
    assert str(caught.value) == f"{closed}/hello.py: permission denied"


def test_a_current_folder_that_is_gone(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a deployment that put another one in its place."""
    path = folder.write("hello.py", write_app("app"))
    gone = folder.path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ApplicationError) as caught:
        find_application("hello:app", ".")
    assert str(caught.value) == "the current folder is gone; change to it again"
    # What is named from the root is found from anywhere.
    assert folder.find(path)[1] == b"app"
    assert folder.find("hello")[1] == b"app"


@pytest.mark.parametrize("spec", ["", ":app", "1x", "a..b", "a b", "-x", ".hello", "hello-world"])
def test_names_that_are_none(folder: Folder, spec: str) -> None:
    assert "is no module name" in str(folder.refuse(spec))


# -- Attributes ---------------------------------------------------------------------------------


def test_no_such_attribute_shows_candidates_close_spelling_first(folder: Folder) -> None:
    folder.write(
        "hello.py",
        """
        from json import dumps
        from collections import OrderedDict
        class Tool: pass
        def aardvark(): pass
        def web_app(environ, start_response): pass
        class Made:
            def __call__(self, environ, start_response): pass
        zulu = Made()
        class Bound:
            def __init__(self, needed): pass
            def __call__(self, environ, start_response): pass
        def build(): pass
        def build_with(settings): pass
        async def asgi(scope, receive): pass
        class Iterated:
            def __init__(self, environ, start_response): pass
            def __iter__(self): pass
        _hidden = Made()
        number = 3
        """,
    )
    error = folder.refuse("hello:webapp")
    assert str(error) == (
        "hello has no attribute 'webapp'; what may be meant: "
        "hello:web_app, hello:zulu, hello:build(), hello:Iterated, hello:Made()"
    )
    assert error.traceback is None
    assert (
        "none of app, application, create_app, make_app is there; what may be meant: hello:zulu"
        in (str(folder.refuse("hello")))
    )


def test_no_such_attribute_of_an_attribute(folder: Folder) -> None:
    folder.write("hello.py", "class api:\n    def app(environ, start_response): pass\n")
    assert str(folder.refuse("hello:api.ap")) == (
        "hello:api has no attribute 'ap'; what may be meant: hello:api.app"
    )
    assert str(folder.refuse("hello:api.app.x.y")).startswith("hello:api.app has no attribute 'x'")


@pytest.mark.parametrize(
    ("text", "spec", "expected"),
    [
        ("app = 3", "hello:app", "hello:app is an int, not callable"),
        ("app = None", "hello:app", "hello:app is None, not callable"),
        ("app = 3", "hello", "hello: 'app' is an int, not callable"),
        ("app = 3", "hello:app()", "hello:app is an int; it cannot be called"),
        ("x = 1", "hello", "hello: none of app, application, create_app, make_app is there"),
        (
            "async def app(scope, receive, send): pass", "hello:app",
            "hello:app is an async (ASGI) application",
        ),
        (
            "class A:\n    async def __call__(self, scope, receive, send): pass\napp = A()",
            "hello", "hello:app is an async (ASGI) application",
        ),
        (
            "def build(): pass", "hello:build",
            "hello:build() does not take (environ, start_response); "
            "if it makes the application, write hello:build()",
        ),
        (
            "def app(request): pass", "hello",
            "hello:app(request) does not take (environ, start_response)",
        ),
        ("def create_app(): pass", "hello", "the factory hello:create_app returned None"),
        (
            "class App:\n    def __call__(self, environ, start_response): pass", "hello:App",
            "hello:App is a class, and its instances are applications: write hello:App()",
        ),
        (
            "class App:\n    def __init__(self, name, folder=None): pass\n"
            "    def __call__(self, environ, start_response): pass", "hello:App",
            "its instances are applications: write hello:App(...) with its arguments",
        ),
        ("def make_app(): return 3", "hello", "the factory hello:make_app returned an int"),
        (
            "def create_app(config): pass", "hello",
            "hello:create_app(config): missing a required argument: 'config'; write the arguments",
        ),
        (
            "def create_app(): pass", "hello:create_app(debug=True)",
            "got an unexpected keyword argument 'debug'",
        ),
    ],
)  # fmt: skip
def test_what_is_no_application(folder: Folder, text: str, spec: str, expected: str) -> None:
    folder.write("hello.py", text)
    error = folder.refuse(spec)
    assert expected in str(error)
    assert error.traceback is None


def test_a_factory_that_fails(folder: Folder) -> None:
    path = folder.write("hello.py", "def create_app():\n    return {}['key']\n")
    error = folder.refuse("hello")
    assert str(error) == (f"the factory hello:create_app failed: KeyError: 'key' ({path}, line 2)")
    assert error.traceback is not None and "in create_app" in error.traceback
    assert "application.py" not in error.traceback
    folder.write("other.py", "def create_app():\n    raise SystemExit\n")
    assert "failed: SystemExit (" in str(folder.refuse("other"))


# -- The grammar of ATTR ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("app", Reference(("app",))),
        (" app ", Reference(("app",))),
        ("a.b.c", Reference(("a", "b", "c"))),
        ("make()", Reference(("make",), ((), {}))),
        ("a.b('x', k=[None, -1.5])", Reference(("a", "b"), (("x",), {"k": [None, -1.5]}))),
        ("make({'a': (1, b'x', {2})})", Reference(("make",), (({"a": (1, b"x", {2})},), {}))),
    ],
)  # fmt: skip
def test_references(text: str, reference: Reference) -> None:
    assert parse_reference("m:" + text, text) == reference


@pytest.mark.parametrize(
    "text",
    ["", "1", "app;x", "app.", "a[0]", "a + b", "make()()", "make().app", "lambda: 1", "(a, b)",
     "make(*[])", "make(**{})", "make(k=1, k=2)", "a b", "'x'", "make(", "\0", "(" * 300,
     "await x", "x := 1"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ApplicationError):
        parse_reference(f"m:{text}", text)


@pytest.mark.parametrize(
    "argument", ["x", "open('f')", "__import__('os')", "[x for x in ()]", "1 + x", "f'{1}'", "-'a'"]
)
def test_only_literals_are_evaluated(argument: str) -> None:
    for text in (f"make({argument})", f"make(k={argument})"):
        with pytest.raises(ApplicationError, match="only literals can be given"):
            parse_reference(f"m:{text}", text)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_attribute_is_read_or_refused(text: str) -> None:
    try:
        parse_reference(f"m:{text}", text)
    except ApplicationError as error:
        assert str(error).isprintable()
