"""The built-in datapath's numbers: no two features share one, and what does not fit is an error that says so."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from niclab import LAB_BASELINE, Settings, Topology, Version
from niclab.check import loads
from niclab.cilium import egress, numbers, services
from niclab.cilium.decisions import Decisions
from niclab.cilium.numbers import NOTE, SOURCE, Block, Field
from niclab.cilium.operations import node_operations
from niclab.errors import LabError
from niclab.kernel.plan import mac
from niclab.net.operation import AddRule
from niclab.net.packetrules import Rewrite, SetMark
from niclab.net.route import TABLES

CILIUM = Path(numbers.__file__).parent
BLOCKS = (*numbers.OWN_BLOCKS, numbers.ENI_NICS)
RANGES = [
    *(range(table, table + 1) for table in (*TABLES.values(), *numbers.OWN_TABLES)),
    *(one for block in BLOCKS for one in block.ranges),
]


def test_no_two_tables_overlap() -> None:
    for one, other in itertools.combinations(RANGES, 2):
        assert one.stop <= other.start or other.stop <= one.start, (one, other)
    assert all(one.start > 0 and one.stop <= 2**32 for one in RANGES)


def test_every_table_block_and_bit_is_in_the_lists() -> None:
    """What these tests compare is everything that the module has."""
    record = {name: value for name, value in vars(numbers).items() if name.isupper()}
    blocks = {id(value) for value in record.values() if isinstance(value, Block)}
    assert blocks == {id(block) for block in BLOCKS}
    masks = {value.mask for value in record.values() if isinstance(value, Field) and value is not NOTE}
    assert masks <= {*numbers.PACKET_BITS, *numbers.CONNECTION_BITS}
    single = {value for value in record.values() if isinstance(value, int)}
    priorities = {*numbers.PRIORITY.values(), *PRIORITIES, numbers.MAIN_PRIORITY}
    tables = {*numbers.OWN_TABLES, numbers.VNI}
    assert single - priorities - tables - {*numbers.PACKET_BITS, *numbers.CONNECTION_BITS} == set()


@pytest.mark.parametrize("bits", [numbers.PACKET_BITS, numbers.CONNECTION_BITS], ids=["packets", "connections"])
def test_no_two_marks_overlap(bits: tuple[int, ...]) -> None:
    assert sum(bits) < 2**32
    for one, other in itertools.combinations(bits, 2):
        assert one & other == 0, (hex(one), hex(other))


PRIORITIES = (
    *(numbers.BEFORE_LOCAL, numbers.MOVED_LOCAL, numbers.WAY_BACK_PRIORITY, numbers.POLICY_PRIORITY),
    *(numbers.PRIORITY[table] for table in (numbers.LOCAL_PODS, numbers.REMOTE_PODS, numbers.SINGLE_DEVICE)),
    *(numbers.SOURCE_PRIORITY, numbers.SOCKETS_PRIORITY, numbers.ENI_TO_POD, numbers.ENI_NODE_PORT),
    *(numbers.ENI_FROM_POD_COMPATIBLE, numbers.ENI_FROM_POD),
)


def test_priorities_are_distinct_and_in_the_order_in_which_rules_are_asked() -> None:
    assert list(PRIORITIES) == sorted(set(PRIORITIES))
    assert PRIORITIES[-1] < numbers.MAIN_PRIORITY


def test_no_other_module_has_numbers_of_its_own() -> None:
    """A table, priority or mark is never written as a number outside the record."""
    for path in sorted(CILIUM.rglob("*.py")):
        if path.name == "numbers.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            for keyword in node.keywords:
                parts = list(ast.walk(keyword.value)) if keyword.arg in ("table", "priority", "mark") else []
                literal = [one.value for one in parts if isinstance(one, ast.Constant) and isinstance(one.value, int)]
                assert set(literal) <= {0}, f"{path.name}:{node.lineno}: {ast.unparse(keyword)}"


BLOCK = Block("things", 100, short=3, more=10_000)


@given(st.lists(st.integers(0, 1_000_002), unique=True, max_size=50))
def test_tables_of_a_block_are_distinct_and_its_own(found: list[int]) -> None:
    tables = [BLOCK.table(number) for number in found]
    assert len(set(tables)) == len(found) and all(table in BLOCK for table in tables)


def test_a_block_says_when_it_is_full() -> None:
    assert (BLOCK.table(2), BLOCK.table(3), BLOCK.table(1_000_002)) == (102, 10_000, 1_009_999)
    with pytest.raises(LabError, match="tables for 1000003 things") as error:
        BLOCK.table(1_000_003)
    assert error.value.fix
    with pytest.raises(LabError, match="243 NICs"):
        numbers.ENI_NICS.table(243)


@pytest.mark.parametrize("one", [SOURCE, NOTE, numbers.FRONTEND], ids=lambda one: one.what)
def test_a_field_holds_what_fits_and_refuses_more(one: Field) -> None:
    assert one.value(0) == 0
    assert one.value(one.largest) == one.mask
    with pytest.raises(LabError, match=f"tells {one.largest} {one.what} apart"):
        one.value(one.largest + 1)


def gatewayed(pods: int) -> Decisions:
    names = ", ".join(f"p{number}" for number in range(pods))
    topology = loads(
        f"""\
name: many
fabrics: {{f0: {{}}}}
nodes:
  node1: {{nics: {{eth0: {{fabric: f0, addresses: 10.0.0.1/24}}}}, routes: default via 10.0.0.254, pods: [{names}],
           pod_cidrs: 10.244.0.0/20}}
  node2: {{nics: {{eth0: {{fabric: f0, addresses: 10.0.0.2/24}}}}, routes: default via 10.0.0.254,
           pod_cidrs: 10.244.16.0/24}}
egress_policies:
  all: {{pods: [{names}], destinations: 192.0.2.0/24, gateways: node2}}
""",
        "many.yaml",
    )
    told = LAB_BASELINE.merged(Settings.of(enable_egress_gateway=True, devices="eth0"))
    return Decisions(topology, told, Version(1, 20))


@pytest.mark.parametrize("pods", [200, 201])
def test_any_number_of_pods_has_a_table_of_its_own(pods: int) -> None:
    """With more than 200 of them the tables ended, in an IndexError."""
    decisions = gatewayed(pods)
    for node in ("node1", "node2"):
        rules = [one.rule for one in egress.operations(decisions, decisions.nodes[node]) if isinstance(one, AddRule)]
        assert len({rule.table for rule in rules}) == len(rules) == pods


def served(addresses: int) -> Topology:
    """A service with this many addresses outside the cluster, and a node whose rules look at sources."""
    every = [f"192.0.{number // 250}.{number % 250 + 1}" for number in range(addresses)]
    return loads(
        f"""\
name: served
fabrics: {{f0: {{}}}}
nodes:
  node1: {{nics: {{eth0: {{fabric: f0, addresses: 10.0.0.1/24}}}}, routes: default via 10.0.0.254,
           rules: from 10.9.0.0/16 lookup 100, pods: [pod1],
           pod_cidrs: 10.244.1.0/24}}
  node2: {{nics: {{eth0: {{fabric: f0, addresses: 10.0.0.2/24}}}}, routes: default via 10.0.0.254, pods: [pod2],
           pod_cidrs: 10.244.2.0/24}}
services:
  web: {{pods: [pod1, pod2], port: 80, external_ips: [{", ".join(every)}]}}
""",
        "served.yaml",
    )


def test_as_many_sources_as_a_mark_has_room_for() -> None:
    """The node's own address, the cluster IP, and the external ones: 1,023."""
    decisions = Decisions(served(1021), LAB_BASELINE, Version(1, 20))
    marks = [
        one.action
        for one in services.packet_rules(decisions, decisions.nodes["node1"])
        if isinstance(one.action, SetMark) and one.action.mask == SOURCE.mask
    ]
    assert max(mark.value for mark in marks) == SOURCE.mask
    more = Decisions(served(1022), LAB_BASELINE, Version(1, 20))
    with pytest.raises(LabError, match="tells 1023 source addresses of services apart") as error:
        list(services.packet_rules(more, more.nodes["node1"]))
    assert "fewer" in error.value.fix


def test_as_many_frontends_as_a_note_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSR writes a frontend's number into the packet's header: 16 bits."""
    told = LAB_BASELINE.merged(
        Settings.of(bpf_lb_mode="dsr", routing="native", ipv4_native_routing_cidr="10.244.0.0/16")
    )
    decisions = Decisions(served(5), told, Version(1, 20))
    node = decisions.nodes["node1"]
    notes = [one.action.note for one in services.packet_rules(decisions, node) if isinstance(one.action, Rewrite)]
    largest = max(note or 0 for note in notes)
    monkeypatch.setattr(numbers, "NOTE", Field(largest.bit_length() and (1 << largest.bit_length()) - 1, "frontends"))
    list(services.packet_rules(decisions, node))
    monkeypatch.setattr(numbers, "NOTE", Field((1 << (largest.bit_length() - 1)) - 1, "frontends"))
    with pytest.raises(LabError, match="frontends apart"):
        list(services.packet_rules(decisions, node))


@pytest.mark.parametrize(
    "words", ["routes: 10.9.0.0/16 via 10.0.0.9 table 2010", "rules: from 10.9.0.0/16 lookup 2101"]
)
def test_a_topology_may_not_use_the_datapaths_tables(words: str) -> None:
    text = f"""\
name: t
fabrics: {{f0: {{}}}}
nodes:
  node1: {{nics: {{eth0: {{fabric: f0, addresses: 10.0.0.1/24}}}}, {words}}}
"""
    decisions = Decisions(loads(text, "t.yaml"), LAB_BASELINE.merged(Settings.of(devices="eth0")), Version(1, 20))
    with pytest.raises(LabError, match="node1 uses routing table 2") as error:
        list(node_operations(decisions, "node1"))
    assert error.value.fix


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=50))
def test_macs_are_distinct(found: set[tuple[int, int, int]]) -> None:
    assert len({mac(*one) for one in found}) == len(found)
    assert all(len(mac(*one)) == 17 and mac(*one).startswith("02:") for one in found)


@pytest.mark.parametrize(("host", "number"), [(0x10000, 0), (1, 0x10000)])
def test_a_mac_that_does_not_fit_is_an_error(host: int, number: int) -> None:
    with pytest.raises(LabError, match="no MAC is left"):
        mac(0, host, number)
