"""L2 announcements: which node answers ARP and ND for a service's addresses, and on which of its NICs. Pure.

pkg/l2announcer/l2announcer.go: for each service the agents that a policy selects compete for one lease; whoever has it
answers on every selected device that the policy's expressions match (desiredEntries). An entry is an address and a NIC:
the program of that NIC answers for the address, whether the NIC has any address itself or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from niclab.cilium.decisions import Decisions
from niclab.kernel.plan import Plan
from niclab.net.operation import AddNeighbour
from niclab.net.route import Address
from niclab.topology.fields import go_expression
from niclab.topology.model import L2AnnouncementPolicy, Node, Service
from niclab.topology.stacking import listening


class Candidate(NamedTuple):
    """A node that may have a service's lease, and the NICs on which it then answers; there may be none."""

    node: str
    nics: tuple[str, ...]


Announced = Mapping[Address, tuple[str, tuple[Candidate, ...]]]
"""Address → its service, and who may answer for it, in the topology's order."""


def announced(decisions: Decisions) -> Announced:
    """Every address that a policy announces."""
    announcements: dict[Address, tuple[str, tuple[Candidate, ...]]] = {}
    for name, service in decisions.topology.services.items() if decisions.topology.l2_announcement_policies else ():
        for address in service.outside:
            if candidates := tuple(_candidates(decisions, name, service, address)):
                announcements.setdefault(address, (name, candidates))
    return announcements


def _candidates(decisions: Decisions, name: str, service: Service, address: Address) -> Iterator[Candidate]:
    every = decisions.topology.l2_announcement_policies.values()
    policies = [each for each in every if _addresses(each, service) and (not each.services or name in each.services)]
    for node in decisions.running:
        decision = decisions.nodes[node]
        mine = [policy for policy in policies if _is_on(policy, node, decisions.topology.nodes[node])]
        answers = address.version == 4 or decision.version.has("l2-announces-ipv6")
        if not (mine and decision.settings.l2_announcements):
            continue
        patterns = [policy.interfaces for policy in mine if answers and address in _addresses(policy, service)]
        nics = [nic for nic in decision.selected if any(_matches(each, nic) for each in patterns)]
        yield Candidate(node, tuple(nics))


def _addresses(policy: L2AnnouncementPolicy, service: Service) -> tuple[Address, ...]:
    balanced = service.load_balancer_ip if policy.load_balancer_ips else ()
    return (*balanced, *(service.external_ips if policy.external_ips else ()))


def _is_on(policy: L2AnnouncementPolicy, name: str, node: Node) -> bool:
    labels = {"kubernetes.io/hostname": name, **node.labels}
    return (not policy.nodes or name in policy.nodes) and policy.node_labels.items() <= labels.items()


def _matches(patterns: tuple[str, ...], nic: str) -> bool:
    """Go's expressions are not anchored; without any, every selected device is meant."""
    return not patterns or any(go_expression(pattern).search(nic) for pattern in patterns)


def neighbours(decisions: Decisions) -> Iterator[AddNeighbour]:
    """The built-in datapath has no program that answers: other hosts know the NIC of the first node that may answer."""
    plan = Plan(decisions.topology)
    hosts = decisions.topology.hosts
    for address, (_, (holder, *_)) in announced(decisions).items():
        places = {place: nic for place, nic in reversed([*listening(hosts[holder.node])]) if nic in holder.nics}
        for name, host in hosts.items():
            for place, interface in listening(host) if name != holder.node else ():
                if place in places:
                    yield AddNeighbour(name, interface, address, plan.mac_of(holder.node, places[place]))
