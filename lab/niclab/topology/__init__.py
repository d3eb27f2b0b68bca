"""Topologies: what exists in a lab, as data."""

from niclab.topology.bgp import Bgp
from niclab.topology.fields import Interface
from niclab.topology.file import find, is_topology, names
from niclab.topology.flow import Flow
from niclab.topology.link import Link
from niclab.topology.model import External, Fabric, Host, Nic, Node, Pod, Router, Topology
from niclab.topology.schema import schema
from niclab.topology.service import Service

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
    "is_topology",
    "names",
    "schema",
]
