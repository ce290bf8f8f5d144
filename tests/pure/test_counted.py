# SPDX-License-Identifier: GPL-2.0-only
"""Tables and figures of counting repetitions, and the bound that follows from them."""
import re
import shutil
import subprocess
import sys

import pytest

import bound
import compare
import contract
import counted
import counts
import plan
import pooled
import tables
from made import ROOT, TINY, planned, planned_of, program, sample, summary_of
from study import Study

sys.path.insert(0, str(ROOT / "plots"))
import difference  # noqa: E402 (its folder has to be named first)
import stacks  # noqa: E402

# A spin lock belongs to the function that takes it.
CALLERS = """chain,group,moved_by,transfers,dirty,invalidate,clean_reads,instructions
inet_csk_accept < inet_accept,listener,,{},1,0,0,0.0
update_sd_lb_stats < load_balance,background,,50,50,0,0,0.0
_raw_spin_lock < inet_put_port,bind bucket and TIME_WAIT,,2,2,0,0,0.0
_raw_spin_lock < inet_ehash_insert,ehash,,1.5,1,0.5,0,0.0
tcp_ack < tcp_rcv_established,rest,,1,1,0,0,0.0
"""
LINES = """line,moved_by,transfers_per_req
0xff01,tcp_hashinfo,{}
0xff02,,0.5
"""


@pytest.fixture(name="run")
def counted_run(tmp_path, monkeypatch):
    """Two counting repetitions of two cells, and one timed round."""
    for name in ("kernel_instructions_per_req", "user_instructions_per_req",
                 "line_transfers_per_req", "lines_moved_per_req", "counts_source"):
        monkeypatch.setitem(contract.METRICS, name, "")
    run = planned(tmp_path, *TINY, "--set", "rounds=1", "--set", "perf_repetitions=0")
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": "1", "first_order": 1}]
    facts["server"] = {"accelerator": "tcg", "cores": "8", "kernel": "6.1.0-1-amd64"}
    contract.write_run(run, facts)
    steps = contract.read_plan(run)
    order = 0
    for step in steps:
        order += 1
        sample(run, step, order, 100, time_s=1)
        for number, lines in ((1, 290), (2, 310)):
            order += 1
            lines = lines if step["setup"] == "shared" else lines / 4
            sample(run, {**step, "repetition": f"c{number}"}, order, None, requests=1000,
                   line_transfers_per_req=lines, lines_moved_per_req=40,
                   background_transfers_per_req=30, idle_transfers_per_s=700,
                   kernel_instructions_per_req=100000, user_instructions_per_req=5000,
                   counts_source="emulator, quantum 2000")
            raw = run / "raw" / step["cell"] / f"c{number}"
            raw.mkdir(parents=True)
            (raw / "callers.csv").write_text(CALLERS.format(lines - 5))
            (raw / "lines.csv").write_text(LINES.format(lines / 10))
    return run


def test_tables_of_counts(run):
    found = dict(tables.every(Study(run)))
    lines = found["with-without"].splitlines()
    # Counts come first.
    assert lines[2] == ("| line transfers between cores per connection, ab -c 100, 8 workers | "
                        "300.0 | 75.0 | 4.00 times fewer | – | 2 |")
    assert [line.split(" ")[1] for line in lines[2:]] == ["line", "kernel", "user", "time", "for"]
    assert ("| ab -c 100, 8 workers | fastsocket | with Fastsocket | 75.0 | 0.25 | 30.0 | "
            "700 | 40.0 | 100,000 | 1.00 | 5,000 | emulator, quantum 2000 | 2 |") in found["counts"]
    assert found["functions"].splitlines()[2:] == [
        "| listener | `inet_csk_accept` | 295.0 | 70.0 |",
        "| bind bucket and TIME_WAIT | `_raw_spin_lock` | 2.0 | 2.0 |",
        "| ehash | `_raw_spin_lock` | 1.5 | 1.5 |", "| rest | `tcp_ack` | 1.0 | 1.0 |",
        # The transfers of chains of callers that the file leaves out.
        "|  | all others | 0.5 | 0.5 |",
        "|  | n | 2 | 2 |"]
    assert "| shared | 0xff01 tcp_hashinfo | 30.00 | 2 |" in found["lines"]
    # Counting repetitions are not timed.
    assert Study(run).numbers("shared") == {
        "n_valid": 1, "n_invalid": 0, "n_degraded": 0, "n_profiles": 0, "n_locks": 0,
        "n_counts": 2}


def test_lines_of_one_kind_are_one_row(run, monkeypatch):
    """Lines are grouped by their object's kind, whatever socket or CPU they belong to; lines of
    unknown objects stay alone."""
    header = ",".join(contract.LINES)
    for path in run.glob("raw/shared/c*/lines.csv"):
        path.write_text(f"""{header}
ff01,slab,TCP+0x80,sock_common.skc_refcnt,,sk_clone_lock,2.0
ff02,slab,TCP+0x80,sock.sk_lock,,_raw_spin_lock,2.5
ff03,slab,TCP+0x80,sock_common.skc_refcnt,,sk_clone_lock,1.5
ff04,slab,TCP+0xc0,sock.sk_backlog,,tcp_v4_rcv,1.0
ff05,per-CPU variable,runqueues+0x0,rq.__lock,0,_raw_spin_lock,0.25
ff06,per-CPU variable,runqueues+0x0,rq.__lock,1,_raw_spin_lock,0.5
ff07,page,,,,tcp_ack,0.5
ff08,page,,,,tcp_ack,0.25
init_net+704,variable,init_net+0x2c0,inet_timewait_death_row.tw_refcount,,inet_twsk_alloc,3.0
""")
    lines = dict(tables.every(Study(run)))["lines"].splitlines()
    assert lines[0] == ("| cell | what the lines are | member | moved most by | "
                        "lines of a repetition | transfers per connection | "
                        "of the line that moves most | n |")
    assert lines[2:8] == [
        "| shared | `TCP+0x80` | `sock_common.skc_refcnt` | `sk_clone_lock` | 3 | 6.00 | 2.50 "
        "| 2 |",
        "| shared | `init_net+0x2c0` | `inet_timewait_death_row.tw_refcount` | `inet_twsk_alloc` "
        "| 1 | 3.00 | 3.00 | 2 |",
        "| shared | `TCP+0xc0` | `sock.sk_backlog` | `tcp_v4_rcv` | 1 | 1.00 | 1.00 | 2 |",
        "| shared | `per-CPU runqueues+0x0` | `rq.__lock` | `_raw_spin_lock` | 2 | 0.75 | 0.50 "
        "| 2 |",
        "| shared | `page ff07` |  | `tcp_ack` | 1 | 0.50 | 0.50 | 2 |",
        "| shared | `page ff08` |  | `tcp_ack` | 1 | 0.25 | 0.25 | 2 |"]
    monkeypatch.setattr(counted, "MOST_KINDS", 4)
    lines = dict(tables.every(Study(run)))["lines"].splitlines()
    assert lines[5:7] == [
        "| shared | `per-CPU runqueues+0x0` | `rq.__lock` | `_raw_spin_lock` | 2 | 0.75 | 0.50 "
        "| 2 |",
        "| shared | 2 more kinds |  |  | 2 | 0.75 | 0.50 | 2 |"]
    # A cell that was counted before lines had names.
    assert ("| fastsocket | `0xff01 tcp_hashinfo` |  | `tcp_hashinfo` | 1 | 7.50 | 7.50 "
            "| 2 |") in lines
    # A single line limits a machine; the sum of its kind does not.
    assert "| init_net+0x2c0: 3.0 |" in bound.table(Study(run))


def read(folder, functions, dump):
    """Makes the tables of a dump of ten requests in the folder. functions: lines of kallsyms."""
    counting = ROOT / "counting"
    subprocess.run(["make", "-s", "-C", counting, "read"], check=True)
    (folder / "kallsyms").write_text(
        f"0000000000000100 A runqueues\n{functions}ffffffff82000010 D init_net\n")
    (folder / "dump").write_text(
        f"counting 2\nquantum 2000\nseconds 1.0\nlost 0\nvcpu 0 1000 100\n{dump}end\n")
    subprocess.run([counting / "read", folder / "dump", folder / "kallsyms", "10", folder],
                   check=True)


def test_address_of_a_line(tmp_path):
    """The request for a line's name has the address in it that causes most of its moves."""
    functions = "ffffffff81000000 T tcp_ack\nffffffff81000100 t tcp_clean\n"
    read(tmp_path, functions, (
        # The line 0x40 * 0x3fffffffe080000 is at 0xffffffff82000000.
        "event 0 ffffffff81000004 3fffffffe080000 10 0 0 24\n"
        "event 0 ffffffff81000104 3fffffffe080000 20 0 0 48\n"
        "event 0 ffffffff81000004 3fffe0000000040 5 0 0 8\n"))
    lines = contract.read_csv(tmp_path / "lines.csv")
    assert [(line["line"], line["moved_by"], line["transfers"], line["address"])
            for line in lines] == [
        ("init_net+0", "tcp_clean", "3.0000", "ffffffff82000030"),
        ("ffff800000001000", "tcp_ack", "0.5000", "ffff800000001008")]


def test_pages_that_a_kernel_thread_moves_are_background(tmp_path):
    """khugepaged copies 512 pages of a program at once, whatever the connections do."""
    functions = ("ffffffff81000000 T copy_page\nffffffff81000100 t collapse_huge_page\n"
                 "ffffffff81000200 t wp_page_copy\nffffffff81000300 T __schedule\n")
    read(tmp_path, functions, (
        "context 1 0 ffffffff81000110\ncontext 2 0 ffffffff81000210\n"
        "context 3 1 ffffffff81000310\n"
        "event 1 ffffffff81000004 3fffe0000000040 70 0 0 8\n"
        "event 3 ffffffff81000004 3fffe0000000080 30 0 0 8\n"
        "event 2 ffffffff81000004 3fffe00000000c0 20 0 0 8\n"))
    found = counts.totals((tmp_path / "totals.csv").read_text())
    assert (found["line_transfers_per_req"], found["background_transfers_per_req"]) == (2, 10)


def test_names_of_lines(monkeypatch, capsys):
    """The guest's answer is assigned to the line by the address of the request; without an answer
    the lines have no names."""
    lines = counts.foreground(
        "line,group,moved_by,transfers,dirty,invalidate,clean_reads,instructions,address\n"
        "ff00,rest,tcp_ack,2.0,1,1,0,0,ff08\nff40,rest,tcp_ack,1.0,1,0,0,0,ff40\n"
        "ff80,background,tick,9.0,9,0,0,0,ff80\n")
    asked = []

    def answer(*argv, given=None):
        asked.append((argv[1:], given))
        return "address,kind,what,member,cpu\nff08,slab,TCP+0x0,sock_common.skc_state,\n"
    monkeypatch.setattr(counts, "command", answer)
    assert counts.by_line(lines, counts.named(lines)) == [
        ["ff00", "slab", "TCP+0x0", "sock_common.skc_state", "", "tcp_ack", "2.0"],
        ["ff40", "", "", "", "", "tcp_ack", "1.0"]]
    assert asked == [(("count", "names"), "ff08\nff40\n")]
    # What is known, and moves rarely, has no address.
    rare = [{**line, "transfers": "0.04"} for line in lines]
    assert [row[0] for row in counts.by_line(rare, counts.named(rare))] == ["", "ff40"]
    assert len(contract.LINES) == 7

    def refuse(*argv, given=None):
        raise counts.CountError("lab.sh count: there is no libbpf")
    monkeypatch.setattr(counts, "command", refuse)
    first, _ = counts.by_line(lines, counts.named(lines))
    assert first == ["ff00", "", "", "", "", "tcp_ack", "2.0"]
    assert "there is no libbpf" in capsys.readouterr().err


def test_figure_of_counts(run):
    (run / "figures").mkdir()
    stacks.draw(Study(run))
    assert {path.name for path in (run / "figures").iterdir()} == {"counts.png", "counts.svg"}


def test_a_group_has_one_colour_in_all_runs():
    names = re.findall(r'\[GROUP_\w+\] = "(.+)"', (ROOT / "counting/groups.c").read_text())
    shown = [name for name in names if name != "background"]
    assert not set(shown) - set(stacks.COLOURS)
    assert stacks.colours(shown) == stacks.colours(shown[::-1])
    assert len(set(stacks.colours(shown + ["new", "newer"]).values())) == len(shown) + 2


def test_the_figure_of_two_runs_has_their_counts(run):
    other = run.with_name("20990101T000000Z")
    shutil.copytree(run, other)
    panels = [axes.get_xlabel() for axes in difference.draw(Study(run), Study(other)).axes]
    assert panels[0] == "line transfers per connection, B / A\n(left is less)"


def test_bound(run):
    # 105,000 instructions at 3 GHz are 35 us, 300 transfers 30 us.
    core, line = bound.limits(105000, 300, 30)
    assert core == pytest.approx(1 / 65e-6) and line == pytest.approx(1 / 3e-6)
    assert bound.bound(8, core, line) == (8 * core, "cores")
    assert bound.bound(24, core, line) == (line, "line")
    assert bound.limits(1, 1, 0)[1] is None
    row = bound.table(Study(run)).splitlines()[2]
    assert row == ("| without: shared listener | 8 | 105,000 | 300 | 0xff01 tcp_hashinfo: 30.0 | "
                   "15 K | 333 K | 123 K | 333 K (line) | 333 K (line) | 333 K (line) |")


def test_pooled_runs(run):
    text = pooled.table([run])
    assert ("| demo server: line transfers between cores per connection | 300 (n = 2) | 75 (n = 2) "
            "| – | – |") in text
    assert "| 1 | 1.00 (n = 1, 1 boot, 1 run) | – | – |" in text


@pytest.mark.parametrize("setup, told", [
    ({}, {}), ({"mode": "shared", "text": "x"}, {}), ({"server": "demo"}, {}),
    ({"preload": True, "parameters": {"enable_listen_spawn": 2}}, {"preload": True}),
    ({"preload": True, "parameters": {"enable_listen_spawn": 1}},
     {"preload": True, "parameters": {"enable_listen_spawn": 1}}),
    ({"mode": "cbpf", "baseline": "x"}, {"mode": "cbpf"}),
    ({"rfs": True, "server": "nginx"}, {"rfs": True, "server": "nginx"}),
    ({"rps": "workers", "mode": "shared"}, {"rps": "workers"}),
])
def test_setups_are_known_by_their_settings(setup, told):
    assert pooled.settings(setup) == told


def test_each_key_that_sets_something_makes_another_setup():
    words = {"baseline", "against", "text", "idea", "successor"}
    assert {*pooled.KEYS, "parameters"} == plan.SETUP_KEYS - words


def test_counts_over_cores(tmp_path):
    """A row for each setup and count; and a figure with the original's curve beside it."""
    run = planned_of(tmp_path, "cores", "--set", "workers=1,2,8", "--set",
                     "setup=shared,fastsocket", "--set", "count_repetitions=1")
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": str(first), "first_order": first} for first in (1, 3, 5)]
    facts["server"] = {"accelerator": "tcg", "cores": "1 to 8", "kernel": "6.1.0-1-amd64"}
    contract.write_run(run, facts)
    for order, step in enumerate(contract.read_plan(run), 1):
        moved = (int(step["workers"]) - 1) * (40 if step["setup"] == "shared" else 10)
        sample(run, step, order, None, requests=1000, line_transfers_per_req=moved,
               kernel_instructions_per_req=90000 + moved, user_instructions_per_req=5000,
               counts_source="emulator, quantum 2000")
        raw = run / "raw" / step["cell"] / "c1"
        raw.mkdir(parents=True)
        (raw / "callers.csv").write_text(CALLERS.format(moved))
    summary_of(run)
    lines = (run / "tables/counts-workers.md").read_text().splitlines()
    assert lines[0] == ("| load | setup | per connection | 1 core | 2 cores | 8 cores | "
                        "n, at least |")
    assert lines[2] == ("| ab -c 100 | demo: without | line transfers between cores | 0.0 | 40.0 "
                        "| 280.0 | 1 |")
    assert "| kernel instructions | 90,000 | 90,010 | 90,070 | 1 |" in lines[6]
    # Tables of one load show that of the most cores.
    assert "| listener | `inet_csk_accept` | 280.0 | 70.0 |" in (
        run / "tables/functions.md").read_text()
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    assert (run / "figures/counts-workers.png").stat().st_size > 20000


def test_a_twentieth_more_instructions_of_the_server_are_worse(run):
    other = run.with_name("20990101T000000Z")
    shutil.copytree(run, other)
    text = (other / "samples.csv").read_text()
    (other / "samples.csv").write_text(text.replace(",100000,5000,", ",100000,5250,"))
    assert not compare.report(Study(run), Study(run))[1]
    assert compare.report(Study(run), Study(other))[1] == [
        f"{cell}: user instructions per connection 1.05 times A's"
        for cell in ("shared", "fastsocket")]
