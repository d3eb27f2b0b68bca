"""Settings: made, merged, and resolved for a node."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from niclab.errors import InputError
from niclab.settings import (
    CHART_DEFAULTS,
    CILIUM_DEFAULTS,
    LAB_BASELINE,
    Expression,
    NodeSettings,
    Selector,
    Settings,
    effective,
)
from niclab.settings.flags import Values, complaint, table
from niclab.settings.formats import parse_assignments, parse_node_assignments


def test_of_takes_what_a_test_writes() -> None:
    settings = Settings.of(
        routing="native", tunnel="geneve", devices=["eth0", "eth1"], enable_ipv6=False, mtu=9000, ipam=None
    )
    assert settings.values == {
        "devices": "eth0,eth1",
        "enable-ipv6": "false",
        "mtu": "9000",
        "routing-mode": "native",
        "tunnel-protocol": "geneve",
    }
    assert Settings.of(devices="eth0 eth1").for_node("n").devices == ("eth0", "eth1")
    assert Settings.of(devices=()).values == {"devices": ""}


def test_of_refuses_what_no_agent_has() -> None:
    with pytest.raises(InputError, match="did you mean devices"):
        Settings.of(divices="eth0")
    with pytest.raises(InputError, match="write native"):
        Settings.of(routing="nativ")


def test_settings_are_a_cache_key() -> None:
    one = Settings.of(devices="eth0", mtu=0)
    other = Settings(Values({"mtu": "0", "devices": "eth0"}), warnings=("said",), base="cluster")
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    assert one != Settings.of(devices="eth1", mtu=0)
    assert one.for_node("n") == other.for_node("n")
    assert hash(one.for_node("n")) == hash(other.for_node("n"))


def test_other_wins_in_a_merge() -> None:
    merged = Settings.of(devices="eth0", mtu=1500).merged(Settings.of(devices="eth1"))
    assert merged.values == {"devices": "eth1", "mtu": "1500"}
    assert merged.with_values({"mtu": "9000"}).values["mtu"] == "9000"
    with pytest.raises(InputError):
        merged.with_values({"mtu": "x"})


def test_warnings_add_up_once() -> None:
    merged = Settings(warnings=("a",)).merged(Settings(warnings=("b", "a")))
    assert merged.warnings == ("a", "b")


def test_a_plain_mapping_will_do() -> None:
    settings = Settings({"devices": "eth0"})  # type: ignore[arg-type]
    assert hash(settings) == hash(Settings.of(devices="eth0"))


def test_the_agents_defaults() -> None:
    view = CILIUM_DEFAULTS.for_node("node1")
    assert view.devices == ()
    assert view.direct_routing_device == ""
    assert view.routing_mode == "tunnel"
    assert view.tunnel_protocol == "vxlan"
    assert view.tunnel_port == 8472
    assert view.ipam == "cluster-pool"
    assert view.mtu == 0
    assert view.enable_ipv4
    assert view.enable_ipv6
    assert view.ipv4_masquerade
    assert view.ipv6_masquerade
    assert view.ipv4_node is None
    assert view.ipv6_node is None
    assert view.ipv4_native_routing_cidr is None
    assert view.ipv6_native_routing_cidr is None
    assert view.egress_masquerade_interfaces == ()
    assert view.nodeport_addresses == ()
    off = (
        *(view.force_device_detection, view.auto_direct_node_routes, view.direct_routing_skip_unreachable),
        *(view.bpf_masquerade, view.kube_proxy_replacement, view.host_legacy_routing, view.endpoint_routes),
        *(view.masquerade_to_route_source, view.ip_masq_agent, view.host_firewall, view.wireguard, view.ipsec),
        view.l2_announcements,
    )
    assert not any(off)


def test_the_defaults_are_valid_themselves() -> None:
    defaults = {flag.key: flag.default for flag in table().values() if flag.of_agents}
    kept = {key: value for key, value in defaults.items() if complaint(key, value) is None}
    assert Settings(Values(kept)).for_node("n").devices == ()
    assert len(kept) > 400


def test_every_property_reads_its_key() -> None:
    view = parse_assignments(
        [
            "devices=eth+",
            "force-device-detection=true",
            "direct-routing-device=eth1",
            "routing-mode=native",
            "tunnel-protocol=geneve",
            "auto-direct-node-routes=true",
            "direct-routing-skip-unreachable=true",
            "enable-ipv4=false",
            "enable-ipv6=0",
            "enable-ipv4-masquerade=false",
            "enable-ipv6-masquerade=F",
            "enable-bpf-masquerade=1",
            "kube-proxy-replacement=true",
            "enable-host-legacy-routing=true",
            "enable-endpoint-routes=true",
            "ipv4-native-routing-cidr=10.0.0.0/8",
            "ipv6-native-routing-cidr=fd00::/8",
            "ipv4-node=10.0.1.1",
            "ipv6-node=fd00::1",
            "ipam=kubernetes",
            "mtu=1400",
            "egress-masquerade-interfaces=eth0,eth1",
            "enable-masquerade-to-route-source=true",
            "enable-ip-masq-agent=true",
            "enable-host-firewall=true",
            "enable-wireguard=true",
            "enable-ipsec=true",
            "enable-l2-announcements=true",
            "nodeport-addresses=10.0.0.0/8,fd00::/64",
        ]
    ).for_node("node1")
    assert view.node == "node1"
    assert view.devices == ("eth+",)
    assert view.direct_routing_device == "eth1"
    assert (view.routing_mode, view.tunnel_protocol, view.tunnel_port) == ("native", "geneve", 6081)
    assert (view.enable_ipv4, view.enable_ipv6, view.ipv4_masquerade, view.ipv6_masquerade) == (False,) * 4
    assert view.ipv4_native_routing_cidr == ip_network("10.0.0.0/8")
    assert view.ipv6_native_routing_cidr == ip_network("fd00::/8")
    assert (view.ipv4_node, view.ipv6_node) == ("10.0.1.1", "fd00::1")
    assert (view.ipam, view.mtu) == ("kubernetes", 1400)
    assert view.egress_masquerade_interfaces == ("eth0", "eth1")
    assert view.nodeport_addresses == ("10.0.0.0/8", "fd00::/64")
    assert view.force_device_detection
    assert view.auto_direct_node_routes
    assert view.direct_routing_skip_unreachable
    assert view.bpf_masquerade
    assert view.kube_proxy_replacement
    assert view.host_legacy_routing
    assert view.endpoint_routes
    assert view.masquerade_to_route_source
    assert view.ip_masq_agent
    assert view.host_firewall
    assert view.wireguard
    assert view.ipsec
    assert view.l2_announcements


def test_the_tunnel_port_follows_the_protocol_unless_set() -> None:
    assert Settings.of(tunnel="vxlan", tunnel_port=0).for_node("n").tunnel_port == 8472
    assert Settings.of(tunnel="geneve").for_node("n").tunnel_port == 6081
    assert Settings.of(tunnel="geneve", tunnel_port=4789).for_node("n").tunnel_port == 4789


@pytest.mark.parametrize(("word", "on"), [("strict", True), ("partial", False), ("disabled", False), ("T", True)])
def test_old_words_for_kube_proxy_replacement(word: str, on: bool) -> None:
    assert Settings.of(kube_proxy_replacement=word).for_node("n").kube_proxy_replacement is on


def config(name: str, selector: dict[str, str], **values: str) -> NodeSettings:
    return NodeSettings.of(name, values, selector)


def test_node_configs_win_over_the_config_map_in_the_order_of_their_names() -> None:
    settings = Settings(
        Values({"devices": "eth0", "mtu": "1500"}),
        (config("b", {"zone": "x"}, devices="eth2"), config("a", {}, devices="eth1", mtu="9000")),
    )
    assert settings.for_node("n", {"zone": "x"}).values == {"devices": "eth2", "mtu": "9000"}
    assert settings.for_node("n", {"zone": "y"}).values == {"devices": "eth1", "mtu": "9000"}
    assert settings.for_node("n").devices == ("eth1",)


def test_a_nodes_own_override_wins_over_everything() -> None:
    settings = Settings(per_node=(config("zz", {}, devices="eth1"),)).merged(
        parse_node_assignments(["node1:devices=eth2", "node1:mtu=1400"])
    )
    assert settings.for_node("node1").devices == ("eth2",)
    assert settings.for_node("node1").mtu == 1400
    assert settings.for_node("node2").devices == ("eth1",)


def test_the_hostname_label_is_known() -> None:
    settings = Settings(per_node=(config("a", {"kubernetes.io/hostname": "node2"}, devices="eth1"),))
    assert settings.for_node("node2").devices == ("eth1",)
    assert settings.for_node("node1").devices == ()
    assert settings.for_node("node2", {"kubernetes.io/hostname": "other"}).devices == ()


def test_per_node_is_canonical() -> None:
    one, two = config("a", {}, devices="eth0"), config("b", {}, devices="eth1")
    mine = NodeSettings.of("a", {"mtu": "1400"})
    assert Settings(per_node=(mine, two, one)) == Settings(per_node=(one, two, mine))
    assert Settings(per_node=(mine, two, one)).per_node == (one, two, mine)
    later = Settings(per_node=(one,)).merged(Settings(per_node=(config("a", {}, mtu="1300"),)))
    assert later.for_node("n").values == {"mtu": "1300"}  # an object of the same name replaces
    more = Settings(per_node=(mine,)).merged(Settings(per_node=(NodeSettings.of("a", {"devices": "eth1"}),)))
    assert more.for_node("a").values == {"mtu": "1400", "devices": "eth1"}  # overrides add up


def test_a_nodes_bad_value_is_an_error() -> None:
    with pytest.raises(InputError, match="settings of node1"):
        Settings(per_node=(NodeSettings.of("node1", {"enable-ipv6": "maybe"}),))


@pytest.mark.parametrize(
    ("expression", "labels", "matches"),
    [
        (Expression("role", "In", ("db", "cache")), {"role": "db"}, True),
        (Expression("role", "In", ("db",)), {}, False),
        (Expression("role", "NotIn", ("db",)), {"role": "db"}, False),
        (Expression("role", "NotIn", ("db",)), {}, True),
        (Expression("role", "Exists"), {"role": ""}, True),
        (Expression("role", "Exists"), {}, False),
        (Expression("role", "DoesNotExist"), {}, True),
        (Expression("role", "DoesNotExist"), {"role": "db"}, False),
    ],
)
def test_match_expressions(expression: Expression, labels: dict[str, str], matches: bool) -> None:
    assert Selector(expressions=(expression,)).matches(labels) is matches
    assert Selector(Values({"no": "such"}), (expression,)).matches(labels) is False


def test_the_base_of_flags_is_the_lab() -> None:
    result = effective([parse_assignments(["devices=eth1"])])
    assert result.values == {**LAB_BASELINE.values, "devices": "eth1"}
    assert effective([]) == LAB_BASELINE


def test_the_base_of_a_whole_configuration_is_cilium() -> None:
    whole = Settings(Values({"routing-mode": "native"}), base="cluster")
    result = effective([parse_assignments(["devices=eth1"]), whole, parse_assignments(["routing-mode=tunnel"])])
    assert result.values == {"devices": "eth1", "routing-mode": "tunnel"}
    assert result.base == "cluster"
    assert result.for_node("n").enable_ipv6


def test_the_base_of_helm_values_is_the_chart() -> None:
    result = effective([Settings(Values({"routing-mode": "native"}), base="chart")])
    assert result.values == {"routing-mode": "native", "enable-ipv6": "false"}
    assert CHART_DEFAULTS.values == {"enable-ipv6": "false"}


def test_the_labs_baseline() -> None:
    view = LAB_BASELINE.for_node("node1")
    assert (view.routing_mode, view.tunnel_protocol, view.devices) == ("tunnel", "vxlan", ())
    assert view.bpf_masquerade
    assert view.kube_proxy_replacement
    assert view.ipv4_masquerade
    assert not view.enable_ipv6
    assert view.get("enable-policy") == "never"
    assert view.get("no-such-key") == ""
