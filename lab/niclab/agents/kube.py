"""Kubernetes objects as the lab makes them, for Cilium on netns nodes and for kind alike, and what an agent still lacks
of them. Pure: plain dictionaries, of the topology and the decisions.

The lab plays kubelet, controller manager and cloud provider: it fills in the status of nodes and pods, gives nodes
their pod CIDRs, writes EndpointSlices and the addresses of load balancers. IPAM modes `multi-pool` and `eni` have an
operator that writes down in every CiliumNode what the node's pods may have; which that is the topology says, so the lab
writes it. `niclab.agents.kubeapi` brings objects to a server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from niclab.cilium.bgp import End, sessions
from niclab.cilium.decisions import Decisions
from niclab.kernel.plan import Cable, cables
from niclab.net.route import FAMILIES, Address, Family, Network, family_of, ip_address
from niclab.topology.model import DEFAULT_POOL, Advertised, Service, Topology, pod_hosts

Object = dict[str, Any]

NAMESPACE = "default"
"""Where pods and services are."""
NOTHING: Mapping[str, str] = MappingProxyType({})
HOSTNAME = "kubernetes.io/hostname"
CILIUM = "cilium.io/v2"
# Conditions must say when they came about; the lab's objects are the same in every run.
_SINCE = "2000-01-01T00:00:00Z"
_NAMESPACED = ("Pod", "Service", "EndpointSlice")
POD_LABEL = "niclab.io/pod"
"""Policies select pods by labels: one that is to be found by its name has it in this label."""
_AGENT_SETTINGS: Mapping[str, Mapping[str, str]] = {
    # Else the agent gives back the CIDRs of pools that no pod has asked for yet (pkg/ipam/multipool_manager.go).
    "multi-pool": {"ipam-multi-pool-pre-allocation": ""},
    # The agent would ask the cloud's metadata service about its instance before it writes its CiliumNode
    # (pkg/nodediscovery); without that it takes the one that the lab has written.
    "eni": {"auto-create-cilium-node-resource": "false"},
}
ALLOCATED = frozenset(_AGENT_SETTINGS)
"""IPAM modes in which the lab allocates, and no operator has to."""


def made(
    api_version: str,
    kind: str,
    name: str,
    *,
    labels: Mapping[str, str] = NOTHING,
    annotations: Mapping[str, str] = NOTHING,
    **parts: Any,
) -> Object:
    """An object; its metadata is without what is empty, `parts` are its `spec`, `status` …"""
    metadata: Object = {"name": name, **({"namespace": NAMESPACE} if kind in _NAMESPACED else {})}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts}


def node(
    name: str,
    *,
    addresses: Sequence[Address],
    pod_cidrs: Sequence[Network] = (),
    labels: Mapping[str, str] = NOTHING,
) -> Object:
    """A Node that is ready. `addresses` are its node IPs, the preferred family first."""
    spec: Object = {}
    if pod_cidrs:
        spec = {"podCIDR": str(pod_cidrs[0]), "podCIDRs": [str(cidr) for cidr in pod_cidrs]}
    status = {
        "addresses": [
            *({"type": "InternalIP", "address": str(address)} for address in addresses),
            {"type": "Hostname", "address": name},
        ],
        "conditions": [{**_condition("Ready"), "reason": "KubeletReady"}],
    }
    all_labels = {HOSTNAME: name, "kubernetes.io/os": "linux", **labels}
    return made("v1", "Node", name, labels=all_labels, spec=spec, status=status)


def node_ips(found: Object) -> list[Address]:
    """The node IPs of a Node."""
    addresses = found.get("status", {}).get("addresses") or ()
    return [ip_address(entry["address"]) for entry in addresses if entry["type"] == "InternalIP"]


def pod(
    name: str, node_name: str, *, labels: Mapping[str, str] = NOTHING, annotations: Mapping[str, str] = NOTHING
) -> Object:
    """A Pod bound to a node, as the scheduler leaves it: it has no address yet, see `pod_running`."""
    spec = {
        "nodeName": node_name,
        "hostNetwork": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "pod", "image": "niclab.invalid/none"}],
    }
    return made("v1", "Pod", name, labels=labels, annotations=annotations, spec=spec)


def pod_running(name: str, addresses: Sequence[Address], *, host_addresses: Sequence[Address] = ()) -> Object:
    """What kubelet would say of a pod that runs: its status alone."""
    status: Object = {
        "phase": "Running",
        "conditions": [_condition(kind) for kind in ("Initialized", "PodScheduled", "ContainersReady", "Ready")],
        "startTime": _SINCE,
    }
    for key, found in (("pod", addresses), ("host", host_addresses)):
        if found:
            status[f"{key}IP"] = str(found[0])
            status[f"{key}IPs"] = [{"ip": str(address)} for address in found]
    return made("v1", "Pod", name, status=status)


def _condition(kind: str) -> Object:
    return {"type": kind, "status": "True", "lastTransitionTime": _SINCE}


def cni_arguments(name: str, uid: str) -> str:
    """CNI_ARGS as a container runtime passes them: whose interface is being plugged."""
    return f"IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};K8S_POD_UID={uid}"


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
            "sessionAffinity": "ClientIP" if spec.session_affinity == "ClientIP" else None,
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


def announcement_policies(topology: Topology) -> Iterator[Object]:
    """Every CiliumL2AnnouncementPolicy."""
    for name, policy in topology.l2_announcement_policies.items():
        spec: Object = {"loadBalancerIPs": policy.load_balancer_ips, "externalIPs": policy.external_ips}
        if policy.interfaces:
            spec["interfaces"] = list(policy.interfaces)
        if policy.services:
            named = {"key": "io.kubernetes.service.name", "operator": "In", "values": list(policy.services)}
            spec["serviceSelector"] = {"matchExpressions": [named]}
        if policy.nodes or policy.node_labels:
            at = [{"key": HOSTNAME, "operator": "In", "values": list(policy.nodes)}] if policy.nodes else []
            spec["nodeSelector"] = {"matchLabels": dict(policy.node_labels), "matchExpressions": at}
        yield made("cilium.io/v2alpha1", "CiliumL2AnnouncementPolicy", name, spec=spec)


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


def ipam_settings(topology: Topology, ipam: str) -> dict[str, str]:
    """What every agent is told besides what the user says."""
    found = dict(_AGENT_SETTINGS.get(ipam, {}))
    if ipam == "multi-pool":
        pools = {DEFAULT_POOL, *(pool for node in topology.nodes.values() for pool in node.pools)}
        found["ipam-multi-pool-pre-allocation"] = ",".join(f"{pool}=1" for pool in sorted(pools))
    return found


def allocations(decisions: Decisions, ipam: str) -> Iterator[Object]:
    """The objects that must be there before agents start: pools, and every node's CiliumNode."""
    topology = decisions.topology
    if ipam == "multi-pool":
        pools: dict[str, list[Network]] = {}
        for node in topology.nodes.values():
            for pool, cidrs in {DEFAULT_POOL: node.pod_cidrs, **node.pools}.items():
                pools.setdefault(pool, []).extend(cidrs)
        for pool, given in pools.items():
            yield made("cilium.io/v2alpha1", "CiliumPodIPPool", pool, spec=_pool(given))
    if ipam in ALLOCATED:
        plugged = cables(topology)
        for name in decisions.nodes:
            yield _cilium_node(decisions, name, ipam, [cable for cable in plugged if cable.host == name])


def _pool(cidrs: list[Network]) -> Object:
    """A pool hands out just these CIDRs, of one length per family."""
    of_family = {family: [cidr for cidr in cidrs if cidr.version == family] for family in FAMILIES}
    return {
        f"ipv{family}": {"cidrs": [str(cidr) for cidr in mine], "maskSize": mine[0].prefixlen}
        for family, mine in of_family.items()
        if mine
    }


def _cilium_node(decisions: Decisions, name: str, ipam: str, plugged: list[Cable]) -> Object:
    """A CiliumNode with what the operator has allocated to it: CIDRs of pools, or the addresses of its ENIs."""
    topology, node = decisions.topology, decisions.topology.nodes[name]
    addresses = [("InternalIP", address) for address in decisions.nodes[name].node_ips.values()]
    allocated: Object = {}
    if ipam == "multi-pool":
        pools = {DEFAULT_POOL: node.pod_cidrs, **node.pools}
        given = [{"pool": pool, "cidrs": [str(cidr) for cidr in cidrs]} for pool, cidrs in pools.items()]
        allocated = {"pools": {"allocated": given}}
    elif router := topology.router_address(name, 4):
        # The address of `cilium_host`, as an earlier agent would have left it behind.
        addresses.append(("CiliumInternalIP", router))
    spec = {"addresses": [{"type": kind, "ip": str(address)} for kind, address in addresses], "ipam": allocated}
    found = made(CILIUM, "CiliumNode", name, labels={HOSTNAME: name, **node.labels}, spec=spec)
    # A cloud numbers an instance's NICs in the order they are attached.
    enis = [_eni(topology, cable, number) for number, cable in enumerate(plugged) if cable.nic_name in node.enis]
    if enis:
        allocated["pool"] = {address: {"resource": eni["id"]} for eni in enis for address in eni["addresses"]}
        found["status"] = {"eni": {"enis": {eni["id"]: eni for eni in enis}}}
    return found


def _eni(topology: Topology, cable: Cable, number: int) -> Object:
    """A NIC that pods' addresses belong to, in CiliumNode's `status.eni.enis` (pkg/aws/eni/types/types.go ENI)."""
    first = cable.nic.addresses_of(4)[0]
    primary, *others = map(str, topology.vpc_cidrs)
    return {
        "id": f"eni-{cable.host}-{cable.nic_name}",
        "number": number,
        "mac": cable.mac,
        "ip": str(first.ip),
        "addresses": [str(address) for cidr in cable.nic.pod_addresses for address in hosts(cidr)],
        "subnet": {"id": f"subnet-{number}", "cidr": str(first.network)},
        "vpc": {"id": "vpc-niclab", "primary-cidr": primary, **({"cidrs": others} if others else {})},
    }


def hosts(cidr: Network) -> Iterator[Address]:
    """The addresses of a CIDR that agents may use: the router's, then the pods'."""
    return (cidr.network_address + number for number in range(1, 2 + pod_hosts(cidr)))


def pod_annotations(topology: Topology, pod: str) -> dict[str, str]:
    """A pod's annotations: the pool it asks for (pkg/annotation/k8s.go IPAMPoolKey)."""
    pool = topology.pods[pod][1].pool
    return {} if pool is None else {"ipam.cilium.io/ip-pool": pool}


def claimed(topology: Topology, node: str) -> tuple[Address, ...]:
    """What no pod of the node may get until it is its turn: an agent with ENIs takes any address of any of them."""
    return tuple(a for cidr in topology.nodes[node].every_pod_cidr for a in hosts(cidr))


def bgp_objects(topology: Topology, families: Collection[Family]) -> Iterator[Object]:
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
