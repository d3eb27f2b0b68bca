"""`fails_without` and `pytest --mutations`: what counts as a mutation, and what does not."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from niclab import LAB_BASELINE, LabError, Settings, fails_without
from niclab.check.amend import Amendments
from niclab.plugin.mutations import Mutation
from niclab.plugin.session import Wanted

WANTED = Wanted(
    "two-nic",
    LAB_BASELINE.merged(Settings.of(devices="eth1", enable_bpf_masquerade=False)),
    "1.20",
    Amendments(routes=("node1: 10.9.0.0/16 via 10.0.1.254",), rules=("node1: from 10.9.0.0/16 lookup 100",)),
)


def mutation(*words: str, **given: Any) -> Mutation:
    made = fails_without(*words, **given).mark.args[0]
    assert isinstance(made, Mutation)
    return made


def test_a_setting_is_taken_away(tmp_path: Path) -> None:
    """The lab's baseline is left, or nothing."""
    left = mutation(devices="eth1", enable_bpf_masquerade=False).applied(WANTED, tmp_path)
    assert left.settings == LAB_BASELINE
    assert left.amendments == WANTED.amendments


@pytest.mark.parametrize("instead", ["eth0", {"devices": "eth0"}, Settings.of(devices="eth0")])
def test_another_value_comes_in_its_place(instead: object, tmp_path: Path) -> None:
    left = mutation(devices="eth1", instead=instead).applied(WANTED, tmp_path)
    assert left.settings.values == {**WANTED.settings.values, "devices": "eth0"}


def test_lines_of_the_topology_mark_are_taken_away(tmp_path: Path) -> None:
    assert mutation(rules=...).applied(WANTED, tmp_path).amendments == Amendments(routes=WANTED.amendments.routes)
    other = mutation(routes=list(WANTED.amendments.routes), instead=["node2: 10.9.0.0/16 via 10.0.1.254"])
    assert other.applied(WANTED, tmp_path).amendments.routes == ("node2: 10.9.0.0/16 via 10.0.1.254",)
    added = mutation("the node IP on eth0", instead={"node_ips": ["node1: 10.0.1.1"]}).applied(WANTED, tmp_path)
    assert added.amendments == WANTED.amendments.merged(Amendments(node_ips=("node1: 10.0.1.1",)))


def test_text_of_the_topology_is_replaced(tmp_path: Path) -> None:
    edited = mutation(topology="name: two-nic", instead="name: other").applied(WANTED, tmp_path)
    assert edited.topology != WANTED.topology
    assert "\nname: other\n" in Path(edited.topology).read_text()


@pytest.mark.parametrize(
    "given", [{"devices": "eth0"}, {"routing": "native"}, {"sysctls": ...}, {"topology": "eth7"}, {"rules": ["x: y"]}]
)
def test_nothing_can_be_taken_away_that_is_not_there(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LabError, match="there is nothing to take away"):
        mutation(**given).applied(WANTED, tmp_path)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ((), {}),
        (("words alone",), {}),
        ((), {"instead": {"devices": "eth0"}}),
        (("words",), {"instead": "eth0"}),
        ((), {"devices": "eth0", "tunnel": "vxlan", "instead": "eth0"}),
    ],
)
def test_a_mark_that_takes_nothing_away_is_refused_where_it_is_written(words: tuple[str], given: Any) -> None:
    with pytest.raises(TypeError):
        fails_without(*words, **given)


SCENARIOS = """\
import pytest
from niclab import Unmeasured, fails_without

pytestmark = [pytest.mark.topology("two-nic"), pytest.mark.cilium("1.18", "1.20")]
UNMASQUERADED = {"enable_ipv4_masquerade": False, "enable_bpf_masquerade": False}

@pytest.mark.settings(devices="eth0,eth1")
@fails_without(devices="eth0,eth1", instead="eth0")
@fails_without(devices="eth0,eth1", instead="eth1,eth0")
@fails_without("masquerading", instead=UNMASQUERADED, version="1.18")
def test_good(lab):
    assert lab.send("pod1", "ext1").source_seen_by("ext1") == "10.0.1.1"

@fails_without(devices="eth3")
def test_not_there(lab):
    pass

@pytest.mark.parametrize("devices", [pytest.param(d, marks=pytest.mark.settings(devices=d)) for d in ("eth0", "eth1")])
@fails_without("something", instead={"devices": "eth0,eth1"}, at="eth1")
def test_broken_off(lab, devices):
    raise KeyError(devices)

@fails_without(call="link_down")
def test_unmeasured(lab):
    with lab.link_down("node1.eth1"):
        raise Unmeasured("canaries lost")

@fails_without(call="link_down")
def test_a_call(lab):
    with lab.link_down("node1.eth1"):
        assert lab.send("pod1", "ext1").left("node1") != {"eth1"}

@fails_without("no such address", instead={"run": "node1: ip address add 10.244.1.200/32 dev eth1"})
def test_a_command(lab):
    assert "10.244.1.200" not in lab.run("node1", "ip", "address")

@pytest.mark.only(datapath="cilium")
def test_only_real(lab):
    pass

def test_without_a_lab():
    pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
def test_what_counts_and_what_does_not(pytester: pytest.Pytester) -> None:
    """In somebody's own repository: only scenarios with a mutation are run, and only good reasons to fail pass."""
    pytester.makepyfile(SCENARIOS)
    done = pytester.runpytest_subprocess("--mutations", "--datapath", "builtin", "-rA")
    done.assert_outcomes(passed=4, failed=3, errors=1)
    output = done.stdout.str()
    for line in (
        "without devices=eth0,eth1: the scenario passes all the same: strengthen it",
        "without something at eth1: the scenario broke off with KeyError: 'eth1'",
        "without link_down: nothing was measured: canaries lost",
        "there is nothing to take away: without devices=eth3",
    ):
        assert line in output
    assert "PASSED" in output and "test_only_real" not in output
    assert not list(pytester.path.glob("artifacts/*/run.json")), "a record shows scenarios as they are"


@pytest.mark.parametrize("given", ['at="eth7"', 'version="1.17"'])
def test_a_mutation_of_no_row_is_an_error(given: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"""
        from niclab import fails_without
        @fails_without("devices", instead={{"devices": "eth0"}}, {given})
        def test_it(lab): pass
    """)
    done = pytester.runpytest_subprocess("--mutations", "--datapath", "builtin", "--collect-only", "-q")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*no row or version of the scenario is meant by: *test_it: without devices*"])
    done = pytester.runpytest_subprocess("--datapath", "builtin", "--collect-only", "-q")
    assert done.ret == pytest.ExitCode.OK


def test_a_mutation_of_a_version_that_is_not_asked_for_is_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from niclab import fails_without
        @fails_without("devices", instead={"devices": "eth0"}, version="1.18")
        @fails_without("devices", instead={"devices": "eth1"})
        def test_it(lab): pass
    """)
    options = ("--mutations", "--datapath", "builtin", "--cilium", "1.19", "--collect-only", "-q")
    done = pytester.runpytest_subprocess(*options)
    done.stdout.fnmatch_lines(["*test_it[[]0: without devices-cilium-1.19]", "*1/2 tests collected*"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: builds network namespaces")
@pytest.mark.parametrize("document", ["README.md", "docs/cookbook.md"])
def test_the_documents_examples_hold(document: str, pytester: pytest.Pytester) -> None:
    """They pass, and they fail without what they stand on."""
    text = (Path(__file__).parents[2] / document).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    examples = [block for block in blocks if "@fails_without" in block]
    assert examples
    pytester.makepyfile("import pytest\n" + "\n".join(examples))
    done = pytester.runpytest_subprocess("--datapath", "builtin")
    assert done.ret == pytest.ExitCode.OK
    done = pytester.runpytest_subprocess("--datapath", "builtin", "--mutations")
    assert done.ret == pytest.ExitCode.OK
    assert done.parseoutcomes()["passed"] == text.count("\n@fails_without(")
