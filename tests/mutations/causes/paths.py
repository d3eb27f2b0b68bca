"""Which NIC: devices, routes, rules, links. What each scenario stands on, and what is there instead."""

from __future__ import annotations

from niclab import Settings

from tests.mutations.causes.twist import Table, Twist

told = Settings.of
BOTH, ETH0, ETH1 = told(devices="eth0,eth1"), told(devices="eth0"), told(devices="eth1")

NODE_IPS_ON_ETH1 = {"node_ips": ["node1: 10.0.1.1", "node2: 10.0.1.2"]}
PEERS_BY_ETH1 = {"routes": ["node1: 10.0.0.2/32 via 10.0.1.2 dev eth1", "node2: 10.0.0.1/32 via 10.0.1.1 dev eth1"]}
EXT0_BY_ETH1 = {"routes": ["node1: 10.0.0.100/32 via 10.0.1.254 dev eth1"]}
EXT1_BY_ETH0 = {"routes": ["node1: 10.0.1.100/32 via 10.0.0.254 dev eth0"]}
PER_FLOW = {"sysctls": ["all: net.ipv4.fib_multipath_hash_policy=1"]}
BY_TWO = {"routes": ["node1: 10.9.0.0/16 nexthop via 10.0.0.254 dev eth0 nexthop via 10.0.1.254 dev eth1"]}
PEER_BY_TWO = {
    "routes": [
        "node1: 10.0.0.2/32 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.1.2 dev eth1",
        "node2: 10.0.0.1/32 nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.1.1 dev eth1",
    ]
}
NATIVE = told(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True)

PATHS: Table = {
    "test_devices_matrix.py": (
        Twist(
            "test_the_agent_says_which_devices_it_selected",
            "eth1 has no default route: it has one, and is detected",
            amended={"routes": ["all: default via 10.0.1.254 dev eth1 metric 200"]},
            only="vxlan-unset",
        ),
        Twist("test_the_agent_says_which_devices_it_selected", "the list", settings=ETH0, only="native-both"),
        Twist(
            "test_the_direct_routing_device_has_the_node_ip",
            "the node IP on eth0: it is on eth1",
            amended=NODE_IPS_ON_ETH1,
            only="native-both",
        ),
        Twist(
            "test_a_single_device_is_the_direct_routing_device_wherever_the_node_ip_is",
            "the device is alone: there are two",
            settings=BOTH,
        ),
        Twist(
            "test_a_name_that_does_not_exist_selects_nothing_and_the_agent_exits",
            "the name that does not exist: it does",
            settings=ETH0,
        ),
        Twist(
            "test_a_tunnel_follows_the_route_to_the_peers_node_ip",
            "the peer's node IP is reached by eth0: by eth1",
            amended=PEERS_BY_ETH1,
            only="eth1",
        ),
        Twist(
            "test_native_pod_traffic_follows_the_direct_node_route",
            "direct routes by eth0: by eth1, with the node IP",
            amended=NODE_IPS_ON_ETH1,
            only="native-both",
        ),
        Twist(
            "test_native_pod_traffic_follows_the_direct_node_route",
            "the only device gets everything: there are two",
            settings=BOTH,
            only="native-eth1",
            version="1.18",
        ),
        Twist("test_pod_to_external_on_f0", "eth0 is selected: eth1 is", settings=ETH1, only="vxlan-eth0"),
        Twist("test_pod_to_external_on_f0", "the route by eth0", amended=EXT0_BY_ETH1, only="native-both"),
        Twist("test_pod_to_external_on_f1", "eth1 is selected: eth0 is", settings=ETH0, only="vxlan-eth1"),
        Twist(
            "test_pod_to_external_on_f1",
            "the only device gets everything: there are two",
            settings=BOTH,
            only="vxlan-eth0",
            version="1.18",
        ),
        Twist(
            "test_pod_to_the_peers_node_ip_in_tunnel_mode",
            "masquerading",
            settings=told(enable_ipv4_masquerade=False, enable_bpf_masquerade=False),
            only="vxlan-both",
        ),
        Twist(
            "test_pod_to_the_peers_node_ip_in_native_mode",
            "the address is the node IP: another is",
            amended=NODE_IPS_ON_ETH1,
            only="native-both",
        ),
        Twist("test_pod_to_the_peers_other_nic", "eth1 is selected: eth0 is", settings=ETH0, only="vxlan-both"),
        Twist(
            "test_pod_to_the_peers_other_nic",
            "the only device gets everything: there are two",
            settings=BOTH,
            only="native-eth0",
            version="1.18",
        ),
    ),
    "test_towards_pods.py": (
        Twist("test_pod_from_external_on_f0", "the route by eth0", amended=EXT0_BY_ETH1, only="vxlan-both"),
        Twist(
            "test_pod_from_external_on_f0",
            "two devices: eth1 is alone, and gets the answer",
            settings=ETH1,
            only="vxlan-both",
            version="1.18",
        ),
        Twist("test_pod_from_external_on_f1", "the route by eth1", amended=EXT1_BY_ETH0, only="native-both"),
        Twist("test_pod_from_the_peers_node_ip", "the tunnel: routes", settings=NATIVE, only="vxlan-both"),
        Twist(
            "test_pod_from_the_peers_other_nic",
            "the answer's route by eth1",
            amended={"routes": ["node1: 10.0.1.2/32 via 10.0.0.2 dev eth0"]},
            only="native-both",
        ),
        Twist(
            "test_pod_from_pod_the_other_way_round",
            "direct routes by eth0: by eth1, with the node IP",
            amended=NODE_IPS_ON_ETH1,
            only="native-both",
        ),
    ),
    "test_split.py": (
        Twist("test_devices_alone_does_not_move_the_tunnel", "the node IPs on eth0", amended=NODE_IPS_ON_ETH1),
        Twist("test_devices_alone_does_not_move_native_traffic", "the node IPs on eth0", amended=NODE_IPS_ON_ETH1),
        Twist("test_tunnel_by_the_node_ip", "the node IPs on eth1", without=["node_ips"]),
        Twist("test_tunnel_by_a_route_to_the_peers_node_ips", "the routes by eth1", without=["routes"]),
        Twist("test_native_by_the_node_ip", "the node IPs on eth1", without=["node_ips"]),
        Twist("test_native_by_routes_to_the_pod_cidrs", "the routes by eth1", without=["routes"]),
        Twist(
            "test_native_routes_are_not_asked_with_one_device_up_to_1_18",
            "the device is alone: there are two",
            settings=BOTH,
            version="1.18",
        ),
        Twist("test_native_routes_are_not_asked_with_one_device_up_to_1_18", "the routes by eth1", without=["routes"]),
    ),
    "test_distribution.py": (
        Twist("test_without_a_multipath_route_one_nic_carries_all", "there is no such route", amended=BY_TWO),
        Twist("test_address_pairs_are_spread_evenly_over_two_nics", "the multipath route", without=["routes"]),
        Twist(
            "test_address_pairs_are_spread_evenly_over_three_nics",
            "the route's third hop",
            without=["routes"],
            amended=BY_TWO,
        ),
        Twist(
            "test_a_nic_that_goes_down_hands_its_flows_over_and_takes_them_again",
            "the NIC goes down",
            undone="Lab.link_down",
        ),
        Twist(
            "test_a_nic_that_goes_down_hands_its_flows_over_and_takes_them_again",
            "the multipath route",
            without=["routes"],
        ),
        Twist("test_weights_are_kept", "the weights", without=["routes"], amended=BY_TWO),
        Twist(
            "test_bpf_host_routing_keeps_every_flow_of_a_pair_on_one_nic",
            "BPF host routing",
            settings=told(enable_host_legacy_routing=True),
        ),
        Twist("test_legacy_host_routing_spreads_the_flows_of_a_pair", "the hash of ports", without=["sysctls"]),
        Twist(
            "test_legacy_host_routing_spreads_the_flows_of_a_pair",
            "legacy host routing",
            settings=told(enable_host_legacy_routing=False),
        ),
        Twist("test_legacy_host_routing_hashes_pairs_unless_told_otherwise", "it is not told", amended=PER_FLOW),
        Twist("test_a_tunnel_spreads_pod_flows_by_its_outer_source_port", "the hash of ports", without=["sysctls"]),
        Twist("test_a_tunnel_uses_one_nic_per_pair_of_nodes_by_default", "the default", amended=PER_FLOW),
        Twist(
            "test_one_selected_device_undoes_the_spreading_up_to_1_18",
            "the device is alone: there are three",
            settings=told(devices="eth+"),
            version="1.18",
        ),
        Twist("test_one_selected_device_undoes_the_spreading_up_to_1_18", "the multipath route", without=["routes"]),
    ),
    "test_dual_stack.py": (
        Twist("test_both_families_share_one_tunnel", "the peer's IPv4 node IP by eth0", amended=PEERS_BY_ETH1),
        Twist(
            "test_each_family_has_direct_routes_of_its_own",
            "the IPv6 node IPs on eth0",
            amended={"node_ips": ["node1: fd00:10:0:1::1", "node2: fd00:10:0:1::2"]},
            only="icmp6",
        ),
        Twist(
            "test_each_family_has_direct_routes_of_its_own",
            "the IPv4 node IPs on eth0",
            amended=NODE_IPS_ON_ETH1,
            only="icmp]",
        ),
        Twist("test_each_family_is_masqueraded_to_the_nics_own_address", "eth1 is selected", settings=ETH0),
        Twist(
            "test_one_device_skips_the_fib_in_both_families_up_to_1_18",
            "the device is alone: there are two",
            settings=BOTH,
            version="1.18",
        ),
    ),
    "test_routing_tables.py": (
        Twist("test_a_rule_for_the_pods_sends_them_by_another_table", "the rule", without=["rules"]),
        Twist(
            "test_with_one_selected_device_the_rule_counts_from_1_19_on",
            "the device is alone: there are two",
            settings=BOTH,
            version="1.18",
        ),
        Twist("test_with_one_selected_device_the_rule_counts_from_1_19_on", "the rule", without=["rules"]),
        Twist("test_rules_and_routes_that_come_and_go_are_followed_at_once", "the rules", undone="Lab.add_rule"),
        Twist("test_rules_and_routes_that_come_and_go_are_followed_at_once", "the routes", undone="Lab.add_route"),
        Twist(
            "test_rules_and_routes_that_come_and_go_are_followed_at_once",
            "the FIB is asked: one device gets everything",
            settings=ETH0,
            version="1.18",
        ),
        Twist("test_the_tunnel_is_the_nodes_own_traffic_and_not_the_pods", "the node's rule", undone="Lab.add_rule"),
    ),
    "test_link_changes.py": (
        Twist("test_a_listed_nic_that_is_down_is_left_out_up_to_1_18", "the NIC goes down", undone="Lab.link_down"),
        Twist("test_a_nic_that_comes_back_has_lost_its_default_route", "the NIC goes down", undone="Lab.link_down"),
        Twist("test_a_nic_that_comes_back_has_lost_its_default_route", "it is added again", undone="Lab.add_route"),
        Twist(
            "test_routes_to_the_peers_node_ip_move_the_tunnel_to_the_nic_that_is_left",
            "the routes",
            undone="Lab.add_route",
        ),
        Twist(
            "test_a_hot_plugged_nic_that_devices_names_is_used_and_one_that_is_pulled_is_forgotten",
            "the new NIC is in `devices`",
            settings=BOTH,
        ),
        Twist(
            "test_a_hot_plugged_nic_that_devices_names_is_used_and_one_that_is_pulled_is_forgotten",
            "the NIC is pulled",
            undone="Lab.unplug",
        ),
        Twist("test_selection_outlives_the_default_route_that_made_it", "the route", undone="Lab.add_route"),
        Twist("test_selection_outlives_the_default_route_that_made_it", "the new address", undone="Lab.add_address"),
        Twist("test_selection_outlives_the_default_route_that_made_it", "detection: a list", settings=BOTH),
        Twist(
            "test_a_route_that_a_nic_took_along_still_counts_when_it_comes_back", "the route", undone="Lab.add_route"
        ),
        Twist(
            "test_a_direct_node_route_is_gone_until_the_agent_validates_its_nodes",
            "the agent validates its nodes",
            undone="Lab.validate_nodes",
        ),
    ),
    "test_bridge_and_lo.py": (
        Twist(
            "test_agents_refuse_a_node_ip_on_a_bridge_that_is_not_listed",
            "the bridge is not listed",
            settings=told(devices="br0,eth1"),
        ),
        Twist("test_a_listed_bridge_is_a_device_like_any_other", "eth1 is listed", settings=told(devices="br0")),
        Twist("test_a_listed_bridge_is_a_device_like_any_other", "the node IP on the bridge", amended=NODE_IPS_ON_ETH1),
        Twist("test_a_bridge_outlives_its_port_and_so_does_its_selection", "the cable", undone="Lab.link_down"),
        Twist(
            "test_agents_refuse_a_node_ip_on_lo_that_is_not_listed",
            "`lo` is not listed",
            settings=told(devices="eth0,eth1,lo"),
        ),
        Twist(
            "test_with_a_direct_routing_device_a_node_ip_on_lo_survives_the_loss_of_a_fabric",
            "the route by either NIC: by eth0 alone",
            instead={
                "src 10.255.0.1 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.1.2 dev eth1": "via 10.0.0.2 dev eth0 "
                "src 10.255.0.1"
            },
        ),
        Twist("test_a_listed_lo_is_the_direct_routing_device", "the node IP on `lo`", amended=NODE_IPS_ON_ETH1),
        Twist("test_a_listed_lo_is_the_direct_routing_device", "`lo` is listed", settings=BOTH),
    ),
    "test_bond_and_vlan.py": (
        Twist("test_a_bond_is_detected_and_its_nics_are_not", "detection: a list", settings=told(devices="eth2")),
        Twist(
            "test_an_active_backup_bond_fails_over_and_no_agent_notices",
            "the bond's second NIC",
            instead={"bond: [eth0, eth1]": "bond: [eth0]"},
        ),
        Twist("test_a_bond_without_a_nic_carries_nothing", "the NICs go down", undone="Lab.link_down"),
        Twist("test_a_vlan_is_a_device_of_its_own_on_the_same_cable", "the VLAN is selected", settings=ETH0),
        Twist(
            "test_a_vlan_that_is_not_selected_shows_the_pods_address",
            "the VLAN is not selected",
            settings=told(devices="eth0,eth0.100"),
        ),
        Twist("test_a_vlan_goes_down_and_comes_back_with_its_parent", "the parent comes back", undone="Lab.link_up"),
        Twist(
            "test_pods_do_not_leave_by_a_nic_in_a_vrf",
            "the VRF",
            instead={"    links:\n      blue: {vrf: eth1, table: 100}\n": ""},
        ),
    ),
    "test_mtu.py": (
        Twist("test_the_smallest_selected_nic_sets_the_mtu_of_every_pod", "eth1 is selected", settings=ETH0),
        Twist(
            "test_a_smaller_nic_that_is_not_selected_loses_what_is_too_big_for_it",
            "eth1 is not selected",
            settings=BOTH,
        ),
        Twist(
            "test_a_smaller_nic_that_is_not_selected_loses_what_is_too_big_for_it",
            "eth1 is smaller",
            instead={"mtu: 1400": "mtu: 1500"},
        ),
        Twist("test_the_tunnel_over_the_smaller_nic_is_no_black_hole", "the tunnel by eth1", undone="Lab.add_route"),
    ),
}
