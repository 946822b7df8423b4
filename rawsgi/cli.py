"""The command line: argv to Settings, then a command.

The rule of this file: a mistake of the user is one line on stderr that begins with `rawsgi: `,
and an exit code; 2 where the command line or the settings are wrong, 1 where serving failed.
The flags derive from `config.OPTIONS`: none is written here but those that are no setting.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import importlib.util
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from rawsgi.byhand.greeting import greet_typist
from rawsgi.config import (
    GROUPS,
    OPTIONS,
    TIMEOUTS,
    Option,
    Settings,
    SettingsError,
    find_close,
    quote,
)
from rawsgi.logs import configure_logging, wants_colour
from rawsgi.net.listening.listener import Listener, ListenerError, open_listeners, parse_bind
from rawsgi.process import worker
from rawsgi.settings.newcomers import explain_flag, explain_word
from rawsgi.settings.sources import Resolved, resolve_settings, show_settings
from rawsgi.units import parse_switch
from rawsgi.version import VERSION
from rawsgi.wsgi.gateway import Application
from rawsgi.wsgi.loading.application import find_application
from rawsgi.wsgi.loading.failure import ApplicationError

EXIT_FAILED = 1
EXIT_MISUSED = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

COMMANDS = {
    "compare": ("rawsgi.compare.command", "replay raw exchanges against other servers too"),
    "replay": ("rawsgi.process.replay", "send a recorded exchange to an application"),
    "by-hand": ("rawsgi.byhand.command", "be the server yourself: see requests, type answers"),
}

_DESCRIPTION = """\
Serve a WSGI application over HTTP/1.1.

  rawsgi hello:app --port 3000     the attribute app of the module hello
  rawsgi hello                     its app, application, create_app() or make_app()
  rawsgi "shop.web:make_app('x')"  what a factory returns; literal arguments may be given
  rawsgi examples/hello.py         a file
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse would print the usage and several lines; ours is one line."""
        raise SettingsError(message.removeprefix("argument "))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Main thread; installs no handler itself."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _occupy_standard_descriptors()
    try:
        if arguments and arguments[0] in COMMANDS and arguments[0] in find_commands():
            module = importlib.import_module(COMMANDS[arguments[0]][0])
            return int(module.main(arguments[1:]) or 0)
        return _serve_or_show(arguments)
    except SettingsError as error:
        return _complain(str(error), EXIT_MISUSED)
    except ListenerError as error:
        return _complain(str(error), EXIT_FAILED)
    except ApplicationError as error:
        if error.traceback:
            _write_stderr(error.traceback)
        return _complain(str(error), EXIT_FAILED)
    except KeyboardInterrupt:  # before the worker took the signals over
        return EXIT_INTERRUPTED
    finally:
        for stream in (sys.stdout, sys.stderr):
            _drop_unwritten(stream)


def _serve_or_show(arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        _refuse_word(arguments, _find_value(arguments, "--app-dir") or ".")
    arguments = [_understand_switch(each) for each in arguments]
    _refuse_single_dash(arguments)
    parser = build_parser()
    try:
        namespace, unknown = parser.parse_known_args(arguments)
    except SystemExit:  # --help and --version: what they wrote is flushed here
        return _show("")
    if unknown:
        _refuse_word(arguments, namespace.app_dir or ".")
        # The value of an unknown flag looks like an application too many.
        flags = [word for word in unknown if word.startswith("-")]
        raise SettingsError(_describe_unknown((flags or unknown)[0]))
    given = {name: value for name, value in vars(namespace).items() if value is not None}
    config_file = given.pop("config", None)
    print_config = given.pop("print_config", False)
    resolved = resolve_settings(given, os.environ, config_file)
    for text in resolved.settings.bind:
        try:
            parse_bind(text)
        except ListenerError as error:
            raise SettingsError(f"{resolved.sources['bind']}: {error}") from None
    if print_config:
        return _show(show_settings(resolved))
    _refuse_word(arguments, resolved.settings.app_dir)
    if not resolved.settings.application:
        raise SettingsError("no application given; try: rawsgi hello:app (rawsgi --help says more)")
    return serve_settings(resolved)


def _refuse_word(arguments: Sequence[str], folder: str) -> None:
    """Raise SettingsError if the line begins with a command that does not exist."""
    if arguments:
        hint = explain_word(arguments[0], arguments[1:], list(find_commands()), folder)
        if hint:
            raise SettingsError(hint)


def _find_value(arguments: Sequence[str], flag: str) -> str:
    """The value of a flag, before the parser has looked at the line; "" for none."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name == flag:
            return value or following
    return ""


def _understand_switch(word: str) -> str:
    """`--access-log=false` becomes `--no-access-log`; any other word stays as it is."""
    name, equals, text = word.partition("=")
    switch = next((o for o in OPTIONS if o.kind == "switch" and o.flag == name), None)
    if not equals or switch is None:
        return word
    try:
        return name if parse_switch(text) else f"--no-{switch.key}"
    except ValueError as error:
        raise SettingsError(f"{quote(word)}: {error}") from None


def _refuse_single_dash(arguments: Sequence[str]) -> None:
    """`-bind` would be read as `-b ind`, and `-port` as a flag that is not there."""
    for word in arguments:
        name = word.partition("=")[0]
        if re.fullmatch(r"-[a-z][a-z-]+", name) and any(o.flag == f"-{name}" for o in OPTIONS):
            raise SettingsError(f"there is no option {name}; did you mean -{name}?")


def serve_settings(
    resolved: Resolved,
    application: Application | None = None,
    on_ready: Callable[[list[str]], object] | None = None,
) -> int:
    """Listen, load the application unless it is given, serve until told to stop; the exit code.

    The ports come first: that they are taken should not be learned after a slow import.
    """
    settings = resolved.settings
    configure_logging(settings)
    listeners = open_listeners(settings.bind, settings.backlog, settings.unix_mode)
    try:
        name = settings.application
        if application is None:
            # Frameworks look for it to learn that they are not being developed: web.py shows its
            # source and local variables to clients otherwise.
            os.environ.setdefault("SERVER_SOFTWARE", f"rawsgi/{VERSION}")
            name, application = find_application(settings.application, settings.app_dir)
            configure_logging(settings)  # again: see there

        def announce() -> None:
            _announce(name, listeners, settings)
            if on_ready is not None:
                on_ready([listener.address for listener in listeners])

        return worker.run(settings, application, listeners, on_ready=announce)
    finally:
        for listener in listeners:
            listener.close()


def _announce(name: str, listeners: Sequence[Listener], settings: Settings) -> None:
    """The start lines: what is served, where, and how to stop."""
    bold, plain = ("\x1b[1m", "\x1b[0m") if wants_colour(2) else ("", "")
    for listener in listeners:
        where = f"at {listener.reach}; " if listener.reach else ""
        _write_stderr(
            f"Serving {name} at {bold}{listener.address}{plain} ({where}Ctrl-C to stop)\n"
        )
    if settings.by_hand:
        _write_stderr(greet_typist(settings, [listener.address for listener in listeners]))


def _show(text: str) -> int:
    """Write to stdout. A reader such as `head` may have gone: that is nobody's mistake."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_unwritten(sys.stdout)
    return 0


def _drop_unwritten(stream: TextIO | None) -> None:
    """What cannot be written is given up: the interpreter would try again when it ends, fail,
    and make that the exit status."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except ValueError:  # closed
        pass


def _write_stderr(text: str) -> None:
    if sys.stderr is None:  # the process was started without one
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # its reader is gone: that is no reason not to serve
        pass


def _complain(text: str, code: int) -> int:
    _write_stderr(f"rawsgi: {text}\n")
    return code


def _occupy_standard_descriptors() -> None:
    """Where a parent closed 0, 1 or 2, a socket would get that number, and then the log lines."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one


def find_commands() -> dict[str, str]:
    """The commands that are there, with their help. Looks for modules, imports only packages."""
    found = {}
    for name, (module, help) in COMMANDS.items():
        try:
            if importlib.util.find_spec(module) is not None:
                found[name] = help
        except ModuleNotFoundError:  # its package is missing
            continue
    return found


def build_parser() -> argparse.ArgumentParser:
    """The parser of `rawsgi APP`, made from `config.OPTIONS`. Values stay texts."""
    commands = find_commands()
    usage = "\n       ".join(["rawsgi [options] APP", *(f"rawsgi {name} ..." for name in commands)])
    shown = "".join(f"\n  rawsgi {name:<9} {help}" for name, help in commands.items())
    parser = _Parser(
        prog="rawsgi",
        usage=usage,
        description=_DESCRIPTION,
        epilog=f"Other commands, each with --help of its own:{shown}" if commands else None,
        formatter_class=_make_formatter,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, argparse._ActionsContainer] = {}
    for title in GROUPS:
        if title == TIMEOUTS:  # the rarely needed groups begin
            _add_own_flags(parser.add_argument_group("Help and configuration"))
        groups[title] = parser.add_argument_group(title)
    for option in sorted(OPTIONS, key=lambda each: each.name != "application"):
        _add_option(groups[option.group], option)
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        # argparse breaks `bare-lf` and `Set-Cookie` at their hyphens.
        return textwrap.wrap(text, width, break_on_hyphens=False)


def _make_formatter(prog: str) -> argparse.HelpFormatter:
    width = min(shutil.get_terminal_size().columns, 100) - 2
    return _Formatter(prog, max_help_position=30, width=width)


def _add_own_flags(group: argparse._ActionsContainer) -> None:
    """Flags that are no settings."""
    group.add_argument("-h", "--help", action="help", help="show this and stop")
    group.add_argument(
        "--version", action=_ShowVersion, nargs=0, default=None, help="show the version and stop"
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        default=None,
        help="read settings from this TOML file [default: pyproject.toml, table tool.rawsgi]",
    )
    group.add_argument(
        "--print-config",
        action="store_true",
        default=None,
        help="show every setting and where it comes from, and stop",
    )


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        python = ".".join(map(str, sys.version_info[:3]))
        _show(f"rawsgi {VERSION} (Python {python})\n")
        parser.exit()


def _add_option(group: argparse._ActionsContainer, option: Option) -> None:
    help = option.help
    if option.choices:
        help += f": {', '.join(option.choices)}"
    if option.name == "application":
        group.add_argument("application", metavar="APP", nargs="?", default=None, help=help)
        return
    default = option.show_default()
    help = f"{help} [{default}]" if option.kind != "switch" or option.default_text else help
    help = argparse.SUPPRESS if option.hidden else help.replace("%", "%%")
    if option.kind == "switch":
        names = [option.flag, f"--no-{option.key}"]
        # Both are understood always; help shows the second where the default may be on.
        shown = names if option.default_text else names[:1]
        group.add_argument(
            *shown, dest=option.name, action=_Switch, nargs=0, default=None, help=help
        )
        if shown != names:
            group.add_argument(
                names[1],
                dest=option.name,
                action=_Switch,
                nargs=0,
                default=None,
                help=argparse.SUPPRESS,
            )
        return
    group.add_argument(
        *filter(None, (option.short, option.flag)),
        dest=option.name,
        metavar=option.metavar,
        default=None,
        help=help,
        action="append" if option.many else "store",
    )


class _Switch(argparse.Action):
    """Stores the text that the environment variable would have."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        negated = option_string is not None and option_string.startswith("--no-")
        setattr(namespace, self.dest, "false" if negated else "true")


def _describe_unknown(word: str) -> str:
    if not word.startswith("-"):
        return f"unexpected {word!r}: one application is served; options begin with --"
    name = word.partition("=")[0]
    if instead := explain_flag(name):
        return f"there is no option {name}: {instead}"
    known = [option.flag for option in OPTIONS]
    known += [f"--no-{option.key}" for option in OPTIONS if option.kind == "switch"]
    known += ["--help", "--version", "--config", "--print-config"]
    if name in known:
        return f"{name} stands after --, where nothing is an option"
    close = find_close(name, known, 0.7)[:2]
    hint = f"did you mean {' or '.join(close)}?" if close else "rawsgi --help lists them"
    return f"there is no option {name}; {hint}"
