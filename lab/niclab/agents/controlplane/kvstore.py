"""The control plane without Kubernetes: agents meet in etcd, services come to them in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from niclab.agents.controlplane import etcd, program, relay
from niclab.agents.controlplane.plane import Kind
from niclab.agents.kube import NAMESPACE, Object, Service
from niclab.errors import LabError
from niclab.host.daemons import Daemon
from niclab.host.ledgers import Ledger
from niclab.net.route import Address, Network

PORTS = (etcd.PORT,)
_SERVICES = "services.json"


class Kvstore:
    """etcd alone. Pods have no labels then: policies are never enforced (`enable-policy`), or nothing gets through."""

    kind: Kind = "kvstore"

    def __init__(self, ledger: Ledger, directory: Path, daemons: Sequence[Daemon] = ()) -> None:
        self._ledger = ledger
        self._daemons = daemons
        # A directory of its own: an agent watches it, and sees nothing else of the control plane's.
        self._shared = directory / "shared"
        self._directory = directory
        self._services: dict[tuple[str, str], tuple[Object, ...]] = {}
        self._shared.mkdir(parents=True, exist_ok=True)
        self._read()

    @property
    def binds(self) -> tuple[str, ...]:
        return (str(self._shared),)

    @property
    def logs(self) -> Mapping[str, Path]:
        return {path.stem: path for path in sorted(self._directory.glob("*.log"))}

    def agent_settings(self, node: str) -> Mapping[str, str]:  # noqa: ARG002 (the same for every node)
        return {
            "enable-k8s": "false",
            "kvstore": "etcd",
            "kvstore-opt": json.dumps({"etcd.address": f"http://{relay.LOOPBACK}:{etcd.PORT}"}),
            "identity-allocation-mode": "kvstore",
            "enable-policy": "never",
            # The agents' own way to services without Kubernetes (pkg/loadbalancer/reflectors/file.go, 1.18 and later).
            "lb-state-file": str(self._shared / _SERVICES),
            "lb-state-file-interval": "50ms",
        }

    def agent_environment(self, node: str) -> Mapping[str, str]:
        return {"K8S_NODE_NAME": node}

    def add_node(
        self,
        name: str,
        *,
        addresses: Sequence[Address],
        pod_cidrs: Sequence[Network],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing to do: agents announce their node themselves."""

    def add_pod(
        self,
        name: str,  # noqa: ARG002 (nobody would read it)
        node: str,  # noqa: ARG002
        *,
        namespace: str = NAMESPACE,  # noqa: ARG002
        labels: Mapping[str, str] | None = None,  # noqa: ARG002
        annotations: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> Mapping[str, str]:
        return {}

    def pod_running(self, name: str, addresses: Sequence[Address], *, namespace: str = NAMESPACE) -> None:
        """Nothing to do: agents announce their pods themselves."""

    def add_service(self, service: Service) -> None:
        self._services[service.namespace, service.name] = service.objects()
        self._write()

    def apply(self, objects: Iterable[Object]) -> None:
        found = sorted({one["kind"] for one in objects})
        if found:
            raise LabError(
                f"there is nobody to read {', '.join(found)} objects",
                why="agents without Kubernetes meet in etcd",
                fix="use --control-plane kubernetes",
            )

    def close(self) -> None:
        if not self._ledger.kept:
            for daemon in self._daemons:
                program.end(daemon)

    def _write(self) -> None:
        """Whole or not at all: agents read it whenever it changes."""
        state: dict[str, list[Object]] = {"services": [], "endpoints": []}
        for service, *slices in self._services.values():
            state["services"].append(service)
            state["endpoints"] += slices
        draft = self._shared / f".{_SERVICES}.new"
        draft.write_text(json.dumps(state, indent=1))
        draft.rename(self._shared / _SERVICES)

    def _read(self) -> None:
        """What a kept lab has; a new one starts with none."""
        try:
            state = json.loads((self._shared / _SERVICES).read_text())
        except FileNotFoundError:
            self._write()
            return
        for service in state["services"]:
            name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
            slices = [
                one
                for one in state["endpoints"]
                if one["metadata"]["namespace"] == namespace
                and one["metadata"]["labels"]["kubernetes.io/service-name"] == name
            ]
            self._services[namespace, name] = (service, *slices)
