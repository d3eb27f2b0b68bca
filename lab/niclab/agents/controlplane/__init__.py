"""Control planes for real agents: Kubernetes (etcd and kube-apiserver, no kubelet) and kvstore (etcd alone).

Each lab has its own, in the namespace `control`; the nodes reach it through a relay on their loopback.
"""

from niclab.agents.controlplane.plane import ControlPlane, Kind
from niclab.agents.controlplane.starting import attach, start

__all__ = ["ControlPlane", "Kind", "attach", "start"]
