"""Claims, issues and the rest of what agents do. What each scenario stands on, and what is there instead."""

from __future__ import annotations

from niclab import NodeSettings, Settings

from tests.mutations.causes.paths import (
    BOTH,
    ETH0,
    EXT1_BY_ETH0,
    NATIVE,
    NODE_IPS_ON_ETH1,
    PEER_BY_TWO,
    PEERS_BY_ETH1,
    PER_FLOW,
    told,
)
from tests.mutations.causes.twist import Table, Twist

OVERRULED = Settings(
    per_node=(NodeSettings.of("overruling", {"devices": "eth0,eth1"}, {"kubernetes.io/hostname": "node2"}),)
)
OTHERWISE = {"advertise: [pod-cidrs, services]": "advertise: [services]", "pods: [pod2]": "pods: [pod1]"}
"""Two causes at once: labs with routers are slow to build."""
DEFAULT_BY_ETH1 = {"default via 10.0.0.254 dev eth0": "default via 10.0.1.254 dev eth1"}

ONLY_REAL = {
    "test_claims.py::test_there_is_no_kind_of_that_name": "asks a real API server which kinds there are",
}
"""Scenarios that only exist with real agents, and why."""

STORIES: Table = {
    "test_claims.py": (
        Twist("test_no_balancing", "there is no multipath route", amended={**PEER_BY_TWO, **PER_FLOW}),
        Twist("test_detection_selects_all_that_qualify", "eth1's default route", without=["routes"]),
        Twist("test_a_route_is_enough", "the routes by eth1", without=["routes"]),
        Twist(
            "test_pods_have_addresses_of_the_nodes_pool",
            "the pool is the node's pod CIDR: another is",
            instead={
                'pods: ["pod{n}"]': 'pools: {other: "10.245.{n}.0/24"}\n    pods: {"pod{n}": {pool: other}}',
            },
        ),
        Twist(
            "test_listed_devices_have_no_pod_addresses",
            "the NICs have none of them: one does",
            before="node1: ip address add 10.244.1.200/32 dev eth1",
        ),
        Twist("test_the_lever", "eth1 is not listed", settings=BOTH, only="-eth0]"),
        Twist("test_the_lever", "eth1 is listed", settings=ETH0, only="eth0,eth1"),
        Twist("test_one_route_per_pod_cidr", "direct routes", settings=told(auto_direct_node_routes=False)),
        Twist("test_one_route_per_pod_cidr", "the node IPs on eth0", amended=NODE_IPS_ON_ETH1),
        Twist("test_nothing_is_bound_to_a_device", "the tunnel: routes", settings=NATIVE),
        Twist("test_nothing_is_bound_to_a_device", "the peer's node IP by eth0", amended=PEERS_BY_ETH1),
        Twist("test_an_unlisted_nic_carries_pods_traffic", "eth1 is not listed", settings=BOTH),
        Twist("test_an_unlisted_nic_carries_pods_traffic", "eth1 is not listed", settings=BOTH, version="1.18"),
        Twist(
            "test_the_commands_to_verify_with",
            "the tunnel: routes, by eth1",
            settings=NATIVE,
            amended=NODE_IPS_ON_ETH1,
        ),
    ),
    "test_issues.py": (
        Twist(
            "test_the_direct_routing_device_does_not_move_the_tunnel",
            "the peer's node IP by eth0",
            amended=PEERS_BY_ETH1,
        ),
        Twist(
            "test_a_direct_routing_device_is_only_looked_for_among_selected_devices",
            "the device is not selected",
            settings=told(devices="eth0,eth1,eth2"),
        ),
        Twist(
            "test_forced_detection_drops_the_rule_for_veths",
            "the force",
            settings=told(force_device_detection=False),
        ),
        Twist("test_a_nic_that_is_not_selected_does_not_masquerade", "eth0 is not selected", settings=BOTH),
        Twist(
            "test_a_nic_that_is_not_selected_does_not_masquerade",
            "the FIB is in use",
            settings=told(enable_endpoint_routes=False),
            version="1.18",
        ),
        Twist(
            "test_one_device_gets_everything_up_to_1_18",
            "the device is alone: there are two",
            settings=BOTH,
            version="1.18",
        ),
        Twist("test_one_device_gets_everything_up_to_1_18", "the route by eth1", amended=EXT1_BY_ETH0),
        Twist("test_rules_and_tables_are_honoured", "the rule", without=["rules"]),
        Twist(
            "test_no_direct_route_to_a_peer_behind_a_gateway",
            "the gateway: the peer is on the link",
            amended={"routes": ["node1: 10.0.2.2/32 dev eth0"]},
        ),
        Twist("test_the_node_ip_parts_east_west_from_north_south", "the node IPs on eth1", without=["node_ips"]),
    ),
    "test_ipam.py": (
        Twist("test_every_pool_of_a_node_is_tunnelled", "the tunnel: routes", settings=NATIVE),
        Twist("test_every_pool_of_a_node_has_a_direct_route", "the node IPs on eth0", amended=NODE_IPS_ON_ETH1),
        Twist(
            "test_every_pool_of_a_node_has_a_direct_route",
            "direct routes",
            settings=told(auto_direct_node_routes=False),
        ),
        Twist(
            "test_a_rule_for_a_pool_keeps_it_on_its_network",
            "the rule",
            instead={"    rules: from 10.245.{n}.0/24 lookup 100\n": ""},
        ),
        Twist(
            "test_one_device_and_a_rule_for_a_pool",
            "the rule",
            instead={"    rules: from 10.245.{n}.0/24 lookup 100\n": ""},
        ),
        Twist(
            "test_one_device_and_a_rule_for_a_pool",
            "the device is alone: there are two",
            settings=BOTH,
            version="1.18",
        ),
        Twist(
            "test_pods_of_one_node_leave_by_different_nics",
            "the pods' addresses belong to different NICs",
            instead={"pod{n}-eth1: {nic: eth1}": "pod{n}-eth1: {nic: eth0}"},
        ),
        Twist(
            "test_the_world_is_left_to_the_default_route",
            "masquerading",
            settings=told(enable_ipv4_masquerade=False, enable_bpf_masquerade=False),
        ),
        Twist(
            "test_without_masquerading_the_world_is_reached_by_the_pods_nic",
            "there is no masquerading",
            settings=told(enable_ipv4_masquerade=True, enable_bpf_masquerade=True),
        ),
    ),
    "test_masquerading.py": (
        Twist("test_the_ip_masq_agents_defaults", "the agent", settings=told(enable_ip_masq_agent=False)),
        Twist(
            "test_the_ip_masq_agents_list",
            "the list: another",
            settings=told(ip_masq_agent_config_path="{nonMasqueradeCIDRs: [10.0.0.0/24]}"),
        ),
        Twist(
            "test_the_ip_masq_agent_in_native_routing",
            "pods' addresses on the list",
            settings=told(ip_masq_agent_config_path="{nonMasqueradeCIDRs: [192.168.0.0/16]}"),
        ),
        Twist(
            "test_one_devices_address_for_all",
            "the device: another",
            settings=told(derive_masq_ip_addr_from_device="eth0"),
        ),
        Twist(
            "test_iptables_on_listed_interfaces",
            "the interface: another",
            settings=told(egress_masquerade_interfaces="eth0"),
        ),
        Twist(
            "test_iptables_to_the_source_of_routes",
            "the sources of routes are asked",
            settings=told(enable_masquerade_to_route_source=False),
        ),
        Twist("test_iptables_to_the_source_of_a_selected_devices_routes", "eth1 is not selected", settings=BOTH),
        Twist(
            "test_iptables_to_the_source_of_a_selected_devices_routes",
            "the sources of routes are asked",
            settings=told(enable_masquerade_to_route_source=False),
        ),
        Twist(
            "test_node_ips_are_no_exception_any_more",
            "what took the exception away",
            settings=told(enable_remote_node_masquerade=False),
        ),
        Twist("test_the_host_firewall_tunnels_to_node_ips", "the firewall", settings=told(enable_host_firewall=False)),
        Twist(
            "test_endpoint_routes_bring_back_the_fib",
            "endpoint routes",
            settings=told(enable_endpoint_routes=False),
            version="1.18",
        ),
        Twist("test_endpoint_routes_bring_back_the_fib", "the route by eth1", amended=EXT1_BY_ETH0),
    ),
    "test_per_node_settings.py": (
        Twist("test_a_node_config_is_said_over_the_config_map", "the node's own config", settings=OVERRULED),
        Twist("test_each_node_masquerades_by_its_own_devices", "the node's own config", settings=OVERRULED),
        Twist(
            "test_each_node_masquerades_by_its_own_devices", "the node's own config", settings=OVERRULED, version="1.18"
        ),
        Twist("test_the_tunnel_between_them_does_not_care", "the peer's node IP by eth0", amended=PEERS_BY_ETH1),
    ),
    "test_bgp.py": (
        Twist("test_each_router_learns_the_address_on_its_own_fabric", "pod CIDRs advertised", instead=OTHERWISE),
        Twist(
            "test_a_service_address_is_advertised_by_the_nodes_that_serve_it",
            "the backend on node2",
            instead=OTHERWISE,
        ),
        Twist("test_the_router_decides_which_nic_traffic_comes_in_by", "pod CIDRs advertised", instead=OTHERWISE),
        Twist("test_the_way_back_is_not_bgps", "the default route by eth0", instead=DEFAULT_BY_ETH1),
        Twist(
            "test_devices_changes_neither_sessions_nor_next_hops",
            "pod CIDRs advertised",
            instead=OTHERWISE,
            only="eth1",
        ),
        Twist("test_a_router_whose_bgp_ends_is_avoided", "it ends", undone="Speaker.stopped"),
        Twist(
            "test_a_router_that_says_nothing_is_avoided_after_the_hold_time", "it is silent", undone="Speaker.frozen"
        ),
        Twist("test_a_service_address_by_either_nic", "the backend on node2", instead=OTHERWISE),
        Twist("test_a_router_that_loses_its_link_to_the_nodes", "the link goes", undone="Lab.link_down"),
        Twist(  # the last in the lab that others have, too
            "test_the_agent_installs_no_route",
            "no route of BGP's on the node",
            before="node1: ip route add 10.9.0.0/24 via 10.0.1.254 dev eth1 proto bgp",
        ),
    ),
}
