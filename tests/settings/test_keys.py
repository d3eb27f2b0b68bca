"""Which keys exist, for whom, and what the built-in datapath makes of them."""

from __future__ import annotations

import re

import pytest
from niclab.errors import InputError
from niclab.settings import CILIUM_DEFAULTS, LAB_BASELINE, NodeSettings, NodeView, Settings, check_keys, unmodelled
from niclab.settings.flags import (
    MINORS,
    Values,
    another_version,
    chart_values,
    complaint,
    helm_values,
    minor_of,
    release,
    table,
)
from niclab.topology.yamlfile import data_lines


def test_the_table_is_there() -> None:
    assert len(table()) > 700
    assert table()["devices"].minors == {*MINORS}
    assert table()["enable-egress-gateway"].minors == {18, 19, 20, 21}
    assert table()["enable-ipv4-egress-gateway"].minors == {16, 17, 18}, "1.18 reads it, and hides it from --help"
    assert (table()["tunnel"].reader, table()["tunnel"].minors) == ("removed", frozenset())
    for name in ("flags.txt", "agent-flags.txt"):
        keys = [line.split()[0] for line in data_lines("niclab.settings", name)]
        assert keys == sorted(set(keys)), "a key is there twice, or out of order"


def test_every_row_of_the_table_makes_sense() -> None:
    kinds = r"bool|text|cidr[46s]|address[46]|\d+\.\.\d+|[\w-]+(\|[\w-]+)+(\|\d+\.\.\d+)?"
    for flag in table().values():
        assert flag.bearing.partition(":")[0] in ("modelled", "irrelevant", "unmodelled"), flag
        assert re.fullmatch(kinds, flag.type) or not flag.of_agents, flag
        assert complaint(flag.key, flag.default) is None or flag.default == "", flag
        assert flag.minors or flag.charts[0] or flag.reader == "operator", flag


def test_every_flag_of_a_nodes_view_is_in_the_table() -> None:
    view = NodeView("node1", Values())
    read = [descriptor._key for descriptor in vars(NodeView).values() if hasattr(descriptor, "_key")]
    assert len(read) > 35
    assert {key: table()[key].bearing for key in read if table()[key].bearing == "irrelevant"} == {}
    assert view.enable_ipv4 is True
    assert view.tunnel_port == 8472


@pytest.mark.parametrize(
    ("version", "minor"),
    [("1.18", 18), ("1.18.3", 18), ("v1.17", 17), ("1.12", 16), ("1.20.0-dev", 20), ("1.30", 21), ("main", 21)],
)
def test_the_nearest_known_version_is_used(version: str, minor: int) -> None:
    assert minor_of(version) == minor


@pytest.mark.parametrize("version", ["1.16", "1.17", "1.18", "1.19", "1.20", "1.21"])
def test_what_a_chart_writes_its_agents_read(version: str) -> None:
    """Of what has bearing, but for what charts write still and agents gave up."""
    minor = minor_of(version)
    here = [row.flag for path, row in helm_values(minor).items() if minor in chart_values()[path]]
    assert len(here) > 150
    given_up = {"enable-internal-traffic-policy", "encrypt-interface", "l2-pod-announcements-interface", "bpf-lb-only"}
    assert {flag for flag in here if another_version(flag, version)} <= given_up


def test_every_row_of_helm_values_is_as_the_charts_templates_have_it() -> None:
    rows = [line.split() for line in data_lines("niclab.settings", "chart-values.txt")]
    written = {path: flags for path, _, *flags in rows if flags}
    read = {path: {helm_values(minor)[path].flag for minor in MINORS} for path in helm_values() if path in written}
    assert len(read) > 200
    assert {path: flags for path, flags in read.items() if not flags & {*written[path]}} == {}


def test_releases_compare() -> None:
    assert release("1.9") < release("v1.18.2") < release("1.20.0-dev") < release("main")


@pytest.mark.parametrize("version", ["1.18", "1.20"])
def test_the_baseline_has_no_unknown_key(version: str) -> None:
    assert check_keys(LAB_BASELINE, version=version) == ()
    assert check_keys(CILIUM_DEFAULTS, version=version) == ()


def test_a_key_no_agent_has_is_an_error() -> None:
    node = NodeSettings.of("node1", {"direct-routing-devise": "eth0"})
    with pytest.raises(InputError) as caught:
        check_keys(Settings(Values({"divices": "eth0"}), (node,)), version="1.18")
    assert [(problem.file, problem.field, problem.fix) for problem in caught.value.problems] == [
        ("settings", "divices", "did you mean devices?"),
        ("settings of node1", "direct-routing-devise", "did you mean direct-routing-device?"),
    ]


@pytest.mark.parametrize(
    ("key", "version", "words"),
    [
        ("enable-egress-gateway", "1.17", "agents of Cilium from 1.18 on have this flag, 1.17 does not read it"),
        ("enable-egress-gateway", "1.15", "agents of Cilium from 1.18 on have this flag, 1.15 may not read it"),
        ("enable-ipv4-egress-gateway", "1.20", "agents of Cilium up to 1.18 have this flag, 1.20 does not read it"),
        ("enable-node-port", "1.19", "agents of Cilium up to 1.18 have this flag, 1.19 does not read it"),
        ("enable-packetization-layer-pmtud", "1.18", "agents of Cilium 1.19 have this flag, 1.18 does not read it"),
        ("sockops-enable", "1.18", "charts 1.12 to 1.13 write it"),
    ],
)
def test_a_key_of_another_version_is_a_warning(key: str, version: str, words: str) -> None:
    (warning,) = check_keys(Settings(Values({key: "true"})), version=version)
    assert words in warning


@pytest.mark.parametrize(
    ("key", "version"),
    [
        *(("enable-node-port", "1.17"), ("debug", "1.20"), ("enable-k8s-networkpolicy", "1.20")),
        *(
            ("enable-egress-gateway", "1.18"),
            ("enable-ipv4-egress-gateway", "1.18"),
            ("enable-bbr-hostns-only", "1.16"),
        ),
    ],
)
def test_a_key_that_may_well_be_read_is_no_warning(key: str, version: str) -> None:
    assert check_keys(Settings(Values({key: "true"})), version=version) == ()


def test_the_baseline_and_the_defaults_are_modelled() -> None:
    assert unmodelled(LAB_BASELINE) == ()
    assert unmodelled(CILIUM_DEFAULTS) == ()
    defaults = {flag.key: flag.default for flag in table().values() if flag.of_agents and flag.default}
    assert unmodelled(Settings(Values(defaults))) == ()
    assert len(defaults) > 40


@pytest.mark.parametrize(
    ("key", "value", "listed"),
    [
        ("devices", "eth1", False),
        ("tunnel-protocol", "geneve", False),
        ("tunnel-protocol", "vxlan", False),
        ("enable-wireguard", "true", False),
        ("enable-wireguard", "false", False),
        ("enable-wireguard", "0", False),
        ("enable-ip-masq-agent", "1", False),
        ("bpf-lb-mode", "snat", False),
        ("bpf-lb-mode", "dsr", False),
        ("bpf-lb-dsr-dispatch", "opt", False),
        ("bpf-lb-dsr-dispatch", "ipip", True),
        ("enable-local-node-route", "true", False),
        ("enable-local-node-route", "false", False),
        ("enable-tcx", "false", False),
        ("enable-bbr", "true", False),
        ("bpf-lb-algorithm", "maglev", False),
        ("install-no-conntrack-iptables-rules", "true", False),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/8", False),
        ("datapath-mode", "netkit", False),
        ("datapath-mode", "lb-only", True),
        ("ipam", "cluster-pool", False),
        ("ipam", "eni", False),
        ("ipam", "azure", True),
        ("vlan-bpf-bypass", "", False),
        ("vlan-bpf-bypass", "10", False),
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
    node = NodeSettings.of("node1", {"enable-vtep": "true"})
    assert unmodelled(Settings(Values({"enable-ipsec": "true"}), (node,))) == ("enable-ipsec", "enable-vtep")
