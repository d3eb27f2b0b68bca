"""What several scenarios stand on: settings, changes to topologies, the rows of the `devices` matrix."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from niclab import FlowResult, Lab, Settings

NODE1_ETH0, NODE1_ETH1 = "10.0.0.1", "10.0.1.1"
CLIENT0, CLIENT1 = "10.0.0.100", "10.0.1.100"
WEB, WEB_LOCAL, DNS = "tcp:30080", "tcp:30081", "udp:30053"

VXLAN = Settings.of(routing="tunnel", tunnel="vxlan")
NATIVE = Settings.of(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True)
NATIVE_OF_POOLS = NATIVE.merged(Settings.of(ipv4_native_routing_cidr="10.244.0.0/15"))
"""`multi-pool`'s nodes have a second pod CIDR each: 10.245.0.0/16."""
BOTH = Settings.of(devices="eth0,eth1")
ETH0 = Settings.of(devices="eth0")
ETH1 = Settings.of(devices="eth1")
LEGACY = Settings.of(enable_host_legacy_routing=True)

NODE_IPS_ON_ETH1 = {"node_ips": ["node1: 10.0.1.1", "node2: 10.0.1.2"]}
PEERS_BY_ETH1 = {"routes": ["node1: 10.0.0.2/32 via 10.0.1.2 dev eth1", "node2: 10.0.0.1/32 via 10.0.1.1 dev eth1"]}

EXT0_BY_ETH1 = {"routes": ["node1: 10.0.0.100/32 via 10.0.1.254 dev eth1"]}
EXT1_BY_ETH0 = {"routes": ["node1: 10.0.1.100/32 via 10.0.0.254 dev eth0"]}
PEERS_BY_BOTH = {
    "routes": [
        "node1: 10.0.0.2/32 nexthop via 10.0.0.2 dev eth0 nexthop via 10.0.1.2 dev eth1",
        "node2: 10.0.0.1/32 nexthop via 10.0.0.1 dev eth0 nexthop via 10.0.1.1 dev eth1",
    ]
}
PER_FLOW = {"sysctls": ["all: net.ipv4.fib_multipath_hash_policy=1"]}
BACKEND_ON_NODE1 = {"topology": {"pods: [pod2]": "pods: [pod1]"}}
"""In `services`, where pod2 on node2 is the backend of every service."""
UNMASQUERADED = Settings.of(enable_ipv4_masquerade=False, enable_bpf_masquerade=False)

DEVICES = {"unset": "", "veth": "", "eth0": "eth0", "eth1": "eth1", "both": "eth0,eth1", "wildcard": "eth+"}
"""Of a row of the matrix → the value of `devices`. `veth`: it is unset, on nodes that are containers, as in kind."""
ON = {name: [pytest.mark.nics("veth")] if name == "veth" else [] for name in DEVICES}
SELECTED = {
    "unset": ("eth0", "eth1"),
    "veth": ("eth0",),  # a veth is detected only by a default route of its own
    "eth0": ("eth0",),
    "eth1": ("eth1",),
    "both": ("eth0", "eth1"),
    "wildcard": ("eth0", "eth1"),
}


class Row(NamedTuple):
    """One row of the matrix: a routing mode and a value of `devices`."""

    routing: str
    devices: str

    @property
    def selected(self) -> tuple[str, ...]:
        return SELECTED[self.devices]

    def only_device(self, lab: Lab) -> str | None:
        """The device that gets every packet of a pod without a look at the routing table, if there is one."""
        return self.selected[0] if len(self.selected) == 1 and lab.version <= (1, 18) else None


def rows(*names: str, routing: str | None = None) -> pytest.MarkDecorator:
    """The rows of the matrix: values of `devices` (all by default) over both routing modes, or one."""
    return pytest.mark.parametrize(
        "row",
        [
            pytest.param(
                Row(mode, name),
                marks=[pytest.mark.settings(settings, devices=DEVICES[name]), *ON[name]],
                id=f"{mode}-{name}",
            )
            for mode, settings in (("vxlan", VXLAN), ("native", NATIVE))
            for name in names or DEVICES
            if routing in (None, mode)
        ],
    )


def forwarded(flow: FlowResult, *, taken_in: str, answered_by: str) -> None:
    """node1 took a request in and forwarded it to node2 by eth0, where the route to the pod leads."""
    assert flow.entered("node1") == {taken_in}
    assert flow.left("node1") == {"eth0"}
    assert flow.entered("node2") == {"eth0"}
    assert flow.answered_by("node1") == {answered_by}
    flow.must_receive()


def refused(flow: FlowResult, *, node: str, nic: str) -> None:
    """The node itself refused: nothing was forwarded, no backend saw it."""
    assert flow.entered(node) == {nic}
    assert flow.left(node) == set()
    assert flow.source_seen_by("pod2") is None
    flow.must_not_receive()
