"""The pytest plugin as another repository meets it: every test here runs pytest in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from niclab.report import summary

from tests.support.inner import FAILING, standing

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")

TOPOLOGY = """\
name: tiny
fabrics: {lan: , san: }
nodes:
  node1:
    nics:
      eth0: {fabric: lan, addresses: 192.168.7.1/24}
      eth1: {fabric: san, addresses: 192.168.8.1/24}
    routes: [default via 192.168.7.9]
    pod_cidrs: 10.9.1.0/24
    pods: [pod1]
externals:
  ext: {nics: {eth0: {fabric: san, addresses: 192.168.8.9/24}}, routes: [10.9.1.0/24 via 192.168.8.1]}
  gw: {nics: {eth0: {fabric: lan, addresses: 192.168.7.9/24}}}
flows: [pod1 -> ext]
"""


def record(pytester: pytest.Pytester, run: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pytester.path / "artifacts" / f"run-{run}" / "run.json").read_text())
    return found


@needs_root
def test_a_repository_with_topologies_of_its_own(pytester: pytest.Pytester) -> None:
    """Beside the tests, above them, by path; run from wherever."""
    tests = pytester.mkdir("tests")
    for place in (pytester.mkdir("topologies"), tests):
        (place / "tiny.yaml").write_text(TOPOLOGY)
    (tests / "test_it.py").write_text("""\
import pytest
from niclab import Lab

@pytest.mark.topology("tiny")
@pytest.mark.settings(routing="native", devices="eth0", ipv4_native_routing_cidr="10.9.0.0/16")
class TestNative:
    @pytest.mark.settings(devices="eth0,eth1")
    def test_by_name(self, lab: Lab):
        assert lab.topology.name == "tiny"
        assert lab.reported["node1"].devices == ("eth0", "eth1")
        flow = lab.send("pod1", "ext")
        assert flow.left("node1") == {"eth1"}
        assert flow.source_seen_by("ext") == "192.168.8.1"

@pytest.mark.topology("tiny.yaml")
def test_by_path(lab):
    assert lab.topology.name == "tiny"
""")
    pytester.makeini("[pytest]\naddopts = --strict-markers\n")
    os.chdir(tests)
    done = pytester.runpytest_subprocess("-q", "--cilium", "1.18", "--cilium", "1.20")
    done.assert_outcomes(passed=4)
    done.stdout.fnmatch_lines(
        [
            "tiny · native · built-in model of Cilium 1.18",
            "devices    pod1→ext",
            "eth0,eth1  eth1 snat",
            "tiny · native · built-in model of Cilium 1.20",
            "record: artifacts/run-1/run.json (every matrix: niclab matrix artifacts/run-1/run.json)",
        ]
    )


@needs_root
def test_tests_that_ask_for_the_same_share_a_lab(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.fixture(autouse=True)
        def note(lab, request):
            print("ran", request.node.name, lab.id)

        def test_a(lab): pass
        @pytest.mark.settings(devices="eth1")
        def test_b(lab): pass
        def test_c(lab): pass
        @pytest.mark.topology("two-nic")
        @pytest.mark.settings(devices=["eth1"])
        def test_d(lab): pass
        @pytest.mark.topology("single-nic")
        def test_e(lab): pass
    """)
    done = pytester.runpytest_subprocess("-s")
    done.assert_outcomes(passed=10)
    ran = dict(re.findall(r"ran (test_\w\[cilium-1.\d\d\]) (lab\w+)", done.stdout.str()))
    for version in ("1.18", "1.20"):
        a, b, c, d, e = (ran[f"test_{name}[cilium-{version}]"] for name in "abcde")
        assert a == c
        assert b == d
        assert len({a, b, e}) == 3
    assert len(set(ran.values())) == 6
    # Tests of one lab are brought together.
    assert [name[5] for name in ran if "1.18" in name] == ["a", "c", "b", "d", "e"]
    assert not any(map(standing, ran.values()))


def test_with_real_agents_tests_of_one_lab_are_brought_together_over_files(pytester: pytest.Pytester) -> None:
    """First those that ask for the same, then those whose lab only has to be told other devices."""
    first = """
        import pytest
        @pytest.mark.settings(devices="eth0")
        def test_a(lab): pass
        @pytest.mark.settings(routing="native", ipv4_native_routing_cidr="10.0.0.0/8")
        def test_b(lab): pass
    """
    second = """
        import pytest
        @pytest.mark.settings(devices="eth1")
        def test_c(lab): pass
        @pytest.mark.settings(devices="eth0")
        def test_d(lab): pass
    """
    pytester.makepyfile(test_first=first, test_second=second)
    collected = {}
    for datapath in ("cilium", "builtin"):
        done = pytester.runpytest_subprocess("--collect-only", "-q", "--datapath", datapath)
        collected[datapath] = "".join(re.findall(r"::test_(\w)\[(?:NOTSET|cilium-1.20)", done.stdout.str()))
    assert collected == {"cilium": "adcb", "builtin": "abcd"}


@needs_root
def test_a_failed_comparison_shows_the_way_and_leaves_one_capture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    done = pytester.runpytest_subprocess("--junitxml=junit.xml")
    done.assert_outcomes(passed=1, failed=1)
    done.stdout.fnmatch_lines(
        [
            "E  *assert pod1→ext1 left node1 by eth1, not by eth0 (5 of 5)",
            "E  *pod1 ─ lxc ─ node1 ═ eth1 ═ f1 ─ ext1      source seen: 10.0.1.1 (masqueraded)",
            "E  *node1.eth0 0 · node1.eth1 5 · node2.eth0 0 · node2.eth1 0      canaries ok · drops 0",
            "E  *reported: node1: devices [[]eth1], direct routing device eth1",
            "*niclab pcapng*",
            "*/artifacts/run-1/*test-wrong-cilium-1.20.pcapng",
        ]
    )
    assert "niclab flows" not in done.stdout.str(), "what the assertion shows is not said twice"
    (capture,) = (pytester.path / "artifacts" / "run-1").glob("*.pcapng")
    names = interface_names(capture)
    for tap in ("node1.eth0", "node1.eth1", "node2.eth0", "node2.eth1", "ext0.eth0", "ext1.eth0", "gw.p0", "pod1"):
        assert tap in names
    cases = {case.get("name"): case for case in ET.parse(pytester.path / "junit.xml").iter("testcase")}
    told = {one.get("name"): one.get("value") for one in cases["test_wrong[cilium-1.20]"].iter("property")}
    assert told["niclab.reported"] == "; ".join(f"node{n}: devices [eth1], direct routing device eth1" for n in (1, 2))
    assert told["niclab.expected"] == "pod1→ext1: node1.eth1, 10.0.1.1 seen at ext1; back by ext1.eth0"
    assert told["niclab.observed"] == "pod1→ext1: carried by node1.eth1"
    run = record(pytester)
    wrong, right = run["tests"]
    assert (run["version"], run["datapath"]) == (1, "builtin")
    assert (wrong["test"], wrong["outcome"], wrong["pcapng"]) == (
        "test_a_failed_comparison_shows_the_way_and_leaves_one_capture.py::test_wrong[cilium-1.20]",
        "failed",
        capture.name,
    )
    assert (right["outcome"], right.get("pcapng")) == ("passed", None)
    assert wrong["nodes"]["node1"]["devices"] == ["eth1"]
    assert wrong["flows"][0]["expected"] == ["node1.eth1, 10.0.1.1 seen at ext1; back by ext1.eth0"]
    assert wrong["flows"][0]["transmitted_by"]["node1.eth1"]["requests"] == 5
    assert wrong["measurement"] == {"canaries": "ok", "drops": 0, "without_carrier": []}


def interface_names(capture: Path) -> set[str]:
    """As Wireshark's own tool tells them, where it is installed, else as scapy does."""
    if shutil.which("capinfos"):
        told = subprocess.run(["capinfos", str(capture)], capture_output=True, text=True, check=True).stdout
        return set(re.findall(r"Name = (\S+)", told))
    from scapy.utils import PcapNgReader

    with PcapNgReader(str(capture)) as reader:
        assert list(reader)
        return {options["name"].decode() for options in reader.interfaces if "name" in options}


@needs_root
def test_other_assertions_are_explained_too(pytester: pytest.Pytester) -> None:
    """A source is a plain string: the flows of a failed test are shown beside it. So they are when a fixture fails."""
    pytester.makepyfile("""
        import pytest
        pytestmark = pytest.mark.cilium("1.20")

        def test_source(lab):
            assert lab.send("pod1", "ext0").source_seen_by("ext0") == "1.2.3.4"

        @pytest.fixture
        def broken(lab):
            lab.send("pod1", "ext1").must_leave("node1", by="eth0")

        def test_broken(broken): pass

        def test_nothing_sent(lab):
            assert not lab

        def test_both(lab):
            flow = lab.send("pod1", "pod2")
            assert (flow.left("node1"), flow.came_back_to("node1")) == ({"eth1"}, {"eth0"})
    """)
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(failed=3, errors=1)
    text = done.stdout.str()
    done.stdout.fnmatch_lines(["*niclab flows*", "pod1→ext0: carried, 5 of 5 answered"])
    assert "pod1→ext1 must leave node1 by eth0, left by eth1 (5 of 5)" in text
    assert "none: the test ended before a frame was captured" in text
    assert "pod1→pod2: ({'eth0'}, {'eth0'}) == ({'eth1'}, {'eth0'})" in text
    assert len(list((pytester.path / "artifacts/run-1").glob("*.pcapng"))) == 3


@needs_root
def test_workers_hand_their_records_over(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        FAILING
        + """
@pytest.mark.settings(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True)
@pytest.mark.parametrize("to", ["pod2", "ext0", "ext1", "node2.eth0"])
def test_more(lab, to):
    lab.send("pod1", to)
"""
    )
    done = pytester.runpytest_subprocess("-n", "4", "--pcap", "--junitxml=junit.xml")
    done.assert_outcomes(passed=5, failed=1)
    text = done.stdout.str()
    assert text.count("record: ") == 1
    assert text.count("two-nic · ") == 1
    matrix = list(summary.whole(record(pytester)["tests"], width=120))
    assert matrix.count("two-nic · native · built-in model of Cilium 1.20") == 1
    assert any(re.fullmatch(r"devices +pod1→pod2 +pod1→ext0 +pod1→ext1 .*pod1→node2.eth0", line) for line in matrix)
    assert [path.name for path in (pytester.path / "artifacts").iterdir()] == ["run-1"]
    assert len(list((pytester.path / "artifacts/run-1").glob("*.pcapng"))) == 6
    tests = record(pytester)["tests"]
    # In the order of one process.
    assert [one["test"].rpartition("::")[2] for one in tests] == [
        "test_wrong[cilium-1.20]",
        "test_right[cilium-1.20]",
        *(f"test_more[cilium-1.20-{to}]" for to in ("pod2", "ext0", "ext1", "node2.eth0")),
    ]
    assert "niclab.observed" in (pytester.path / "junit.xml").read_text()


@needs_root
def test_older_records_are_never_overwritten(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(lab): lab.send('pod1', 'pod2')")
    for number in (1, 2):
        done = pytester.runpytest_subprocess("--artifacts", "else where/records", "--cilium=1.20", "--pcap")
        done.stdout.fnmatch_lines([f"record: else where/records/run-{number}/run.json (every matrix: *)"])
    assert {path.name for path in (pytester.path / "else where/records").iterdir()} == {"run-1", "run-2"}
    assert len(list((pytester.path / "else where").rglob("*.pcapng"))) == 2


@needs_root
def test_a_lab_that_cannot_be_built_is_explained(pytester: pytest.Pytester) -> None:
    (pytester.path / "broken.yaml").write_text("name: broken\nfabrics: [\n")
    reported = {
        'topology("nowhere")': "no topology is named 'nowhere'",
        'topology("./broken.yaml")': "broken.yaml:3",
        "topology()": "the topology mark takes one name or path",
        'topology("two-nic", route=["all: x"])': "the topology mark does not take this",
        'settings(devises="eth0")': "did you mean devices?",
        'settings("devices=eth0")': "the settings mark takes files, Settings or flags, not 'devices=eth0'",
    }
    tests = [f"@pytest.mark.{mark}\ndef test_{number}(lab): pass" for number, mark in enumerate(reported)]
    pytester.makepyfile("\n".join(["import pytest", *tests, "def test_other(): pass"]))
    done = pytester.runpytest_subprocess("--cilium", "1.20")
    done.assert_outcomes(passed=1, errors=len(reported))
    text = done.stdout.str()
    assert text.count("the lab could not be built:") == text.count("\n  fix: ") == len(reported)
    assert [words for words in reported.values() if words not in text] == []
    assert "Traceback" not in text + done.stderr.str()
    assert "lab/session.py" not in text


@needs_root
def test_an_unknown_version_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(lab): pass\ndef test_other(lab): pass")
    done = pytester.runpytest_subprocess("--cilium", "9.9")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert "the model knows Cilium 1.16 to 1.21, not 9.9" in done.stderr.str()


def test_a_test_is_about_the_versions_it_names(pytester: pytest.Pytester) -> None:
    """`--collect-only` builds nothing, and so needs no root."""
    pytester.makepyfile("""
        import pytest
        @pytest.mark.cilium("1.18")
        def test_old(lab): pass
        def test_any(lab): pass
        @pytest.mark.parametrize("cilium_version", ["1.17"])
        def test_own(lab, cilium_version): pass
    """)
    done = pytester.runpytest_subprocess("--collect-only", "-q", "-p", "no:xdist")
    assert sorted(re.findall(r"::(\S+)", done.stdout.str())) == [
        "test_any[cilium-1.18]",
        "test_any[cilium-1.20]",
        "test_old[cilium-1.18]",
        "test_own[1.17]",
    ]
    assert not (pytester.path / "artifacts").exists()


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "workers"])
def test_a_repository_without_lab_tests_is_untouched(pytester: pytest.Pytester, options: tuple[str, ...]) -> None:
    """No noise, no directory, nothing heavy loaded; also where `lab` is a fixture of the repository's own."""
    pytester.makepyfile("""
        import sys
        import pytest

        @pytest.fixture
        def lab():
            return "a dog"

        def test_it(lab, request):
            assert lab == "a dog"
            assert not [name for name in request.fixturenames if "cilium" in name]
            heavy = {"pydantic", "scapy", "pyroute2", "yaml", "niclab.plugin.session", "niclab.lab", "lab.topology"}
            assert not heavy & set(sys.modules)

        def test_that_fails():
            assert {1} == {2}
    """)
    done = pytester.runpytest_subprocess(*options)
    done.assert_outcomes(passed=1, failed=1)
    assert "niclab:" not in done.stdout.str()
    assert "record:" not in done.stdout.str()
    assert not (pytester.path / "artifacts").exists()


def test_the_plugin_costs_next_to_nothing_to_load() -> None:
    """Measured by what loading pytest itself takes, so that a slow machine is no slow plugin; the best of three."""
    code = """if True:
        import time
        start = time.process_time()
        import pytest, _pytest.fixtures, _pytest.terminal
        middle = time.process_time()
        import niclab.plugin.hooks
        print((time.process_time() - middle) / (middle - start))
    """
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.25
