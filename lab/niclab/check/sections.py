"""What must hold of services, egress policies and BGP beyond each field's own type.

Kubernetes would refuse much of it; agents accept it, and do nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from niclab.check.ipam import addresses, pod_networks
from niclab.errors import Finding, nearest
from niclab.net.route import Address, family_of
from niclab.topology.fields import go_expression
from niclab.topology.model import NODE_PORTS, SERVICE_CIDRS, EgressPolicy, Topology
from niclab.topology.yamlfile import Field

_API_SERVER = "kubernetes"


def services(topology: Topology) -> Iterator[Finding]:
    """What is wrong with the topology's services."""
    if not topology.services:
        return
    yield from _names(topology)
    yield from _fields(topology)
    yield from _addresses(topology)
    yield from _ranges(topology)


def _names(topology: Topology) -> Iterator[Finding]:
    taken = {*topology.hosts, *topology.pods}
    for name, service in topology.services.items():
        if name in taken:
            yield Finding(("services", name), f"{name!r} is already the name of a host or pod", "choose another name")
        if name == _API_SERVER:
            yield Finding(("services", name), f"{name!r} is the API server's own service", "choose another name")
        for index, pod in enumerate(service.pods):
            path: Field = ("services", name, "pods", index)
            if pod not in topology.pods:
                yield Finding(path, f"there is no pod {pod!r}", nearest(pod, topology.pods))
            elif pod in service.pods[:index]:
                yield Finding(path, f"{pod!r} is there twice", "each pod is one backend")


def _fields(topology: Topology) -> Iterator[Finding]:
    """Fields that mean nothing for a service's type; Kubernetes refuses them."""
    for name, service in topology.services.items():
        path: Field = ("services", name)
        if service.node_port is not None and not service.has_node_port:
            why = f"a {service.type} service has no node port"
            yield Finding((*path, "node_port"), why, "add type: NodePort, or leave node_port out")
        elif service.node_port is not None and service.node_port not in NODE_PORTS:
            why = f"node port {service.node_port} is outside {NODE_PORTS.start} to {NODE_PORTS.stop - 1}"
            yield Finding((*path, "node_port"), why, "node ports are kept apart from other ports: use e.g. 30080")
        if service.load_balancer_ip and service.type != "LoadBalancer":
            why = f"a {service.type} service has no load balancer"
            yield Finding((*path, "load_balancer_ip"), why, "add type: LoadBalancer, or use external_ips")
        if service.external_traffic_policy and service.type == "ClusterIP" and not service.external_ips:
            why = "nothing outside the cluster reaches a ClusterIP service"
            yield Finding(
                (*path, "external_traffic_policy"), why, "add type: NodePort or external_ips, or leave it out"
            )
        for field in ("cluster_ip", "load_balancer_ip"):
            families = [address.version for address in getattr(service, field)]
            if len(set(families)) != len(families):
                yield Finding((*path, field), "more than one address of a family", "give one IPv4 and one IPv6 address")
    seen: dict[tuple[str, int], str] = {}
    for name, service in topology.services.items():
        key = service.protocol, service.node_port or 0
        if service.node_port is not None and key in seen:
            why = f"{seen[key]} has node port {service.protocol} {service.node_port} already"
            yield Finding(("services", name, "node_port"), why, "a node port belongs to one service")
        elif service.node_port is not None:
            seen[key] = name


def _addresses(topology: Topology) -> Iterator[Finding]:
    owners = {interface.ip: f"{path[1]}.{name}" for path, _, name, interface in addresses(topology)}
    for pod, given in topology.pod_addresses().items():
        owners.update(dict.fromkeys(given, pod))
    virtual: dict[Address, str] = {}
    outside: dict[tuple[Address, str, int], str] = {}
    for name, service in topology.services.items():
        for field in ("cluster_ip", "load_balancer_ip", "external_ips"):
            for index, address in enumerate(getattr(service, field)):
                path: Field = ("services", name, field, index)
                cidr, key = SERVICE_CIDRS[family_of(address)], (address, service.protocol, service.port)
                if why := _not_free(topology, address, owners):
                    yield Finding(path, why, "an address of a service is nobody's own")
                elif field == "cluster_ip":
                    if address in virtual:
                        why = f"{address} is already used by {virtual[address]}"
                        yield Finding(path, why, "a cluster IP belongs to one service")
                    elif not 2 <= int(address) - int(cidr.network_address) < cidr.num_addresses - 1:
                        why = f"{address} is outside the service CIDR {cidr}, or one of its reserved addresses"
                        yield Finding(path, why, f"use {cidr.network_address + 2} or a later one, or leave it out")
                    virtual.setdefault(address, name)
                else:
                    if address in cidr:
                        why = f"{address} is inside the service CIDR"
                        yield Finding(path, why, "clients outside the cluster need another address, e.g. 192.0.2.80")
                    elif key in outside:
                        why = f"{outside[key]} has {service.protocol} port {service.port} of {address} already"
                        yield Finding(path, why, "give one of them another address or port")
                    outside.setdefault(key, name)


def _not_free(topology: Topology, address: Address, owners: dict[Address, str]) -> str | None:
    if address in owners:
        return f"{address} is already used by {owners[address]}"
    for name, node in topology.nodes.items():
        for cidr in node.every_pod_cidr:
            if address in cidr:
                return f"{address} is inside {name}'s pod CIDR {cidr}"
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local:
        return f"{address} is not an address that a service can have"
    return None


def _ranges(topology: Topology) -> Iterator[Finding]:
    """The service CIDR must be nobody else's: where it overlaps, a node would take a packet for a service's."""
    for name, node in topology.nodes.items():
        for path, cidr in pod_networks(name, node):
            virtual = SERVICE_CIDRS[family_of(cidr)]
            if cidr.overlaps(virtual):
                why = f"pod CIDR {cidr} overlaps the service CIDR {virtual}"
                yield Finding(path, why, "keep pods and services in different networks")
    for path, _, _, interface in addresses(topology):
        virtual = SERVICE_CIDRS[family_of(interface)]
        if interface.network.overlaps(virtual):
            why = f"the network of {interface} overlaps the service CIDR {virtual}"
            yield Finding(path, why, "use another network")


def egress(topology: Topology) -> Iterator[Finding]:
    """What is wrong with the topology's egress policies."""
    for name, policy in topology.egress_policies.items():
        path: Field = ("egress_policies", name)
        yield from _policed(topology, policy, path)
        yield from _destinations(policy, path)
        yield from _gateways(topology, policy, path)


def _policed(topology: Topology, policy: EgressPolicy, path: Field) -> Iterator[Finding]:
    for index, pod in enumerate(policy.pods):
        if pod not in topology.pods:
            yield Finding((*path, "pods", index), f"there is no pod {pod!r}", nearest(pod, topology.pods))
    labelled = any(policy.selects_by_label(spec.labels) for _, spec in topology.pods.values())
    if not policy.pods and not policy.labels:
        yield Finding(path, "the policy says for no pod", "add pods: pod1, or labels: {app: web}")
    elif policy.labels and not labelled:
        words = ", ".join(f"{key}: {value}" for key, value in policy.labels.items())
        yield Finding((*path, "labels"), f"no pod has the labels {words}", "pods: {pod1: {labels: {app: web}}}")


def _destinations(policy: EgressPolicy, path: Field) -> Iterator[Finding]:
    families = {network.version for network in policy.destinations}
    for index, network in enumerate(policy.excluded):
        inside = any(
            network.version == whole.version and network.network_address in whole for whole in policy.destinations
        )
        if not inside:
            why = f"{network} is outside the policy's destinations"
            yield Finding((*path, "excluded", index), why, "leave it out: it is excluded already")
    if policy.egress_ip is not None and policy.egress_ip.version not in families:
        why = f"no destination is of {policy.egress_ip}'s family"
        yield Finding((*path, "egress_ip"), why, "give an address of the destinations' family")


def _gateways(topology: Topology, policy: EgressPolicy, path: Field) -> Iterator[Finding]:
    if policy.interface is not None and policy.egress_ip is not None:
        why = "a gateway has an interface or an egress IP, not both"
        yield Finding((*path, "egress_ip"), why, "leave one of them out: each follows from the other")
    known = [topology.nodes[name] for name in policy.gateways if name in topology.nodes]
    for index, name in enumerate(policy.gateways):
        node = topology.nodes.get(name)
        if node is None:
            yield Finding((*path, "gateways", index), f"there is no node {name!r}", nearest(name, topology.nodes))
        elif policy.interface is not None and not any(policy.interface in each.interfaces for each in known):
            why = f"{name} has no NIC {policy.interface!r}"
            yield Finding((*path, "interface"), why, nearest(policy.interface, node.interfaces))


def egress_notes(topology: Topology) -> Iterator[str]:
    """Gateways that lack what a policy names: agents drop what comes to them (deriveFromPolicyGatewayConfig)."""
    for policy in topology.egress_policies.values():
        for name in policy.gateways:
            node = topology.nodes[name]
            if policy.interface is not None and policy.interface not in node.interfaces:
                yield f"{name} has no interface {policy.interface}: as a gateway it drops what comes to it"
            elif policy.egress_ip is not None and policy.egress_ip not in node.addresses:
                yield (
                    f"{policy.egress_ip} is on none of {name}'s interfaces: agents from 1.18 on drop what comes to it "
                    "(No Egress IP configured); up to 1.17 they send with that address all the same"
                )


def redirects(topology: Topology) -> Iterator[Finding]:
    """What is wrong with the topology's local redirect policies."""
    for name, policy in topology.local_redirect_policies.items():
        path: Field = ("local_redirect_policies", name)
        if policy.service not in topology.services:
            why = f"there is no service {policy.service!r}"
            yield Finding((*path, "service"), why, nearest(policy.service, topology.services))
        for index, pod in enumerate(policy.pods):
            if pod not in topology.pods:
                yield Finding((*path, "pods", index), f"there is no pod {pod!r}", nearest(pod, topology.pods))
        if not policy.pods and not policy.labels:
            yield Finding(path, "the policy selects no pod", "add pods: or labels:")


def announcements(topology: Topology) -> Iterator[Finding]:
    """What is wrong with the topology's L2 announcement policies."""
    for name, policy in topology.l2_announcement_policies.items():
        path: Field = ("l2_announcement_policies", name)
        for field, kind, known in (("nodes", "node", topology.nodes), ("services", "service", topology.services)):
            for index, given in enumerate(getattr(policy, field)):
                if given not in known:
                    yield Finding((*path, field, index), f"there is no {kind} {given!r}", nearest(given, known))
        for index, pattern in enumerate(policy.interfaces):
            try:
                go_expression(pattern)
            except ValueError as error:
                yield Finding((*path, "interfaces", index), str(error), "^eth[0-9]")
        if not (policy.load_balancer_ips or policy.external_ips):
            why = "the policy announces no address"
            yield Finding(path, why, "add load_balancer_ips: true, or external_ips: true")


def bgp(topology: Topology) -> Iterator[Finding]:
    """What is wrong with who speaks BGP, and with the timers."""
    bgp = topology.bgp
    if bgp is None:
        return
    timers = bgp.timers
    if timers.keepalive > timers.hold:
        why = f"keepalives every {timers.keepalive} s are too late for a hold time of {timers.hold} s"
        yield Finding(("bgp", "timers", "keepalive"), why, "a third of the hold time is usual")
    for name in bgp.routers:
        if name not in topology.routers:
            why = f"{name!r} is no router of this topology"
            yield Finding(("bgp", "routers", name), why, nearest(name, topology.routers))
    networks = {
        name: {
            (nic.fabric, own.network)
            for nic in host.nics.values()
            if nic.up
            for own in nic.addresses
            if not own.ip.is_link_local
        }
        for name, host in topology.hosts.items()
    }
    known = [name for name in bgp.routers if name in topology.routers]
    speakers = {**{name: bgp.routers[name].asn for name in known}, **dict.fromkeys(topology.nodes, bgp.nodes.asn)}
    for name in known:
        peers = [(other, asn) for other, asn in speakers.items() if other != name and networks[name] & networks[other]]
        if not peers:
            why = f"{name} shares no network with a node or another router that speaks BGP"
            nics = topology.routers[name].nics.values()
            unnumbered = any(own.ip.is_link_local for nic in nics for own in nic.addresses)
            fix = "give it a NIC on a fabric of theirs, or leave it out"
            if unnumbered:
                why += ", and sessions over link-local addresses (unnumbered) are not run"
                fix = "write the routes that they would give: 10.9.0.0/16 via inet6 fe80::1 dev eth0"
            yield Finding(("bgp", "routers", name), why, fix)
        asn = bgp.routers[name].asn
        same = next((peer for peer, theirs in peers if theirs == asn), None)
        if same is not None:
            why = f"{same} is in AS {asn} too, and the lab knows external sessions only"
            yield Finding(("bgp", "routers", name, "asn"), why, "give every router a number of its own")
