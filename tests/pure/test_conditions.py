# SPDX-License-Identifier: GPL-2.0-only
"""What run.json says of hosts and sources, and what of it may change."""
import json
import os
import subprocess

import pytest

import conditions
import contract
import counts
from hosts import Host, RunError
from made import planned, sweep_on

SERVER = {"kernel": "6.1", "cores": "8", "memory_mb": "2970", "module_sha256": "aa"}


def server_of(facts, **changes):
    conditions.record_server(facts, {**SERVER, **changes}, 7)
    return facts


def test_a_run_goes_on_with_the_same_server():
    facts = server_of({})
    assert facts == {"server": SERVER}
    # So much differs from boot to boot; and an older run knows less.
    assert server_of(facts, memory_mb="2960") == {"server": SERVER}
    assert server_of({"server": {"kernel": "6.1"}}) == {"server": SERVER}


@pytest.mark.parametrize("changes, words", [
    ({"kernel": "6.12"}, "kernel"), ({"memory_mb": "2000", "cores": "4"}, "cores, memory_mb")])
def test_another_server_is_another_run(changes, words):
    with pytest.raises(RunError, match=rf"\({words} changed\): start a new run"):
        server_of({"server": SERVER}, **changes)


def test_a_library_that_was_built_of_other_sources_is_another_run():
    with pytest.raises(RunError, match="library_sha256 changed"):
        server_of({"server": {**SERVER, "library_sha256": "a"}}, library_sha256="b")


def test_a_module_that_was_signed_again_is_recorded():
    facts = server_of({"server": SERVER}, module_sha256="bb")
    change = {"what": "server module_sha256", "was": "aa", "is": "bb", "first_order": 7}
    assert facts == {"server": SERVER, "changes": [change]}
    # Once.
    assert server_of(facts, module_sha256="bb")["changes"] == [change]


class Emulated:
    """A host that says what an emulated server says of itself."""

    kernel, boot = "6.1.0-9-amd64", "b"

    def facts(self, *_):
        return {"boot_id": self.boot, **SERVER, "kernel": self.kernel}


@pytest.mark.parametrize("apart", [True, False])
def test_the_server_that_was_counted_may_be_another(tmp_path, monkeypatch, apart):
    """Where the lab has KVM; it has to stay the same, as well as the one that is timed."""
    sweep = sweep_on(planned(tmp_path), Emulated())
    sweep.facts["boots"], sweep.only_counts = [], apart
    monkeypatch.setattr(counts, "accelerator", lambda: "tcg")
    monkeypatch.setattr(counts, "emulator", lambda: "QEMU")
    sweep.loadgen = type("Generators", (), {"facts": lambda *_: [{"cores": "2"}]})()
    sweep.record_hosts("lab.yml")
    told = sweep.facts["counting"] if apart else sweep.facts
    assert told["server"]["accelerator"] == "tcg" and ("server" in sweep.facts) == (not apart)
    assert ("counts" in sweep.facts["boots"][0]) == apart
    assert contract.server_of(sweep.facts)["kernel"] == Emulated.kernel
    assert "kernel=6.1" in sweep.facts["command"]
    sweep.server.kernel = "6.12.1-amd64"
    monkeypatch.setattr(counts, "accelerator", lambda: "kvm")
    if apart:
        sweep.only_counts = False
        sweep.record_hosts("lab.yml")
        assert sweep.facts["server"]["kernel"] == "6.12.1-amd64"
        sweep.only_counts = True
        monkeypatch.setattr(counts, "accelerator", lambda: "tcg")
    with pytest.raises(RunError, match="kernel.* changed"):
        sweep.record_hosts("lab.yml")


@pytest.mark.parametrize("accelerator, counts_of_boot", [("kvm", False), ("tcg", None)])
def test_the_boot_after_that_is_timed(tmp_path, monkeypatch, accelerator, counts_of_boot):
    """Also where KVM, which the machine says to have, does not boot the kernel."""
    sweep = sweep_on(planned(tmp_path), Emulated())
    monkeypatch.setattr(counts, "emulator", lambda: "QEMU")
    sweep.loadgen = type("Generators", (), {"facts": lambda *_: [{"cores": "2"}]})()
    sweep.facts["boots"] = []
    timed = next(step for step in contract.read_plan(sweep.run) if step["repetition"] == "1")
    for sweep.only_counts, used in ((True, "tcg"), (False, accelerator)):
        monkeypatch.setattr(counts, "accelerator", lambda used=used: used)
        sweep.server.boot = f"boot under {used}, {sweep.only_counts}"
        sweep.record_hosts("lab.yml")
        assert sweep.another_boot(timed) == sweep.only_counts
    assert [boot.get("counts") for boot in sweep.facts["boots"]] == [True, counts_of_boot]
    assert sweep.facts["server"]["accelerator"] == accelerator


def test_a_run_keeps_its_number_of_generators():
    def facts_of(number, facts, kernel="6.1"):
        conditions.record_generators(facts, [{"cores": "4", "kernel": kernel}] * number, 1)
        return facts

    one, two = facts_of(1, {}), facts_of(2, {})
    assert "loadgens" not in one and len(two["loadgens"]) == 2 and two["loadgen"]["cores"] == "4"
    assert facts_of(2, two) == two and facts_of(1, one) == one
    for number, facts in ((2, one), (1, two)):
        with pytest.raises(RunError, match=f"the load generators are {number}, and were"):
            facts_of(number, facts)
    assert facts_of(2, two, "6.12")["changes"] == [
        {"what": f"loadgen {number} kernel", "was": "6.1", "is": "6.12", "first_order": 1}
        for number in (1, 2)]


@pytest.fixture(name="tree")
def a_checkout(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    for words in (["init", "-q", tree], ["-C", tree, "config", "user.email", "a@b"],
                  ["-C", tree, "config", "user.name", "a"]):
        subprocess.run(["git", *words], check=True)
    (tree / "file").write_text("one\n")
    subprocess.run(["git", "-C", tree, "add", "."], check=True)
    subprocess.run(["git", "-C", tree, "commit", "-qm", "one"], check=True)
    monkeypatch.setattr(conditions, "HERE", tree)
    return tree


def test_what_a_tree_is_more_than_its_commit_is_kept(tree, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    facts = {}
    conditions.record_sources(facts, run, 1)
    assert facts["git_dirty"] is False and len(facts["git_commit"]) == 40
    assert facts["git_difference"] == "" and not list(run.iterdir())
    (tree / "file").write_text("two\n")
    (tree / "new").write_text("")
    conditions.record_sources(facts, run, 5)
    kept = (run / "tree-1.diff").read_text()
    assert "-one\n+two\n" in kept and f"commit {facts['git_commit']}\n?? new\n" in kept
    assert [(change["what"], change["is"], change["first_order"]) for change in facts["changes"]
            ] == [("sources git_difference", "tree-1.diff", 5), ("sources git_dirty", True, 5)]
    conditions.record_sources(facts, run, 9)
    assert len(facts["changes"]) == 2 and len(list(run.iterdir())) == 1
    (tree / "file").write_text("three\n")
    conditions.record_sources(facts, run, 9)
    assert facts["changes"][-1]["is"] == "tree-2.diff"
    fresh = {}
    conditions.record_sources(fresh, run, 1)
    assert fresh["git_dirty"] and fresh["git_difference"] == "tree-2.diff"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_checkout_of_another_user(tree, tmp_path, monkeypatch):
    """As root in a user's clone: without git, a run would be called one of a clean tree."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    subprocess.run(["chown", "-R", "nobody:", tree], check=True)
    (tree / "file").write_text("two\n")
    facts = {}
    conditions.record_sources(facts, tmp_path, 1)
    assert len(facts["git_commit"]) == 40 and facts["git_dirty"] is True


def test_the_command_that_makes_such_a_run():
    facts = {"plan": {"experiment": "cores", "profile": "full"}, "settings": ["workers=1,2"]}
    assert conditions.command(facts, "mine.yml") == (
        "ansible-playbook -i inventory/mine.yml run-sweep.yml -e experiment=cores -e profile=full "
        "-e '{\"sweep_set\": [\"workers=1,2\"]}'")


@pytest.mark.parametrize("server, setup, words", [
    ({"accelerator": "tcg"}, {}, " -e kernel=6.12"), ({}, {}, ""),
    ({"accelerator": "tcg"}, {"kernel": "6.12"}, "")])
def test_the_command_names_the_kernel_that_the_lab_boots(server, setup, words):
    """Real hosts run what they run, and if it is a factor, the lab boots each."""
    facts = {"plan": {"experiment": "counts", "profile": "full", "setups": {"a": setup}},
             "server": {"kernel": "6.12.117+deb12-amd64", **server}}
    assert conditions.command(facts, "lab.yml") == (
        "ansible-playbook -i inventory/lab.yml run-sweep.yml -e experiment=counts -e profile=full"
        + words)


def test_this_host_tells_what_is_documented():
    for script, words in (("server.sh", ["lo"]), ("load.sh", ["127.0.0.1", "bash"])):
        facts = Host("this host", ["sh", "-c"], script).facts(*words)
        assert set(facts) <= {*contract.FACTS, "boot_id"} and all(facts.values())
        assert facts["kernel"] and facts["nic"] == "lo" and int(facts["cores"]) > 0


def test_runs_have_keys_that_are_documented():
    for path in contract.ROOT.glob("results/*/*/run.json"):
        facts = json.loads(path.read_text())
        assert set(facts) <= set(contract.RUN), path
        assert {*facts["server"], *facts["loadgen"]} <= set(contract.FACTS), path


def test_the_emulator_is_told_without_this_machines_folders(tmp_path, monkeypatch):
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # Once it answers, it has its command line.
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        (tmp_path / "pid").write_text(f"{process.pid}\n")
        monkeypatch.setattr(counts, "ACCELERATOR", tmp_path / "accel")
        told = counts.emulator()
        process.stdin.close()
    assert told.startswith("cat (GNU coreutils) ") and told.endswith(": cat")
