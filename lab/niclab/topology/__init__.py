"""Topologies: what exists in a lab, as data."""

from niclab.topology.fields import Interface
from niclab.topology.file import find, is_topology, names
from niclab.topology.model import External, Flow, Host, Link, Nic, Node, Service, Topology
from niclab.topology.schema import schema

__all__ = [
    "External",
    "Flow",
    "Host",
    "Interface",
    "Link",
    "Nic",
    "Node",
    "Service",
    "Topology",
    "find",
    "is_topology",
    "names",
    "schema",
]
