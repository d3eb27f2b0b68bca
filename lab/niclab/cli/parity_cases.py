"""The cases that `niclab parity` compares: settings, and the flows that each is measured with. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from niclab.check import check_flow
from niclab.cilium.behaviours import Behaviour
from niclab.cilium.version import Version
from niclab.settings import LAB_BASELINE, Settings
from niclab.topology import Flow, Topology

_DEVICES = {"unset": "", "eth0": "eth0", "eth1": "eth1", "both": "eth0,eth1", "wildcard": "eth+", "absent": "eth9"}
_EGRESS = Settings.of(enable_egress_gateway=True)
_ROUTING: Mapping[str, Settings] = {
    "vxlan": Settings.of(routing="tunnel", tunnel="vxlan"),
    "native": Settings.of(routing="native", ipv4_native_routing_cidr="10.244.0.0/16", auto_direct_node_routes=True),
    "iptables": Settings.of(routing="tunnel", tunnel="vxlan", enable_bpf_masquerade=False),
    "legacy": Settings.of(routing="tunnel", tunnel="vxlan", enable_host_legacy_routing=True),
}
_UNMASQUERADED = Settings.of(enable_bpf_masquerade=False, enable_ipv4_masquerade=False)
_SERVICES: Mapping[str, Settings] = {
    "native-iptables": _ROUTING["native"].merged(Settings.of(enable_bpf_masquerade=False)),
    "native-legacy": _ROUTING["native"].merged(Settings.of(enable_host_legacy_routing=True)),
    "native-unmasqueraded": _ROUTING["native"].merged(_UNMASQUERADED),
    "native-endpoint-routes": _ROUTING["native"].merged(Settings.of(enable_endpoint_routes=True)),
    "dsr": _ROUTING["native"].merged(Settings.of(bpf_lb_mode="dsr")),
    "hybrid": _ROUTING["native"].merged(Settings.of(bpf_lb_mode="hybrid")),
    "pods-by-packet": _ROUTING["native"].merged(Settings.of(bpf_lb_sock_hostns_only=True)),
    "no-replacement": _ROUTING["iptables"].merged(Settings.of(kube_proxy_replacement=False)),
}
"""Modes that matter to services."""
_TUNNEL, _WIDE = _ROUTING["vxlan"], _ROUTING["native"].merged(Settings.of(ipv4_native_routing_cidr="10.244.0.0/15"))
_VARIANTS: Mapping[str, Settings] = {
    "endpoint-routes": _TUNNEL.merged(Settings.of(enable_endpoint_routes=True)),
    "endpoint-routes-native": _ROUTING["native"].merged(Settings.of(enable_endpoint_routes=True)),
    "host-firewall": _TUNNEL.merged(Settings.of(enable_host_firewall=True)),
    "ip-masq-agent": _TUNNEL.merged(
        Settings.of(enable_ip_masq_agent=True, ip_masq_agent_config_path="{nonMasqueradeCIDRs: [10.0.1.0/24]}")
    ),
    "route-source": _ROUTING["iptables"].merged(Settings.of(enable_masquerade_to_route_source=True)),
    "skip-unreachable": _ROUTING["native"].merged(Settings.of(direct_routing_skip_unreachable=True)),
    "unmasqueraded": _TUNNEL.merged(_UNMASQUERADED),
}
"""Modes of masquerading and routes; each with one device, and with both."""
_SERVED = ("unset", "eth0", "eth1", "both")


@dataclass(frozen=True)
class Case:
    """One lab to build twice."""

    name: str
    settings: Settings
    needs: Behaviour | None = None

    def fits(self, version: Version) -> bool:
        return self.needs is None or version.has(self.needs)


def cases(topology: Topology) -> Iterator[Case]:
    """Every routing and masquerading mode with every value of `devices` that the nodes' NICs suggest."""
    nics = list(next(iter(topology.nodes.values())).nics)
    renamed = {"eth0": nics[0], "eth1": nics[min(1, len(nics) - 1)]}
    everywhere = _EGRESS if topology.egress_policies else Settings()
    values = {name: ",".join(renamed.get(word, word) for word in text.split(",")) for name, text in _DEVICES.items()}

    def case(mode: str, name: str, settings: Settings, needs: Behaviour | None = None) -> Case:
        told = LAB_BASELINE.merged(everywhere).merged(settings).merged(Settings.of(devices=values[name]))
        return Case(f"{mode}-{name}", told, needs)

    for mode, settings in _modes(topology).items():
        for name in _DEVICES:
            yield case(mode, name, settings)
    for mode, settings in _variants(topology).items():
        for name in ("eth0", "both"):
            yield case(mode, name, settings)
    if not topology.services:
        return
    for mode, settings in _SERVICES.items():
        for name in _SERVED:
            yield case(mode, name, settings)
    for mode in ("native", "vxlan"):
        other = _ROUTING[mode].merged(Settings.of(direct_routing_device=renamed["eth1"]))
        yield case(f"{mode}-direct-routing-{renamed['eth1']}", "both", other)
        by_route = other.merged(Settings.of(enable_dynamic_source_lookup_nodeport=True))
        yield case(f"{mode}-dynamic-source", "both", by_route, Behaviour.NODE_PORT_SOURCE_BY_ROUTE)
        for nic, cidr in _subnets(topology).items():
            yield case(
                f"{mode}-addresses-of-{nic}", "both", _ROUTING[mode].merged(Settings.of(nodeport_addresses=cidr))
            )


def _modes(topology: Topology) -> Mapping[str, Settings]:
    """The routing and masquerading modes that the topology's features run with; other ones agents refuse."""
    if topology.egress_policies:
        return {mode: settings for mode, settings in _ROUTING.items() if mode != "iptables"}
    if topology.ipam == "eni":
        return {"eni": Settings()}
    if topology.ipam == "multi-pool":
        return {"vxlan": _TUNNEL, "native": _WIDE}
    return _ROUTING


def _variants(topology: Topology) -> Mapping[str, Settings]:
    if topology.ipam == "eni":
        return {"eni-unmasqueraded": _UNMASQUERADED}
    return {} if topology.egress_policies or topology.services or topology.ipam != "kubernetes" else _VARIANTS


def _subnets(topology: Topology) -> Mapping[str, str]:
    """The first node's NICs → the network of the first IPv4 address on each."""
    nics = next(iter(topology.nodes.values())).nics
    return {name: str(found[0].network) for name, nic in nics.items() if (found := nic.addresses_of(4))}


def flows(topology: Topology) -> tuple[Flow, ...]:
    """The topology's own, and where it has services every client with every way to ask for one, once each."""
    found = list(topology.flows)
    if topology.services:
        ends = [f"{name}.{nic}" for name, node in topology.nodes.items() for nic in node.nics]
        ports = [f":{topology.services[name].protocol}:{port}" for name, port in topology.service_node_ports().items()]
        clients = [*topology.externals, *topology.pods, *ends]
        targets = [*topology.services, *(f"{end}{port}" for end in ends for port in ("", *ports))]
        parsed = [Flow.parse(f"{client} -> {target}") for client in clients for target in targets]
        found += [flow for flow in parsed if check_flow(topology, flow) is None]
    return tuple(dict.fromkeys(found))
