"""The benchmarks' own pieces: what they parse, compute and print, on fixed data.

Speed is not tested here. One real round, of a second, runs against the floor.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks import check, hostile, readings
from tests.benchmarks.__main__ import choose_servers
from tests.benchmarks.load import attackers, client, mixed, steady
from tests.benchmarks.load.wrk import INSTALL, LoadError, find_wrk, parse_figures
from tests.benchmarks.output import figures, page, plot, table
from tests.benchmarks.output.figures import Results, read_json
from tests.benchmarks.profile import build_layer_rows, find_layer, share_out
from tests.benchmarks.rounds import MEASURES, Plan, await_quiet, measure
from tests.benchmarks.servers import (
    ROOT,
    SERVERS,
    Launch,
    Server,
    ServerError,
    choose_cores,
    find_free_port,
    running,
)
from tests.benchmarks.workloads import BROWSER_FIELDS, CONTENT, WORKLOADS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")

WRK_LINE = (
    "figures duration_us=2000000 requests=1000 bytes=5000 p50_us=250 p99_us=900 max_us=1200"
    " connect=1 read=7 write=2 status=3 timeout=4"
)


def make_results() -> Results:
    """Three rounds of three servers; in the last one others disturbed granian."""
    results = Results()
    for number, (ours, theirs, foreign) in enumerate([(10, 20, 0), (12, 18, 0.01), (11, 99, 0.8)]):
        common = {"system": 0.5, "requests_s": 1e5, "p50_ms": 0.1, "p99_ms": 0.5, "busy": 1.0}
        common |= {"memory_kib": 20480.0, "errors": 0.0, "cut": 0.0}
        results.add("hello", "rawsgi", number, {**common, "cpu_us": ours, "foreign": 0.0})
        results.add("hello", "granian", number, {**common, "cpu_us": theirs, "foreign": foreign})
    results.add("idle", "rawsgi", 0, {"switches": 0.0, "threads": 2.0, "memory_kib": 1024.0})
    results.note_failure("hello", "bjoern", 1, "ended with 1: <boom> & more\nsecond line")
    return results


# -- Readings ------------------------------------------------------------------------------------


def test_stat_of_a_process_with_a_hostile_name() -> None:
    text = "7 (a) b (c) S 5 7 7 0 -1 4194304 1 0 0 0 123 45 6 7 20 0 1 0 99 1 2"
    assert readings.parse_stat(text) == readings.Stat(parent=5, user_ticks=123, system_ticks=45)


def test_status_and_memory() -> None:
    status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n"
    assert readings.parse_switches(status) == 15
    assert readings.parse_pss_kib("rollup\nRss:  900 kB\nPss:   512 kB\nPss_Dirty: 1 kB\n") == 512
    assert readings.parse_pss_kib("") == 0


def test_busy_cores_leave_out_idle_and_waiting() -> None:
    text = "cpu  9 9 9 9 9 9 9\ncpu0 10 1 20 1000 500 2 3 0 0 0\ncpu1 1 0 0 9 9 0 0 0 0 0\nintr 1"
    ticks = readings.TICKS_PER_S
    assert readings.parse_core_busy(text, {0}) == pytest.approx(36 / ticks)
    assert readings.parse_core_busy(text, {0, 1}) == pytest.approx(37 / ticks)


def test_own_process_is_read_with_a_high_resolution() -> None:
    this = [os.getpid()]
    before = readings.read_cpu_s(this)
    end = time.thread_time() + 0.003  # less than a tick
    while time.thread_time() < end:
        pass
    assert 0.003 <= readings.spent_cpu_s(before, readings.read_cpu_s(this)) < 1
    assert readings.read_pss_kib(this) > 1000
    assert readings.count_threads(this) >= 1
    assert readings.count_descriptors(this) >= 3
    assert sum(readings.read_switches(this).values()) > 0


def test_a_tree_holds_children_and_a_dead_process_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in readings.list_tree(os.getpid())
    finally:
        child.communicate(b"\n")
    assert child.pid not in readings.list_tree(os.getpid())
    assert readings.read_cpu_s([child.pid]) == {}
    assert readings.read_pss_kib([child.pid]) == 0


def test_switches_of_threads_that_came_and_went() -> None:
    assert readings.spent_switches({1: 10, 2: 5}, {1: 12, 3: 4}) == 2 + 4 + 1


def test_the_kernels_share() -> None:
    before = {1: readings.Stat(0, 10, 10)}
    after = {1: readings.Stat(0, 40, 20), 2: readings.Stat(1, 0, 10)}
    assert readings.read_system_share(before, after) == pytest.approx(20 / 50)
    assert readings.read_system_share({}, {}) == 0


# -- wrk and the clients of our own ----------------------------------------------------------------


def test_the_line_of_wrk_is_found_and_read() -> None:
    found = parse_figures(f"Running 2s test\n  1 threads\n{WRK_LINE}\n")
    assert (found.requests, found.p99_us) == (1000, 900)
    assert found.requests_s == pytest.approx(500)
    assert found.errors == 10  # a close without notice (read) is none


@pytest.mark.parametrize("text", ["", "unable to connect", "figures requests=1", "figures a=b"])
def test_anything_else_from_wrk_is_an_error(text: str) -> None:
    with pytest.raises(LoadError):
        parse_figures(text)


def test_a_missing_wrk_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(LoadError, match="apt-get install wrk"):
        find_wrk()
    assert "wrk" in INSTALL


@pytest.mark.parametrize(
    ("received", "ended", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", False, (200, True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", False, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", True, (0, False)),
        (b"HTTP/1.1 504 X\r\ncontent-length:0\r\nconnection: close\r\n\r\n", False, (504, False)),
        (b"HTTP/1.1 200 OK\r\n\r\nanything", False, None),
        (b"HTTP/1.1 200 OK\r\n\r\nanything", True, (200, False)),
        (b"HTTP/1.1 200", False, None),
        (b"", True, (0, False)),
    ],
)
def test_outcome_of_a_response(
    received: bytes, ended: bool, outcome: tuple[int, bool] | None
) -> None:
    assert client.read_outcome(received, ended) == outcome


def test_the_mixed_sequence_is_the_same_for_each_server() -> None:
    sequence = mixed.plan(10, 500, 0.1, seed=7)
    assert sequence == mixed.plan(10, 500, 0.1, seed=7)
    assert sequence != mixed.plan(10, 500, 0.1, seed=8)
    assert sequence == sorted(sequence)
    assert len(sequence) == pytest.approx(5000, rel=0.1)
    assert sum(slow for _, slow in sequence) == pytest.approx(500, rel=0.2)


def test_percentiles() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert mixed.percentile(values, 0.5) == 51
    assert mixed.percentile(values, 0.99) == 100
    assert mixed.percentile([], 0.99) == 0


def test_workloads_are_what_they_say() -> None:
    assert len(BROWSER_FIELDS) == 13
    assert 900 <= len(CONTENT) <= 1024
    assert json.loads(CONTENT)
    assert {workload.kind for workload in WORKLOADS.values()} == set(MEASURES)
    assert {workload.headline for workload in WORKLOADS.values()} <= set(figures.METRICS)
    assert {demand.workload for demand in check.DEMANDS} <= set(WORKLOADS)
    assert {demand.other for demand in check.DEMANDS} - {""} <= set(SERVERS)


# -- Output ----------------------------------------------------------------------------------------


def test_ratios_are_taken_within_quiet_rounds() -> None:
    results = make_results()
    assert results.values("hello", "granian", "ratio") == [2.0, 1.5]
    spread = results.spread("hello", "granian", "ratio")
    assert spread == figures.Spread(1.75, 1.5, 2.0)
    assert results.spread("hello", "granian", "cpu_us") == figures.Spread(19, 18, 20)
    assert results.spread("hello", "bjoern", "cpu_us") is None
    assert results.count_disturbed() == (1, 7)


def test_disturbed_rounds_count_when_there_is_no_other() -> None:
    results = Results()
    results.add("hello", "rawsgi", 0, {"cpu_us": 10.0, "foreign": 0.9})
    assert results.values("hello", "rawsgi", "cpu_us") == [10.0]


def test_results_survive_json() -> None:
    results = make_results()
    document = json.loads(page.write_json(results, {"date": "2026-01-01"}))
    again = read_json(document)
    assert again.rounds == results.rounds
    assert again.failures == results.failures
    entry = document["workloads"]["hello"]["granian"]["figures"]["ratio"]
    assert entry == {"median": 1.75, "low": 1.5, "high": 2.0}


def test_text_table() -> None:
    text = table.write_text(make_results())
    assert "hello: two-line WSGI application" in text
    row = next(line for line in text.splitlines() if line.startswith("granian"))
    assert "19.0 (18.0-20.0)" in row
    assert "1.75x (1.50x-2.00x)" in row
    assert "20.0" in row  # MiB
    assert "unannounced" not in text
    assert "failed: bjoern, hello, 1 x: second line" in text
    assert "In 1 of 7 rounds" in text


def test_markdown_table_has_equal_rows() -> None:
    lines = table.write_markdown(table.build_rows(make_results(), "hello")).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_plot_is_well_formed_and_knows_both_schemes() -> None:
    text = plot.write_svg(make_results())
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text
    labels = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "two-line WSGI application" in labels
    assert "19.0 (1.73x)" in labels
    width = float(root.attrib["width"])
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.get("x", "0")) + float(bar.attrib["width"]) <= width


def test_page_is_replaced_between_its_marks_only() -> None:
    section = page.write_section(make_results(), page.describe_run(3, 2.0))
    before = f"above\n{page.BEGIN}\nold\n{page.END}\nbelow\n"
    after = page.replace_section(before, section)
    assert after.startswith("above\n") and after.endswith(f"{page.END}\nbelow\n")
    assert "old" not in after
    assert "| granian |" in after and "- failed: bjoern, hello, 1 x: second line" in after
    assert page.replace_section(after, section) == after
    with pytest.raises(ValueError):
        page.replace_section("no marks", section)


def test_docs_are_written_beside_the_page(tmp_path: Path) -> None:
    written = tmp_path / "benchmarks.md"
    written.write_text(f"{page.BEGIN}\n{page.END}\n", encoding="utf-8")
    page.write_docs(make_results(), page.describe_run(3, 2.0), written)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "benchmarks.json",
        "benchmarks.md",
        "benchmarks.svg",
    ]
    assert "benchmarks.svg" in written.read_text(encoding="utf-8")
    assert str(ROOT) not in written.read_text(encoding="utf-8")


def test_documented_page_has_the_marks_and_names_every_workload() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.replace_section(text, "x") != text
    for name in WORKLOADS:
        assert f"`{name}`" in text


def test_demands_are_judged_by_their_medians() -> None:
    results = make_results()
    demands = {(demand.workload, demand.other): demand for demand in check.DEMANDS}
    granian = demands["hello", "granian"]
    assert granian.holds(results)
    found = granian.find(results)
    assert found is not None and found.median == pytest.approx((0.5 + 12 / 18) / 2)
    assert not demands["hello", "bjoern"].holds(results)  # not measured
    assert demands["idle", ""].holds(results)
    results.add("sleep", "rawsgi", 0, {"ideal": 0.89})
    assert not demands["sleep", ""].holds(results)
    rows = check.build_rows(check.DEMANDS, results)
    assert len({len(row) for row in rows}) == 1
    assert [row[-1] for row in rows[1:]].count("holds") == 2


def test_profile_shares_add_up_and_know_their_layers() -> None:
    rawsgi = str(ROOT / "rawsgi")
    document = {
        "overhead_ns": 100.0,
        "rows": [
            ["python", f"{rawsgi}/net/loop.py", "Loop.run", 100, 100, 30_000],
            ["c", f"{rawsgi}/net/loop.py", "socket.send", 100, 100, 50_000],
            ["python", f"{rawsgi}/logs.py", "write", 50, 50, 5_000],
            ["python", json.__file__, "dumps", 100, 100, 20_000],
            ["python", f"{ROOT}/examples/hello.py", "app", 100, 100, 40_000],
            ["python", f"{ROOT}/tests/benchmarks/served/profiled.py", "_obey", 1, 1, 9_000_000],
        ],
    }
    functions = share_out(document, requests=100, cpu_us=10.0)
    assert sum(function.us for function in functions) == pytest.approx(10.0)
    assert functions[0].name == "socket.send"
    assert functions[0].us == pytest.approx(4.0)
    assert {function.name: function.layer for function in functions} == {
        "Loop.run": "net",
        "socket.send": "net",
        "write": "rawsgi",
        "dumps": "standard library",
        "app": "application",
    }
    rows = build_layer_rows(functions)
    assert rows[1][:3] == ["net", "1.0", "1.0"]
    assert rows[-1][0] == "all" and rows[-1][-1] == "10.00"
    assert find_layer("<frozen importlib>") == "standard library"


# -- Real processes --------------------------------------------------------------------------------


def test_unknown_servers_are_told_how_to_install() -> None:
    absent = Server("absent", lambda launch: [], "no-such-distribution")
    assert absent.version() is None
    servers, missing = choose_servers(["floor"])
    assert [server.name for server in servers] == ["rawsgi", "floor"]
    assert missing == []


def test_a_server_that_ends_is_reported_with_its_output() -> None:
    broken = Server("broken", lambda launch: [sys.executable, "-c", "raise SystemExit('no way')"])
    with pytest.raises(ServerError, match="no way"):
        with running(broken, Launch("x:y", find_free_port()), choose_cores().server):
            pass


@pytest.mark.slow
def test_clients_against_the_floor() -> None:
    cores = choose_cores()
    port = find_free_port()
    with running(SERVERS["floor"], Launch("", port), cores.server) as server:
        figures_of_one = steady.run(port, 0.1)
        assert figures_of_one["errors"] == 0
        assert figures_of_one["requests"] >= 1
        figures_of_many = mixed.run(port, mixed.plan(0.2, 200, 0.1, seed=1))
        assert figures_of_many["errors"] == 0
        assert 0 < figures_of_many["fast_p50_ms"] < 1000
        assert attackers.break_off(port, "upload", 3) == {"begun": 3.0}
        tree = server.tree()
    assert all(not os.path.exists(f"/proc/{process}") for process in tree)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_one_short_round_against_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.rounds.WARM_UP_S", 0.5)
    plan = Plan(rounds=1, seconds=1, patience_s=0)
    found = measure(SERVERS["floor"], WORKLOADS["hello"], plan)
    assert found["requests_s"] > 100
    assert 0.5 < found["cpu_us"] < 1000
    assert found["errors"] == 0
    assert found["memory_kib"] > 1000
    assert 0 < found["busy"] <= 1.1


@pytest.mark.slow
def test_waiting_for_quiet_is_bounded() -> None:
    start = time.monotonic()
    await_quiet(choose_cores(), 0.1)
    assert time.monotonic() - start < 5


def test_attack_rows_tell_what_failed() -> None:
    assert len(hostile.build_tasks(hostile.GROUPS, hostile.Bounds())) == 8 + 1 + 3 + 4
    held = hostile.Holdings(descriptors=7, threads=2, files=0, memory_kib=1000)
    more = hostile.Holdings(descriptors=8, threads=2, files=0, memory_kib=1000)
    assert held.keeps(more) and not more.keeps(held)
    assert "7 fd" in held.describe()
