"""Topologies: what exists in a lab, as data."""

from niclab.topology.fields import Interface
from niclab.topology.file import find, is_topology, names
from niclab.topology.model import Bgp, External, Fabric, Flow, Host, Link, Nic, Node, Pod, Router, Service, Topology
from niclab.topology.schema import schema

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
