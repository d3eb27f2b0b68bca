"""The tunnel's underlay and protocol: which node IPs it joins, what it is called, and that packets do so."""

from __future__ import annotations

import pytest
from niclab import LAB_BASELINE, Lab, Settings, Version, World, load
from niclab.cilium.decisions import Decisions
from niclab.topology.model import Flow

from tests.support.agreement import disagreements
from tests.support.kernel import privileged

BOTH = Settings.of(enable_ipv6=True, devices="eth0,eth1")


def outer(version: tuple[int, int], **settings: str) -> tuple[str, ...]:
    """The addresses outside, and the protocol, of what node1 sends for pod1 to pod2."""
    told = LAB_BASELINE.merged(BOTH).merged(Settings.of(**settings))
    (trace,) = World(Decisions(load("dual-stack"), told, Version(*version))).predict(Flow.parse("pod1 -> pod2"))
    header = trace.request.left[0].header
    return (*header.outer[0], *header.encapsulation)


V4, V6 = ("10.0.0.1", "10.0.0.2", "vxlan"), ("fd00:10::1", "fd00:10::2", "vxlan")


@pytest.mark.parametrize(
    ("minor", "protocol", "addresses"),
    [
        (17, "ipv6", V4),
        (18, "ipv6", V6),
        (18, "ipv4", V4),
        (20, "ipv6", V6),
        (20, "auto", V4),
        (21, "auto", V4),
    ],
)
def test_the_underlay_is_the_family_that_is_asked_for(minor: int, protocol: str, addresses: tuple[str, ...]) -> None:
    assert outer((1, minor), underlay_protocol=protocol) == addresses


@pytest.mark.parametrize(("minor", "exits"), [(19, False), (20, True)])
def test_an_underlay_without_its_family_is_refused(minor: int, exits: bool) -> None:
    told = LAB_BASELINE.merged(Settings.of(underlay_protocol="ipv6", enable_ipv6="false", devices="eth0"))
    node = Decisions(load("two-nic"), told, Version(1, minor)).nodes["node1"]
    assert node.agent_exits == ("underlay protocol set to IPv6, but IPv6 is disabled" if exits else None)


def test_geneve_is_a_tunnel_of_its_own_name() -> None:
    assert outer((1, 20), tunnel_protocol="geneve") == (*V4[:2], "geneve")


@privileged
@pytest.mark.parametrize("tunnel", ["vxlan", "geneve"])
@pytest.mark.parametrize("underlay", ["ipv4", "ipv6"])
def test_packets_do_what_is_predicted(underlay: str, tunnel: str) -> None:
    settings = BOTH.merged(Settings.of(underlay_protocol=underlay, tunnel_protocol=tunnel))
    with Lab.deploy("dual-stack", LAB_BASELINE.merged(settings), datapath="builtin", cilium_version="1.20") as lab:
        flows = lab.send_all(["pod1 -> pod2", "pod1 -> pod2:icmp6", "pod1 -> ext1", "node1.eth0 -> pod2"], count=2)
        assert disagreements(lab, flows) == []
        assert tunnel in flows[0].explanation
