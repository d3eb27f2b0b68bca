"""The direct routing device and what chose it: upstream's cases (direct_routing_device_test.go), and more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from niclab.check import load
from niclab.cilium.decisions import Decisions
from niclab.cilium.selection.devices import select
from niclab.cilium.selection.direct_routing import (
    NO_DEVICES,
    NO_DIRECT_ROUTING_DEVICE,
    DirectRouting,
    DirectRoutingRule,
    bpf_host_routing,
    direct_routing,
    direct_routing_address,
    requires_devices,
)
from niclab.cilium.selection.links import Link
from niclab.cilium.version import VERSIONS, Version
from niclab.settings import LAB_BASELINE, Friendly, Settings

from tests.support.selecting import FROM_1_19, V16, V17, V18, V19, V20, V21, link, lo, view

every_version = pytest.mark.parametrize("version", VERSIONS, ids=str)
since_1_17 = pytest.mark.parametrize("version", VERSIONS[1:], ids=str)

DIRECT = link("direct0", 2, "192.168.0.1/24")
DUMMY = link("dummy0", 3, "192.168.1.1/24", kind="dummy")
NODE_IP = "192.168.0.1"


def found(
    version: Version, links: Sequence[Link], config: str = "", node_ip: str | None = None, **friendly: Friendly
) -> DirectRouting:
    settings = view(**{"kube_proxy_replacement": True, "direct_routing_device": config, **friendly})
    devices = select(links, (), settings, version)
    return direct_routing(devices, links, settings, ip_address(node_ip) if node_ip else None, version)


@every_version
@pytest.mark.parametrize(
    ("links", "node_ip", "device", "rule"),
    [
        ([], None, None, DirectRoutingRule.NOT_FOUND),
        ([DIRECT], None, "direct0", DirectRoutingRule.ONLY_DEVICE),
        ([DIRECT, DUMMY], None, None, DirectRoutingRule.NOT_FOUND),
        ([DIRECT, DUMMY], "10.0.0.1", None, DirectRoutingRule.NOT_FOUND),
        ([DIRECT, DUMMY], NODE_IP, "direct0", DirectRoutingRule.NODE_IP),
        ([DIRECT, DUMMY], "192.168.1.1", "dummy0", DirectRoutingRule.NODE_IP),
    ],
    ids=["none", "one", "two", "node-ip-elsewhere", "node-ip", "node-ip-on-the-second"],
)
def test_without_a_configured_device(
    links: list[Link], node_ip: str | None, device: str | None, rule: DirectRoutingRule, version: Version
) -> None:
    drd = found(version, links, node_ip=node_ip)
    assert (drd.device, drd.rule) == (device, rule)
    assert drd.source.endswith("Detect" if version < V17 else "Get")


@every_version
@pytest.mark.parametrize("config", ["direct0", "direct+", "d+"])
def test_a_configured_device_is_the_first_match_by_index(config: str, version: Version) -> None:
    drd = found(version, [DUMMY, DIRECT], config, "192.168.1.1")
    assert (drd.device, drd.rule) == ("direct0", DirectRoutingRule.CONFIGURED)


@since_1_17
@pytest.mark.parametrize("config", ["nope", "nope+", "!direct0", "lo"])
def test_a_configured_device_that_is_not_selected_falls_back_to_the_node_ip(config: str, version: Version) -> None:
    drd = found(version, [lo(), DIRECT, DUMMY], config, NODE_IP)
    assert (drd.device, drd.rule) == ("direct0", DirectRoutingRule.NODE_IP)
    nothing = found(version, [DIRECT], config)
    assert nothing.device is None  # not even the only one
    assert config in nothing.reason


def test_1_16_did_not_fall_back_and_took_several_names() -> None:
    assert found(V16, [DIRECT, DUMMY], "nope", NODE_IP).device is None
    assert found(V16, [DIRECT, DUMMY], "nope,dummy+", NODE_IP).device == "dummy0"
    assert found(V17, [DIRECT, DUMMY], "nope,dummy+", NODE_IP).device == "direct0"


@every_version
def test_a_device_that_is_not_selected_is_never_added(version: Version) -> None:
    links = [DIRECT, link("eth1", 4, "10.0.1.1/24")]
    assert found(version, links, "eth1", NODE_IP, devices="direct0").device != "eth1"


@every_version
def test_what_an_agent_says_as_it_exits(version: Version) -> None:
    drd = found(version, [DIRECT, DUMMY])
    prefix = "failed to detect devices: " if version < V17 else ""
    assert drd.exits == prefix + NO_DIRECT_ROUTING_DEVICE
    assert drd.warning is None


@every_version
def test_an_agent_that_needs_no_device_runs_on_with_legacy_host_routing(version: Version) -> None:
    """Up to 1.17 it warned; nothing else followed, for NodePort was off already."""
    drd = found(version, [], kube_proxy_replacement=False)
    assert (drd.device, drd.exits) == (None, None)
    assert drd.warning == (NO_DEVICES if version < V18 else None)
    assert not bpf_host_routing(view(kube_proxy_replacement=False), version)


def test_1_16_looks_for_one_only_where_it_is_needed() -> None:
    drd = found(V16, [DIRECT], kube_proxy_replacement=False, enable_host_legacy_routing=True)
    assert (drd.device, drd.rule) == (None, DirectRoutingRule.NOT_NEEDED)
    assert found(V17, [DIRECT], kube_proxy_replacement=False, enable_host_legacy_routing=True).device == "direct0"


@pytest.mark.parametrize(
    ("told", "needed"),
    [
        ({"kube_proxy_replacement": True}, VERSIONS),
        ({"enable_host_firewall": True}, VERSIONS),
        ({"enable_wireguard": True}, VERSIONS),
        ({"enable_l2_announcements": True}, VERSIONS),
        ({"enable_ipsec": True}, VERSIONS[1:]),
        ({"enable_node_port": True}, VERSIONS[:3]),
        ({"enable_bpf_masquerade": True}, VERSIONS[3:]),
        ({}, ()),
    ],
    ids=lambda value: next(iter(value), "nothing") if isinstance(value, dict) else "",
)
def test_what_requires_devices(told: dict[str, bool], needed: Sequence[Version]) -> None:
    assert tuple(version for version in VERSIONS if requires_devices(view(**told), version)) == tuple(needed)


def test_ipsec_leaves_bpf_host_routing_on_from_1_19_on() -> None:
    told = view(kube_proxy_replacement=True, enable_bpf_masquerade=True, enable_ipsec=True)
    assert [version for version in VERSIONS if bpf_host_routing(told, version)] == list(FROM_1_19)


@every_version
def test_the_short_cut_of_one_device_ends_with_1_18(version: Version) -> None:
    def short_cut(devices: str, **told: bool) -> str | None:
        settings = LAB_BASELINE.merged(Settings.of(devices=devices, **told))
        return Decisions(load("two-nic"), settings, version).nodes["node1"].single_device

    assert short_cut("eth0") == ("eth0" if version < V19 else None)
    assert short_cut("eth0,eth1") is None
    assert short_cut("eth0", enable_endpoint_routes=True) is None
    assert short_cut("eth0", enable_host_legacy_routing=True) is None


@pytest.mark.parametrize(
    ("version", "address"), [(V16, "10.0.0.9"), (V18, "10.0.0.9"), (V20, "10.0.0.9"), (V21, "1.1.1.1")], ids=str
)
def test_its_ipv4_is_the_first_in_the_kernels_order_and_from_1_21_on_the_best(version: Version, address: str) -> None:
    device = link("eth0", 2, "10.0.0.9/24", "1.1.1.1/24", "10.0.0.1/24")
    assert str(direct_routing_address(device, 4, version)) == address


def test_lo_no_longer_gives_its_loopback_address() -> None:
    """Cilium issue 46830: the node IP on `lo`, and 127.0.0.1 was chosen."""
    device = replace(lo(), addresses=(*lo().addresses[:1], *link("", 0, "10.9.9.9/32").addresses))
    assert str(direct_routing_address(device, 4, V20)) == "127.0.0.1"
    assert str(direct_routing_address(device, 4, V21)) == "10.9.9.9"


@every_version
def test_its_ipv6_is_not_link_local_from_1_18_on(version: Version) -> None:
    link_local, usual = (link("", 0, text).addresses[0] for text in ("fe80::1/64", "2001:db8::1/64"))
    device = replace(DIRECT, addresses=(*DIRECT.addresses, link_local, usual))
    assert str(direct_routing_address(device, 6, version)) == ("fe80::1" if version < V18 else "2001:db8::1")
    alone = replace(DIRECT, addresses=(*DIRECT.addresses, link_local))
    assert str(direct_routing_address(alone, 6, version)) == "fe80::1"
    assert direct_routing_address(DIRECT, 6, version) is None
