# SPDX-License-Identifier: GPL-2.0-only
"""The report of a run, and the comparison of two."""
import html
import re
import shutil
import subprocess

import numpy as np
import pytest

import compare
import contract
import flame
import intervals
import places
import profiles
import report
from fill import ROOT
from made import TINY, fill, planned, program, summary_of
from study import Study


@pytest.fixture(name="run")
def drawn_run(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "rounds=6")
    fill(run, {"shared": [100, 102, 98, 101, 99, 100],
               "fastsocket": [150, 152, 148, 151, 149, 150]})
    facts = contract.read_run(run)
    facts.update(server={"cores": "8", "kernel": "6.1.0-1-amd64", "cpu_model": "<b>"},
                 loadgen={"cores": "2"}, git_commit="abc", git_dirty=True)
    contract.write_run(run, facts)
    summary_of(run)
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    return run


def test_a_report_is_one_file_that_fetches_nothing(run):
    done = program("experiments/report.py", run)
    assert done.returncode == 0, done.stderr
    text = (run / "report.html").read_text()
    assert re.search(r'class="answer">With Fastsocket, ab -c 100, 8 workers: the server answers '
                     r"1.50 \[1.4\d–1.5\d\] times the requests per second in 6 rounds "
                     r"\(faster\)\.<", text)
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    # Text from hosts is not markup.
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert "git checkout abc     # and changes that were not committed" in text
    assert "--seed " in text and "--set rounds=6 --fresh" in text
    for name in ("forest", "throughput", "latency"):
        assert f'<img alt="{name}"' in text
    first = (run / "report.html").read_bytes()
    program("experiments/report.py", run)
    assert (run / "report.html").read_bytes() == first


@pytest.mark.parametrize("facts, sweep", [
    # On real hosts; older runs do not say the command, and the oldest no settings.
    ({"command": "ansible-playbook -i inventory/mine.yml run-sweep.yml -e x=y"},
     "ansible-playbook -i inventory/mine.yml run-sweep.yml -e x=y"),
    ({"inventory": "mine.yml"}, "ansible-playbook -i inventory/mine.yml run-sweep.yml "
     "-e experiment=seed-demo -e profile=quick -e '{\"sweep_set\": [\"sysctl:a=1 2\"]}'"),
    ({"settings": None}, "ansible-playbook -i inventory/lab.yml run-sweep.yml "
     "-e experiment=seed-demo -e profile=quick"),
])
def test_a_run_is_repeated_on_its_hosts_with_its_settings(facts, sweep):
    study = object.__new__(Study)
    study.plan = {"experiment": "seed-demo", "profile": "quick"}
    study.facts = {"plan": study.plan, "seed": 7, "git_commit": "abc",
                   "settings": ["sysctl:a=1 2"], **facts}
    assert report.commands(study).splitlines() == [
        "git checkout abc", "experiments/plan.py seed-demo --profile quick --seed 7 "
        + "--set 'sysctl:a=1 2' " * bool(study.facts["settings"])
        + "--fresh     # for the same order", "cd playbooks", sweep]


def test_a_report_has_every_load_generator(run):
    facts = contract.read_run(run)
    contract.write_run(run, {**facts, "loadgens": [{"cores": "2"}, {"cores": "24", "os": "Two"}],
                             "sources": [["192.0.2.7", "192.0.2.8"], []]})
    text = report.render(Study(run))
    for row in ("<th></th><th>server</th><th>load generator 1</th><th>load generator 2</th>",
                "<td>cores</td><td>8</td><td>2</td><td>24</td>",
                "<td>os</td><td>–</td><td>–</td><td>Two</td>",
                "<td>source addresses</td><td>–</td><td>192.0.2.7, 192.0.2.8</td><td>–</td>",
                "<td>boots of the server</td><td>1</td><td>–</td><td>–</td>"):
        assert f"<tr>{row}</tr>" in text
    contract.write_run(run, facts)
    assert "<tr><th></th><th>server</th><th>load generator</th></tr>" in report.render(Study(run))


def test_a_report_of_a_run_without_tables(tmp_path):
    done = program("experiments/report.py", planned(tmp_path, *TINY))
    assert done.returncode == 1 and "run experiments/summarise.py" in done.stderr


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_it(run, tmp_path):
    """On a screen, on a phone and on paper: as wide as the window, and not blank."""
    from PIL import Image
    program("experiments/report.py", run)
    for width in (1200, 400):
        shot = tmp_path / f"{width}.png"
        subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu",
                        "--hide-scrollbars", f"--window-size={width},1600",
                        f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
                        f"file://{run / 'report.html'}"], check=True, capture_output=True,
                       timeout=90)
        picture = Image.open(shot).convert("RGB")
        assert picture.width == width and len(picture.getcolors(1 << 24)) > 50
    paper = tmp_path / "report.pdf"
    subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu",
                    f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={paper}",
                    f"file://{run / 'report.html'}"], check=True, capture_output=True, timeout=90)
    assert len(re.findall(rb"/Type */Page\b", paper.read_bytes())) > 1


@pytest.mark.parametrize("folder", ["runs", "o'clock $HOME"])
def test_a_figure_that_cannot_be_drawn_leaves_the_others(tmp_path, folder):
    run = planned(tmp_path / folder, *TINY)
    fill(run, {"shared": [100, 200, 400], "fastsocket": [150, 260, 600]})
    for repetition in "321":
        raw = run / "raw/shared" / repetition / "latencies.csv"
        raw.parent.mkdir(parents=True)
        raw.write_text("time,ms,requests\ntotal,1,100\ntotal,2,100\n")
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    before = {path.name: path.read_bytes() for path in (run / "figures").iterdir()}
    assert {"tail.svg", "ab-latency-100.png"} <= set(before)
    raw.write_text("time,ms,requests\ntotal,torn\n")
    assert program("plots/plot.py", run).returncode
    assert {path.name: path.read_bytes() for path in (run / "figures").iterdir()} == before
    # A process that was killed after its first figure.
    (run / "figures").rename(run / "figures.old")
    (run / "figures").mkdir()
    (run / "figures/forest.png").write_bytes(b"")
    raw.unlink()
    assert program("plots/plot.py", run).returncode == 0
    names = {path.name for path in (run / "figures").iterdir()}
    assert "forest.png" in names and "tail.svg" not in names
    assert not (run / "figures.old").exists()


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_phone_shows_the_ratio(run, tmp_path):
    """The first table's ratio is to be seen at 390 pixels, without scrolling sideways."""
    program("experiments/report.py", run)
    measured = ("<script>onload = () => parent.document.title = 'right end: ' + document"
                ".querySelector('table tbody td:nth-child(4)').getBoundingClientRect().right"
                "</script>")
    page = tmp_path / "phone.html"
    page.write_text('<iframe style="width: 390px; border: 0" srcdoc="{}"></iframe>'.format(
        html.escape((run / "report.html").read_text() + measured)))
    done = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu",
                           f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
                           f"file://{page}"], check=True, capture_output=True, text=True,
                          timeout=90)
    assert float(re.search(r"<title>right end: ([\d.]+)", done.stdout)[1]) <= 390


def test_profiles_side_by_side():
    """In a committed run, the functions that Fastsocket removes come first."""
    study = Study(ROOT / "results/seed-demo/20261127T203805Z")
    table = report.profiles(study)[0]
    assert len(table["rows"]) == places.PROFILE_ROWS
    changes = [abs(float(row[3])) for row in table["rows"]]
    assert changes == sorted(changes, reverse=True)


PERF = b"""
    60.00%  server
30 do_syscall_64;inet_csk_accept;lock_sock_nested;native_queued_spin_lock_slowpath
20 do_syscall_64;tcp_sendmsg

    40.00%  swapper
5 0;0x7ffff7efd50e;do_syscall_64;tcp_sendmsg
1 0;tcp_sendmsg;0x55555558bf5b
1 0x400;tcp_sendmsg;0
8 cpu_startup_entry;asm_sysvec_call_function;__do_softirq
90 cpu_startup_entry;default_idle_call;native_safe_halt
"""


def test_folded_chains():
    """Programs come first, as flame graph tools read it; idle samples are left out."""
    text = profiles.folded(PERF).decode()
    assert "server;do_syscall_64;tcp_sendmsg 20\n" in text
    chains = profiles.busy_chains(text)
    assert sum(chains.values()) == 65
    assert chains["swapper", "[unknown]", "do_syscall_64", "tcp_sendmsg"] == 5
    assert chains["swapper", "[unknown]", "tcp_sendmsg", "[unknown]"] == 2
    assert chains["swapper", "cpu_startup_entry", "asm_sysvec_call_function", "__do_softirq"] == 8


def keep_chains(run, cell, text):
    folder = run / "raw" / cell / "p1"
    folder.mkdir(parents=True)
    (folder / profiles.STACKS).write_bytes(text)


def test_flame_graphs(run):
    """Without, with and the difference, which also has functions that only one of them has."""
    before, after = Study(run).declared[0]
    keep_chains(run, before, profiles.folded(PERF))
    assert report.flames(Study(run)) == []
    keep_chains(run, after, b"server;do_syscall_64;tcp_sendmsg<b> 10\n")
    without, with_, difference = report.flames(Study(run))
    assert "<title>native_queued_spin_lock_slowpath: 46.15 % of busy samples</title>" in without
    assert f'fill="{flame.SPINS}"/>' in without
    assert "tcp_sendmsg&lt;b&gt;: 100.00 %" in with_ and "<b>" not in with_
    assert ("<title>native_queued_spin_lock_slowpath: 46.15 % without, 0.00 % with: -46.15"
            in difference)
    assert flame.mixed(flame.LESS, flame.DEEPEST) in difference
    assert program("experiments/report.py", run).returncode == 0
    assert (run / "report.html").read_text().count('<svg class="flame"') == 3


def copy_of(run, factor, baseline=1.0):
    """The same run, with Fastsocket's rates times factor, all rates times baseline."""
    other = run.with_name("20990101T000000Z")
    shutil.copytree(run, other)
    lines = [line.split(",") for line in (other / "samples.csv").read_text().splitlines()]
    rate, setup = lines[0].index("throughput_rps"), lines[0].index("setup")
    for line in lines[1:]:
        if line[rate]:
            line[rate] = str(float(line[rate]) * baseline
                             * (factor if line[setup] == "fastsocket" else 1))
    (other / "samples.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    return other


@pytest.mark.parametrize("factor, baseline, status, word", [
    (0.8, 1.0, 1, "slower"), (1.2, 1.0, 0, "faster"), (1.0, 0.5, 0, "the same within 5 %")])
def test_comparison(run, factor, baseline, status, word):
    """A slower machine does not count as slower software."""
    other = copy_of(run, factor, baseline)
    done = program("experiments/compare.py", "--check", run, other)
    assert done.returncode == status, done.stderr
    assert re.search(rf"\| fastsocket \| requests/s, ratio to shared \| {factor:.2f}.* \| {word} "
                     r"\| 6 \|", done.stdout), done.stdout
    assert ("worse in B: fastsocket: requests/s, ratio to shared" in done.stdout) == bool(status)
    # B alone is compared with the newest other.
    assert program("experiments/compare.py", other).stdout.startswith(
        f"A: `seed-demo/{run.name}`")


def test_a_run_is_compared_with_a_committed_one(run):
    """A newer run that was only tried in the checkout is no reference."""
    new = copy_of(run, 1)
    tried = run.with_name("20980101T000000Z")
    shutil.copytree(run, tried)
    assert compare.reference(new) == tried
    for words in (["init", "-q"], ["add", "-f", run / "samples.csv"]):
        subprocess.run(["git", "-C", run.parent, *words], check=True, capture_output=True)
    assert compare.reference(new) == run


def test_what_differs_comes_first(run):
    other = copy_of(run, 1)
    facts = contract.read_run(other)
    facts["server"]["kernel"] = "6.12.1-amd64"
    contract.write_run(other, facts)
    text, _ = compare.report(Study(run), Study(other))
    assert text.index("| server kernel | 6.1.0-1-amd64 | 6.12.1-amd64 |") < text.index("| cell |")


@pytest.mark.parametrize("change, row", [
    ({"loadgens": [{"cores": "2"}, {"cores": "24"}]}, "| loadgen 2 cores | – | 24 |"),
    ({"sources": [["192.0.2.7", "192.0.2.8"]]},
     "| sources of loadgen 1 | – | 192.0.2.7, 192.0.2.8 |"),
    ({"boots": [{"boot_id": "x", "first_order": 1,
                 "emulator": "QEMU 7: -cpu max -smp 4 -plugin /run/fsb-00000000.count"}] * 2},
     "| boots emulator | -smp 8 | -smp 4 |")])
def test_all_that_differs_in_the_hosts_is_told(change, row, run):
    """All generators, their addresses, and what belongs to a boot, as the emulator does."""
    facts = contract.read_run(run)
    facts["boots"][0]["emulator"] = "QEMU 7: -cpu max -smp 8 -plugin /run/fsb-12345678.count"
    contract.write_run(run, facts)
    other = copy_of(run, 1)
    assert not compare.differences(Study(run), Study(other))
    contract.write_run(other, {**facts, **change})
    table = compare.differences(Study(run), Study(other))
    assert table and row in table and "boot_id" not in table


def test_a_run_and_itself_have_no_differences():
    """Neither between hosts nor between profiles."""
    study = Study(sorted((ROOT / "results/seed-demo").glob("*T*Z"))[-1])
    text, worse = compare.report(study, study)
    assert worse == [] and "The hosts, the commit and the sizes are the same." in text
    assert "difference" not in text


def test_a_comparison_is_drawn(run, tmp_path):
    """Of B alone as well, in words, with the direction that is better."""
    other = copy_of(run, 0.8)
    assert program("plots/difference.py", other, "--out", tmp_path / "new/out").returncode == 0
    text = (tmp_path / "new/out.svg").read_text()
    assert f"A: seed-demo/{run.name}" in text and "with Fastsocket" in text
    assert "(right is faster)" in text
    assert (tmp_path / "new/out.png").stat().st_size > 1000


def test_counts_have_intervals_and_verdicts():
    """Six repetitions in each of two runs tell, and two do not."""
    def between(after, before):
        return intervals.between(np.log(after), [1] * len(after), np.log(before), [1] * len(before))
    six = np.array([300, 301, 299, 302, 298, 300])
    found = [("cell", one) for one in (between(six, six), between(six * 0.2, six),
                                       between(six * 1.2, six), between(six[:2] * 2, six), None)]
    assert [word for _, word in compare.told(found)] == [
        "the same within 5 %", "fewer", "more", "–", "–"]
    assert re.match(r"0\.20 \[0\.\d\d–0\.\d\d\]|0\.20$", compare.told(found)[1][0])
    assert compare.told(found)[3][0] == "–"


def test_nothing_to_compare(run, tmp_path):
    done = program("experiments/compare.py", run)
    assert done.returncode == 2 and done.stderr.startswith("compare: give two runs' folders")
    empty = planned(tmp_path / "other", *TINY)
    done = program("experiments/compare.py", run, empty)
    assert done.returncode == 2 and "has no samples" in done.stderr
    done = program("plots/difference.py", run, "--out", tmp_path / "out")
    assert done.returncode == 1 and done.stderr.startswith("difference: give two runs' folders")


@pytest.mark.parametrize("name", ["experiments/summarise.py", "experiments/report.py",
                                  "experiments/compare.py", "plots/plot.py"])
@pytest.mark.parametrize("folder", ["", "nope"], ids=["other folder", "no folder"])
def test_a_folder_that_is_no_run_is_named(name, folder, tmp_path):
    done = program(name, tmp_path / folder)
    assert done.returncode and not done.stdout
    assert f"{tmp_path / folder} is no run's folder: ls -d results/*/* lists" in done.stderr


def test_a_check_that_compares_nothing_fails(run):
    """Runs of two experiments have no cell in common."""
    other = copy_of(run, 1)
    for name in ("plan.csv", "samples.csv", "summary.csv"):
        lines = (other / name).read_text().replace("shared", "mine").replace("fastsocket", "yours")
        (other / name).write_text(lines)
    facts = (other / "run.json").read_text()
    (other / "run.json").write_text(
        facts.replace('"shared', '"mine').replace('"fastsocket', '"yours'))
    for status, check in ((0, []), (1, ["--check"])):
        done = program("experiments/compare.py", *check, run, other)
        assert "The runs have no cell in common" in done.stdout, done.stderr
        assert done.returncode == status, done.stdout


@pytest.mark.parametrize("rounds, other", [(6, 6), (6, 20), (12, 12)])
def test_ratios_of_two_runs_contain_the_truth(rounds, other):
    draw = np.random.default_rng(rounds * other)
    inside = 0
    for _ in range(1000):
        one = intervals.between(draw.normal(0.1, 0.15, rounds), [1] * rounds,
                                draw.normal(0, 0.1, other), [1] * other)
        inside += one.low <= np.exp(0.1) <= one.high
    assert inside / 1000 >= 0.936
