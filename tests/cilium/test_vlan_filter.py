"""The VLAN filter of the model: which tagged frames selected devices let through, and what netfilter does for it."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Settings, Version, World
from niclab.check import loads
from niclab.cilium import vlanfilter
from niclab.cilium.decisions import Decisions
from niclab.cilium.vlanfilter import Dropped
from niclab.net.operation import SetPacketRules
from niclab.net.packetrules import CLEAR, CLEAR_FRAMES, FrameFilter
from niclab.topology.model import Flow

TEXT = """
name: trunk
fabrics: {trunk: }
nodes:
  node1:
    nics: {eth0: {fabric: trunk}, eth1: {fabric: trunk}}
    links:
      bond0: {bond: [eth0, eth1], addresses: 10.0.0.1/24}
      bond0.10: {vlan: 10, parent: bond0}
      br10: {bridge: bond0.10}
      bond0.20: {vlan: 20, parent: bond0, addresses: 10.0.20.1/24}
    pod_cidrs: 10.244.1.0/24
    pods: [pod1]
externals:
  plain: {nics: {eth0: {fabric: trunk, addresses: 10.0.0.9/24}}, routes: 10.244.1.0/24 via 10.0.0.1}
  tagged:
    nics: {eth0: {fabric: trunk}}
    links: {eth0.20: {vlan: 20, parent: eth0, addresses: 10.0.20.9/24}}
    routes: 10.244.1.0/24 via 10.0.20.1
flows: [node1.bond0.20 -> tagged, tagged -> node1.bond0.20, pod1 -> tagged, pod1 -> plain]
"""
KPR = {"kube_proxy_replacement": "true", "enable_bpf_masquerade": "true"}


def decisions(version: tuple[int, int] = (1, 20), text: str = TEXT, **settings: str) -> Decisions:
    return Decisions(loads(text, "lab.yaml"), LAB_BASELINE.merged(Settings.of(**KPR, **settings)), Version(*version))


def ends(found: Decisions, flow: str) -> tuple[bool, bool]:
    """Was it carried, and did it leave node1?"""
    (trace,) = World(found).predict(Flow.parse(flow))
    left = [step for path in (trace.request, trace.reply) for step in (path.left if path else ())]
    return trace.reply is not None and trace.reply.arrived is not None, any("node1." in step.tap for step in left)


@pytest.mark.parametrize("minor", range(16, 22))
@pytest.mark.parametrize(
    ("devices", "bypass", "passes"),
    [
        ("bond0", "", False),
        ("bond0", "10", False),
        ("bond0", "20", True),
        ("bond0", "10 20", True),
        ("bond0", "0", True),
        ("bond0,bond0.20", "", True),
    ],
)
def test_a_tag_passes_with_its_vlan_or_by_the_bypass(minor: int, devices: str, bypass: str, passes: bool) -> None:
    found = decisions((1, minor), devices=devices, vlan_bpf_bypass=bypass)
    node, host = found.nodes["node1"], found.topology.nodes["node1"]
    expected = None if passes else Dropped("bond0", 20, out=True)
    assert vlanfilter.dropped(node, host, "bond0.20", "eth0") == expected
    assert vlanfilter.dropped(node, host, "bond0", "eth0") is None
    for flow in ("node1.bond0.20 -> tagged", "tagged -> node1.bond0.20"):
        assert ends(found, flow) == (passes, passes)


def test_a_bypass_id_needs_a_vlan_on_the_device_itself() -> None:
    """The program of a bond's NIC sees the tag first, and no VLAN stands on the NIC."""
    found = decisions(devices="eth0,bond0,bond0.20")
    node, host = found.nodes["node1"], found.topology.nodes["node1"]
    assert vlanfilter.dropped(node, host, "bond0.20", "eth0") == Dropped("eth0", 20, out=True)
    assert vlanfilter.dropped(node, host, "bond0.20", "eth1") is None
    assert not vlanfilter.allows(node, host, "eth0", 20)


def test_what_stands_on_a_vlan_has_its_tag() -> None:
    found = decisions(devices="bond0")
    node, host = found.nodes["node1"], found.topology.nodes["node1"]
    assert vlanfilter.dropped(node, host, "br10", "eth1") == Dropped("bond0", 10, out=True)


def test_without_programs_on_the_way_out_the_answers_are_dropped() -> None:
    settings = Settings.of(kube_proxy_replacement="false", enable_bpf_masquerade="false", devices="bond0")
    found = Decisions(loads(TEXT, "lab.yaml"), LAB_BASELINE.merged(settings), Version(1, 20))
    node, host = found.nodes["node1"], found.topology.nodes["node1"]
    assert vlanfilter.dropped(node, host, "bond0.20", "eth0") == Dropped("bond0", 20, out=False)
    assert ends(found, "node1.bond0.20 -> tagged") == (False, False)
    assert vlanfilter.filters(node, host) == (FrameFilter("bond0", (), False),)


def test_more_vlans_than_a_program_can_list_are_said() -> None:
    more = "".join(f"      bond0.{tag}: {{vlan: {tag}, parent: bond0}}\n" for tag in range(30, 36))
    found = decisions(text=TEXT.replace("    pod_cidrs", more + "    pod_cidrs"), devices="bond0+")
    listed = decisions(devices="bond0", vlan_bpf_bypass=" ".join(map(str, range(30, 36))))
    assert not list(vlanfilter.warnings(listed.nodes["node1"], listed.topology.nodes["node1"]))
    assert any("allowed VLAN list is too big - 8 entries" in line for line in found.warnings("node1"))


def test_the_host_firewall_drops_lacp_on_selected_slaves() -> None:
    text = TEXT.replace("bond: [eth0, eth1]", "bond: [eth0, eth1], mode: 802.3ad")
    found = decisions(text=text, devices="eth0,bond0", enable_host_firewall="true")
    assert any("bond0 loses its partner" in line for line in found.warnings("node1"))


def test_netfilter_filters_frames_in_its_place() -> None:
    rules = SetPacketRules("node1", (), frames=(FrameFilter("bond0", (20, 30), True), FrameFilter("eth2", (), False)))
    assert rules.ruleset.splitlines() == [
        "table netdev niclab {",
        "  chain ingress_bond0 {",
        '    type filter hook ingress device "bond0" priority filter; policy accept;',
        "    vlan id != { 0, 20, 30 } drop",
        "  }",
        "  chain egress_bond0 {",
        '    type filter hook egress device "bond0" priority filter; policy accept;',
        "    vlan id != { 0, 20, 30 } drop",
        "  }",
        "  chain ingress_eth2 {",
        '    type filter hook ingress device "eth2" priority filter; policy accept;',
        "    vlan id != 0 drop",
        "  }",
        "}",
    ]
    assert SetPacketRules("node1", (), again=True, frames=()).ruleset == CLEAR + CLEAR_FRAMES
    assert SetPacketRules("node1", (), again=True).ruleset == CLEAR


@pytest.mark.parametrize(("mode", "ways"), [("broadcast", [2]), ("802.3ad", [1, 1]), ("active-backup", [1])])
def test_which_nics_of_a_bond_send(mode: str, ways: list[int]) -> None:
    found = decisions(text=TEXT.replace("bond: [eth0, eth1]", f"bond: [eth0, eth1], mode: {mode}"), devices="bond0+")
    traces = World(found).predict(Flow.parse("node1.bond0.20 -> tagged"))
    sent = [{step.tap for step in trace.request.left if "node1." in step.tap} for trace in traces]
    assert sorted(len(taps) for taps in dict.fromkeys(map(frozenset, sent))) == ways
