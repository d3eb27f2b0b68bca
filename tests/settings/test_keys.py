"""Which keys exist, for whom, and what the built-in datapath makes of them."""

from __future__ import annotations

import pytest
from niclab.settings import (
    CILIUM_DEFAULTS,
    LAB_BASELINE,
    MODELLED,
    NEUTRAL,
    NodeSettings,
    Settings,
    Values,
    check_keys,
    neutral,
    unmodelled,
)
from niclab.settings.known import agent_flags, agent_keys, other_keys, release
from niclab.settings.values import BOOLEANS, CHOICES, CIDRS, NODE_ADDRESSES, NUMBERS
from niclab.settings.view import DEFAULTS


def test_the_lists_are_there() -> None:
    assert len(agent_flags("1.18")) == 391
    assert len(agent_flags("1.20")) == 443
    assert "devices" in agent_flags("1.18") & agent_flags("1.20")
    assert len(other_keys()) > 130
    assert not agent_flags("1.20") & set(other_keys()) - {"debug"}


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


def test_every_key_spoken_of_exists() -> None:
    spoken = MODELLED | BOOLEANS | CHOICES.keys() | NUMBERS.keys() | CIDRS.keys() | NODE_ADDRESSES.keys()
    assert agent_keys() >= spoken | DEFAULTS.keys()
    assert agent_keys() | other_keys().keys() >= NEUTRAL
    assert not MODELLED & NEUTRAL
    assert not any(neutral(key) for key in MODELLED)
    assert not any(neutral(key) for key in DEFAULTS)


def test_the_baseline_and_the_defaults_are_modelled() -> None:
    assert unmodelled(LAB_BASELINE) == ()
    assert unmodelled(CILIUM_DEFAULTS) == ()
    assert unmodelled(Settings(Values(DEFAULTS))) == ()


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
