"""North and south: services and egress gateways. What each scenario stands on, and what is there instead."""

from __future__ import annotations

from tests.mutations.causes.paths import BOTH, ETH0, EXT0_BY_ETH1, NODE_IPS_ON_ETH1, told
from tests.mutations.causes.twist import Table, Twist

BACKENDS_ON_NODE1 = {"pods: [pod2]": "pods: [pod1]"}
BY_NIC = "by-nic: {pods: by-nic, destinations: 0.0.0.0/0, gateways: node2, interface: eth1}"
BY_ITS_ADDRESS = BY_NIC.replace("interface: eth1", "egress_ip: 10.0.1.2")
UNFILTERED = {"sysctls": ["all: net.ipv4.conf.eth0.rp_filter=0", "all: net.ipv4.conf.eth1.rp_filter=0"]}
LEGACY = told(enable_host_legacy_routing=True)
NO_GATEWAY = told(enable_egress_gateway=False)

SERVICES: Table = {
    "test_services.py": (
        Twist("test_node_port_with_a_remote_backend", "eth1 is selected", settings=ETH0),
        Twist("test_node_port_with_a_remote_backend", "the backend is remote", instead=BACKENDS_ON_NODE1),
        Twist("test_the_reply_leaves_by_the_route_to_the_client", "the client's route", amended=EXT0_BY_ETH1),
        Twist("test_node_port_with_a_local_backend", "the backend is local", instead=BACKENDS_ON_NODE1),
        Twist("test_node_port_on_a_nic_that_is_not_selected", "eth1 is not selected", settings=BOTH),
        Twist(
            "test_reply_of_a_local_backend_with_one_device",
            "the device is alone: there are two",
            settings=BOTH,
            version="1.18",
        ),
        Twist(
            "test_reply_of_a_local_backend_with_one_device",
            "the client's route by eth1",
            amended={"routes": ["node2: 10.0.1.100/32 via 10.0.0.254 dev eth0"]},
        ),
        Twist(
            "test_the_answer_of_a_local_backend_on_a_nic_that_is_not_selected", "eth1 is not selected", settings=BOTH
        ),
        Twist(
            "test_the_answer_of_a_remote_backend_on_a_nic_that_is_not_selected",
            "the backend is remote",
            instead=BACKENDS_ON_NODE1,
        ),
        Twist(
            "test_the_remote_backend_sees_the_direct_routing_device",
            "the direct routing device is eth1",
            settings=told(direct_routing_device="eth0"),
        ),
        Twist(
            "test_the_remote_backend_sees_the_source_that_the_routes_say",
            "the routes are asked",
            settings=told(enable_dynamic_source_lookup_nodeport=False),
        ),
        Twist(
            "test_in_a_tunnel_the_remote_backend_sees_the_router_ip",
            "the tunnel: routes",
            settings=told(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True),
        ),
        Twist("test_external_traffic_policy_local", "the policy", instead={"external_traffic_policy: Local": ""}),
        Twist("test_nodeport_addresses_choose_among_selected_nics", "the list", settings=told(nodeport_addresses="")),
        Twist("test_direct_server_return", "DSR", settings=told(bpf_lb_mode="snat")),
        Twist("test_direct_server_return_by_a_nic_that_is_not_selected", "eth1 is not selected", settings=BOTH),
        Twist("test_hybrid_mode", "SNAT for UDP", settings=told(bpf_lb_mode="dsr")),
        Twist("test_hybrid_mode", "DSR for TCP", settings=told(bpf_lb_mode="snat")),
        Twist(
            "test_without_kube_proxy_replacement",
            "there is none",
            settings=told(kube_proxy_replacement=True, enable_bpf_masquerade=True),
        ),
        Twist("test_a_pod_and_its_own_nodes_other_nic", "eth1 is not selected", settings=BOTH, version="1.18"),
        Twist("test_a_service_from_a_pod", "the backend's route by eth0", amended=NODE_IPS_ON_ETH1),
        Twist("test_a_service_from_a_node", "the backend's route by eth0", amended=NODE_IPS_ON_ETH1),
        Twist("test_the_peers_node_port_from_a_pod", "eth0 has the node IP", amended=NODE_IPS_ON_ETH1),
        Twist("test_the_peers_node_port_from_a_pod", "eth1 is selected", settings=ETH0),
        Twist("test_load_balancer_and_external_ip_by_either_nic", "eth1 is selected", settings=ETH0),
        Twist("test_external_ip_on_a_nic_that_is_not_selected", "eth1 is not selected", settings=BOTH),
        Twist("test_load_balancer_on_a_nic_that_is_not_selected", "eth1 is not selected", settings=BOTH),
    ),
    "test_reverse_path.py": (
        Twist(
            "test_node_ports_of_a_remote_backend_are_taken_before_the_filter",
            "eth1 is selected: no program is there",
            settings=ETH0,
            only="strict",
        ),
        Twist(
            "test_legacy_host_routing_takes_them_before_the_filter_too",
            "the backend is remote",
            instead=BACKENDS_ON_NODE1,
            only="strict",
        ),
        Twist(
            "test_node_ports_of_a_local_backend_are_delivered_before_the_filter",
            "BPF host routing",
            settings=LEGACY,
            only="strict",
        ),
        Twist(
            "test_with_legacy_host_routing_strict_loses_requests_to_a_local_backend",
            "legacy host routing",
            settings=told(enable_host_legacy_routing=False),
            only="strict",
        ),
        Twist(
            "test_with_legacy_host_routing_strict_loses_requests_to_a_local_backend",
            "the filter",
            amended=UNFILTERED,
            only="strict",
        ),
        Twist(
            "test_with_legacy_host_routing_strict_loses_requests_to_a_local_backend",
            "loose: strict",
            amended={"sysctls": ["all: net.ipv4.conf.eth1.rp_filter=1"]},
            only="loose",
        ),
        Twist("test_loose_loses_requests_that_no_route_leads_back_to", "the filter", amended=UNFILTERED, only="loose"),
        Twist(
            "test_loose_loses_requests_that_no_route_leads_back_to",
            "there is no route back",
            without=["routes"],
            only="off",
        ),
        Twist("test_strict_loses_what_is_for_the_node_itself", "the filter", amended=UNFILTERED, only="strict"),
        Twist(
            "test_strict_loses_what_is_for_the_node_itself",
            "the way back by eth0: by eth1",
            amended=EXT0_BY_ETH1,
            only="strict",
        ),
        Twist(
            "test_on_a_nic_that_is_not_selected_strict_silences_the_refusal",
            "the filter",
            amended=UNFILTERED,
            only="strict",
        ),
        Twist("test_direct_server_return", "BPF host routing", settings=LEGACY, only="BPF"),
        Twist(
            "test_direct_server_return",
            "legacy host routing",
            settings=told(enable_host_legacy_routing=False),
            only="legacy",
        ),
        Twist(
            "test_agents_turn_off_the_filter_of_all_interfaces",
            "that of the NIC is off",
            amended={"sysctls": ["all: net.ipv4.conf.eth1.rp_filter=1"]},
        ),
    ),
    "test_egress_gateway.py": (
        Twist("test_a_policy_tunnels_to_the_gateway", "egress gateways", settings=NO_GATEWAY),
        Twist(
            "test_the_egress_ip_does_not_choose_the_nic",
            "there is no rule for the egress IP",
            amended={
                "routes": ["node2: default via 10.0.1.254 dev eth1 table 100"],
                "rules": ["node2: from 10.0.1.202 lookup 100"],
            },
        ),
        Twist(
            "test_an_interface_fixes_the_nic_from_1_20_on",
            "the interface: its address",
            instead={BY_NIC: BY_ITS_ADDRESS},
        ),
        Twist(
            "test_an_interface_fixes_the_nic_from_1_20_on",
            "the gateway's route by eth0",
            amended={"routes": ["node2: 10.0.2.0/24 via 10.0.1.254 dev eth1"]},
            version="1.18",
        ),
        Twist(
            "test_the_next_hop_stays_that_of_the_routes",
            "the routes say that ext0 is a neighbour",
            amended={"routes": ["node2: 10.0.0.100/32 via 10.0.1.254 dev eth1"]},
        ),
        Twist(
            "test_without_a_choice_it_is_the_nic_of_the_default_route",
            "the default route by eth0",
            instead={"default via 10.0.0.254 dev eth0": "default via 10.0.1.254 dev eth1"},
        ),
        Twist("test_a_rule_for_the_egress_ip_is_the_cure", "the rule", without=["rules", "routes"], version="1.18"),
        Twist(
            "test_a_pods_own_node_as_its_gateway",
            "it is its own gateway",
            instead={"gateways: node1, interface: eth1": "gateways: node2, interface: eth1"},
        ),
        Twist(
            "test_what_stays_in_the_cluster_and_what_is_excluded",
            "the network that is excluded",
            instead={"excluded: 10.0.1.0/24, ": ""},
        ),
        Twist("test_an_egress_nic_that_is_not_selected", "eth1 is not selected", settings=BOTH),
        Twist("test_a_pods_node_without_its_nic", "eth0 is not selected", settings=BOTH),
    ),
}
