"""An application that replaces the standard library's threads is refused, with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rawsgi.wsgi.loading import patching
from rawsgi.wsgi.loading.failure import ApplicationError
from tests.serving import ROOT

# What gevent.monkey keeps: the originals by module, nothing before it patches.
PATCHER = """
import sys, types
gevent = sys.modules["gevent.monkey"] = types.ModuleType("gevent.monkey")
gevent.saved = {}
"""
APPLICATION = (
    PATCHER
    + """
gevent.saved["threading"] = {"Thread": object}
def app(environ, start_response):
    start_response("200 OK", [])
    return []
"""
)


@pytest.mark.parametrize(
    ("module", "record"), [("gevent.monkey", "saved"), ("eventlet.patcher", "already_patched")]
)
def test_who_patched_is_found(module: str, record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{record: {}}))
    patching.check_patching()  # imported, and nothing done
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{record: {"threading": True}}))
    with pytest.raises(ApplicationError, match=module.partition(".")[0]):
        patching.check_patching()
    monkeypatch.setattr(patching, "_PATCHED_BEFORE", True)
    patching.check_patching()  # before rawsgi: all of it is theirs


def test_the_command_refuses_it_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "patched.py").write_text(APPLICATION)
    done = subprocess.run(
        [sys.executable, "-m", "rawsgi", "patched", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "rawsgi: the application replaces Python's threads by those of ge"
    )
    assert done.stderr.count("\n") == 1
