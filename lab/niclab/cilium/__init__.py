"""A model of what Cilium does with a node's NICs: pure, from topology, settings and version. Where to find what:

version        versions, and what differs between them
selection/     devices_controller.go, node_address.go, direct_routing_device.go, mtu.go: which NICs, which addresses
refusals       what an agent exits with                node           one agent's decisions
frontends      pkg/loadbalancer: which services        decisions      all agents' decisions; tunnel and direct routes

services       bpf/lib/nodeport.h, lb.h, bpf_sock.c    masquerade     bpf/lib/nat.h, pkg/datapath/iptables
egress         pkg/egressgateway                       eni            pkg/datapath/linux/routing, pkg/ipam
reverse_path   rp_filter and what passes it            bgp            pkg/bgpv1
operations     all of these as kernel operations       numbers        tables, priorities and marks that they use
reported       what an agent reports of itself
"""
