"""What an agent finds when it first starts on a node: what it would draw by lot is there, as though it had run before.

Its router address and, in some versions, the MAC addresses of `cilium_host` and `cilium_net` and the number of its host
endpoint are compiled into its programs. With these the same in every lab, so are the sources, and what was compiled
once serves again (`objects`). Besides, an agent that learns them while it starts builds its datapath a second time
(pkg/datapath/orchestrator: they are part of the configuration it compares). All of it is what an agent itself leaves
behind and takes up when it is started again; what it cannot use it draws anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_interface
from pathlib import Path

from niclab.agents.configuration import given
from niclab.cilium.decisions import Decisions
from niclab.cilium.node import ROUTER_DEVICE
from niclab.kernel.plan import ROUTER, mac
from niclab.net.operation import AddAddress, AddCable, Operation, SetLink
from niclab.net.route import Address, Family

PEER_DEVICE = "cilium_net"
HOST_ENDPOINT = 1
"""The lowest number an endpoint can have (pkg/endpoint/id, pkg/endpointmanager)."""
_OWN_POOLS = ("", "kubernetes", "cluster-pool")
"""IPAM modes whose pod CIDRs are those of the topology; the router's address is one of them."""


def links(decisions: Decisions) -> Iterator[Operation]:
    """The pair of links that every agent makes when it is missing, as it leaves it (pkg/datapath/loader/netlink.go)."""
    for name in decisions.running:
        host, peer = _macs(decisions, name)
        yield AddCable(name, PEER_DEVICE, peer, name, ROUTER_DEVICE, host, decisions.nodes[name].mtu)
        yield SetLink(name, ROUTER_DEVICE)
        for address in _routers(decisions, name).values():
            yield AddAddress(name, ROUTER_DEVICE, ip_interface(address))


def sow(state: Path, decisions: Decisions, node: str, indices: Mapping[str, int]) -> None:
    """Leave in the state directory of a node's agent what it takes up; `indices` are those of the node's links."""
    if routers := _routers(decisions, node):
        header = state / "globals" / "node_config.h"
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(node_config(routers))
    if ROUTER_DEVICE in indices:
        endpoint = state / str(HOST_ENDPOINT) / "ep_config.json"
        endpoint.parent.mkdir(parents=True, exist_ok=True)
        endpoint.write_text(json.dumps(host_endpoint(_macs(decisions, node)[0], indices[ROUTER_DEVICE])))


def _routers(decisions: Decisions, node: str) -> dict[Family, Address]:
    """The router's addresses; none where the topology does not say what addresses a node gives."""
    decision = decisions.nodes[node]
    if decision.settings.values.get("ipam", "") not in _OWN_POOLS:
        return {}
    found = {family: decisions.topology.router_address(node, family) for family in decision.families}
    return {family: address for family, address in found.items() if address}


def _macs(decisions: Decisions, node: str) -> tuple[str, str]:
    """Those of `cilium_host` and `cilium_net`, as the built-in datapath has them."""
    number = list(decisions.topology.nodes).index(node) + 1
    return mac(ROUTER, number, 1), mac(ROUTER, number, 0)


def node_config(routers: Mapping[Family, Address]) -> str:
    """The lines of an agent's header from which the next one takes the router's addresses.

    pkg/defaults RestoreV4Addr, RestoreV6Addr; 16 bytes for both families (pkg/node/address.go,
    daemon/infraendpoints/infra_ip_allocation.go: getCiliumHostIPsFromFile).
    """
    lines = []
    for family, address in routers.items():
        packed = (b"\0" * 10 + b"\xff\xff" if family == 4 else b"") + address.packed
        lines.append(f" cilium.v{family}.internal.raw {', '.join(f'{byte:#x}' for byte in packed)}\n")
    return f"/*\n{''.join(lines)} */\n"


def host_endpoint(host_mac: str, index: int) -> dict[str, object]:
    """What an agent needs of the record of its host endpoint."""
    links = {"IfName": ROUTER_DEVICE, "IfIndex": index, "LXCMAC": host_mac, "NodeMAC": host_mac}
    return {"ID": HOST_ENDPOINT, **links, **given("host endpoint")}
