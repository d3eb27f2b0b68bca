"""Which keys exist, for whom, and what the built-in datapath makes of them."""

from __future__ import annotations

import re

import pytest
from niclab.settings import (
    CILIUM_DEFAULTS,
    LAB_BASELINE,
    NodeSettings,
    Settings,
    Values,
    check_keys,
    unmodelled,
)
from niclab.settings.flags import agent_flags, complaint, release, table
from niclab.settings.model import NodeView


def test_the_table_is_there() -> None:
    assert len(agent_flags("1.18")) == 391
    assert len(agent_flags("1.20")) == 443
    assert "devices" in agent_flags("1.18") & agent_flags("1.20")
    assert len(table()) - len(agent_flags("1.18") | agent_flags("1.20")) > 130
    assert list(table()) == sorted(table()), "a key is there twice, or out of order"


def test_every_row_of_the_table_makes_sense() -> None:
    kinds = r"bool|text|cidr[46s]|address[46]|\d+\.\.\d+|[\w-]+(\|[\w-]+)+"
    for flag in table().values():
        assert flag.bearing.partition(":")[0] in ("modelled", "irrelevant", "unmodelled"), flag
        assert re.fullmatch(kinds, flag.type) if flag.of_agents else flag.type == "-", flag
        assert complaint(flag.key, flag.default) is None or flag.default == "", flag
        assert flag.listed or flag.charts[0], flag


def test_every_flag_of_a_nodes_view_is_in_the_table() -> None:
    view = NodeView("node1", Values())
    read = [descriptor._key for descriptor in vars(NodeView).values() if hasattr(descriptor, "_key")]
    assert len(read) > 35
    assert {key: table()[key].bearing for key in read if table()[key].bearing == "irrelevant"} == {}
    assert view.enable_ipv4 is True
    assert view.tunnel_port == 8472


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("1.18", "1.18"),
        ("1.18.3", "1.18"),
        ("v1.17", "1.18"),
        ("1.16", "1.18"),
        ("1.19", "1.20"),
        ("1.20.0-dev", "1.20"),
        ("1.21", "1.20"),
        ("main", "1.20"),
    ],
)
def test_the_nearest_known_version_is_used(version: str, known: str) -> None:
    assert agent_flags(version) == agent_flags(known)


def test_releases_compare() -> None:
    assert release("1.9") < release("v1.18.2") < release("1.20.0-dev") < release("main")


@pytest.mark.parametrize("version", ["1.18", "1.20"])
def test_the_baseline_has_no_unknown_key(version: str) -> None:
    assert check_keys(LAB_BASELINE, version=version) == ((), ())
    assert check_keys(CILIUM_DEFAULTS, version=version) == ((), ())


def test_a_key_no_agent_has_is_an_error() -> None:
    node = NodeSettings.of("node1", {"direct-routing-devise": "eth0"})
    report = check_keys(Settings(Values({"divices": "eth0"}), (node,)), version="1.18")
    assert [(problem.file, problem.field, problem.fix) for problem in report.errors] == [
        ("settings", "divices", "did you mean devices?"),
        ("settings of node1", "direct-routing-devise", "did you mean direct-routing-device?"),
    ]


@pytest.mark.parametrize(
    ("key", "version", "words"),
    [
        ("enable-egress-gateway", "1.18", "agents of Cilium 1.20 have this flag, 1.18 does not read it"),
        ("enable-ipv4-egress-gateway", "1.20", "agents of Cilium 1.18 have this flag, 1.20 does not read it"),
        ("enable-ipv4-egress-gateway", "1.19", "agents of Cilium 1.18 have this flag, 1.19 may not read it"),
        ("sockops-enable", "1.18", "charts 1.12 to 1.13 write it"),
    ],
)
def test_a_key_of_another_version_is_a_warning(key: str, version: str, words: str) -> None:
    report = check_keys(Settings(Values({key: "true"})), version=version)
    assert report.errors == ()
    assert words in report.warnings[0]


@pytest.mark.parametrize(
    ("key", "version"),
    [("enable-node-port", "1.17"), ("debug", "1.20"), ("enable-k8s-networkpolicy", "1.20")],
)
def test_a_key_that_may_well_be_read_is_no_warning(key: str, version: str) -> None:
    assert check_keys(Settings(Values({key: "true"})), version=version) == ((), ())


def test_the_baseline_and_the_defaults_are_modelled() -> None:
    assert unmodelled(LAB_BASELINE) == ()
    assert unmodelled(CILIUM_DEFAULTS) == ()
    defaults = {flag.key: flag.default for flag in table().values() if flag.of_agents and flag.default}
    assert unmodelled(Settings(Values(defaults))) == ()
    assert len(defaults) > 50


@pytest.mark.parametrize(
    ("key", "value", "listed"),
    [
        ("devices", "eth1", False),
        ("tunnel-protocol", "geneve", True),
        ("tunnel-protocol", "vxlan", False),
        ("enable-wireguard", "true", True),
        ("enable-wireguard", "false", False),
        ("enable-wireguard", "0", False),
        ("enable-ip-masq-agent", "1", False),
        ("bpf-lb-mode", "snat", False),
        ("bpf-lb-mode", "dsr", False),
        ("bpf-lb-dsr-dispatch", "opt", False),
        ("bpf-lb-dsr-dispatch", "geneve", True),
        ("enable-local-node-route", "true", False),
        ("enable-local-node-route", "false", True),
        ("enable-tcx", "false", True),
        ("datapath-mode", "netkit", True),
        ("ipam", "cluster-pool", False),
        ("ipam", "eni", False),
        ("ipam", "azure", True),
        ("vlan-bpf-bypass", "", False),
        ("vlan-bpf-bypass", "10", True),
        ("hubble-metrics", "drop", False),
        ("enable-policy", "always", False),
        ("bpf-ct-global-tcp-max", "1000", False),
        ("bpf-lb-map-max", "1000", False),
        ("route-metric", "100", True),
    ],
)
def test_what_is_not_modelled_is_listed(key: str, value: str, listed: bool) -> None:
    assert unmodelled(Settings(Values({key: value}))) == ((key,) if listed else ())


def test_a_nodes_settings_are_looked_at_too() -> None:
    node = NodeSettings.of("node1", {"enable-wireguard": "true"})
    assert unmodelled(Settings(Values({"enable-ipsec": "true"}), (node,))) == ("enable-ipsec", "enable-wireguard")
