"""What differs between Cilium versions, as named facts: the only place where a version is compared with a number. Pure.

The facts are in data/behaviours.txt; its head says what a fact's fields are.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from functools import cache
from typing import NamedTuple

from niclab.cilium.tables import paragraphs
from niclab.cilium.version import Version


class Fact(NamedTuple):
    """What the table says of one behaviour."""

    area: str
    words: str
    otherwise: str
    source: str
    since: Version | None
    until: Version | None
    measured: str

    @property
    def known(self) -> str:
        """How it is known."""
        return f"measured on {self.measured}" if self.measured else "read in source"

    @property
    def span(self) -> str:
        """The versions in which it holds."""
        last = Version(self.until.major, self.until.minor - 1) if self.until else None
        if self.since and last:
            return f"{self.since} to {last}"
        return f"from {self.since}" if self.since else f"up to {last}"


class Behaviour(StrEnum):
    """A named fact that differs between Cilium versions; the value is its name in the table."""

    @staticmethod
    def _generate_next_value_(name: str, *_: object) -> str:
        return name.lower().replace("_", "-")

    LIST_BEFORE_STATE = auto()
    LIST_EXCLUDES = auto()
    ALTERNATIVE_NAMES = auto()
    USABLE_ADDRESSES = auto()
    VRF_PORTS = auto()
    NEIGHBOUR_MESSAGES = auto()
    IPSEC_REQUIRES_DEVICES = auto()
    MASQUERADING_WITHOUT_NODE_PORT = auto()
    DIRECT_ROUTING_ALWAYS = auto()
    DEVICES_WARNING = auto()
    DIRECT_ROUTING_BEST_IPV4 = auto()
    DIRECT_ROUTING_GLOBAL_IPV6 = auto()
    DUMMY_ADDRESSES = auto()
    LOCAL_ROUTE_ADDRESSES = auto()
    LOCAL_ROUTE_SECOND = auto()
    FALLBACK_OF_TABLE = auto()
    HOST_SCOPE = auto()
    NODE_IP_IN_ITS_CLASS = auto()
    LINK_LOCAL_NEVER_PRIMARY = auto()
    MTU_OF_SELECTED = auto()
    WIREGUARD_95 = auto()
    UNDERLAY_COUNTED = auto()
    UNDERLAY_PROTOCOL = auto()
    UNDERLAY_FOLLOWS_FAMILIES = auto()
    SKIPS_FIB = auto()
    IPSEC_LEGACY_ROUTING = auto()
    OWN_ADDRESS_DROPPED = auto()
    REMOTE_NODE_MASQUERADE = auto()
    ROUTE_SOURCES_BY_PREFIX = auto()
    NODE_PORT_OPTION = auto()
    SESSION_AFFINITY_OPTION = auto()
    POD_TRANSLATES_ANSWERS = auto()
    POD_TRANSLATES_ANSWERS_IPSEC = auto()
    NODE_PORT_SOURCE_BY_ROUTE = auto()
    EGRESS_NIC_IPV6 = auto()
    EGRESS_NIC_IPV4 = auto()
    EGRESS_IP_FOR_BOTH_FAMILIES = auto()
    EGRESS_IP_KEPT = auto()
    EGRESS_IP_IS_PRIMARY = auto()
    L2_ANNOUNCES_IPV6 = auto()
    ENI_ANSWERS_BY_OWN_NIC = auto()
    ENI_WORLD_BY_MAIN = auto()
    ENI_COMPATIBLE_RULES = auto()
    ENI_MASQ_AGENT_CIDRS = auto()
    ENI_NATIVE_CIDR_OF_PRIMARY = auto()
    CHECKS_BEFORE_DEVICES = auto()
    UNDERLAY_NEEDS_ITS_FAMILY = auto()
    REPLACEMENT_IS_BOOLEAN = auto()
    REPLACEMENT_BY_KPR = auto()
    MASQUERADING_NEEDS_POD_CIDR = auto()
    EGRESS_GATEWAY_OPTION = auto()
    EGRESS_GATEWAY_IPV4_OPTION = auto()
    EGRESS_GATEWAY_NEEDS_CRD = auto()
    EGRESS_GATEWAY_IPV4_UNDERLAY = auto()
    NEEDS_IPTABLES_RULES = auto()
    QUOTED_DISPATCH = auto()
    BPF_TPROXY = auto()
    IPSEC_NEEDS_IPV4 = auto()
    HYBRID_ROUTING = auto()
    MULTI_POOL_IN_TUNNELS = auto()
    MULTI_POOL_IPSEC_IN_TUNNELS_ONLY = auto()
    ENI_IPV6 = auto()
    NETKIT_REFUSED = auto()
    IPIP_NEEDS_XDP = auto()

    @property
    def fact(self) -> Fact:
        return _table()[self]

    def holds(self, version: Version) -> bool:
        fact = self.fact
        return (fact.since is None or version >= fact.since) and (fact.until is None or version < fact.until)

    def words_in(self, version: Version) -> str:
        """What happens in a version."""
        return self.fact.words if self.holds(version) else self.fact.otherwise


def changes(before: Version, after: Version) -> tuple[Behaviour, ...]:
    """What differs between two versions."""
    return tuple(behaviour for behaviour in Behaviour if behaviour.holds(before) != behaviour.holds(after))


@cache
def _table() -> Mapping[str, Fact]:
    table: dict[str, Fact] = {}
    for name, lines in paragraphs("behaviours").items():
        fields = dict(line.split(": ", 1) for line in lines)
        area, words, otherwise, source = (fields[key] for key in ("area", "words", "otherwise", "source"))
        since, until = (Version.parse(fields[key]) if key in fields else None for key in ("since", "until"))
        table[name] = Fact(area, words, otherwise, source, since, until, fields.get("measured", ""))
    return table
