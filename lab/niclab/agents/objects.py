"""The topology's services and egress policies as Kubernetes has them, and what an agent still lacks of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from niclab.agents.kube import CILIUM, HOSTNAME, NAMESPACE, Object, made
from niclab.net.route import Address, Family, family_of
from niclab.topology import Service, Topology

POD_LABEL = "niclab.io/pod"
"""Policies select pods by labels: one that is to be found by its name has it in this label."""


@dataclass(frozen=True)
class Deployed:
    """A service of the topology in the families that the cluster has, with the backends that are plugged."""

    name: str
    spec: Service
    cluster_ips: tuple[Address, ...]
    ingress: tuple[Address, ...] = ()
    """The addresses of a LoadBalancer, as a cloud provider would fill them in."""
    external_ips: tuple[Address, ...] = ()
    node_port: int | None = None
    backends: tuple[tuple[Address, str, str], ...] = ()
    """Address, node and pod of each."""

    @property
    def families(self) -> tuple[Family, ...]:
        return tuple(family_of(address) for address in self.cluster_ips)

    @property
    def protocol(self) -> str:
        return self.spec.protocol.upper()

    def objects(self) -> list[Object]:
        """The Service, then one EndpointSlice per family: without backends too, for agents must know of none."""
        spec, families = self.spec, self.families
        port: Object = {"name": f"{spec.protocol}-{spec.port}", "port": spec.port, "protocol": self.protocol}
        node_port = {} if self.node_port is None else {"nodePort": self.node_port}
        addresses = list(map(str, self.cluster_ips))
        optional = {
            "clusterIP": addresses[0] if addresses else None,
            "clusterIPs": addresses,
            "externalIPs": list(map(str, self.external_ips)),
            "externalTrafficPolicy": spec.external_traffic_policy,
            "internalTrafficPolicy": spec.internal_traffic_policy,
        }
        # It has no selector: its EndpointSlices are written beside it.
        content = {
            "type": spec.type,
            "ipFamilies": [f"IPv{family}" for family in families],
            "ipFamilyPolicy": "RequireDualStack" if len(families) > 1 else "SingleStack",
            "ports": [{**port, "targetPort": spec.backend_port, **node_port}],
            **{key: value for key, value in optional.items() if value},
        }
        service = made("v1", "Service", self.name, spec=content)
        if self.ingress:
            entries = [{"ip": str(address), "ipMode": "VIP"} for address in self.ingress]
            service["status"] = {"loadBalancer": {"ingress": entries}}
        return [service, *(self._slice(family, {**port, "port": spec.backend_port}) for family in families)]

    def _slice(self, family: Family, port: Object) -> Object:
        endpoints = [
            {
                "addresses": [str(address)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": node,
                "targetRef": {"kind": "Pod", "name": pod, "namespace": NAMESPACE},
            }
            for address, node, pod in self.backends
            if address.version == family
        ]
        parts: Object = {"addressType": f"IPv{family}", "ports": [port], "endpoints": endpoints}
        labels = {"kubernetes.io/service-name": self.name}
        return made("discovery.k8s.io/v1", "EndpointSlice", f"{self.name}-v{family}", labels=labels, **parts)

    def frontends(self, *, node_ports: bool) -> list[str]:
        """Its addresses on every node, as StateDB writes them; those of single NICs follow from 0.0.0.0."""
        outside = (*self.ingress, *self.external_ips) if node_ports else ()
        found = [self._at(address, self.spec.port) for address in (*self.cluster_ips, *outside)]
        if node_ports and self.node_port is not None:
            hosts = {4: "0.0.0.0", 6: "[::]"}
            found += [f"{hosts[family]}:{self.node_port}/{self.protocol}" for family in self.families]
        return found

    def lacking(self, known: Mapping[str, Mapping[str, Any]], *, node: str, node_ports: bool) -> Iterator[str]:
        for frontend in self.frontends(node_ports=node_ports):
            row = known.get(frontend)
            if row is None or (row.get("Status") or {}).get("kind") != "Done":
                yield f"{node} does not serve {self.name} at {frontend} yet"
        local = self.spec.internal_traffic_policy == "Local"
        for virtual in self.cluster_ips:
            row = known.get(self._at(virtual, self.spec.port), {})
            backends = {str(backend.get("Address")) for backend in row.get("Backends") or ()}
            wanted = {
                self._at(address, self.spec.backend_port)
                for address, its_node, _ in self.backends
                if address.version == virtual.version and (not local or its_node == node)
            }
            if row and backends != wanted:
                yield f"{node} does not have the IPv{virtual.version} backends of {self.name} yet"

    def _at(self, address: Address, port: int) -> str:
        host = str(address) if address.version == 4 else f"[{address}]"
        return f"{host}:{port}/{self.protocol}"


def deployed(
    topology: Topology, pods: Mapping[str, tuple[Address, ...]], families: Collection[Family]
) -> list[Deployed]:
    """Every service with the backends that are plugged, in the families that the cluster has."""
    virtual, node_ports = topology.service_addresses(), topology.service_node_ports()

    def mine(addresses: Collection[Address]) -> tuple[Address, ...]:
        return tuple(address for address in addresses if address.version in families)

    return [
        Deployed(
            name,
            spec,
            cluster_ips=mine(virtual[name]),
            ingress=mine(spec.load_balancer_ip),
            external_ips=mine(spec.external_ips),
            node_port=node_ports.get(name),
            backends=tuple(
                (address, topology.pods[pod][0], pod) for pod in spec.pods for address in mine(pods.get(pod, ()))
            ),
        )
        for name, spec in topology.services.items()
    ]


def lacking_services(
    rows: Sequence[Mapping[str, Any]], wanted: Sequence[Deployed], *, node: str, node_ports: bool
) -> list[str]:
    """What an agent still lacks, from its StateDB's table `frontends`: services not in its eBPF maps, or incomplete.

    `node_ports`: it also serves what comes from outside the cluster (kube-proxy replacement).
    """
    known = {str(row.get("Address")): row for row in rows}
    return [words for one in wanted for words in one.lacking(known, node=node, node_ports=node_ports)]


def pod_labels(topology: Topology, pod: str) -> dict[str, str]:
    """The labels a pod has in Kubernetes: those given, and its name where a policy asks for it."""
    named = any(pod in policy.pods for policy in topology.egress_policies.values())
    return {**topology.pods[pod][1].labels, **({POD_LABEL: pod} if named else {})}


def policies(topology: Topology) -> Iterator[Object]:
    """Every CiliumEgressGatewayPolicy: the pods that any selector matches leave by gateways, which are named nodes."""
    for name, policy in topology.egress_policies.items():
        selectors: list[Object] = [{"matchLabels": dict(policy.labels)}] if policy.labels else []
        if policy.pods:
            by_name = {"key": POD_LABEL, "operator": "In", "values": list(policy.pods)}
            selectors.append({"matchExpressions": [by_name]})
        leaving = {"interface": policy.interface, "egressIP": policy.egress_ip and str(policy.egress_ip)}
        gateways = [
            {
                "nodeSelector": {"matchLabels": {HOSTNAME: node}},
                **{key: value for key, value in leaving.items() if value is not None},
            }
            for node in policy.gateways
        ]
        spec: Object = {
            "selectors": [{"podSelector": selector} for selector in selectors],
            "destinationCIDRs": [str(network) for network in policy.destinations],
            # Required even where `egressGateways` (1.18 and later) has several.
            "egressGateway": gateways[0],
        }
        if policy.excluded:
            spec["excludedCIDRs"] = [str(network) for network in policy.excluded]
        if len(gateways) > 1:
            spec["egressGateways"] = gateways
        yield made(CILIUM, "CiliumEgressGatewayPolicy", name, spec=spec)


def lacking_policies(
    listed: Sequence[Mapping[str, Any]],
    topology: Topology,
    pods: Mapping[str, tuple[Address, ...]],
    *,
    node: str,
    ipv6: bool,
) -> list[str]:
    """What is not in an agent's policy map yet; `listed` are the rows of `cilium-dbg bpf egress list -o json`."""
    known = {(row["SourceIP"], row["DestCIDR"]) for row in listed}
    found = []
    for name, policy in topology.egress_policies.items():
        for pod, (_, spec) in topology.pods.items():
            if not policy.selects(pod, spec.labels):
                continue
            for address in pods.get(pod, ()):
                for network in (*policy.destinations, *policy.excluded):
                    same = address.version == network.version and (ipv6 or network.version == 4)
                    if same and (str(address), str(network)) not in known:
                        found.append(f"{node} does not know egress policy {name} of {pod}")
    return sorted(set(found))
