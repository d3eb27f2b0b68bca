"""Bundles: the binaries of a Cilium version, or of a Kubernetes API server, and where this machine keeps them."""

from niclab.agents.bundle.model import CILIUM, KUBERNETES, Bundle, Product
from niclab.agents.bundle.store import every, find, held

__all__ = ["CILIUM", "KUBERNETES", "Bundle", "Product", "every", "find", "held"]
