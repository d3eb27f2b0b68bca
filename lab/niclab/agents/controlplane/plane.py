"""What every control plane offers to the agents and to the lab."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from niclab.agents.kube import NAMESPACE, Object, Service
from niclab.net.route import Address, Network

Kind = Literal["kubernetes", "kvstore"]


class ControlPlane(Protocol):
    """A control plane that is ready. Its processes belong to the lab's ledger."""

    @property
    def kind(self) -> Kind: ...

    @property
    def binds(self) -> tuple[str, ...]:
        """Host paths that must be visible, under the same name, where an agent runs."""
        ...

    @property
    def logs(self) -> Mapping[str, Path]:
        """Program → its log, for people to keep."""
        ...

    def agent_settings(self, node: str) -> Mapping[str, str]:
        """The keys of `--config-dir` with which a node's agent reaches the control plane."""
        ...

    def agent_environment(self, node: str) -> Mapping[str, str]:
        """The environment variables a node's agent needs."""
        ...

    def add_node(
        self,
        name: str,
        *,
        addresses: Sequence[Address],
        pod_cidrs: Sequence[Network],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Make a node known, before its agent starts. `addresses`: its node IPs, the preferred family first."""
        ...

    def add_pod(
        self,
        name: str,
        node: str,
        *,
        namespace: str = NAMESPACE,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Mapping[str, str]:
        """Make a pod known; the environment variables to add when its CNI plugin is called."""
        ...

    def pod_running(self, name: str, addresses: Sequence[Address], *, namespace: str = NAMESPACE) -> None:
        """Tell what addresses the pod got: it runs."""
        ...

    def add_service(self, service: Service) -> None:
        """Make a service be as given, new or not."""
        ...

    def apply(self, objects: Iterable[Object]) -> None:
        """Make Kubernetes objects of any kind be as given. Raises LabError where there is no Kubernetes."""
        ...

    def close(self) -> None:
        """Let go of it; its programs end as well, unless the lab is kept."""
        ...
