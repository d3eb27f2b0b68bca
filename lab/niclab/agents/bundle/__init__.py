"""Bundles: the binaries of a Cilium version, or of a Kubernetes API server, and where this machine keeps them."""

from __future__ import annotations

from niclab.agents.bundle.find import all_cilium, all_kubernetes, find_cilium, find_kubernetes
from niclab.agents.bundle.install import add, load, pull
from niclab.agents.bundle.model import CILIUM, KUBERNETES, Bundle, CiliumBundle, KubernetesBundle, Product
from niclab.agents.bundle.store import Record, held, records, remove

__all__ = [
    "CILIUM",
    "KUBERNETES",
    "Bundle",
    "CiliumBundle",
    "KubernetesBundle",
    "Product",
    "Record",
    "add",
    "all_cilium",
    "all_kubernetes",
    "find_cilium",
    "find_kubernetes",
    "held",
    "load",
    "pull",
    "records",
    "remove",
]
