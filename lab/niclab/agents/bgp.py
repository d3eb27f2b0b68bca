"""Cilium's BGP control plane: the objects that tell agents whom to speak to, and what agents say of it."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from niclab.agents.agent import Agent
from niclab.agents.kube import CILIUM, HOSTNAME, Object, made
from niclab.cilium.bgp import End, sessions
from niclab.net.route import Address, Family, Network, family_of, ip_address, ip_network
from niclab.topology import Topology
from niclab.topology.model import Advertised

_NEXT_HOP, _MP_REACH = 3, 14
_LONG = 0x10
"""RFC 4271, 4.3: a path attribute whose length has two bytes."""


def objects(topology: Topology, families: Collection[Family]) -> Iterator[Object]:
    """What agents advertise, how sessions are, and whom each node speaks to: nodes with the same peers share one."""
    bgp = topology.bgp
    if bgp is None:
        return
    advertised = [_ADVERTISED[kind] for kind in bgp.advertise]
    yield made(CILIUM, "CiliumBGPAdvertisement", "niclab", labels=_LABELS, spec={"advertisements": advertised})
    timers = {
        "connectRetryTimeSeconds": bgp.timers.connect,
        "keepAliveTimeSeconds": bgp.timers.keepalive,
        "holdTimeSeconds": bgp.timers.hold,
    }
    mine = [session for session in sessions(topology) if session.family in families]
    for family in sorted({session.family for session in mine}):
        carried = {"afi": f"ipv{family}", "safi": "unicast", "advertisements": {"matchLabels": _LABELS}}
        yield made(CILIUM, "CiliumBGPPeerConfig", _config(family), spec={"timers": timers, "families": [carried]})
    groups: dict[tuple[End, ...], list[str]] = {}
    for node in topology.nodes:
        if peers := tuple(session.peer for session in mine if session.own.host == node):
            groups.setdefault(peers, []).append(node)
    for number, (peers, nodes) in enumerate(groups.items()):
        selector = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": nodes}]}
        instance = {"name": "niclab", "localASN": bgp.nodes.asn, "peers": [_peer(peer) for peer in peers]}
        spec = {"nodeSelector": selector, "bgpInstances": [instance]}
        yield made(CILIUM, "CiliumBGPClusterConfig", f"niclab-{number}", spec=spec)


_LABELS = {"niclab.io/advertise": "bgp"}
_ADVERTISED: Mapping[Advertised, Object] = {
    "pod-cidrs": {"advertisementType": "PodCIDR"},
    "services": {
        "advertisementType": "Service",
        "service": {"addresses": ["LoadBalancerIP", "ExternalIP"]},
        # An empty selector selects everything, none nothing.
        "selector": {"matchExpressions": [{"key": key, "operator": "DoesNotExist"} for key in _LABELS]},
    },
}


def _config(family: Family) -> str:
    return f"niclab-ipv{family}"


def _peer(peer: End) -> Object:
    """Not with the node's own address, which the kernel's route decides."""
    family = family_of(peer.address)
    name = f"{peer.host}-{peer.nic}-ipv{family}".lower()
    reference = {"name": _config(family)}
    return {"name": name, "peerAddress": str(peer.address), "peerASN": peer.asn, "peerConfigRef": reference}


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
        hops = [_next_hop([base64.b64decode(one["base64"]) for one in path]) for path in paths]
        known = frozenset(hop for hop in hops if hop is not None and not hop.is_unspecified)
        if known:
            found[ip_network(str(route["prefix"]))] = known
    return found


def _next_hop(attributes: Iterable[bytes]) -> Address | None:
    """From path attributes: flags, type, length, value (RFC 4271, 4.3)."""
    values = {data[1]: data[4:] if data[0] & _LONG else data[3:] for data in attributes}
    if _NEXT_HOP in values:
        return ipaddress.ip_address(values[_NEXT_HOP])
    reach = values.get(_MP_REACH, b"")  # RFC 4760: family, subfamily, length of the next hop, next hop
    return ipaddress.ip_address(reach[4 : 4 + min(reach[3], 16)]) if len(reach) > 4 else None
