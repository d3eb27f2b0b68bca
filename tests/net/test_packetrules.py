"""Packet rules: what they match, how they read as nftables, and that this kernel takes every kind of them."""

from __future__ import annotations

import ipaddress
from dataclasses import fields, replace
from typing import get_args

import pytest
from niclab.net.operation import AddNamespace, SetPacketRules
from niclab.net.packetrules import (
    EVERY_BIT,
    HOOKS,
    TRANSLATIONS,
    Accept,
    Backend,
    Devices,
    Dnat,
    Drop,
    Exempt,
    Filter,
    Hook,
    Mark,
    Masquerade,
    Match,
    Packet,
    PacketRule,
    Passing,
    Reject,
    Rewrite,
    SetConnectionMark,
    SetMark,
    Snat,
    matches,
    ruleset,
    translation,
)
from niclab.net.packetrules import Action as RuleAction
from niclab.net.route import Family, Why

from tests.support.kernel import privileged, substrate

WHY = Why("test", "because", "[kernel]")
POD, WORLD = ipaddress.ip_address("10.244.1.10"), ipaddress.ip_address("10.0.1.100")
PACKET = Packet(POD, WORLD, "tcp", 40000, 80, mark=0x103)
PASSING = Passing(PACKET, iif="lxcpod1", oif="eth1", connection_mark=7, route="eth0")


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


FITS = [
    Match(),
    Match(iif=Devices(("lxc+",)), oif=Devices(("eth0", "eth1"))),
    Match(oif=Devices(("cilium_+",), negated=True)),
    Match(sources=(network("10.244.1.0/24"),), not_destinations=(network("10.244.0.0/16"),)),
    Match(destinations=(network("10.0.1.0/24"), network("10.9.0.0/16")), protocol="tcp", port=80),
    Match(mark=Mark(0x100, 0xF00), connection_mark=Mark(7)),
    Match(mark=Mark(0x200, 0xF00, negated=True), translated=False, direction="original", local=False),
    Match(note=0),
    Match(route=Devices(("eth0",))),
    Match(route=Devices(("eth1", "lxc+"), negated=True)),
]
FITS_NOT = [
    Match(iif=Devices(("lxcpod",))),
    Match(oif=Devices(("eth+",), negated=True)),
    Match(sources=(network("10.244.2.0/24"),)),
    Match(not_sources=(network("10.244.1.10/32"),)),
    Match(protocol="udp", port=80),
    Match(protocol="tcp", port=81),
    Match(mark=Mark(0x103, negated=True)),
    Match(connection_mark=Mark(8)),
    Match(direction="reply"),
    Match(translated=True),
    Match(local=True),
    Match(note=1),
    Match(route=Devices(("eth1",))),
    Match(route=Devices(("eth0",), negated=True)),
]


@pytest.mark.parametrize("match", FITS, ids=repr)
def test_a_match_that_fits(match: Match) -> None:
    assert matches(match, PASSING)


@pytest.mark.parametrize("match", FITS_NOT, ids=repr)
def test_a_match_that_does_not_fit(match: Match) -> None:
    assert not matches(match, PASSING)


def rule(
    action: RuleAction, match: Match | None = None, hook: Hook = "postrouting", family: Family | None = None
) -> PacketRule:
    return PacketRule(hook, match or Match(), action, WHY, family)


def test_the_first_translation_that_matches_decides() -> None:
    exempt = rule(Exempt(), Match(destinations=(network("10.0.1.0/24"),)))
    snat = rule(Snat(ipaddress.ip_address("10.0.0.1")))
    mark = rule(SetMark(1))
    elsewhere = rule(Masquerade(), hook="prerouting")
    assert translation([mark, elsewhere, exempt, snat], "postrouting", PASSING) == exempt
    assert translation([snat, exempt], "postrouting", PASSING) == snat
    assert translation([rule(Masquerade(), family=6)], "postrouting", PASSING) is None
    other = replace(PASSING, packet=replace(PACKET, destination=POD))
    assert translation([exempt, snat], "postrouting", other) == snat


_NETWORKS = network("10.0.0.0/8"), network("192.0.2.1/32")
EVERY = (
    rule(Drop("why"), Match(iif=Devices(("lxc+", "eth0")), protocol="icmp"), "input"),
    rule(SetMark(0x200, 0xF00), Match(iif=Devices(("lxc+",), negated=True)), "prerouting"),
    rule(SetConnectionMark(6), Match(mark=Mark(0x200, 0xF00)), "prerouting"),
    rule(SetConnectionMark(5), Match(connection_mark=Mark(0, negated=True)), "prerouting"),
    rule(SetMark(8), Match(direction="reply"), "output"),
    rule(SetMark(9), Match(translated=True), "output"),
    rule(Accept(), Match(local=False, protocol="udp"), "forward"),
    rule(Rewrite(source=ipaddress.ip_address("10.0.0.9")), Match(translated=False), "postrouting", 4),
    rule(Exempt(), Match(destinations=_NETWORKS), "postrouting", 4),
    rule(Snat(ipaddress.ip_address("10.0.0.1")), Match(oif=Devices(("eth0",))), "postrouting", 4),
    rule(Masquerade(), Match(not_sources=(network("fd00::/64"),)), "postrouting", 6),
    rule(Dnat((Backend(POD, 80),)), Match(protocol="tcp", port=80), "prerouting", 4),
    rule(Dnat((Backend(ipaddress.ip_address("fd00::1"), 80),)), Match(protocol="tcp", port=80), "prerouting", 6),
    rule(Dnat((Backend(POD, 80), Backend(WORLD, 81))), Match(protocol="udp", port=81, local=True), "output", 4),
    rule(Dnat((Backend(POD), Backend(WORLD))), Match(protocol="icmp"), "prerouting", 4),
    rule(Reject("nobody serves it"), Match(protocol="tcp", port=82), "input"),
    rule(Rewrite(destination=POD), Match(route=Devices(("eth0", "lxc+"))), "prerouting", 4),
    rule(SetMark(1), Match(route=Devices(("eth0",), negated=True)), "prerouting"),
    rule(Rewrite(note=5), Match(mark=Mark(0, EVERY_BIT - 1)), "postrouting"),
    rule(Rewrite(source_port=8080), Match(protocol="tcp", note=5), "leaving"),
    rule(Rewrite(note=0), Match(note=0, protocol="udp"), "forward"),
    rule(Masquerade(), Match(sources=(network("10.244.1.0/24"),), not_destinations=_NETWORKS), "postrouting", 4),
)


def test_rules_read_as_nftables() -> None:
    text = ruleset(EVERY)
    assert "type filter hook input priority mangle" in text
    assert 'iifname { "lxc*", "eth0" } meta l4proto icmp drop' in text
    assert "meta mark & 0xf00 == 0x200 ct mark set 0x6" in text
    assert 'oifname "eth0" snat to 10.0.0.1' in text
    assert "ip daddr { 10.0.0.0/8, 192.0.2.1 } accept" in text
    assert "tcp dport 80 dnat to [fd00::1]:80" in text
    assert text.index("postrouting_filter") < text.index("postrouting_nat")
    assert "tcp dport 82 reject with icmp port-unreachable" in text
    assert "tcp dport 82 reject with icmpv6 port-unreachable" in text
    assert 'fib daddr oifname { "eth0", "lxc*" } ip daddr set 10.244.1.10' in text
    assert "meta l4proto tcp ip dscp 0x3f ip id 5 tcp sport set 8080" in text
    assert "ip6 flowlabel set 5 ip6 dscp set 0x3f" in text
    assert ruleset(()) == ""
    with pytest.raises(ValueError, match="nothing is translated at forward"):
        ruleset([rule(Exempt(), hook="forward")])


def test_every_hook_action_and_match_is_among_them() -> None:
    reported = {
        field.name for rule in EVERY for field in fields(Match) if getattr(rule.match, field.name) != field.default
    }
    rewritten = {
        field.name
        for rule in EVERY
        if isinstance(rule.action, Rewrite)
        for field in fields(Rewrite)
        if getattr(rule.action, field.name) is not None
    }
    assert {type(rule.action) for rule in EVERY} == {*get_args(Filter), *TRANSLATIONS}
    assert {rule.hook for rule in EVERY} == set(HOOKS)
    assert reported == {field.name for field in fields(Match)}
    assert rewritten == {field.name for field in fields(Rewrite)}


@privileged
def test_the_kernel_takes_every_kind_of_rule() -> None:
    with substrate() as real:
        real.apply([AddNamespace("a"), SetPacketRules("a", EVERY)])


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("eth0", {"eth0"}),
        ("eth+", {"eth", "eth0", "eth+1"}),
        ("eth++", {"eth+1"}),
        ("+", {"eth", "eth0", "eth+1", "lo"}),
    ],
)
def test_the_last_plus_of_an_entry_stands_for_the_rest_of_a_name(entry: str, named: set[str]) -> None:
    """As in iptables; Cilium's own list `devices` takes `eth++` for `eth+` (tests/cilium/test_selection_devices.py)."""
    assert {name for name in ("eth", "eth0", "eth+1", "lo") if Devices((entry,)).include(name)} == named
