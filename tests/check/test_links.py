"""Links on top of NICs: what stands on what, the plan that makes them, what is wrong with them, what Cilium is told."""

from __future__ import annotations

import pytest
from niclab.check import loads
from niclab.cilium.selection.links import links_of
from niclab.errors import InputError
from niclab.kernel.plan import Plan
from niclab.net.operation import script
from niclab.topology.model import Topology
from niclab.topology.stacking import Segment, carriers, is_up, mtu_of, segment, sends_by_all, stands_in

TEXT = """\
name: stacked
fabrics: {f0: , f1: , f2: }
nodes:
  node1:
    nics:
      eth0: {fabric: f0}
      eth1: {fabric: f0, mtu: 1400}
      eth2: {fabric: f1}
      eth3: {fabric: f2, addresses: 10.0.3.1/24}
    links:
      br0: {bridge: bond0.5, addresses: 10.0.5.1/24}
      bond0.5: {vlan: 5, parent: bond0}
      bond0: {bond: [eth0, eth1], addresses: 10.0.0.1/24}
      eth2.7: {vlan: 7, parent: eth2, addresses: 10.0.7.1/24, mtu: 1300}
      blue: {vrf: eth3, table: 100}
      dummy0: {dummy: true, addresses: 10.0.9.1/32}
      br1: {bridge: [], addresses: 10.0.8.1/24}
      lo: {addresses: 10.255.0.1/32}
    routes: [default via 10.0.0.254 dev bond0, 10.7.0.0/16 via 10.0.7.254]
"""


@pytest.fixture(scope="module")
def topology() -> Topology:
    return loads(TEXT, "stacked.yaml")


def test_frames_of_a_link_leave_by_the_nics_below_it(topology: Topology) -> None:
    node = topology.nodes["node1"]
    found = {name: (segment(node, name), carriers(node, name), mtu_of(node, name)) for name in node.links}
    assert found == {
        "br0": (Segment("f0", 5), ("eth0",), 1400),
        "bond0.5": (Segment("f0", 5), ("eth0",), 1400),
        "bond0": (Segment("f0"), ("eth0",), 1400),
        "eth2.7": (Segment("f1", 7), ("eth2",), 1300),
        "blue": (None, (), 1500),
        "dummy0": (None, (), 1500),
        "br1": (None, (), 1500),
        "lo": (None, (), 65536),
    }


def test_a_bond_goes_on_with_the_nic_that_is_left_and_another_mode_uses_all(topology: Topology) -> None:
    node = topology.nodes["node1"]
    down = node.model_copy(update={"nics": {**node.nics, "eth0": node.nics["eth0"].model_copy(update={"up": False})}})
    assert carriers(down, "bond0") == ("eth1",)
    spread = {**node.links, "bond0": node.links["bond0"].model_copy(update={"mode": "balance-xor"})}
    assert carriers(node.model_copy(update={"links": spread}), "bond0.5") == ("eth0", "eth1")


@pytest.mark.parametrize(
    ("mode", "built", "nics", "together"),
    [
        ("active-backup", "active-backup", ("eth0",), False),
        ("balance-alb", "balance-alb", ("eth0", "eth1"), False),
        ("802.3ad", "balance-xor", ("eth0", "eth1"), False),
        ("broadcast", "broadcast", ("eth0", "eth1"), True),
    ],
)
def test_every_mode_of_a_bond(mode: str, built: str, nics: tuple[str, ...], together: bool) -> None:
    topology = loads(TEXT.replace("bond: [eth0, eth1],", f"bond: [eth0, eth1], mode: {mode},"), "stacked.yaml")
    node = topology.nodes["node1"]
    assert carriers(node, "bond0.5") == nics
    assert sends_by_all(node, "bond0.5") is together
    assert f"type bond mode {built} " in script(Plan(topology).operations)
    assert bool(list(stands_in(topology))) is (mode != built)


def test_a_vlan_is_down_with_its_parent(topology: Topology) -> None:
    node = topology.nodes["node1"]
    down = node.model_copy(update={"nics": {**node.nics, "eth2": node.nics["eth2"].model_copy(update={"up": False})}})
    assert not is_up(down, "eth2.7")
    assert is_up(down, "bond0.5")


def test_what_an_agent_sees_of_them(topology: Topology) -> None:
    links = {link.name: link for link in links_of(topology.nodes["node1"])}
    assert {name: link.kind for name, link in links.items()} == {
        "lo": "device",
        **dict.fromkeys(("eth0", "eth1", "eth2", "eth3"), "device"),
        "br0": "bridge",
        "bond0": "bond",
        "eth2.7": "vlan",
        "blue": "vrf",
        "dummy0": "dummy",
        "br1": "bridge",
        "bond0.5": "device",
    }
    assert links["eth0"].slave and links["eth0"].master == links["bond0"].index
    assert not links["bond0.5"].slave and links["bond0.5"].master == links["br0"].index
    assert links["eth3"].master == links["blue"].index
    assert not links["eth0"].addresses
    assert [str(one.interface) for one in links["lo"].addresses] == ["127.0.0.1/8", "10.255.0.1/32", "::1/128"]


def test_the_plan_makes_them_from_below(topology: Topology) -> None:
    lines = script(Plan(topology, veth=True).operations).splitlines()
    mine = [line.removeprefix("ip -n node1 ") for line in lines if line.startswith("ip -n node1 ")]
    assert mine == [
        "link set lo up",
        "link add bond0 address 02:00:00:00:01:00 mtu 1400 type bond mode active-backup miimon 10 primary eth0",
        "link set eth0 master bond0",
        "link set eth1 master bond0",
        "link add link bond0 name bond0.5 mtu 1400 type vlan id 5",
        "link add br0 address 02:00:00:00:01:00 up type bridge stp_state 0 mcast_snooping 0",
        "link set bond0.5 master br0",
        "link add link eth2 name eth2.7 mtu 1300 type vlan id 7",
        "link add blue address 02:07:00:00:01:04 type vrf table 100",
        "link set eth3 master blue",
        "link add dummy0 address 02:07:00:00:01:05 mtu 1500 type dummy",
        "link add br1 address 02:07:00:00:01:06 up type bridge stp_state 0 mcast_snooping 0",
        *("link set eth0 up", "link set eth1 up", "link set eth2 up"),
        *("addr add 10.0.3.1/24 dev eth3", "link set eth3 up", "addr add 10.0.5.1/24 dev br0", "link set br0 up"),
        *("link set bond0.5 up", "addr add 10.0.0.1/24 dev bond0", "link set bond0 up"),
        *("addr add 10.0.7.1/24 dev eth2.7", "link set eth2.7 up", "link set blue up"),
        *("addr add 10.0.9.1/32 dev dummy0", "link set dummy0 up", "addr add 10.0.8.1/24 dev br1", "link set br1 up"),
        "addr add 10.255.0.1/32 dev lo",
        *("route add default via 10.0.0.254 dev bond0", "route add 10.7.0.0/16 via 10.0.7.254"),
    ]


def test_frames_for_a_link_are_for_its_host(topology: Topology) -> None:
    plan = Plan(topology)
    assert plan.macs["node1.eth1"] == {"02:00:00:00:01:01", "02:00:00:00:01:00"}
    assert plan.macs["node1.eth2"] == {"02:00:00:00:01:02"}


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("x: {}", "nothing says what kind of link it is"),
        ("lo: {dummy: true}", "`lo` is the loopback interface"),
        ("x: {bond: eth0, bridge: eth1}", "it is bond and bridge at once"),
        ("x: {bond: []}", "a bond without a NIC"),
        ("x: {bond: eth9}", "there is no NIC 'eth9' here"),
        ("{x: {vlan: 5, parent: y}, y: {bond: eth9}}", "there is no NIC 'eth9' here"),
        ("x: {bond: [eth0, eth2]}", "its NICs are on different fabrics: f0, f1"),
        ("x: {bond: eth3}", "eth3 has addresses, which are dead there"),
        ("x: {bridge: [eth0, eth1]}", "it would join its ports' fabrics, or make a loop in one"),
        ("x: {vlan: 5}", "a vlan needs its 'parent'"),
        ("x: {vlan: 4095, parent: eth0}", "4095"),
        ("x: {parent: eth0}", "'parent' belongs to a vlan"),
        ("x: {mode: balance-rr, bridge: eth0}", "'mode' belongs to a bond"),
        ("x: {vrf: eth0}", "a vrf needs its 'table'"),
        ("eth0: {dummy: true}", "'eth0' is already the name of a NIC"),
        ("cable7: {dummy: true}", "the kernel, Cilium or the lab uses the name 'cable7'"),
        ("lxc7: {dummy: true}", "the kernel, Cilium or the lab uses the name 'lxc7'"),
        ("{x: {bridge: eth0}, y: {bridge: eth0}}", "eth0 belongs to x already"),
        ("{x: {vlan: 5, parent: eth0}, y: {vlan: 5, parent: eth0}}", "x is VLAN 5 of eth0 already"),
        ("{x: {vlan: 5, parent: y}, y: {vlan: 6, parent: x}}", "x stands on itself"),
        ("{x: {vlan: 5, parent: eth0}, y: {bond: eth0}}", "a VLAN stands on eth0"),
        ("x: {vlan: 5, parent: eth1, mtu: 1500}", "1500 is more than the 1400 bytes below it"),
        ("x: {dummy: true, addresses: 10.0.3.1/24}", "10.0.3.1 is already used by node1.eth3"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(link: str, why: str) -> None:
    links = link if link.startswith("{") else f"{{{link}}}"
    before, _, rest = TEXT.partition("    links:\n")
    text = f"{before}    links: {links}\n" + "" * len(rest)
    with pytest.raises(InputError) as raised:
        loads(text, "stacked.yaml")
    assert why in str(raised.value)
    assert all(problem.line for problem in raised.value.problems)
