"""README.md is true: its exchanges are held, its links lead somewhere, its commands are understood.

The two lines that make an environment are run by .ci/run in a clean checkout.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rawsgi import cli
from tests.serving import ROOT
from tests.test_by_hand import Reader, needs_netcat

PAGE = (ROOT / "README.md").read_text("utf-8")


@needs_netcat
def test_the_exchanges_are_real(tmp_path: Path) -> None:
    section = PAGE.partition("## A real exchange\n")[2].partition("\n## ")[0]
    (tmp_path / "page.md").write_text(section)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    reader = Reader(tmp_path / "page.md", tmp_path)
    reader.run()
    assert reader.ran == 4


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert len(links) > 20
    for link in links:
        assert (ROOT / link).exists(), link
    for anchor in re.findall(r"\]\(#([^)]+)\)", PAGE):
        titles = re.findall(r"(?m)^#+ (.+)$", PAGE)
        assert anchor in [title.lower().replace(" ", "-") for title in titles]


def test_the_tour_names_files_under_their_own_names() -> None:
    for shown, link in re.findall(r"\[`([^`]+)`\]\(([^)]+)\)", PAGE):
        assert link.endswith(shown)


def test_commands_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each `rawsgi ...` line, with --print-config, so that nothing is served."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORT", raising=False)
    lines = [line for line in PAGE.splitlines() if line.startswith("rawsgi ")]
    assert len(lines) == 3
    for line in lines:
        assert cli.main([*shlex.split(line)[1:], "--print-config"]) == 0, line
        assert shlex.split(line)[1] in capsys.readouterr().out
