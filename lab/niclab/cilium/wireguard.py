"""Which packets leave a node encrypted by WireGuard, and to whom. Pure.

bpf/lib/wireguard.h wg_maybe_redirect_to_encrypt, in `cil_to_netdev` of selected devices: with tunnels everything that
is in one; in native routing what a cluster's pod sends to a pod of another node; with `encrypt-node` also what comes
from or goes to node IPs, unless one of both nodes has opted out (pkg/wireguard/agent). Other addresses of nodes are the
world's, and stay in the clear. The encrypted packet goes to the peer's node IP, by the kernel's route to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from niclab.cilium.decisions import Decisions
from niclab.net.packetrules import Packet
from niclab.net.route import Address

PORT = 51871
DEVICE = "cilium_wg0"
PROTOCOL = "wireguard"


@dataclass(frozen=True)
class Keys:
    """Whose keys every agent knows, and for which addresses."""

    decisions: Decisions

    @cached_property
    def nodes(self) -> frozenset[str]:
        running = self.decisions.running
        return frozenset(name for name in running if self.decisions.nodes[name].settings.wireguard)

    @cached_property
    def _node_ips(self) -> Mapping[Address, str]:
        return {address: name for name in self.nodes for address in self.decisions.nodes[name].node_ips.values()}

    @cached_property
    def _pods(self) -> Mapping[Address, str]:
        addresses = self.decisions.pod_addresses
        return {
            address: name
            for name in self.nodes
            for pod in self.decisions.topology.nodes[name].pods
            for address in addresses[pod]
        }

    @cached_property
    def _of_nodes(self) -> frozenset[str]:
        """The nodes whose own packets are encrypted too."""
        return frozenset(name for name in self.nodes if self._encrypts_node(name))

    def _encrypts_node(self, name: str) -> bool:
        settings, labels = self.decisions.nodes[name].settings, self.decisions.topology.nodes[name].labels
        wanted = [word.strip() for word in settings.get("node-encryption-opt-out-labels").split(",") if word.strip()]
        # [kubernetes] labels.Parse: an empty selector fits every node.
        return settings.encrypt_node and not all(_fits(word, labels) for word in wanted)

    def peer(self, name: str, packet: Packet, *, tunnelled: bool) -> str | None:
        """The node for which a node's packet is encrypted, where a selected device sends it; None: in the clear."""
        if name not in self.nodes:
            return None
        source, destination = packet.source, packet.destination
        peer = self._node_ips.get(destination) or self._pods.get(destination)
        if peer is None or peer == name:
            return None
        from_pod, to_pod = source in self._pods, destination in self._pods
        both = name in self._of_nodes and peer in self._of_nodes
        of_host = source in self.decisions.nodes[name].node_ips.values()
        return peer if tunnelled or (from_pod and to_pod) or (both and (from_pod or of_host)) else None

    def end(self, name: str, peer: str) -> Address | None:
        """Where the encrypted packets go: IPv4 first; from 1.20 on the underlay's family where there are tunnels."""
        node, other = self.decisions.nodes[name], self.decisions.nodes[peer]
        if node.tunnels:
            return node.tunnel_end(other)
        return other.node_ips.get(4) or other.node_ips.get(6)


def _fits(word: str, labels: Mapping[str, str]) -> bool:
    """One requirement of a label selector: KEY, !KEY, KEY=VALUE, KEY!=VALUE."""
    if "!=" in word:
        key, _, value = word.partition("!=")
        return labels.get(key.strip()) != value.strip()
    key, given, value = word.partition("=")
    key = key.strip()
    if given:
        return labels.get(key) == value.lstrip("=").strip()
    return key[1:] not in labels if key.startswith("!") else key in labels
