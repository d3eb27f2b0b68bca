"""Cilium's BGP control plane: the objects that tell agents whom to speak to, and what agents say of it."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from niclab.agents.agent import Agent
from niclab.agents.kube import Object
from niclab.cilium.bgp import Session, sessions
from niclab.net.route import Address, Family, Network, ip_address
from niclab.topology import Topology
from niclab.topology.model import Advertised, BgpTimers

_VERSION = "cilium.io/v2"
"""1.18 and later (pkg/k8s/apis/cilium.io/v2); before it was v2alpha1."""
_LABEL = "niclab.io/advertise"
_INSTANCE = "niclab"
_NEXT_HOP, _MP_REACH = 3, 14
_LONG = 0x10
"""RFC 4271, 4.3: a path attribute whose length has two bytes."""


def objects(topology: Topology, families: Collection[Family]) -> Iterator[Object]:
    """What agents advertise, how sessions are, and whom each node speaks to: nodes with the same peers share one."""
    bgp = topology.bgp
    if bgp is None:
        return
    yield _object("CiliumBGPAdvertisement", "niclab", {"advertisements": [_ADVERTISED[one] for one in bgp.advertise]})
    mine = [session for session in sessions(topology) if session.family in families]
    for family in sorted({session.family for session in mine}):
        yield _object("CiliumBGPPeerConfig", _config(family), _peer_config(family, bgp.timers))
    groups: dict[tuple[tuple[str, str, int, Family], ...], list[str]] = {}
    for node in topology.nodes:
        peers = tuple(_peer(session) for session in mine if session.own.host == node)
        if peers:
            groups.setdefault(peers, []).append(node)
    for number, (peers, nodes) in enumerate(groups.items()):
        yield _cluster_config(f"niclab-{number}", bgp.nodes.asn, nodes, peers)


_ADVERTISED: Mapping[Advertised, Object] = {
    "pod-cidrs": {"advertisementType": "PodCIDR"},
    "services": {
        "advertisementType": "Service",
        "service": {"addresses": ["LoadBalancerIP", "ExternalIP"]},
        # An empty selector selects everything, none nothing.
        "selector": {"matchExpressions": [{"key": _LABEL, "operator": "DoesNotExist"}]},
    },
}


def _object(kind: str, name: str, spec: Object) -> Object:
    labels = {"labels": {_LABEL: "bgp"}} if kind == "CiliumBGPAdvertisement" else {}
    return {"apiVersion": _VERSION, "kind": kind, "metadata": {"name": name, **labels}, "spec": spec}


def _config(family: Family) -> str:
    return f"niclab-ipv{family}"


def _peer_config(family: Family, timers: BgpTimers) -> Object:
    return {
        "timers": {
            "connectRetryTimeSeconds": timers.connect,
            "keepAliveTimeSeconds": timers.keepalive,
            "holdTimeSeconds": timers.hold,
        },
        "families": [
            {"afi": f"ipv{family}", "safi": "unicast", "advertisements": {"matchLabels": {_LABEL: "bgp"}}},
        ],
    }


def _peer(session: Session) -> tuple[str, str, int, Family]:
    """Name, address, AS number and family of the peer; not the node's own address, which the kernel's route decides."""
    name = f"{session.peer.host}-{session.peer.nic}-ipv{session.family}".lower()
    return name, str(session.peer.address), session.peer.asn, session.family


def _cluster_config(name: str, asn: int, nodes: list[str], peers: Iterable[tuple[str, str, int, Family]]) -> Object:
    selector = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": nodes}]}
    listed = [
        {"name": peer, "peerAddress": address, "peerASN": number, "peerConfigRef": {"name": _config(family)}}
        for peer, address, number, family in peers
    ]
    instance = {"name": _INSTANCE, "localASN": asn, "peers": listed}
    return _object("CiliumBGPClusterConfig", name, {"nodeSelector": selector, "bgpInstances": [instance]})


@dataclass(frozen=True)
class AgentBgp:
    """The BGP of one agent, by its REST API (`/bgp/peers` and `/bgp/routes`; deprecated in 1.20, and still there)."""

    agent: Agent

    def rib(self) -> dict[Network, frozenset[Address]]:
        """What the agent has accepted from its peers: prefix → next hops. What it originates itself is not in it."""
        found: dict[Network, frozenset[Address]] = {}
        for family in (4, 6):
            query = f"bgp/routes?table_type=loc-rib&afi=ipv{family}&safi=unicast"
            found |= next_hops(self.agent.answer(query) or ())
        return found

    def heard(self) -> dict[Network, frozenset[Address]]:
        """What the agent's peers have told it: prefix → the next hops they gave."""
        found: dict[Network, frozenset[Address]] = {}
        for peer in self.states():
            query = f"bgp/routes?table_type=adj-rib-in&afi=ipv{peer.version}&safi=unicast&neighbor={peer}"
            for prefix, hops in next_hops(self.agent.answer(query) or ()).items():
                found[prefix] = found.get(prefix, frozenset()) | hops
        return found

    def states(self) -> dict[Address, str]:
        """Peer → the state of its session, in FRR's spelling."""
        peers = self.agent.answer("bgp/peers") or ()
        return {ip_address(one["peer-address"]): str(one.get("session-state", "")).capitalize() for one in peers}


def next_hops(routes: Iterable[Mapping[str, Any]]) -> dict[Network, frozenset[Address]]:
    """From `/bgp/routes`: prefix → the next hops of its paths; what the agent originates itself has none."""
    found: dict[Network, frozenset[Address]] = {}
    for route in routes:
        paths = [path.get("path-attributes") or () for path in route.get("paths") or ()]
        hops = [_next_hop(dict(_attribute(base64.b64decode(one["base64"])) for one in path)) for path in paths]
        known = frozenset(hop for hop in hops if hop is not None and not hop.is_unspecified)
        if known:
            found[ipaddress.ip_network(str(route["prefix"]))] = known
    return found


def _attribute(data: bytes) -> tuple[int, bytes]:
    """A path attribute's type and value (RFC 4271, 4.3)."""
    return data[1], data[4:] if data[0] & _LONG else data[3:]


def _next_hop(attributes: Mapping[int, bytes]) -> Address | None:
    if _NEXT_HOP in attributes:
        return ipaddress.ip_address(attributes[_NEXT_HOP])
    reach = attributes.get(_MP_REACH, b"")  # RFC 4760: family, subfamily, length of the next hop, next hop
    return ipaddress.ip_address(reach[4 : 4 + min(reach[3], 16)]) if len(reach) > 4 else None
