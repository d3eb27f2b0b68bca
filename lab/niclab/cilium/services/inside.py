"""What begins in the cluster is translated where it begins: at a pod, or at a socket of the node. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from niclab.cilium.services.frontends import Frontend, node_port_addresses
from niclab.cilium.services.node import AT_SOCKET, QUIET, NodeServices, at, ends
from niclab.net.packetrules import Accept, Devices, Dnat, Hook, Mark, Match, PacketRule, Reject, SetConnectionMark
from niclab.net.reason import Why
from niclab.net.route import Address, Family

_SOCKET = "bpf/bpf_sock.c __sock4_xlate_fwd"
_PACKET = "bpf/bpf_lxc.c __per_packet_lb_svc_xlate_4"


def rules(services: NodeServices) -> Iterator[PacketRule]:
    settings = services.node.settings
    pods = Devices(services.pod_devices) if services.pod_devices else None
    by_socket = settings.socket_load_balancing
    for one in services.decisions.frontends[services.node.node]:
        if pods is not None and by_socket and not settings.socket_load_balancing_of_nodes_only:
            yield from _at_sockets(services, "prerouting", one, pods)
        elif pods is not None:
            yield from _by_packet(services, one, pods)
        if by_socket:
            yield from _at_sockets(services, "output", one, None)
    if by_socket and services.decisions.topology.services:
        match = Match(connection_mark=Mark(AT_SOCKET, AT_SOCKET), direction="reply")
        yield PacketRule("prerouting", match, Accept(), QUIET)


def _at_sockets(services: NodeServices, hook: Hook, one: Frontend, iif: Devices | None) -> Iterator[PacketRule]:
    """A socket looks for node ports at every node's address; it leaves external IPs alone, which anybody could claim
    (sock4_skip_xlate, CVE-2020-8554)."""
    if one.kind != "ExternalIPs":
        addresses = nodes_addresses(services, one.family) if one.kind == "NodePort" else (one.address,)
        yield from _translated(services, hook, one, services.to(one, addresses, iif), _SOCKET)


def _by_packet(services: NodeServices, one: Frontend, iif: Devices) -> Iterator[PacketRule]:
    """The pod's program knows this node's own frontends, each at its own address."""
    addresses = node_port_addresses(services.node, one.family) if one.kind == "NodePort" else (one.address,)
    if addresses:
        yield from _translated(services, "prerouting", one, services.to(one, addresses, iif), _PACKET)


def _translated(services: NodeServices, hook: Hook, one: Frontend, match: Match, source: str) -> Iterator[PacketRule]:
    if hook == "output":
        yield at(hook, match, SetConnectionMark(AT_SOCKET), QUIET, one.family)
    if not one.inside:
        words = f"{one.service} has no backend that {services.node.node} may use"
        yield at(hook, match, Reject(words), Why("service.no-backend", words, source), one.family)
        return
    place = f"{{destination}}:{one.port} is {one.service}'s ({one.kind})"
    words = f"{place}: translated where it begins, to {ends(one, outside=False)}"
    yield at(hook, match, Dnat(one.inside), Why("service.inside", words, source), one.family)


def nodes_addresses(services: NodeServices, family: Family) -> tuple[Address, ...]:
    """What has the identity of this host or of a remote node.

    The node's own addresses in `node-addresses`, and every node's node IP; another node's other NICs are the world.
    """
    node = services.node
    own = [row.address for row in node.node_addresses]
    node_ips = [one.node_ips.get(family) for one in (node, *services.decisions.peers(node.node))]
    found = [one for one in (*own, *node_ips) if one is not None and one.version == family]
    return tuple(one for one in dict.fromkeys(found) if not one.is_link_local)
