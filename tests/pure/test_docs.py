# SPDX-License-Identifier: GPL-2.0-only
"""The documents show the committed results, and these follow from their samples."""
import os
import re
import shutil
import subprocess
import sys

import pytest

import fill
import reference

RUNS = [(fill.ROOT / path).parent for path in fill.committed("results/*/*/samples.csv")]


@pytest.mark.parametrize("document", fill.documents(), ids=lambda path: path.name)
def test_documents_show_the_newest_committed_results(document):
    assert fill.filled(document) == document.read_text(encoding="utf-8"), "run make docs"


def skeleton(document):
    """The parts that a translation does not change: levels of headings, commands, links, names."""
    text = re.sub(r"<!-- (\w+).*?<!-- end -->", r"<!-- \1 -->", document.read_text("utf-8"),
                  flags=re.S)
    blocks = re.findall(r"(?:^ {4}.*\n)+", text, re.M)
    prose = re.sub(r"(?:^ {4}.*\n)+", "", text, flags=re.M)
    return {"headings": re.findall(r"^#+ |^<!--.*|^- ", text, re.M),
            "commands": [re.sub(r" +#.*", "", block) for block in blocks],
            "links": sorted(set(re.findall(r"\]\((?!README)(.*?)\)", prose))),
            "names": sorted(set(re.findall(r"`[^`]*`", prose.replace("\n", " "))))}


def test_both_languages_have_the_same_headings_commands_and_names():
    assert skeleton(fill.ROOT / "README.md") == skeleton(fill.ROOT / "README.zh.md")


@pytest.mark.parametrize("document", fill.documents(), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#:]+)[)#]", document.read_text("utf-8"))
    assert [x for x in links if not (document.parent / x).exists()] == []


def test_commands_of_the_readme_are_targets():
    targets = re.findall(r"^([a-z-]+):", (fill.ROOT / "Makefile").read_text("utf-8"), re.M)
    text = (fill.ROOT / "README.md").read_text("utf-8")
    wanted = re.findall(r"(?:^ {4}|`)make ([a-z][a-z-]*)\b", text, re.M)
    assert wanted and not set(wanted) - set(targets)


def test_help_lists_every_target_under_a_title():
    text = subprocess.run(["make", "-s", "help"], cwd=fill.ROOT, check=True,
                          capture_output=True, text=True).stdout
    makefile = (fill.ROOT / "Makefile").read_text("utf-8")
    targets = re.findall(r"^([a-z-]+):.*## ", makefile, re.M)
    listed = re.findall(r"^  ([a-z-]+) ", text, re.M)
    assert sorted(listed) == sorted(targets) and len(re.findall(r"^##@ ", makefile, re.M)) == len(
        re.findall(r"^\S.*\n  ", text, re.M))


@pytest.mark.parametrize("words, sentence", [
    (["plots", "RUN=nope"], "ls -d results"), (["tables", "RUN=nope"], "ls -d results"),
    (["report", "RUN=nope"], "ls -d results"), (["pack", "RUN=nope"], "ls -d results"),
    (["compare"], "no runs are given: make compare A="),
    (["compare", "A=results/few/1"], "B= is not given: make compare B=results/few/1"),
    (["sweep", "EXPERIMENT=nope"], "experiment nope: there is none of that name: give one of"),
    (["sweep", "PROFILE=nope"], "profile nope: there is none of that name: give one of"),
    # Before packages are installed.
    (["test-debug", "KERNELS=6.1-nope", "PACKAGES_DEBUG=no-such-package"],
     "6.1-nope: give 6.1 or 6.12, a dash, and the name of a fragment")])
def test_a_wrong_word_is_named_before_anything_is_done(words, sentence, tmp_path, monkeypatch):
    """The hint to give the same command again would not help here."""
    (tmp_path / "apt-get").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(["make", "-s", *words], cwd=fill.ROOT, capture_output=True, text=True)
    assert done.returncode and sentence in done.stderr, done.stderr
    assert not done.stdout and "goes on with it" not in done.stderr


@pytest.mark.parametrize("name, old, new, sentence", [
    ("CHANGELOG.md", None, None, ""),
    ("CHANGELOG.md", r"^## [\d.]+", "## 0.1", "but CHANGELOG.md says 0.1"),
    ("CHANGELOG.md", r"^(## [\d.]+) .*", r"\1 (2014-01-01)", "but CHANGELOG.md of 2014-01-01"),
    ("kmod/dkms.conf", r'(PACKAGE_VERSION=).*', r'\1"0.1"', "but kmod/dkms.conf says 0.1")])
def test_a_release_has_one_version_and_one_date(name, old, new, sentence, tmp_path):
    """make deb checks the same, so that a tag has what its packages say."""
    for path in ("debian/check-version", "debian/changelog", "kmod/main.c", "kmod/dkms.conf",
                 "CHANGELOG.md"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(fill.ROOT / path, tmp_path / path)
    version = re.match(r"fastsocket \(([\d.]+)\)", (tmp_path / "debian/changelog").read_text())[1]
    if old:
        text = (tmp_path / name).read_text("utf-8")
        (tmp_path / name).write_text(re.sub(old, new, text, count=1, flags=re.M), "utf-8")
    done = subprocess.run([tmp_path / "debian/check-version", version], capture_output=True,
                          text=True, check=False)
    assert done.returncode == bool(old) and sentence in done.stderr, done.stderr


@pytest.mark.parametrize("line, completions", [
    ("fsocketctl ", {"status", "set", "watch", "listeners", "doctor", "run", "--help"}),
    ("fsocketctl li", {"listeners"}), ("fsocketctl watch -", {"--json"}),
    ("fsocketctl run --backend=k", {"kernel"}), ("fsocketctl run --j", {"--json"})])
def test_bash_completes_fsocketctl(line, completions):
    """COMP_WORDS is as bash makes it, with "=" as a word of its own."""
    words = re.findall(r"=|[^\s=]+", line) + [""] * line.endswith(" ")
    script = ('. library/completion.bash && COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) && '
              '_fsocketctl && printf "%s\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", script, "bash", *words], cwd=fill.ROOT, check=True,
                          capture_output=True, text=True)
    assert set(done.stdout.split()) == completions and not done.stderr


def test_every_experiment_is_listed():
    text = (fill.ROOT / "docs/measuring.md").read_text("utf-8")
    rows = "".join(re.findall(r"^\|(.*?)\|", text, re.M))
    names = [path.stem for path in (fill.ROOT / "experiments").glob("*.yml")]
    assert [name for name in names if f"`{name}`" not in rows] == []


def test_reference_says_what_the_sources_say():
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run make docs"


def test_reference_knows_everything_that_is_declared():
    """Fails on a declaration in a form that reference.py does not read, and would leave out."""
    def names(pattern, *files):
        return [found for name in files for found in re.findall(pattern, reference.source(name))]

    columns = names(r"\bCOLUMN\((\w+)\),", "kmod/proc.c")
    assert columns == [row[0] for struct in ("fsocket_stats", "fsocket_pool_stats")
                       for row in reference.fields(struct)]
    assert sorted(names(r"module_param_cb\((\w+),", "kmod/params.c")) == sorted(
        row[0] for row in reference.parameters())
    header = names(r'"(inode port [\w ]+)\\n"', "kmod/listen_seq.c")[0]
    assert header.split() == [row[0] for row in reference.listener_columns()]
    assert names(r"(?:DEFINE_EVENT\(\w+, |TRACE_EVENT\()(\w+),", "kmod/trace.h") == [
        row[0] for row in reference.tracepoints()]
    assert names(r"#define (FSOCKET_IOC_\w+) ", "kmod/fastsocket_abi.h") == [
        row[1] for row in reference.calls()]


@pytest.fixture(name="summarised", scope="module")
def runs_summarised_again(tmp_path_factory):
    """The folder of copies of all runs. One by one, loading the libraries would take longer."""
    folder = tmp_path_factory.mktemp("runs")
    copies = [shutil.copytree(run, folder / run.parent.name / run.name,
                              ignore=shutil.ignore_patterns("tables", "summary.csv", "figures"))
              for run in RUNS]
    subprocess.run([sys.executable, fill.ROOT / "experiments/summarise.py", *copies], check=True,
                   capture_output=True)
    return folder


@pytest.mark.parametrize("run", RUNS, ids=lambda run: "/".join(run.parts[-2:]))
def test_tables_follow_from_the_samples(run, summarised):
    copy = summarised / run.parent.name / run.name
    for table in sorted(run.glob("tables/*.md")) + [run / "summary.csv"]:
        assert (copy / table.relative_to(run)).read_text() == table.read_text(), "run make tables"


def test_committed_results_weigh_little():
    """Raw files are packed (make pack) before they are committed."""
    files = [fill.ROOT / path for path in fill.committed("results/*")]
    assert len(files) < 600
    assert sum(path.stat().st_size for path in files) < 18e6
    assert not [path for path in files if "raw" in path.parts]
