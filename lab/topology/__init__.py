"""Topologies: what exists in a lab, as data."""

from lab.topology.file import find, load, loads, names
from lab.topology.model import (
    Bgp,
    External,
    Fabric,
    Flow,
    Host,
    Interface,
    Link,
    Nic,
    Node,
    Pod,
    Router,
    Service,
    Topology,
)
from lab.topology.schema import schema

__all__ = [
    "Bgp",
    "External",
    "Fabric",
    "Flow",
    "Host",
    "Interface",
    "Link",
    "Nic",
    "Node",
    "Pod",
    "Router",
    "Service",
    "Topology",
    "find",
    "load",
    "loads",
    "names",
    "schema",
]
